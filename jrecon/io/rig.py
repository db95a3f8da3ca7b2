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
from jaxtyping import Array

from jrecon.model.parametric import (
    ParametricModel,
    Params,
    broadcast_params,
    dense_weights,
    make_model,
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
    error: float
    """The largest distance, metres, from a vertex to where the original model puts it; for a
    motion, over at most 16 frames spread evenly."""


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
    shape = np.asarray(params.shape, np.float64).reshape(-1, model.num_shape)[0]
    rest = np.asarray(model.vertices, np.float64) + np.asarray(model.shape_basis) @ shape
    joints = np.asarray(model.joints, np.float64) + np.asarray(model.joint_basis) @ shape
    moving = params.pose.ndim == 3
    basis, weights = np.zeros((*rest.shape, 0)), np.zeros((*params.pose.shape[:-2], 0))
    if model.corrective != "none":
        features = _features(model, params)
        rest = rest + np.asarray(model.pose_basis) @ features.mean(0)
        if moving:
            basis, weights = _principal_targets(model, features, corrective_targets)
    dense = np.asarray(dense_weights(model))
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
    error = _largest_distance(model, params, reduced, rig_params)
    return Rig(reduced, rig_params, float(max(lost.max(), 0.0)), error)


def check_params(model: ParametricModel, params: Params) -> Params:
    """Parameters of one batch shape, () or (t,), that fit the model; a motion of 1 frame is still.

    Raises:
      ValueError: they do not fit, are not finite, or the shape changes from frame to frame.
    """
    wanted = dict(shape=(model.num_shape,), pose=(model.num_joints, 3), translation=(3,))
    for key, tail in wanted.items():
        got = np.shape(getattr(params, key))
        if got[len(got) - len(tail) :] != tail or len(got) > len(tail) + 1:
            raise ValueError(
                f"params.{key}: got shape {got}, need {tail} or one frame axis before it for model "
                f"{model.name!r}; write one file for each instance of a batch."
            )
        bad = int((~np.isfinite(np.asarray(getattr(params, key)))).sum())
        if bad:
            raise ValueError(f"params.{key}: {bad} values are NaN or infinite, need numbers.")
    params = broadcast_params(jax.tree.map(jnp.asarray, params))
    if params.pose.ndim == 2:
        return params
    if len(params.pose) == 0:
        raise ValueError("params: got a motion of no frames, need at least one.")
    spread = float(jnp.abs(params.shape - params.shape[:1]).max()) if model.num_shape else 0.0
    if spread > 1e-6:
        raise ValueError(
            f"params.shape: changes by up to {spread:.3g} over the motion, but a file holds one "
            "shape; use the mean, dataclasses.replace(params, shape=params.shape.mean(0))."
        )
    return jax.tree.map(lambda leaf: leaf[0], params) if len(params.pose) == 1 else params


def _features(model: ParametricModel, params: Params) -> np.ndarray:
    """Pose features, (t, p); t = 1 for a single pose."""
    one = lambda shape, pose: pose_feature(model, shape, pose)
    shapes = params.shape.reshape(-1, model.num_shape)
    poses = params.pose.reshape(-1, model.num_joints, 3)
    return np.asarray(jax.jit(jax.vmap(one))(shapes, poses), np.float64)


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


def _largest_distance(
    model: ParametricModel, params: Params, reduced: ParametricModel, rig_params: Params
) -> float:
    if params.pose.ndim == 3:
        picked = np.unique(np.linspace(0, len(params.pose) - 1, _CHECKED_FRAMES).astype(int))
        params, rig_params = jax.tree.map(lambda leaf: leaf[picked], (params, rig_params))
    before, after = (_vertices(*one) for one in ((model, params), (reduced, rig_params)))
    return float(np.linalg.norm(np.asarray(before - after), axis=-1).max())


@jax.jit
def _vertices(model: ParametricModel, params: Params) -> Array:
    return pose(model, params).vertices
