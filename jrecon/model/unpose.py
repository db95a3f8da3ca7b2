"""Pose normalisation: articulated registered meshes brought into one rest pose.

Two scans of one person differ by how the person stands; a shape basis built on them would mix pose
into shape. With a skeleton (joints of each mesh, skinning weights) every mesh is unposed first:

1. The orientation of each bone relative to the rest pose: from the directions to its child joints;
   with one child these leave the twist about the bone open, which the vertices of the bone settle,
   as they do all of the orientation of a bone without children.
2. The inverse of linear blend skinning, vertex by vertex: x = (sum_k w_k A_k)^-1 posed, exact for
   meshes that linear blend skinning posed.

Bone lengths are shape and stay; bone directions are pose and become those of the rest pose.
Step 1 compares the unposed vertices with their mean over the meshes, so the steps are repeated.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from jrecon.model.alignment import best_rotation
from jrecon.model.skeleton import Skeleton

# Vertices between two bones answer a correction in part only: a round leaves about half of the
# error (measured on bodies), so some twenty rounds are needed.
MAX_ROUNDS = 40
# A correction (radians, about) that moves no vertex by more than rounding does.
TOLERANCE = 1e-7
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
    unposed, rest_joints = _unskin(vertices[:1], joints[:1], frames, skeleton, names[:1])
    parts = _parts(skeleton)
    first = [unposed[0, part] - rest_joints[0, j] for j, part in enumerate(parts)]
    frames = _orientations(vertices, joints, skeleton, rest, first)
    for _ in range(MAX_ROUNDS):
        unposed, rest_joints = _unskin(vertices, joints, frames, skeleton, names)
        turns = _corrections(unposed, rest_joints, skeleton)
        if np.abs(turns - np.eye(3)).max() < TOLERANCE:
            break
        frames = frames @ turns
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
    reference: list[Float[np.ndarray, "p 3"]] | None,
) -> Float[np.ndarray, "n j 3 3"]:
    """The rotation of each bone from the rest pose to its place in each mesh, parents first.

    `reference` holds the vertices of each joint's part in the rest pose, relative to the joint;
    without them, bones do not twist and bones without children follow their parents.
    """
    frames: list[np.ndarray] = []
    for j, (parent, part) in enumerate(zip(skeleton.parents, _parts(skeleton), strict=True)):
        above = frames[parent] if parent >= 0 else np.tile(np.eye(3), (len(vertices), 1, 1))
        children = _children(skeleton, j)
        rest_bones = _unit(rest[children] - rest[j])
        bones = _unit(joints[:, children] - joints[:, j, None])
        frame = above
        if _settles_rotation(rest_bones):
            frame = best_rotation(np.broadcast_to(rest_bones, bones.shape), bones)
        elif children:
            frame = _swing(np.einsum("nab,b->na", above, rest_bones[0]), bones[:, 0]) @ above
        if reference is not None:
            seen = np.einsum("nba,npb->npa", frame, vertices[:, part] - joints[:, j, None])
            weights = skeleton.weights[part, j]
            frame = frame @ _remaining_turn(rest_bones, reference[j], seen, weights)
        frames.append(frame)
    return np.stack(frames, axis=1)


def _corrections(
    unposed: Float[np.ndarray, "n v 3"],
    rest_joints: Float[np.ndarray, "n j 3"],
    skeleton: Skeleton,
) -> Float[np.ndarray, "n j 3 3"]:
    """The turn of each part in the rest pose away from the same part of the first mesh.

    It is measured against the mean of all meshes, which is less of an accident than the first one.
    """
    turns = []
    for j, part in enumerate(_parts(skeleton)):
        seen = unposed[:, part] - rest_joints[:, j, None]
        bones = _unit((rest_joints[:, _children(skeleton, j)] - rest_joints[:, j, None])[0])
        weights = skeleton.weights[part, j]
        turns.append(_remaining_turn(bones, seen.mean(axis=0), seen, weights))
    from_mean = np.stack(turns, axis=1)
    return from_mean @ np.swapaxes(from_mean[:1], -1, -2)


def _remaining_turn(
    bones: Float[np.ndarray, "c 3"],
    reference: Float[np.ndarray, "p 3"],
    seen: Float[np.ndarray, "n p 3"],
    weights: Float[np.ndarray, " p"],
) -> Float[np.ndarray, "n 3 3"]:
    """What the directions of the bones to the children leave open, from the vertices."""
    source = np.broadcast_to(reference, seen.shape)
    if _settles_rotation(bones) or not len(reference):
        return np.tile(np.eye(3), (len(seen), 1, 1))
    if len(bones):
        return _best_twist(np.broadcast_to(bones[0], (len(seen), 3)), source, seen, weights)
    if _settles_rotation(reference):
        return best_rotation(source, seen, weights)
    return np.tile(np.eye(3), (len(seen), 1, 1))


def _children(skeleton: Skeleton, joint: int) -> list[int]:
    return [child for child, parent in enumerate(skeleton.parents) if parent == joint]


def _parts(skeleton: Skeleton) -> list[Int[np.ndarray, " p"]]:
    """The vertices that speak for the orientation of each joint."""
    return [np.flatnonzero(column > MAIN_WEIGHT) for column in skeleton.weights.T]


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
