"""Pose normalisation: articulated registered meshes brought into one rest pose.

Two scans of one person differ by how the person stands; a shape basis built on them would mix pose
into shape. With a skeleton (joints of each mesh, skinning weights) every mesh is unposed first:

1. The orientation of each bone relative to the rest pose: from the directions to its child joints;
   with one child these leave the twist about the bone open, which the vertices of the bone settle,
   as they do all of the orientation of a bone without children.
2. The inverse of linear blend skinning, vertex by vertex: x = (sum_k w_k A_k)^-1 posed, exact for
   meshes that linear blend skinning posed.

Bone lengths are shape and stay; bone directions are pose and become those of the rest pose.
Step 1 compares vertices with the mean of the unposed meshes, so the two steps are repeated.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from jrecon.model.alignment import best_rotation
from jrecon.model.skeleton import Skeleton

# Each round brings the reference closer to the mean; its change is second order from then on.
ROUNDS = 3
# A vertex speaks for the orientation of a bone that has at least this part of its weight.
MAIN_WEIGHT = 0.5
# Directions span a plane (and settle a rotation) if their second singular value, relative to the
# first, is above this; below it noise would decide.
SPREAD = 0.1
# Determinant of a blended transform below which its inverse blows up errors by ten and more.
COLLAPSED = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Unposed:
    """Meshes in the rest pose."""

    vertices: Float[np.ndarray, "n v 3"]
    joints: Float[np.ndarray, "n j 3"]
    """Rest joints of each mesh: bone directions of the rest pose, bone lengths of the mesh."""
    angles: Float[np.ndarray, "n j"]
    """Rotation of each joint relative to its parent that was taken out, radians."""


def unpose(
    vertices: Float[np.ndarray, "n v 3"],
    joints: Float[np.ndarray, "n j 3"],
    skeleton: Skeleton,
    names: tuple[str, ...],
) -> Unposed:
    """Every mesh in the rest pose, its root joint where it was.

    The rest pose is `skeleton.rest_joints`, or else the pose of the first mesh.

    Args:
      vertices, joints: the posed meshes and their joint positions, metres.
      skeleton: the tree and the skinning weights.
      names: a name for each mesh, for messages.

    Raises:
      ValueError: joints of one bone coincide, or a joint is bent so far that skinning collapses.
    """
    rest = joints[0] if skeleton.rest_joints is None else skeleton.rest_joints
    _check_bones(rest[None], skeleton, ("the rest pose",))
    _check_bones(joints, skeleton, names)
    # The first mesh, unposed by its joints alone, is the first reference for the vertices.
    frames = _orientations(vertices[:1], joints[:1], skeleton, rest, None)
    reference = _unskin(vertices[:1], joints[:1], frames, skeleton, names[:1])[0][0]
    anchor = rest - rest[0] + joints[0, 0]
    for _ in range(ROUNDS):
        frames = _orientations(vertices, joints, skeleton, anchor, reference)
        unposed, rest_joints = _unskin(vertices, joints, frames, skeleton, names)
        shift = rest_joints[:, :1] - anchor[:1]
        reference = (unposed - shift).mean(axis=0)
    local = [
        frames[:, j] if parent < 0 else frames[:, parent].transpose(0, 2, 1) @ frames[:, j]
        for j, parent in enumerate(skeleton.parents)
    ]
    traces = np.trace(np.stack(local, axis=1), axis1=-2, axis2=-1)
    return Unposed(unposed, rest_joints, np.arccos(np.clip((traces - 1) / 2, -1, 1)))


def _orientations(
    vertices: Float[np.ndarray, "n v 3"],
    joints: Float[np.ndarray, "n j 3"],
    skeleton: Skeleton,
    rest: Float[np.ndarray, "j 3"],
    reference: Float[np.ndarray, "v 3"] | None,
) -> Float[np.ndarray, "n j 3 3"]:
    """The rotation of each bone from the rest pose to its place in each mesh, parents first."""
    count = len(vertices)
    frames: list[np.ndarray] = []
    for j, parent in enumerate(skeleton.parents):
        above = frames[parent] if parent >= 0 else np.tile(np.eye(3), (count, 1, 1))
        children = [c for c, p in enumerate(skeleton.parents) if p == j]
        rest_bones = _unit(rest[children] - rest[j])
        bones = _unit(joints[:, children] - joints[:, j, None])
        chosen = np.flatnonzero(skeleton.weights[:, j] > MAIN_WEIGHT)
        weights = skeleton.weights[chosen, j]
        part = None if reference is None else reference[chosen] - rest[j]
        posed_part = vertices[:, chosen] - joints[:, j, None]
        if _settles_rotation(rest_bones):
            turned = np.broadcast_to(rest_bones, bones.shape)
            frame = best_rotation(turned, bones)
        elif children:
            frame = _swing(np.einsum("nab,b->na", above, rest_bones[0]), bones[:, 0]) @ above
            if part is not None:
                source = np.einsum("nab,pb->npa", frame, part)
                frame = _best_twist(bones[:, 0], source, posed_part, weights) @ frame
        elif part is not None and _settles_rotation(part):
            frame = best_rotation(np.broadcast_to(part, posed_part.shape), posed_part, weights)
        else:
            frame = above
        frames.append(frame)
    return np.stack(frames, axis=1)


def _settles_rotation(points: Float[np.ndarray, "p 3"]) -> bool:
    """Whether the points, with the origin, are not all on one line."""
    if len(points) < 2:
        return False
    spread = np.linalg.svd(points, compute_uv=False)
    return bool(spread[1] > SPREAD * spread[0])


def _swing(a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "n 3"]) -> np.ndarray:
    """The smallest rotation that takes unit vectors a to b; a half turn where they are opposite.

    Two half turns, about a and then about the bisector: no division that opposite vectors spoil.
    """
    opposite = (a * b).sum(-1) < -1 + 1e-12
    sideways = np.cross(a, np.eye(3)[np.abs(a).argmin(-1)])
    bisector = np.where(opposite[:, None], sideways, a + b)
    return _half_turn(_unit(bisector)) @ _half_turn(a)


def _half_turn(axis: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3 3"]:
    return 2 * axis[:, :, None] * axis[:, None, :] - np.eye(3)


def _best_twist(
    axis: Float[np.ndarray, "n 3"],
    source: Float[np.ndarray, "n p 3"],
    target: Float[np.ndarray, "n p 3"],
    weights: Float[np.ndarray, " p"],
) -> Float[np.ndarray, "n 3 3"]:
    """The rotation about the unit axis that takes `source` closest to `target` (least squares).

    By the angle t, sum w target . R(t) source = C cos t + S sin t + const; t = atan2(S, C).
    """
    flat = lambda points: points - (points @ axis[:, :, None]) * axis[:, None]
    sine = np.einsum("p,na,npa->n", weights, axis, np.cross(source, target))
    cosine = np.einsum("p,npa,npa->n", weights, flat(source), flat(target))
    angle = np.arctan2(sine, cosine)
    return Rotation.from_rotvec(axis * angle[:, None]).as_matrix()


def _unskin(
    vertices: Float[np.ndarray, "n v 3"],
    joints: Float[np.ndarray, "n j 3"],
    frames: Float[np.ndarray, "n j 3 3"],
    skeleton: Skeleton,
    names: tuple[str, ...],
) -> tuple[Float[np.ndarray, "n v 3"], Float[np.ndarray, "n j 3"]]:
    """Vertices and joints in the rest pose: the inverse of linear blend skinning."""
    rest = [joints[:, 0]]
    for j, parent in enumerate(skeleton.parents[1:], start=1):
        bone = joints[:, j] - joints[:, parent]
        rest.append(rest[parent] + np.einsum("nba,nb->na", frames[:, parent], bone))
    rest_joints = np.stack(rest, axis=1)
    offsets = joints - np.einsum("njab,njb->nja", frames, rest_joints)
    unposed = np.zeros_like(vertices)
    for i, name in enumerate(names):  # one mesh at a time: v matrices of each are enough memory
        turn = np.einsum("vj,jab->vab", skeleton.weights, frames[i], optimize=True)
        volume = np.linalg.det(turn)
        if volume.min() < COLLAPSED:
            raise ValueError(
                f"{name}: a joint is bent or twisted so far that skinning collapses at "
                f"{int((volume < COLLAPSED).sum())} vertices (first: {int(volume.argmin())}) and "
                "the mesh cannot be unposed; use meshes closer to the rest pose."
            )
        moved = vertices[i] - skeleton.weights @ offsets[i]
        unposed[i] = np.linalg.solve(turn, moved[:, :, None])[:, :, 0]
    return unposed, rest_joints


def _unit(a: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
    return a / np.linalg.norm(a, axis=-1, keepdims=True)


def _check_bones(
    joints: Float[np.ndarray, "n j 3"], skeleton: Skeleton, names: tuple[str, ...]
) -> None:
    child = np.arange(1, len(skeleton.parents))
    parent = np.array(skeleton.parents[1:], int)
    lengths = np.linalg.norm(joints[:, child] - joints[:, parent], axis=-1)
    size = np.linalg.norm(np.ptp(joints, axis=1), axis=-1)
    short = np.argwhere(lengths <= 1e-6 * size[:, None])
    if len(short):
        i, bone = short[0]
        raise ValueError(
            f"{names[i]}: joints {skeleton.joint_names[parent[bone]]} and "
            f"{skeleton.joint_names[child[bone]]} lie in one place, and their bone has no "
            "direction; move or remove one of them."
        )
