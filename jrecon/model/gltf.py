"""Import of glTF 2.0: any artist's rig becomes a class of objects.

The meshes of the scene become the template, its skins the skeleton and the skinning weights, its
morph targets the shape basis. Axes and units are glTF's own: y up, +z front, metres. What the
file shows when it is opened is kept as the named pose `default`; the rest pose is the bind pose.

Vertices keep the order of the file, mesh node by mesh node, primitive by primitive. glTF splits a
vertex where its texture coordinates jump, so surfaces have seams; `weld=True` closes them.

Not imported, with a note in `provenance`: animations, materials, lines and points, and parts that
no joint moves in a scene that has a skeleton. Not supported, with an error: compressed geometry.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from jrecon.model.gltf_file import (
    GltfFile,
    Tree,
    accessor_count,
    as_tree,
    item,
    member,
    numbers,
    read_accessor,
    read_file,
)
from jrecon.model.gltf_skeleton import (
    GltfSkeleton,
    Nodes,
    clean_name,
    inverse,
    read_nodes,
    read_skeleton,
    unique_names,
)
from jrecon.model.parametric import ParametricModel, make_model

# Bounds on what is allocated: a file of a few bytes can announce anything.
MAX_VERTICES = 1 << 20
MAX_CORNERS = 3 << 21
MAX_BASIS = 1 << 28
MAX_PRIMITIVES = 4096
MAX_TARGETS = 4096
MAX_WEIGHT_SETS = 8

MAX_COORDINATE = 1e6
"""Metres from the origin beyond which a file is damaged rather than large; also for weights."""

_TRIANGLES, _STRIP, _FAN = 4, 5, 6


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """The vertices of one primitive in the rest pose, and its faces among them."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    weights: Float[np.ndarray, "v k"]
    weight_joints: Int[np.ndarray, "v k"]
    targets: dict[str, Float[np.ndarray, "v 3"]]


@dataclasses.dataclass(frozen=True, eq=False)
class Placement:
    """How the vertices of one mesh node get into the rest pose."""

    joints: Int[np.ndarray, " m"]
    transforms: Float[np.ndarray, "m 4 4"]
    skinned: bool


def read_gltf(path: str | os.PathLike[str], *, weld: bool = False) -> ParametricModel:
    """A parametric model from a `.glb` or `.gltf` file, with or without a skin.

    A file without a skin becomes a rigid class with one joint at the origin. Several root joints
    get a common root at the origin. Morph weights become shape coefficients with limits 0 and 1;
    their prior has the file's own weights as mean, and the spread of an even distribution.

    Args:
      path: the file; buffers that a `.gltf` refers to must be in its folder.
      weld: join vertices that agree in position, weights and morph targets.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is damaged, too large, without triangles, or needs an extension that
        changes how geometry is stored.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; check the path of the model.")
    try:
        # Damaged numbers may overflow on the way; results are checked.
        with np.errstate(all="ignore"):
            return _to_model(read_file(path), path, weld)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _to_model(file: GltfFile, path: Path, weld: bool) -> ParametricModel:
    nodes = read_nodes(file)
    shown = _shown_meshes(file, nodes)
    _check_size(file, shown)
    first_user: dict[int, int] = {}
    for node in shown:
        entry = item(file, "nodes", node)
        if "skin" in entry:
            first_user.setdefault(member(entry, "skin", int), node)
    skeleton = read_skeleton(file, nodes, first_user) if first_user else None
    notes = list(skeleton.notes) if skeleton else ["rigid: no skin"]
    parts, defaults = _read_parts(file, nodes, skeleton, shown, notes)
    if sum(len(part.faces) for part in parts) == 0:
        raise ValueError("no triangles that belong to the model; export the mesh with the rig.")
    whole = _join(parts)
    names = list(defaults)
    basis = np.zeros((*whole.vertices.shape, len(names)), np.float32)
    for i, name in enumerate(names):
        basis[:, :, i] = whole.targets.get(name, 0.0)
    whole, basis = _weld_seams(whole, basis, weld, notes)
    weights = np.array(list(defaults.values())).reshape(1, -1)
    joints = {} if skeleton is None else _joint_fields(skeleton)
    _check_bounds(whole.vertices, basis, weights, joints.get("joints", np.zeros(3)))
    for group in ("animations", "materials"):
        if member(file.tree, group, list, []):
            notes.append(f"{group} left out")
    asset = member(file.tree, "asset", dict)
    return make_model(
        whole.vertices,
        whole.faces,
        weights=whole.weights,
        weight_joints=whole.weight_joints,
        shape_basis=basis,
        shape_names=names,
        shape_limits=np.concatenate([np.minimum(weights, 0), np.maximum(weights, 1)]),
        prior_names=("file",),
        prior_mean=weights,
        prior_cov=np.eye(len(names))[None] / 12,
        name=path.stem,
        license=clean_name(member(asset, "copyright", str, "unknown")),
        provenance="; ".join([f"glTF file {path.name}", *_generator(asset), *notes]),
        **joints,
    )


def _joint_fields(skeleton: GltfSkeleton) -> dict:
    return dict(
        joints=skeleton.positions,
        parents=skeleton.parents,
        joint_names=skeleton.names,
        named_poses={"default": skeleton.default_pose},
    )


def _generator(asset: Tree) -> list[str]:
    name = clean_name(member(asset, "generator", str, ""))
    return [f"made by {name}"] if name else []


def _shown_meshes(file: GltfFile, nodes: Nodes) -> list[int]:
    """The nodes with a mesh in the default scene, or in the whole file if it has no scenes."""
    chosen = range(len(nodes.parents))
    if "scenes" in file.tree:
        scene = item(file, "scenes", member(file.tree, "scene", int, 0))
        roots = member(scene, "nodes", list, [])
        for root in roots:
            item(file, "nodes", root)
        inside = set(roots)
        stack = list(inside)
        while stack:
            below = member(item(file, "nodes", stack.pop()), "children", list, [])
            stack += [child for child in below if child not in inside]
            inside |= set(below)
        chosen = sorted(inside)
    return [node for node in chosen if "mesh" in item(file, "nodes", node)]


def _primitives(file: GltfFile, mesh: Tree) -> list[Tree]:
    """The primitives of a mesh that hold triangles."""
    entries = [as_tree(entry, "primitives") for entry in member(mesh, "primitives", list)]
    modes = (_TRIANGLES, _STRIP, _FAN)
    return [entry for entry in entries if member(entry, "mode", int, _TRIANGLES) in modes]


def _check_size(file: GltfFile, shown: list[int]) -> None:
    """Refuse more vertices, corners or morph targets than fit, before anything is decoded."""
    primitives, vertices, corners, targets, basis = 0, 0, 0, 0, 0
    for node in shown:
        mesh = item(file, "meshes", member(item(file, "nodes", node), "mesh", int))
        for primitive in _primitives(file, mesh):
            count = accessor_count(file, member(primitive, "attributes", dict).get("POSITION"))
            primitives += 1
            vertices += count
            corners += accessor_count(file, primitive["indices"]) if "indices" in primitive else 0
            targets = max(targets, len(member(primitive, "targets", list, [])))
            basis += 3 * count * len(member(primitive, "targets", list, []))
            limits = (MAX_PRIMITIVES, MAX_VERTICES, MAX_CORNERS, MAX_TARGETS, MAX_BASIS)
            got = (primitives, vertices, corners, targets, basis)
            if any(n > limit for n, limit in zip(got, limits, strict=True)):
                raise ValueError(
                    "got more than {} primitives, {} vertices, {} face corners, {} morph targets "
                    "or {} numbers in morph targets; reduce the mesh first.".format(*limits)
                )


def _read_parts(
    file: GltfFile,
    nodes: Nodes,
    skeleton: GltfSkeleton | None,
    shown: list[int],
    notes: list[str],
) -> tuple[list[Part], dict[str, float]]:
    """All primitives in the rest pose, and the default weight of each morph target by name.

    Targets of one name in several meshes (face and lashes) are one coefficient.
    """
    parts: list[Part] = []
    defaults: dict[str, float] = {}
    for node in shown:
        entry = item(file, "nodes", node)
        mesh = item(file, "meshes", entry["mesh"])
        placement = _place(nodes, skeleton, entry, node)
        if placement is None:
            notes.append(f"mesh node {nodes.names[node] or node} left out: no joint moves it")
            continue
        primitives = _primitives(file, mesh)
        if len(primitives) < len(mesh["primitives"]):
            notes.append("lines and points left out")
        counts = {len(member(primitive, "targets", list, [])) for primitive in primitives}
        if len(counts) > 1:
            raise ValueError("the primitives of a mesh differ in their number of morph targets.")
        names, weights = _target_names(mesh, entry, max(counts, default=0))
        for name, weight in zip(names, weights, strict=True):
            defaults.setdefault(name, float(weight))
        parts += [_read_primitive(file, one, placement, names) for one in primitives]
    if sum(len(part.vertices) for part in parts) * 3 * len(defaults) > MAX_BASIS:
        raise ValueError(f"morph targets need more than {MAX_BASIS} numbers; remove some.")
    return parts, defaults


def _place(nodes: Nodes, skeleton: GltfSkeleton | None, entry: Tree, node: int) -> Placement | None:
    """Where a mesh goes: with its skin, with the nearest joint above it, or nowhere."""
    if skeleton is None:
        return Placement(np.zeros(1, np.int64), nodes.world[node][None], False)
    if "skin" in entry:
        skin = skeleton.skins[entry["skin"]]
        return Placement(skin.joints, skin.to_rest, True)
    above = node
    while above >= 0 and above not in skeleton.joint_of_node:
        above = nodes.parents[above]
    if above < 0:
        return None
    joint = skeleton.joint_of_node[above]
    local = inverse(nodes.world[above], "node above a rigid part") @ nodes.world[node]
    return Placement(np.array([joint]), (skeleton.rest[joint] @ local)[None], False)


def _target_names(mesh: Tree, node: Tree, count: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and default weights of a mesh's morph targets."""
    extras = mesh.get("extras")
    given = extras.get("targetNames") if isinstance(extras, dict) else None
    known = given if isinstance(given, list) and len(given) == count else [None] * count
    names = [
        clean_name(name) if isinstance(name, str) and name else f"target_{i:02d}"
        for i, name in enumerate(known)
    ]
    weights = numbers(node, "weights", count) if count else None
    if weights is None:
        weights = numbers(mesh, "weights", count) if count else None
    return unique_names(names), np.zeros(count) if weights is None else weights


def _read_primitive(
    file: GltfFile, primitive: Tree, placement: Placement, names: tuple[str, ...]
) -> Part:
    attributes = member(primitive, "attributes", dict)
    stored = item(file, "accessors", attributes.get("POSITION"))
    if "bufferView" not in stored and "sparse" not in stored:
        raise ValueError("the file has no plain positions; export it without compression.")
    local = read_accessor(file, attributes["POSITION"], ("VEC3",)).astype(np.float64)
    count = len(local)
    slots, weights = _read_weights(file, attributes, placement, count)
    # To the rest pose: one transform for all, unless skins disagree about the bind pose.
    transforms = placement.transforms
    if np.ptp(transforms, axis=0).max() <= 1e-6 * np.abs(transforms).max():
        transform = np.broadcast_to(transforms[0], (count, 4, 4))
    else:
        transform = np.zeros((count, 4, 4))
        for column in range(slots.shape[1]):
            transform += weights[:, column, None, None] * transforms[slots[:, column]]
    vertices = np.einsum("vab,vb->va", transform[:, :3, :3], local) + transform[:, :3, 3]
    targets = {}
    for name, target in zip(names, member(primitive, "targets", list, []), strict=True):
        index = as_tree(target, "targets").get("POSITION")
        if index is None:
            continue
        delta = read_accessor(file, index, ("VEC3",)).astype(np.float64)
        if len(delta) != count:
            raise ValueError(f"target {name}: got {len(delta)} vertices, need {count}.")
        targets[name] = np.einsum("vab,vb->va", transform[:, :3, :3], delta).astype(np.float32)
    faces = _read_faces(file, primitive, count)
    if np.linalg.det(transform[0, :3, :3]) < 0:
        faces = faces[:, ::-1]
    return Part(vertices, faces, weights, placement.joints[slots], targets)


def _read_weights(
    file: GltfFile, attributes: Tree, placement: Placement, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Entry of the skin's joint list and weight, both (v, k), largest first."""
    if not placement.skinned:
        return np.zeros((count, 1), np.int64), np.ones((count, 1))
    sets = 0
    while f"JOINTS_{sets}" in attributes and f"WEIGHTS_{sets}" in attributes:
        sets += 1
    if not 0 < sets <= MAX_WEIGHT_SETS:
        raise ValueError(f"got {sets} sets of skinning weights, need 1..{MAX_WEIGHT_SETS}.")
    columns = []
    for group, kind in (("JOINTS", "i"), ("WEIGHTS", "f")):
        arrays = [read_accessor(file, attributes[f"{group}_{i}"], ("VEC4",)) for i in range(sets)]
        if any(len(one) != count or one.dtype.kind != kind for one in arrays):
            raise ValueError(f"{group}: got another count or type than {count} vertices need.")
        columns.append(np.concatenate(arrays, axis=1))
    slots, weights = columns
    slots = np.where(weights > 0, slots, 0)
    if slots.min() < 0 or slots.max() >= len(placement.joints):
        raise ValueError(f"JOINTS: got {slots.max()}, need 0..{len(placement.joints) - 1}.")
    if weights.min() < 0:
        raise ValueError(f"WEIGHTS: got {weights.min():.3g}, need weights >= 0.")
    # A vertex without weights would collapse to the origin: it follows the first joint.
    sums = weights.sum(1, keepdims=True)
    weights[sums[:, 0] == 0, 0] = 1.0
    weights = weights / np.where(sums == 0, 1.0, sums)
    order = np.argsort(-weights, axis=1, kind="stable")
    order = order[:, : max(1, int((weights > 0).sum(1).max()))]
    return np.take_along_axis(slots, order, 1), np.take_along_axis(weights, order, 1)


def _read_faces(file: GltfFile, primitive: Tree, count: int) -> np.ndarray:
    """Triangles of a primitive; strips and fans are taken apart (3.7.2.1)."""
    if "indices" in primitive:
        corners = read_accessor(file, primitive["indices"], ("SCALAR",))[:, 0]
        if corners.dtype.kind != "i" or not 0 <= corners.min() or corners.max() >= count:
            raise ValueError(f"indices: got {corners.max()}, need integers 0..{count - 1}.")
    else:
        corners = np.arange(count)
    mode = member(primitive, "mode", int, _TRIANGLES)
    if mode == _TRIANGLES:
        if len(corners) % 3:
            raise ValueError(f"indices: got {len(corners)} corners, need a multiple of 3.")
        return corners.reshape(-1, 3)
    first, second, third = corners[:-2], corners[1:-1], corners[2:]
    if mode == _FAN:
        return np.stack([second, third, np.full_like(second, corners[0])], axis=1)
    odd = np.arange(len(first)) % 2 == 1
    return np.stack([first, np.where(odd, third, second), np.where(odd, second, third)], axis=1)


def _join(parts: list[Part]) -> Part:
    """All parts as one; targets that a part lacks leave it still."""
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    width = max(part.weights.shape[1] for part in parts)
    pad = lambda array: np.pad(array, ((0, 0), (0, width - array.shape[1])))
    names = dict.fromkeys(name for part in parts for name in part.targets)
    targets = {name: np.zeros((starts[-1], 3), np.float32) for name in names}
    for part, start in zip(parts, starts, strict=False):
        for name, delta in part.targets.items():
            targets[name][start : start + len(delta)] = delta
    return Part(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.faces + start for part, start in zip(parts, starts, strict=False)]),
        np.concatenate([pad(part.weights) for part in parts]),
        np.concatenate([pad(part.weight_joints) for part in parts]),
        targets,
    )


def _weld_seams(
    whole: Part, basis: np.ndarray, weld: bool, notes: list[str]
) -> tuple[Part, np.ndarray]:
    """Join vertices that agree in everything, or note how many places have several vertices."""
    if not weld:
        places = len(np.unique(whole.vertices, axis=0))
        if places < len(whole.vertices):
            notes.append(f"seams: {len(whole.vertices)} vertices at {places} places")
        return whole, basis
    alike = np.concatenate(
        [whole.vertices, whole.weights, whole.weight_joints, basis.reshape(len(basis), -1)], axis=1
    )
    _, first, group = np.unique(alike, axis=0, return_index=True, return_inverse=True)
    kept, group = np.unique(first[group.reshape(-1)], return_inverse=True)
    faces = group[whole.faces]
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    notes.append(f"seams welded: {len(whole.vertices)} to {len(kept)} vertices")
    weights, joints = whole.weights[kept], whole.weight_joints[kept]
    return Part(whole.vertices[kept], faces, weights, joints, {}), basis[kept]


def _check_bounds(*arrays: np.ndarray) -> None:
    largest = max(np.abs(array).max(initial=0) for array in arrays)
    if not largest <= MAX_COORDINATE:
        raise ValueError(f"got coordinates or weights up to {largest:.3g}; the file is damaged.")
