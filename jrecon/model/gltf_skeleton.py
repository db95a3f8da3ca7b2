"""Nodes and skins of a glTF file as one skeleton with joint axes aligned with the world.

glTF poses a vertex v of a mesh with `sum_k w_k G_k B_k v`, where G is the world transform of a
joint's node and B the skin's inverse bind matrix (section 3.7.3.3). A jrecon model poses a vertex
v' of its rest mesh with `sum_k w_k X_k v'`, where X is a rigid motion, the identity at rest. With
any transform A from the mesh to the world, v' = A v and X = G B inverse(A) are the same thing. The
rest frame of a joint is then W = A inverse(B): only its origin is kept, as the joint's rest
position, because rotations relative to world axes need no rest orientation. For a rotation theta
of the node relative to its rest orientation R this is R theta R^T.
"""

from __future__ import annotations

import dataclasses
import heapq

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from jrecon.model.gltf_file import GltfFile, as_tree, item, member, numbers, read_accessor

MAX_JOINTS = 1024

_SAME_SCALE = 0.01
"""Relative difference up to which two scales are the same."""


@dataclasses.dataclass(frozen=True, eq=False)
class Nodes:
    """The node tree of a file."""

    names: tuple[str, ...]
    parents: tuple[int, ...]
    """-1 for roots."""
    world: Float[np.ndarray, "n 4 4"]
    """World transforms in the pose that the file shows."""


@dataclasses.dataclass(frozen=True, eq=False)
class Skin:
    """One skin of the file, expressed in the joints of the skeleton."""

    joints: Int[np.ndarray, " m"]
    """Joint of the skeleton for each joint of the skin."""
    to_rest: Float[np.ndarray, "m 4 4"]
    """From the mesh to the rest pose: what moves a vertex that follows this joint alone."""


@dataclasses.dataclass(frozen=True, eq=False)
class GltfSkeleton:
    """All skins of the file as one tree; parents come before children."""

    names: tuple[str, ...]
    parents: tuple[int, ...]
    positions: Float[np.ndarray, "j 3"]
    """Rest positions, metres."""
    default_pose: Float[np.ndarray, "j 3"]
    """Axis-angle per joint of the pose that the file shows."""
    skins: dict[int, Skin]
    joint_of_node: dict[int, int]
    rest: Float[np.ndarray, "j 4 4"]
    notes: tuple[str, ...]


def read_nodes(file: GltfFile) -> Nodes:
    """The node tree with world transforms.

    Raises:
      ValueError: the nodes form no forest, or a transform is malformed.
    """
    entries = [as_tree(node, "nodes") for node in member(file.tree, "nodes", list, [])]
    parents = [-1] * len(entries)
    for i, entry in enumerate(entries):
        for child in member(entry, "children", list, []):
            item(file, "nodes", child)
            if parents[child] >= 0:
                raise ValueError(f"node {child} has two parents, {parents[child]} and {i}.")
            parents[child] = i
    order = _parents_first(dict(enumerate(parents)))
    if len(order) < len(entries):
        raise ValueError("the nodes form a cycle, need trees; the file is damaged.")
    world = np.tile(np.eye(4), (len(entries), 1, 1))
    for i in order:
        above = world[parents[i]] if parents[i] >= 0 else np.eye(4)
        world[i] = above @ _local_transform(entries[i])
    _check_finite("node transforms", world)
    names = [clean_name(member(entry, "name", str, "")) for entry in entries]
    return Nodes(tuple(names), tuple(parents), world)


def clean_name(name: str) -> str:
    """A name that can be printed and stored: bounded, without lone surrogates."""
    return name[:200].encode("utf-8", "replace").decode("utf-8")


def unique_names(names: list[str]) -> tuple[str, ...]:
    """The names, made unique by a number at the end where they are not."""
    seen: set[str] = set()
    result = []
    for name in names:
        candidate, number = name, 2
        while candidate in seen:
            candidate, number = f"{name}_{number}", number + 1
        seen.add(candidate)
        result.append(candidate)
    return tuple(result)


def _local_transform(node: dict) -> np.ndarray:
    matrix = numbers(node, "matrix", 16)
    if matrix is not None:
        return _affine(matrix.reshape(4, 4).T, "node matrix")
    translation = numbers(node, "translation", 3)
    quaternion, scale = numbers(node, "rotation", 4), numbers(node, "scale", 3)
    local = np.eye(4)
    if quaternion is not None:
        length = np.linalg.norm(quaternion)
        if not 1e-6 < length < 1e6:
            raise ValueError(f"rotation: got a quaternion of length {length:.3g}, need 1.")
        local[:3, :3] = Rotation.from_quat(quaternion / length).as_matrix()
    if scale is not None:
        local[:3, :3] *= scale
    if translation is not None:
        local[:3, 3] = translation
    return local


def _affine(matrix: np.ndarray, what: str) -> np.ndarray:
    if np.abs(matrix[..., 3, :] - [0, 0, 0, 1]).max() > 1e-4:
        raise ValueError(f"{what}: the last row is not (0, 0, 0, 1), need an affine transform.")
    return matrix


def _check_finite(what: str, matrix: np.ndarray) -> None:
    if not np.isfinite(matrix).all():
        raise ValueError(f"{what}: products overflow; the file is damaged.")


def inverse(matrix: np.ndarray, what: str) -> np.ndarray:
    """The inverse of an affine transform, which must have one."""
    scale = np.abs(matrix[:3, :3]).max()
    if not abs(np.linalg.det(matrix[:3, :3])) > 1e-9 * scale**3:
        raise ValueError(f"{what}: the transform is singular (a scale of zero?), need none such.")
    return np.linalg.inv(matrix)


def _parents_first(parents: dict[int, int]) -> list[int]:
    """The keys with parents before children, else in their own order; cycles are left out."""
    children: dict[int, list[int]] = {}
    for child, parent in parents.items():
        children.setdefault(parent, []).append(child)
    rank = {key: i for i, key in enumerate(parents)}
    ready = [(rank[child], child) for child in children.get(-1, [])]
    heapq.heapify(ready)
    order = []
    while ready:
        _, here = heapq.heappop(ready)
        order.append(here)
        for child in children.get(here, []):
            heapq.heappush(ready, (rank[child], child))
    return order


def read_skeleton(file: GltfFile, nodes: Nodes, mesh_nodes: dict[int, int]) -> GltfSkeleton:
    """The skeleton of the skins in use.

    Args:
      file: the file.
      nodes: its nodes.
      mesh_nodes: for each skin in use, the first node that shows a mesh with it.

    Raises:
      ValueError: a skin is malformed.
    """
    used: dict[int, tuple[list[int], np.ndarray | None]] = {
        skin: _read_skin(file, skin) for skin in mesh_nodes
    }
    members = dict.fromkeys(node for joints, _ in used.values() for node in joints)
    above = {node: _nearest_ancestor(nodes, node, members) for node in members}
    order = _parents_first(above)
    if len(order) > MAX_JOINTS:
        raise ValueError(f"got {len(order)} joints, the limit is {MAX_JOINTS}; remove some.")
    notes: list[str] = []
    roots = [node for node in order if above[node] < 0]
    joint_of_node = {node: i + (len(roots) > 1) for i, node in enumerate(order)}
    names = [nodes.names[node] or f"joint_{i:02d}" for i, node in enumerate(order)]
    parents = [joint_of_node.get(above[node], 0) for node in order]
    world = nodes.world[order]
    rest_of_node, to_rest = _rest_frames(nodes, used, mesh_nodes, notes)
    rest = np.stack([rest_of_node[node] for node in order])
    if len(roots) > 1:
        notes.append(f"{len(roots)} root joints, joined by a root at the origin")
        names, parents = ["common_root", *names], [-1, *parents]
        world, rest = (np.concatenate([np.eye(4)[None], array]) for array in (world, rest))
    parents[0] = -1
    pose, deviation = _default_pose(parents, world, rest)
    if deviation > 1e-3:
        notes.append(
            f"joints of the shown pose are up to {1e3 * deviation:.1f} mm from where rotations "
            "alone put them"
        )
    skins = {
        skin: Skin(np.array([joint_of_node[node] for node in used[skin][0]]), to_rest[skin])
        for skin in used
    }
    return GltfSkeleton(
        unique_names(names),
        tuple(parents),
        rest[:, :3, 3],
        pose,
        skins,
        joint_of_node,
        rest,
        tuple(notes),
    )


def _read_skin(file: GltfFile, index: int) -> tuple[list[int], np.ndarray | None]:
    """Joint nodes and inverse bind matrices (None where the skin has none)."""
    skin = item(file, "skins", index)
    joints = member(skin, "joints", list)
    for node in joints:
        item(file, "nodes", node)
    if not joints or len(set(joints)) != len(joints):
        raise ValueError(f"skin {index}: got {len(joints)} joints, need some, each once.")
    if "inverseBindMatrices" not in skin:
        return joints, None
    # Column by column in the file (3.6.2.4).
    matrices = read_accessor(file, skin["inverseBindMatrices"], ("MAT4",)).reshape(-1, 4, 4)
    if len(matrices) < len(joints):
        raise ValueError(
            f"skin {index}: got {len(matrices)} inverse bind matrices for {len(joints)} joints."
        )
    affine = _affine(matrices[: len(joints)].swapaxes(1, 2), f"skin {index}: inverse bind matrix")
    return joints, affine.astype(np.float64)


def _nearest_ancestor(nodes: Nodes, node: int, members: dict[int, None]) -> int:
    """The nearest ancestor that is a joint; -1 if there is none."""
    node = nodes.parents[node]
    while node >= 0 and node not in members:
        node = nodes.parents[node]
    return node


def _rest_frames(
    nodes: Nodes,
    used: dict[int, tuple[list[int], np.ndarray | None]],
    mesh_nodes: dict[int, int],
    notes: list[str],
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Rest frame of each joint node, and per skin the transforms from the mesh to the rest pose.

    The first skin that holds a joint decides where it rests; other skins are carried there.
    """
    rest: dict[int, np.ndarray] = {}
    to_rest: dict[int, np.ndarray] = {}
    for skin, (joints, unbind) in used.items():
        if unbind is None:
            # No bind pose in the file: the pose that it shows is the rest pose.
            for node in joints:
                rest.setdefault(node, nodes.world[node])
            to_rest[skin] = np.stack([rest[node] for node in joints])
        else:
            to_rest[skin] = _carry(nodes, skin, joints, unbind, mesh_nodes[skin], rest, notes)
    return rest, to_rest


def _carry(
    nodes: Nodes,
    skin: int,
    joints: list[int],
    unbind: np.ndarray,
    mesh_node: int,
    rest: dict[int, np.ndarray],
    notes: list[str],
) -> np.ndarray:
    """The transforms of one skin from its mesh to the rest pose; adds its joints to `rest`."""
    bind = np.stack([inverse(one, f"skin {skin}: inverse bind matrix") for one in unbind])
    shared = [i for i, node in enumerate(joints) if node in rest]
    if shared:
        placed = rest[joints[shared[0]]] @ unbind[shared[0]]
    else:
        placed = _placement(nodes, joints, unbind, mesh_node)
    for node, frame in zip(joints, placed @ bind, strict=True):
        rest.setdefault(node, frame)
    moved = np.stack([rest[node] for node in joints]) @ unbind
    _check_finite(f"skin {skin}", moved)
    if np.abs(moved - placed).max() > 1e-3 * np.abs(placed @ bind).max():
        notes.append(f"skin {skin} is bound in another pose and was carried to the rest pose")
    return moved


def _placement(nodes: Nodes, joints: list[int], unbind: np.ndarray, mesh_node: int) -> np.ndarray:
    """The transform A from a skinned mesh to the world at rest.

    The skin fixes its scale only: a turn or shift of the rest pose can be undone by the root. What
    the author meant stands in the transform of the mesh's node (which does not count for display)
    or in that of the node above the skeleton. Of those that have the right scale, the one counts
    from which the shown pose turns the topmost joint least; if there is none, the shown pose does.
    """
    held = dict.fromkeys(joints)
    top = next((i for i, node in enumerate(joints) if _nearest_ancestor(nodes, node, held) < 0), 0)
    shown = nodes.world[joints[top]] @ unbind[top]
    above = nodes.parents[joints[top]]
    authored = [nodes.world[mesh_node], nodes.world[above] if above >= 0 else np.eye(4)]
    volume = np.linalg.det(shown[:3, :3])
    angles = {}
    for i, candidate in enumerate(authored):
        if abs(np.linalg.det(candidate[:3, :3]) - volume) < 3 * _SAME_SCALE * abs(volume):
            turn = shown[:3, :3] @ inverse(candidate, "node above a skin")[:3, :3]
            # The trace grows as the angle falls.
            angles[i] = np.trace(turn)
    return authored[max(angles, key=lambda i: angles[i])] if angles else shown


def _default_pose(
    parents: list[int], world: np.ndarray, rest: np.ndarray
) -> tuple[np.ndarray, float]:
    """Axis-angle per joint of the shown pose, and how far (m) its joints are from that pose's."""
    motion = world @ np.stack([inverse(frame, "rest frame of a joint") for frame in rest])
    _check_finite("joint transforms", motion)
    # The nearest rotation: scales of the shown pose have no place in a pose.
    left, _, right = np.linalg.svd(motion[:, :3, :3])
    left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]
    turned = left @ right
    up = np.array([0, *parents[1:]])
    local = turned[up].swapaxes(1, 2) @ turned
    local[0] = turned[0]
    bones = rest[:, :3, 3] - rest[up, :3, 3]
    predicted = world[up, :3, 3] + np.einsum("jab,jb->ja", turned[up], bones)
    deviation = float(np.linalg.norm(predicted - world[:, :3, 3], axis=1).max())
    return Rotation.from_matrix(local).as_rotvec(), deviation
