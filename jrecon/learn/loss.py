"""What a prediction is judged by: where it puts the surface and the joints, in metres."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jrecon.geometry import rotation
from jrecon.learn.regressor import Prediction
from jrecon.metrics import surface_shares
from jrecon.model.parametric import ParametricModel, Params, dense_weights, pose
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
    shape: float = 1.0
    """Per metre of mean distance between the unposed surfaces: all that shapes are learned by.
    Posed surfaces and joints would teach them to make good for poses: limbs of which it is not
    known where they point are nearer to everywhere if they are short."""
    deviation: float = 0.02
    """Per nat of the Laplace likelihood of the joints' errors."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Judge:
    """What poses are judged by: some of a model's vertices, and how much each point counts."""

    model: ParametricModel
    """With few vertices; its faces mean nothing."""
    vertices: Float[Array, " v"]
    """Share of each vertex: of the area around it."""
    joints: Float[Array, " j"]
    """Share of each joint: half of it that of the surface that it moves, or the thirty joints of
    two hands would be most of a body; half of it equal."""


def make_judge(model: ParametricModel, count: int = 512) -> Judge:
    """A judge with about so many vertices, evenly taken: enough, and cheap."""
    total, shares = len(model.vertices), np.asarray(surface_shares(model))
    kept = np.unique(np.linspace(0, total - 1, min(count, total)).astype(int))
    per_vertex = ("vertices", "shape_basis", "weights", "weight_joints", "pose_basis")
    few = dataclasses.replace(
        model,
        **{name: getattr(model, name)[kept] for name in per_vertex},
        faces=model.faces[:1] * 0,
        level_faces={},
        levels=(("few", len(kept)),),
    )
    moved = shares @ np.asarray(dense_weights(model))
    joints = 0.5 * moved / moved.sum() + 0.5 / len(moved)
    vertices = shares[kept] / shares[kept].sum()
    return Judge(few, *(jnp.asarray(x, jnp.float32) for x in (vertices, joints)))


def loss(
    judge: Judge, found: Prediction, truth: Example, config: LossConfig
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of a batch, and mean errors in millimetres for people to read."""
    posed, target = pose(judge.model, _of_pose(judge.model, found)), pose(judge.model, truth.params)
    vertices = _distance(posed.vertices, target.vertices) @ judge.vertices
    apart = _distance(posed.joints, target.joints)
    joints = apart @ judge.joints
    turned = rotation.exp(found.params.pose) - rotation.exp(truth.params.pose)
    unposed = lambda shape: jnp.einsum("vas,bs->bva", judge.model.shape_basis, shape)
    shape = _distance(unposed(found.params.shape), unposed(truth.params.shape)) @ judge.vertices
    # Deviations learn from the errors, errors not from them.
    error = jax.lax.stop_gradient(apart)
    deviation = jnp.log(found.joint_std) + error / found.joint_std
    total = config.vertices * vertices.mean() + config.joints * joints.mean()
    total += config.rotations * jnp.abs(turned).mean() + config.deviation * deviation.mean()
    if judge.model.num_shape:
        total += config.shape * shape.mean()
    return total, {"vertices_mm": 1e3 * vertices.mean(), "joints_mm": 1e3 * joints.mean()}


def _of_pose(model: ParametricModel, found: Prediction) -> Params:
    """What was found, of which pose and root joint can learn, but not the shape."""
    shape = jax.lax.stop_gradient(found.params.shape)
    # Translations were found by what the shape does to the place of the root joint.
    moved = jnp.einsum("as,bs->ba", model.joint_basis[0], found.params.shape - shape)
    return Params(shape, found.params.pose, found.params.translation + moved)


def _distance(a: Float[Array, "*n 3"], b: Float[Array, "*n 3"]) -> Float[Array, "*n"]:
    """With a derivative at 0."""
    return jnp.sqrt(jnp.sum((a - b) ** 2, axis=-1) + 1e-8)
