"""Parametric models: a class of objects as a differentiable function of shape and pose.

A `ParametricModel` holds the constants of a class (template, blend shapes, skeleton, skin); a
`Params` holds the unknowns of one instance. They are separate pytrees on purpose: what is optimised
is all-float, what is constant may hold integers. `pose` maps one to the other:

    v   = vertices + shape_basis . shape + pose_basis . feature(pose)       blend shapes
    J   = joints + joint_basis . shape                                      rest joints
    G_i = G_parent(i) . [exp(pose_i) | J_i - J_parent(i)]                   kinematic chain
    x   = sum_k w_k (G_k - G_k J_k) v + translation                         linear blend skinning

(Loper et al. 2015, "SMPL: A Skinned Multi-Person Linear Model", equations 2-10.) Joint frames are
aligned with the model frame at rest. The root turns about its own rest joint, which moves with
shape. A rigid class is a model with one joint; a class without blend shapes has `s = 0`.

Frames: the model frame is y up, +z front, metres; `Params` places the model in any frame that the
caller chooses, in jrecon the camera frame (see `jrecon.geometry.camera`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jrecon.geometry import rotation
from jrecon.geometry.arrays import place
from jrecon.model.validation import check_fields

# Posing is metric: the reduced default precision of GPU and TPU matrix units costs millimetres.
HIGHEST = jax.lax.Precision.HIGHEST


def _static(**kwargs: Any) -> Any:
    return dataclasses.field(metadata=dict(static=True), **kwargs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ParametricModel:
    """The constants of a class of objects. Build one with `make_model` or `load_model`."""

    vertices: Float[Array, "v 3"]
    """Template at zero shape in the rest pose, metres."""
    faces: Int[Array, "f 3"]
    """Triangles, counter-clockwise seen from outside."""
    shape_basis: Float[Array, "v 3 s"]
    """Vertex displacement in metres per unit of each shape coefficient."""
    joints: Float[Array, "j 3"]
    """Rest joint positions at zero shape, metres; entry 0 is the root."""
    joint_basis: Float[Array, "j 3 s"]
    """Joint displacement in metres per unit of each shape coefficient."""
    weights: Float[Array, "v k"]
    """Skinning weights of the (at most) k joints that move each vertex; rows sum to one."""
    weight_joints: Int[Array, "v k"]
    """The joints that the weights belong to (0 where the weight is 0)."""
    pose_basis: Float[Array, "v 3 p"]
    """Vertex displacement in the rest frame per unit of pose feature, metres; p may be 0."""
    pose_limits: Float[Array, "2 j 3"]
    """Lower and upper bound of every axis-angle component, radians."""
    shape_limits: Float[Array, "2 s"]
    """Lower and upper bound of every shape coefficient."""
    prior_mean: Float[Array, "g s"]
    """Mean of the shape coefficients in each prior group."""
    prior_cov: Float[Array, "g s s"]
    """Covariance of the shape coefficients in each prior group."""
    named_poses: dict[str, Float[Array, "j 3"]]
    """Poses with a name (`t_pose`, ...), axis-angle, entry 0 the root."""
    level_faces: dict[str, Int[Array, "f 3"]]
    """Triangles of each level of detail, by name."""

    levels: tuple[tuple[str, int], ...] = _static()
    """Levels of detail as (name, vertex count), finest first. Levels nest: a level is the first
    `count` vertices, so all arrays over vertices serve every level and parameters are shared."""
    parents: tuple[int, ...] = _static()
    """Parent of each joint, -1 for the root; parents come before their children."""
    joint_names: tuple[str, ...] = _static()
    shape_names: tuple[str, ...] = _static()
    prior_names: tuple[str, ...] = _static()
    corrective: str = _static()
    """What feeds `pose_basis`: `none`; `rotation`, R - I row by row, 9 numbers per joint (SMPL);
    `quaternion`, (x, y, z, w - 1) per joint and then shape coefficient 1 (STAR)."""
    corrective_joints: tuple[int, ...] = _static()
    """The joints whose rotation feeds `pose_basis`, in order."""
    name: str = _static()
    license: str = _static()
    provenance: str = _static()

    @property
    def num_shape(self) -> int:
        return self.shape_basis.shape[-1]

    @property
    def num_joints(self) -> int:
        return len(self.parents)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the columns of `jacobian` and of `to_vector`, in order."""
        axes = ("x", "y", "z")
        pose_names = tuple(f"{joint}.{axis}" for joint in self.joint_names for axis in axes)
        return self.shape_names + pose_names + tuple(f"translation.{axis}" for axis in axes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Params:
    """The unknowns of one instance (or of a batch of them)."""

    shape: Float[Array, "*batch s"]
    """Shape coefficients, in units of the model's basis."""
    pose: Float[Array, "*batch j 3"]
    """Axis-angle per joint relative to its parent, radians; entry 0 orients the whole model."""
    translation: Float[Array, "*batch 3"]
    """Added after posing, metres."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Posed:
    """What `pose` returns, in the frame that the parameters place the model in."""

    vertices: Float[Array, "*batch v 3"]
    joints: Float[Array, "*batch j 3"]
    transforms: Float[Array, "*batch j 4 4"]
    """Rigid transform of each joint frame: global rotation and joint position."""


def make_model(
    vertices: Any,
    faces: Any,
    *,
    shape_basis: Any = None,
    joints: Any = None,
    joint_basis: Any = None,
    parents: Sequence[int] = (-1,),
    weights: Any = None,
    weight_joints: Any = None,
    pose_basis: Any = None,
    corrective: str = "none",
    corrective_joints: Sequence[int] = (),
    joint_names: Sequence[str] | None = None,
    shape_names: Sequence[str] | None = None,
    pose_limits: Any = None,
    shape_limits: Any = None,
    prior_names: Sequence[str] = ("standard",),
    prior_mean: Any = None,
    prior_cov: Any = None,
    named_poses: Mapping[str, Any] | None = None,
    levels: Sequence[tuple[str, int]] = (),
    level_faces: Mapping[str, Any] | None = None,
    name: str = "model",
    license: str = "unknown",
    provenance: str = "",
) -> ParametricModel:
    """A checked `ParametricModel` from arrays (see its fields for shapes and units).

    Only `vertices` and `faces` are required: what is left out becomes a rigid class with one root
    joint at the origin, no blend shapes, a standard normal shape prior, shape limits of +-3 and
    pose limits of +-pi. `weights` may be dense, (v, j) without `weight_joints`.

    Raises:
      ValueError: a field has the wrong shape, is not finite, or contradicts another one; the
        message says what was got, what is needed and how to fix it.
    """
    vertices = np.asarray(vertices)
    if vertices.ndim != 2 or vertices.shape[-1:] != (3,):
        raise ValueError(
            f"vertices: got shape {vertices.shape}, need (v, 3) in metres; transpose or reshape."
        )
    count = len(vertices)
    num_shape = 0 if shape_basis is None else np.shape(shape_basis)[-1]
    num_joints = len(parents)
    if weights is not None and weight_joints is None:
        weights, weight_joints = sparse_weights(weights)
    groups = len(prior_names)

    def default(value: Any, make: Any) -> np.ndarray:
        return np.asarray(make() if value is None else value)

    if joint_names is None:
        joint_names = ["root", *(f"joint_{i:02d}" for i in range(1, num_joints))]
    if shape_names is None:
        shape_names = [f"shape_{i:02d}" for i in range(num_shape)]
    limit_signs = np.array([-1.0, 1.0])
    fields = dict(
        vertices=vertices,
        faces=np.asarray(faces),
        shape_basis=default(shape_basis, lambda: np.zeros((count, 3, 0))),
        joints=default(joints, lambda: np.zeros((num_joints, 3))),
        joint_basis=default(joint_basis, lambda: np.zeros((num_joints, 3, num_shape))),
        weights=default(weights, lambda: np.ones((count, 1))),
        weight_joints=default(weight_joints, lambda: np.zeros((count, 1), np.int32)),
        pose_basis=default(pose_basis, lambda: np.zeros((count, 3, 0))),
        pose_limits=default(
            pose_limits, lambda: np.pi * limit_signs[:, None, None] * np.ones((2, num_joints, 3))
        ),
        shape_limits=default(
            shape_limits, lambda: 3.0 * limit_signs[:, None] * np.ones((2, num_shape))
        ),
        prior_mean=default(prior_mean, lambda: np.zeros((groups, num_shape))),
        prior_cov=default(prior_cov, lambda: np.tile(np.eye(num_shape), (groups, 1, 1))),
        named_poses={key: np.asarray(value) for key, value in (named_poses or {}).items()},
        levels=tuple((str(key), int(n)) for key, n in levels) or (("full", count),),
        level_faces={key: np.asarray(value) for key, value in (level_faces or {}).items()}
        or {"full": np.asarray(faces)},
        parents=tuple(int(parent) for parent in parents),
        joint_names=tuple(str(joint) for joint in joint_names),
        shape_names=tuple(str(shape) for shape in shape_names),
        prior_names=tuple(str(prior) for prior in prior_names),
        corrective=corrective,
        corrective_joints=tuple(int(joint) for joint in corrective_joints),
        name=name,
        license=license,
        provenance=provenance,
    )
    check_fields(fields)
    return ParametricModel(**place(fields))


def sparse_weights(dense: Any, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Dense skinning weights (v, j) as (weights, weight_joints), both (v, k), largest first.

    k is the largest number of joints that move one vertex, or `limit`; what a limit cuts is spread
    over the rest, so that every row keeps its sum.
    """
    dense = np.asarray(dense, np.float32)
    if dense.ndim != 2:
        raise ValueError(f"weights: got shape {dense.shape}, need (v, j): a row per vertex.")
    k = max(1, int((dense != 0).sum(1).max(initial=1)))
    k = min(k, limit) if limit else k
    order = np.argsort(-dense, axis=1, kind="stable")[:, :k]
    weights = np.take_along_axis(dense, order, axis=1)
    kept = weights.sum(1, keepdims=True)
    total = dense.sum(1, keepdims=True)
    weights = np.divide(weights * total, kept, out=weights.copy(), where=kept > 0)
    return weights, np.where(weights != 0, order, 0).astype(np.int32)


def zeros(model: ParametricModel, batch: tuple[int, ...] = ()) -> Params:
    """The parameters of the template in its rest pose at the origin."""
    return Params(
        shape=jnp.zeros((*batch, model.num_shape)),
        pose=jnp.zeros((*batch, model.num_joints, 3)),
        translation=jnp.zeros((*batch, 3)),
    )


def to_vector(params: Params) -> Float[Array, "*batch q"]:
    """All parameters in one vector: shape, pose (joint by joint), translation."""
    params = broadcast_params(params)
    batch = params.translation.shape[:-1]
    pose_vector = params.pose.reshape(*batch, -1)
    return jnp.concatenate([params.shape, pose_vector, params.translation], axis=-1)


def from_vector(model: ParametricModel, vector: Float[Array, "*batch q"]) -> Params:
    """The inverse of `to_vector`."""
    s, j = model.num_shape, model.num_joints
    return Params(
        shape=vector[..., :s],
        pose=vector[..., s : s + 3 * j].reshape(*vector.shape[:-1], j, 3),
        translation=vector[..., s + 3 * j :],
    )


def broadcast_params(params: Params) -> Params:
    """The same parameters with one batch shape: a shape may be shared by many poses."""
    batch = jnp.broadcast_shapes(
        params.shape.shape[:-1], params.pose.shape[:-2], params.translation.shape[:-1]
    )
    return Params(
        shape=jnp.broadcast_to(params.shape, (*batch, params.shape.shape[-1])),
        pose=jnp.broadcast_to(params.pose, (*batch, *params.pose.shape[-2:])),
        translation=jnp.broadcast_to(params.translation, (*batch, 3)),
    )


def over_batch(function: Any, params: Params) -> Any:
    """`function` of one instance's parameters, mapped over every batch axis of `params`."""
    params = broadcast_params(params)
    batch = params.translation.shape[:-1]
    if not batch:
        return function(params)
    # One axis, not one vmap per axis: XLA's CPU compiler (jaxlib 0.10.2) fails on the nested form.
    flat = jax.tree.map(
        lambda leaf: leaf.reshape(math.prod(batch), *leaf.shape[len(batch) :]), params
    )
    mapped = jax.vmap(function)(flat)
    return jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), mapped)


@jax.jit
def pose(model: ParametricModel, params: Params) -> Posed:
    """Vertices, joints and joint frames of the model at the given parameters.

    Batch axes of shape, pose and translation broadcast against each other. Differentiable to any
    order, finite everywhere. Compiled at the first call with each shape of arguments.
    """
    return over_batch(lambda one: _pose_one(model, one), params)


def _pose_one(model: ParametricModel, params: Params) -> Posed:
    rotations = rotation.exp(params.pose)
    feature = pose_feature(model, params.shape, params.pose)
    rest = rest_vertices(model, params.shape, feature)
    rest_joints = model.joints + jnp.einsum(
        "jas,s->ja", model.joint_basis, params.shape, precision=HIGHEST
    )
    frames, positions = kinematic_chain(model.parents, rotations, rest_joints)
    skin = blend_transforms(model, skinning_transforms(frames, positions, rest_joints))
    posed = jnp.einsum("vab,vb->va", skin[:, :, :3], rest, precision=HIGHEST) + skin[:, :, 3]
    translation = params.translation[None, :]
    positions = positions + translation
    bottom = jnp.broadcast_to(jnp.array([[[0.0, 0.0, 0.0, 1.0]]]), (model.num_joints, 1, 4))
    top = jnp.concatenate([frames, positions[:, :, None]], axis=-1)
    return Posed(posed + translation, positions, jnp.concatenate([top, bottom], axis=-2))


def pose_feature(
    model: ParametricModel, shape: Float[Array, " s"], pose: Float[Array, "j 3"]
) -> Float[Array, " p"]:
    """What the pose correctives are linear in (see `ParametricModel.corrective`)."""
    if model.corrective == "none":
        return jnp.zeros(model.pose_basis.shape[-1])
    chosen = pose[np.array(model.corrective_joints)]
    feature = jax.vmap(lambda one: joint_feature(model.corrective, one))(chosen).reshape(-1)
    if model.corrective == "quaternion":
        feature = jnp.concatenate([feature, shape[1:2]])
    return feature


def joint_feature(corrective: str, axis_angle: Float[Array, 3]) -> Float[Array, " c"]:
    """The share of one joint in the pose feature."""
    matrix = rotation.exp(axis_angle)
    if corrective == "rotation":
        return (matrix - jnp.eye(3)).reshape(-1)
    half = rotation.quaternion_from_axis_angle(axis_angle)
    return jnp.concatenate([half[1:], half[:1] - 1.0])


def rest_vertices(
    model: ParametricModel, shape: Float[Array, " s"], feature: Float[Array, " p"]
) -> Float[Array, "v 3"]:
    """Template plus blend shapes plus pose correctives, in the rest pose."""
    rest = model.vertices + jnp.einsum("vas,s->va", model.shape_basis, shape, precision=HIGHEST)
    if model.corrective != "none":
        rest = rest + jnp.einsum("vap,p->va", model.pose_basis, feature, precision=HIGHEST)
    return rest


def kinematic_chain(
    parents: tuple[int, ...],
    rotations: Float[Array, "j 3 3"],
    rest_joints: Float[Array, "j 3"],
) -> tuple[Float[Array, "j 3 3"], Float[Array, "j 3"]]:
    """Global rotation and position of every joint, one vectorised step per level of the tree."""
    frames, positions = rotations[:1], rest_joints[:1]
    order = [0]
    for level in chain_levels(parents)[1:]:
        ids = np.array(level)
        up = np.array([parents[joint] for joint in level])
        slots = np.array([order.index(parent) for parent in up])
        above = frames[slots]
        bones = rest_joints[ids] - rest_joints[up]
        step = jnp.einsum("jab,jb->ja", above, bones, precision=HIGHEST)
        frames = jnp.concatenate(
            [frames, jnp.matmul(above, rotations[ids], precision=HIGHEST)], axis=0
        )
        positions = jnp.concatenate([positions, positions[slots] + step], axis=0)
        order += level
    back = np.argsort(np.array(order))
    return frames[back], positions[back]


def chain_levels(parents: tuple[int, ...]) -> list[list[int]]:
    """Joints grouped by their distance from the root."""
    depth: list[int] = []
    for parent in parents:
        depth.append(0 if parent < 0 else depth[parent] + 1)
    return [[i for i, d in enumerate(depth) if d == level] for level in range(max(depth) + 1)]


def skinning_transforms(
    frames: Float[Array, "j 3 3"],
    positions: Float[Array, "j 3"],
    rest_joints: Float[Array, "j 3"],
) -> Float[Array, "j 3 4"]:
    """The transform from rest to posed space of what is rigidly attached to each joint."""
    offset = positions - jnp.einsum("jab,jb->ja", frames, rest_joints, precision=HIGHEST)
    return jnp.concatenate([frames, offset[:, :, None]], axis=-1)


def blend_transforms(
    model: ParametricModel, transforms: Float[Array, "j 3 4"]
) -> Float[Array, "v 3 4"]:
    """The weighted mean of the joint transforms at each vertex."""
    flat = transforms.reshape(-1, 12)
    return jnp.matmul(dense_weights(model), flat, precision=HIGHEST).reshape(-1, 3, 4)


@jax.jit
def dense_weights(model: ParametricModel) -> Float[Array, "v j"]:
    """Skinning weights with a column for every joint.

    Weights are stored sparse, but applied as one matrix product: gathering k transforms for each
    vertex measured 6 times slower in a batch of 64 on a CPU, and a product suits GPU and TPU.
    """
    rows = jnp.arange(len(model.weights))[:, None]
    dense = jnp.zeros((len(model.weights), model.num_joints))
    return dense.at[rows, model.weight_joints].add(model.weights)


def at_level(model: ParametricModel, level: str) -> ParametricModel:
    """The model at a level of detail: fewer vertices and faces, the same parameters.

    Raises:
      ValueError: the model has no such level; the message lists those it has.
    """
    counts = dict(model.levels)
    if level not in counts:
        raise ValueError(f"level: got {level!r}, need one of {', '.join(counts)}.")
    n = counts[level]
    kept = tuple(entry for entry in model.levels if entry[1] <= n)
    return dataclasses.replace(
        select_vertices(model, slice(n)),
        faces=model.level_faces[level],
        levels=kept,
        level_faces={key: model.level_faces[key] for key, _ in kept},
    )


def select_vertices(model: ParametricModel, index: Any) -> ParametricModel:
    """The model with a subset of its vertices (an index array or slice) and the faces unchanged.

    For evaluating a few points; `faces` and levels then no longer describe the vertices.
    """
    names = ("vertices", "shape_basis", "weights", "weight_joints", "pose_basis")
    arrays = {name: getattr(model, name) for name in names}
    # As one program, not five, which take a while to make.
    pick = jax.jit(lambda arrays: jax.tree.map(lambda x: x[index], arrays))
    return dataclasses.replace(model, **pick(arrays))
