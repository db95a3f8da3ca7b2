"""What a prediction is judged by: where it puts the surface and the joints, in metres."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jrecon.geometry import rotation
from jrecon.learn.regressor import Prediction
from jrecon.model.parametric import ParametricModel, pose
from jrecon.synth.example import Example


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LossConfig:
    """Weights of the parts of the loss; all traced."""

    vertices: float = 1.0
    """Per metre of mean distance."""
    joints: float = 1.0
    """Per metre of mean distance."""
    rotations: float = 0.05
    """Per unit of mean absolute difference of matrix entries; joints that move no vertex of the
    loss, or little of the surface, are learned by it."""
    shape: float = 0.01
    """Per unit of mean absolute difference of coefficients."""
    deviation: float = 0.02
    """Per nat of the Laplace likelihood of the joints' errors."""


def thin(model: ParametricModel, count: int = 512) -> ParametricModel:
    """A model with about so many of the vertices, evenly taken: enough to judge poses by, and
    cheap. Its faces mean nothing."""
    total = model.vertices.shape[0]
    kept = np.unique(np.linspace(0, total - 1, min(count, total)).astype(int))
    per_vertex = ("vertices", "shape_basis", "weights", "weight_joints", "pose_basis")
    taken = {name: getattr(model, name)[kept] for name in per_vertex}
    return dataclasses.replace(
        model, **taken, faces=model.faces[:1] * 0, level_faces={}, levels=(("thin", len(kept)),)
    )


def loss(
    model: ParametricModel, found: Prediction, truth: Example, config: LossConfig
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of a batch, and its parts as mean errors in millimetres for people to read.

    Args:
      model: as made by `thin`.
    """
    posed, target = pose(model, found.params), pose(model, truth.params)
    vertices = _distance(posed.vertices, target.vertices)
    joints = _distance(posed.joints, target.joints)
    turned = rotation.exp(found.params.pose) - rotation.exp(truth.params.pose)
    shape = jnp.abs(found.params.shape - truth.params.shape)
    # Deviations learn from the errors, errors not from them.
    error = jax.lax.stop_gradient(joints)
    deviation = jnp.log(found.joint_std) + error / found.joint_std
    total = config.vertices * vertices.mean() + config.joints * joints.mean()
    total += config.rotations * jnp.abs(turned).mean() + config.deviation * deviation.mean()
    if model.num_shape:
        total += config.shape * shape.mean()
    return total, {"vertices_mm": 1e3 * vertices.mean(), "joints_mm": 1e3 * joints.mean()}


def _distance(a: Float[Array, "*n 3"], b: Float[Array, "*n 3"]) -> Float[Array, "*n"]:
    """With a derivative at 0."""
    return jnp.sqrt(jnp.sum((a - b) ** 2, axis=-1) + 1e-8)
