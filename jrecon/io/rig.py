"""What glTF can hold of a parametric model: one shape, four joints a vertex, morph targets.

glTF has no shape basis, no pose correctives and guarantees four influences per vertex. `make_rig`
turns a model and parameters into a model within these bounds:

- shape goes into the rest mesh and the rest joints;
- the four largest weights of each vertex stay, and take over what the others lose;
- pose correctives of a single pose go into the rest mesh, exactly. Of a motion, their mean does,
  and their principal components over the motion become morph targets with animated weights.

The result is again a `ParametricModel`, so `pose` says what the file will show and what it lost.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jrecon.model.parametric import (
    ParametricModel,
    Params,
    make_model,
    over_batch,
    pose,
    pose_feature,
    sparse_weights,
)

INFLUENCES = 4
"""Joints per vertex that every glTF viewer supports."""

# Correctives below this displacement, metres, are not worth a morph target.
_NEGLIGIBLE = 1e-5

_CHECKED_FRAMES = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Rig:
    """A model that glTF can hold, and parameters that pose it like the original."""

    model: ParametricModel
    """Shape coefficients are morph targets; no pose correctives; at most four weights a vertex."""
    params: Params
    """Batch shape () for a single pose, (t,) for a motion."""
    lost_weight: float
    """The largest share of a vertex's skinning weight that fell outside the four joints."""
    errors: Float[np.ndarray, "t v"]
    """Distance, metres, from every vertex to where the original model puts it; for a motion, in at
    most 16 frames spread evenly."""


def make_rig(model: ParametricModel, params: Params, *, corrective_targets: int) -> Rig:
    """Reduce a model to what glTF can hold.

    Args:
      model: any model.
      params: a single pose, or a motion: one leading axis, and the same shape in every frame.
      corrective_targets: most morph targets that carry the pose correctives of a motion.

    Raises:
      ValueError: the parameters do not fit the model, are not finite, or change shape over time.
    """
    params = check_params(model, params)
    moving = params.pose.ndim == 3
    shape = np.asarray(params.shape[0] if moving else params.shape, np.float64)
    rest = np.asarray(model.vertices, np.float64) + np.asarray(model.shape_basis) @ shape
    joints = np.asarray(model.joints, np.float64) + np.asarray(model.joint_basis) @ shape
    basis, weights = np.zeros((*rest.shape, 0)), np.zeros((*params.pose.shape[:-2], 0))
    if model.corrective != "none":
        features = np.asarray(_features(model, params), np.float64)
        features = features if moving else features[None]
        rest = rest + np.asarray(model.pose_basis) @ features.mean(0)
        if moving:
            basis, weights = _principal_targets(model, features, corrective_targets)
    dense = np.zeros((len(rest), model.num_joints), np.float32)
    rows = np.arange(len(rest))[:, None]
    np.add.at(dense, (rows, np.asarray(model.weight_joints)), np.asarray(model.weights))
    skin, skin_joints = sparse_weights(dense, limit=INFLUENCES)
    kept = np.take_along_axis(dense, skin_joints, axis=1)
    lost = dense.sum(1) - np.where(skin > 0, kept, 0).sum(1)
    reduced = make_model(
        rest,
        model.faces,
        shape_basis=basis,
        shape_names=[f"corrective_{i:02d}" for i in range(basis.shape[-1])],
        joints=joints,
        parents=model.parents,
        joint_names=model.joint_names,
        weights=skin,
        weight_joints=skin_joints,
        name=model.name,
        license=model.license,
        provenance=model.provenance,
    )
    rig_params = dataclasses.replace(params, shape=jnp.asarray(weights, jnp.float32))
    errors = _distances(model, params, reduced, rig_params)
    return Rig(reduced, rig_params, float(max(lost.max(), 0.0)), errors)


def check_params(model: ParametricModel, params: Params) -> Params:
    """Parameters of one batch shape, () or (t,), that fit the model; a motion of 1 frame is still.

    Raises:
      ValueError: they do not fit, are not finite, or the shape changes from frame to frame.
    """
    wanted = dict(shape=(model.num_shape,), pose=(model.num_joints, 3), translation=(3,))
    arrays: dict[str, np.ndarray] = {}
    for key, tail in wanted.items():
        arrays[key] = array = np.asarray(getattr(params, key), np.float32)
        if array.shape[array.ndim - len(tail) :] != tail or array.ndim > len(tail) + 1:
            raise ValueError(
                f"params.{key}: got shape {array.shape}, need {tail} or one frame axis before it "
                f"for model {model.name!r}; write one file for each instance of a batch."
            )
        bad = array.size - int(np.isfinite(array).sum())
        if bad:
            raise ValueError(f"params.{key}: {bad} values are NaN or infinite, need numbers.")
    batches = [array.shape[: array.ndim - len(wanted[key])] for key, array in arrays.items()]
    try:
        batch = np.broadcast_shapes(*batches)
    except ValueError as error:
        raise ValueError(f"params: got {batches} frames, need the same number.") from error
    if batch == (0,):
        raise ValueError("params: got a motion of no frames, need at least one.")
    shapes = arrays["shape"].reshape(-1, model.num_shape) if model.num_shape else np.zeros((1, 0))
    spread = float(np.ptp(shapes, axis=0).max(initial=0.0))
    if spread > 1e-6:
        raise ValueError(
            f"params.shape: changes by up to {spread:.3g} over the motion, but a file holds one "
            "shape; use the mean, dataclasses.replace(params, shape=params.shape.mean(0))."
        )
    frames = batch if batch != (1,) else ()
    return Params(
        **{
            key: jnp.asarray(
                np.broadcast_to(array, (*batch, *wanted[key])).reshape(*frames, *wanted[key])
            )
            for key, array in arrays.items()
        }
    )


@jax.jit
def _features(model: ParametricModel, params: Params) -> Array:
    """Pose features, (*batch p)."""
    return over_batch(lambda one: pose_feature(model, one.shape, one.pose), params)


def _principal_targets(
    model: ParametricModel, features: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Morph targets (v, 3, r) and weights (t, r) that move vertices most like the correctives.

    The displacements D = F B (centred features times basis) are too large to decompose as they
    are. With B B^T = E diag(k) E^T they have the singular values and left vectors of the small
    F E diag(k)^(1/2). Targets are scaled so that the largest weight is 1.
    """
    offsets = np.asarray(model.pose_basis, np.float64).reshape(-1, features.shape[1])
    centred = features - features.mean(0)
    power, axes = np.linalg.eigh(offsets.T @ offsets)
    root = np.sqrt(np.maximum(power, 0.0))
    keep = root > 1e-7 * root.max(initial=0.0)
    root, axes = root[keep], axes[:, keep]
    left, values, right = np.linalg.svd(centred @ (axes * root), full_matrices=False)
    weights = left[:, :limit] * values[:limit]
    targets = offsets @ ((axes / root) @ right[:limit].T)
    largest = np.abs(weights).max(0)
    useful = largest * np.abs(targets).max(0, initial=0.0) > _NEGLIGIBLE
    weights, targets, largest = weights[:, useful], targets[:, useful], largest[useful]
    shape = (*model.vertices.shape, len(largest))
    return (targets * largest).reshape(shape), weights / largest


def _distances(
    model: ParametricModel, params: Params, reduced: ParametricModel, rig_params: Params
) -> np.ndarray:
    if params.pose.ndim == 3:
        picked = np.unique(np.linspace(0, len(params.pose) - 1, _CHECKED_FRAMES).astype(int))
        params, rig_params = jax.tree.map(
            lambda leaf: np.asarray(leaf)[picked], (params, rig_params)
        )
    before, after = (
        np.asarray(posed_vertices(*one)) for one in ((model, params), (reduced, rig_params))
    )
    return np.linalg.norm(before - after, axis=-1).reshape(-1, len(model.vertices))


@jax.jit
def posed_vertices(model: ParametricModel, params: Params) -> Array:
    """`pose(...).vertices`, compiled: operation by operation the first call takes many seconds."""
    return pose(model, params).vertices
