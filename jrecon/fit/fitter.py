"""What a fit needs to know of a class of objects, worked out once.

The unknowns of a fit are a tangent vector: changes of some shape coefficients, small rotations of
some joints (the rotation that is there turned on by exp(w), on the side of the parent), and the
translation. Joints that a class's pose prior leaves out, such as fingers, stay as they were
predicted: a depth map of a whole person says nothing about them.

Besides its vertices the model carries two more kinds of points that move with it, so that one
Jacobian serves them all: its joints, and the centres of spheres that fill it, by which it is kept
out of itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jrecon.geometry import rotation
from jrecon.geometry.arrays import place
from jrecon.geometry.mesh import Topology, face_areas, make_topology
from jrecon.model.jacobian import step_jacobian
from jrecon.model.parametric import ParametricModel, Params, dense_weights, pose, sparse_weights
from jrecon.model.symmetry import mirrored_pose
from jrecon.synth.pose_prior import PosePrior, pose_prior, without_orientation
from jrecon.synth.prior import ShapePrior, shape_prior

HIGHEST = jax.lax.Precision.HIGHEST
# Spheres are the middle part of a limb: skin and flesh may touch and give way.
SPHERE_SHARE = 0.8
# Spheres that are this near at rest, as a share of the sum of their radii, always touch.
_ALWAYS_NEAR = 1.3
# Poses, and changes of the pose at hand, in which a limb is tried.
_TRIES, _NUDGES = 384, 128


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Fitter:
    """A class of objects, ready to be fitted. Build one with `make_fitter`."""

    model: ParametricModel
    points: ParametricModel
    """The model's vertices, its joints, and the centres of its spheres; without faces."""
    topology: Topology
    areas: Float[Array, " v"]
    """Surface around each vertex of the template, square metres."""
    radii: Float[Array, " m"]
    """Of the spheres, metres."""
    apart: Float[Array, "m m"]
    """1 where two spheres must not meet."""
    pose_prior: PosePrior
    shape_prior: ShapePrior
    bank: Float[Array, "n j 3"]
    """Poses that limbs are tried in."""
    nudges: Float[Array, "n l 3"]
    """And small rotations of the joints of a limb, to try around where it is."""
    shapes: int = dataclasses.field(metadata=dict(static=True))
    """How many shape coefficients are fitted: the first ones."""
    joints: tuple[int, ...] = dataclasses.field(metadata=dict(static=True))
    """Whose rotations are fitted."""
    limbs: tuple[tuple[int, ...], ...] = dataclasses.field(metadata=dict(static=True))
    """Chains of fitted joints that end free, each from where it branches off."""
    owners: tuple[int, ...] = dataclasses.field(metadata=dict(static=True))
    """The fitted joint that each sphere moves with."""
    limbs_joints: Int[Array, "l c"]
    """Their joints, -1 where a limb has fewer."""
    limbs_spheres: Int[Array, "l m"]
    """Which spheres are theirs, -1 where a limb has fewer."""
    limbs_vertices: Bool[Array, "l v"]
    """Which vertices are theirs."""

    @property
    def size(self) -> int:
        """Number of unknowns."""
        return self.shapes + 3 * len(self.joints) + 3


def make_fitter(
    model: ParametricModel, *, shapes: int = 16, joints: tuple[int, ...] | None = None
) -> Fitter:
    """Prepare a class of objects for fitting.

    Args:
      model: at a coarse level of detail (2,000 vertices): every iteration renders it.
      shapes: how many of its shape coefficients are fitted, from the first on.
      joints: whose rotations are fitted; by default those that the pose prior knows, or all.
    """
    prior = pose_prior(model)
    if joints is None:
        joints = prior.joints or tuple(range(model.num_joints))
    joints = tuple(sorted(joints))
    parts = _parts(model, joints)
    centers, radii, weights, basis, apart, owners = _spheres(model, joints, parts)
    limbs = _limbs(model.parents, joints)
    bank, nudges = _tries(model, prior, max(map(len, limbs), default=0))
    arrays: dict[str, Any] = dict(
        areas=_vertex_areas(model),
        radii=radii,
        apart=apart.astype(np.float32),
        bank=bank,
        nudges=nudges,
        limbs_joints=_table(limbs),
        limbs_spheres=_table([np.flatnonzero(np.isin(owners, limb)) for limb in limbs]),
        limbs_vertices=np.array([np.isin(parts, limb) for limb in limbs], bool),
    )
    return Fitter(
        **place(arrays),
        model=model,
        points=_with_points(model, centers, weights, basis),
        topology=make_topology(np.asarray(model.faces), len(model.vertices), split=True),
        pose_prior=without_orientation(prior),
        shape_prior=shape_prior(model),
        shapes=min(shapes, model.num_shape),
        joints=joints,
        limbs=limbs,
        owners=owners,
    )


def _parts(model: ParametricModel, joints: tuple[int, ...]) -> np.ndarray:
    """(v,) the fitted joint that each vertex moves with most."""
    nearest = np.array([_nearest(model.parents, joints, j) for j in range(model.num_joints)])
    return nearest[np.argmax(np.asarray(dense_weights(model)), axis=1)]


def _limbs(parents: tuple[int, ...], joints: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Chains of fitted joints from a leaf up to, but without, a joint with other descendants."""
    children = {
        joint: [c for c in joints if c and _up(parents, joints, c) == joint] for joint in joints
    }
    found = []
    for leaf in (joint for joint in joints if not children[joint] and joint):
        chain = [leaf]
        while (above := _up(parents, joints, chain[0])) and len(children[above]) == 1:
            chain.insert(0, above)
        found.append(tuple(chain))
    return tuple(found)


def _table(rows: Sequence[Sequence[int] | np.ndarray]) -> Int[np.ndarray, "r c"]:
    """Rows of different lengths, filled up with -1."""
    width = max(map(len, rows), default=0)
    full = [
        np.pad(np.asarray(row, np.int32), (0, width - len(row)), constant_values=-1) for row in rows
    ]
    return np.array(full, np.int32).reshape(len(rows), width)


def _tries(model: ParametricModel, prior: PosePrior, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Poses (n, j, 3) of the prior, its mirrored ones, and between the limits; and small rotations
    (n, l, 3), half of them larger at the beginning of a limb, half everywhere alike."""
    draw = np.random.default_rng(0)
    low, high = np.asarray(model.pose_limits, np.float64)
    free = draw.triangular(-1.0, 0.0, 1.0, (_TRIES, *low.shape))
    free = 0.7 * np.where(free < 0, -free * low, free * high)
    poses = [free[: _TRIES // 4 if prior.joints else _TRIES]]
    if prior.joints:
        which = draw.choice(
            len(prior.shares),
            _TRIES // 2,
            p=np.asarray(prior.shares, np.float64) / np.sum(np.asarray(prior.shares, np.float64)),
        )
        normal = 1.1 * draw.standard_normal((len(which), prior.means.shape[1]))
        motion = np.asarray(prior.means)[which]
        motion = motion + np.einsum("nde,ne->nd", np.asarray(prior.factors)[which], normal)
        hard = np.asarray(prior.hard)[draw.permutation(len(prior.hard))[: _TRIES // 4]]
        vectors = np.concatenate([motion, hard])
        pose = np.zeros((len(vectors), model.num_joints, 3), np.float32)
        pose[:, np.array(prior.joints)] = vectors.reshape(len(vectors), -1, 3)
        mirrored = np.asarray(jax.jit(mirrored_pose, static_argnums=0)(prior.mirror, pose))
        # The first half of either.
        turned = np.concatenate([np.arange(len(x)) < len(x) // 2 for x in (motion, hard)])
        poses.append(np.where(turned[:, None, None], mirrored, pose))
    nudges = draw.standard_normal((_NUDGES, longest, 3))
    nudges *= draw.choice([0.15, 0.3, 0.6], (_NUDGES, 1, 1))
    return np.concatenate(poses), nudges


def _vertex_areas(model: ParametricModel) -> Float[np.ndarray, " v"]:
    faces = np.asarray(model.faces)
    areas = np.repeat(np.asarray(face_areas(model.vertices, model.faces), np.float64) / 3, 3)
    return np.bincount(faces.ravel(), areas, len(model.vertices))


def _with_points(
    model: ParametricModel, centers: np.ndarray, weights: np.ndarray, basis: np.ndarray
) -> ParametricModel:
    """The model with its joints and further points as vertices."""
    slots = model.weights.shape[1]
    own = np.zeros((model.num_joints, slots), np.float32)
    own[:, 0] = 1.0
    owner = np.zeros((model.num_joints, slots), np.int32)
    owner[:, 0] = np.arange(model.num_joints)
    sparse, sparse_joints = sparse_weights(weights, slots)
    wide = slots - sparse.shape[1]
    sparse, sparse_joints = (np.pad(x, ((0, 0), (0, wide))) for x in (sparse, sparse_joints))
    more = model.num_joints + len(centers)

    def join(*arrays: object) -> np.ndarray:
        return np.concatenate([np.asarray(x) for x in arrays])

    arrays: dict[str, Any] = dict(
        vertices=join(model.vertices, model.joints, centers),
        shape_basis=join(model.shape_basis, model.joint_basis, basis),
        weights=join(model.weights, own, sparse),
        weight_joints=join(model.weight_joints, owner, sparse_joints),
        pose_basis=join(model.pose_basis, np.zeros((more, 3, model.pose_basis.shape[-1]))),
        faces=np.zeros((1, 3), int),
    )
    return dataclasses.replace(
        model,
        **place(arrays),
        level_faces={},
        levels=(("points", len(model.vertices) + more),),
    )


def _spheres(
    model: ParametricModel, joints: tuple[int, ...], part: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[int, ...]]:
    """Spheres inside the parts that each fitted joint moves: centres at rest (m, 3), radii,
    skinning weights (m, j), shape basis (m, 3, s), which pairs must stay apart (m, m), and the
    joints that they move with."""
    vertices = np.asarray(model.vertices, np.float64)
    weights, basis = np.asarray(dense_weights(model)), np.asarray(model.shape_basis)
    centers, radii, mixed, moved, owners = [], [], [], [], []
    for joint in joints if model.num_joints > 1 else ():
        own = np.flatnonzero(part == joint)
        if len(own) < 8:
            continue
        middle = vertices[own].mean(0)
        axis = np.linalg.svd(vertices[own] - middle, full_matrices=False)[2][0]
        along = (vertices[own] - middle) @ axis
        across = np.linalg.norm(vertices[own] - middle - along[:, None] * axis, axis=1)
        count = int(np.clip(np.ptp(along) / (2 * np.median(across) + 1e-9), 1, 6))
        edges = np.linspace(along.min(), along.max() + 1e-9, count + 1)
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            slab = own[(along >= low) & (along < high)]
            if len(slab) < 6:
                continue
            center = vertices[slab].mean(0)
            offset = vertices[slab] - center
            offset -= (offset @ axis)[:, None] * axis
            centers.append(center)
            radii.append(SPHERE_SHARE * np.median(np.linalg.norm(offset, axis=1)))
            mixed.append(weights[slab].mean(0))
            moved.append(basis[slab].mean(0))
            owners.append(joint)
    if not centers:
        none = np.zeros((0, 3))
        empty = np.zeros((0, model.num_joints)), np.zeros((0, 3, model.num_shape))
        return none, np.zeros(0), *empty, np.zeros((0, 0)), ()
    where, size = np.array(centers), np.array(radii)
    distance = np.linalg.norm(where[:, None] - where[None], axis=-1)
    apart = distance > _ALWAYS_NEAR * (size[:, None] + size[None])
    for a, first in enumerate(owners):
        for b, second in enumerate(owners):
            apart[a, b] &= first != second and second != _up(model.parents, joints, first)
            apart[a, b] &= first != _up(model.parents, joints, second)
    return where, size, np.array(mixed), np.array(moved), apart, tuple(owners)


def _nearest(parents: tuple[int, ...], joints: tuple[int, ...], joint: int) -> int:
    """The joint itself or its nearest ancestor that is fitted; the root if none is."""
    while joint > 0 and joint not in joints:
        joint = parents[joint]
    return joint


def _up(parents: tuple[int, ...], joints: tuple[int, ...], joint: int) -> int:
    return _nearest(parents, joints, parents[joint]) if joint else 0


def move(fitter: Fitter, params: Params, step: Float[Array, " q"]) -> Params:
    """Parameters after a step of the unknowns, within the limits of the shape."""
    turns = step[fitter.shapes : -3].reshape(-1, 3)
    chosen = np.array(fitter.joints)
    turned = rotation.compose(turns, params.pose[chosen])
    shape = params.shape.at[: fitter.shapes].add(step[: fitter.shapes])
    low, high = fitter.model.shape_limits
    return Params(
        jnp.clip(shape, low, high),
        params.pose.at[chosen].set(turned),
        params.translation + step[-3:],
    )


def posed_points(fitter: Fitter, params: Params) -> Float[Array, "p 3"]:
    """All points of the fit, in the frame of the parameters: vertices, joints, spheres."""
    return pose(fitter.points, params).vertices


def point_jacobian(fitter: Fitter, params: Params) -> Float[Array, "p 3 q"]:
    """Their derivative with respect to a step."""
    return step_jacobian(fitter.points, params, fitter.joints, fitter.shapes)


def joint_points(fitter: Fitter) -> Int[np.ndarray, " j"]:
    """Which points are the model's joints."""
    return len(fitter.model.vertices) + np.arange(fitter.model.num_joints)


def sphere_points(fitter: Fitter) -> Int[np.ndarray, " m"]:
    """Which points are centres of spheres."""
    first = len(fitter.model.vertices) + fitter.model.num_joints
    return first + np.arange(len(fitter.radii))
