"""Registered meshes: instances of a class of objects with one topology, read and checked.

Registered means that vertex i is the same place of the object in every mesh, so the meshes share
one array of faces and differ in their vertices only. That is what a statistical model is built
from (`jrecon.model.build`).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from jaxtyping import Float, Int

SUFFIXES = (".ply", ".obj", ".stl", ".glb", ".gltf", ".off")

# Diagonal of a mesh in metres outside of which its unit is more likely wrong than the object odd:
# a ring for a finger has 0.03, a house 20. Objects in millimetres are 1000 times too large.
PLAUSIBLE_SIZE = (0.01, 50.0)


@dataclasses.dataclass(frozen=True, eq=False)
class RegisteredMeshes:
    """Meshes of one topology. Make them with `make_meshes` or `read_meshes`, which check."""

    vertices: Float[np.ndarray, "n v 3"]
    """Metres, y up, +z front (the first mesh decides, see `jrecon.model.alignment`)."""
    faces: Int[np.ndarray, "f 3"]
    names: tuple[str, ...]
    """A name for each mesh, used in messages and in the report."""

    def __len__(self) -> int:
        return len(self.vertices)


def read_meshes(
    paths: Sequence[str | os.PathLike[str]], *, unit: float | None = None
) -> RegisteredMeshes:
    """Meshes of one topology from files, in the given order.

    Vertices keep the order of the file. STL has no shared vertices: there, corners that coincide in
    *every* mesh become one vertex (in the order of their first use). The parts of a GLB scene are
    joined, in the order of the scene.

    Args:
      paths: PLY, OBJ, STL, GLB, glTF or OFF files.
      unit: length of the files' unit in metres (0.001 for millimetres). If left out, metres are
        assumed, and a size that no object in metres is likely to have is an error.

    Raises:
      FileNotFoundError: a file does not exist.
      ValueError: a file cannot be read as a mesh, or the meshes do not fit together.
    """
    paths = [Path(path) for path in paths]
    if len(paths) < 2:
        raise ValueError(f"got {len(paths)} mesh files, need at least 2 to see how a class varies.")
    loaded = [_read_mesh(path) for path in paths]
    names = [str(path) for path in paths]
    first_vertices, faces = loaded[0]
    for name, (vertices, mesh_faces) in zip(names, loaded, strict=True):
        _check_topology(name, names[0], vertices, mesh_faces, first_vertices, faces)
    vertices = np.stack([vertices for vertices, _ in loaded])
    if all(path.suffix.lower() == ".stl" for path in paths):
        vertices, faces = _weld(vertices, faces)
    return make_meshes(vertices, faces, names=names, unit=unit)


def make_meshes(
    vertices: Any, faces: Any, *, names: Sequence[str] | None = None, unit: float | None = None
) -> RegisteredMeshes:
    """Checked registered meshes from arrays: vertices (n, v, 3), faces (f, 3). See `read_meshes`.

    Raises:
      ValueError: fewer than two meshes, wrong shapes, values that are not finite, faces outside of
        the vertices, identical meshes, or an implausible unit.
    """
    vertices, faces = np.array(vertices, np.float64), np.asarray(faces)
    if vertices.ndim != 3 or vertices.shape[-1] != 3:
        raise ValueError(
            f"vertices: got shape {vertices.shape}, need (n, v, 3): all meshes with the same "
            "vertices in the same order."
        )
    count = len(vertices)
    names = tuple(f"mesh_{i:03d}" for i in range(count)) if names is None else tuple(names)
    if count < 2:
        raise ValueError(f"got {count} meshes, need at least 2 to see how a class varies.")
    if len(names) != count:
        raise ValueError(f"names: got {len(names)} for {count} meshes, need one for each.")
    _check_faces(faces, vertices.shape[1])
    for name, mesh in zip(names, vertices, strict=True):
        _check_values(name, mesh)
    _check_unit(names, vertices, unit)
    _check_distinct(names, vertices)
    scale = 1.0 if unit is None else unit
    return RegisteredMeshes(vertices * scale, faces.astype(np.int32), names)


def _read_mesh(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; check the path.")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path}: got the suffix {path.suffix!r}, need one of {', '.join(SUFFIXES)}."
        )
    try:
        # Anything but these flags merges or reorders vertices and so breaks the registration.
        mesh = trimesh.load_mesh(path, process=False, maintain_order=True, skip_materials=True)
    except Exception as error:  # trimesh's readers raise whatever the damage leads to
        raise ValueError(f"{path}: cannot be read as a mesh ({error}); export it again.") from error
    faces = np.asarray(getattr(mesh, "faces", ()))
    if not len(faces):
        raise ValueError(f"{path}: got no faces, need a triangle mesh, not a cloud of points.")
    return np.asarray(mesh.vertices, np.float64), faces


def _check_topology(
    name: str,
    first: str,
    vertices: np.ndarray,
    faces: np.ndarray,
    first_vertices: np.ndarray,
    first_faces: np.ndarray,
) -> None:
    remedy = "register all meshes to one template, and export them with the same settings"
    if len(vertices) != len(first_vertices) or len(faces) != len(first_faces):
        raise ValueError(
            f"{name}: got {len(vertices)} vertices and {len(faces)} faces, need "
            f"{len(first_vertices)} and {len(first_faces)} as in {first}; {remedy}."
        )
    if not np.array_equal(faces, first_faces):
        differ = int((faces != first_faces).any(1).sum())
        raise ValueError(
            f"{name}: {differ} of {len(faces)} faces differ from those of {first}, need the same "
            f"faces in the same order; {remedy}."
        )


def _weld(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make one vertex of those that coincide in every mesh."""
    rows = vertices.transpose(1, 0, 2).reshape(vertices.shape[1], -1)
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return vertices[:, np.sort(first)], rank[inverse.reshape(-1)][faces]


def _check_faces(faces: np.ndarray, count: int) -> None:
    if faces.ndim != 2 or faces.shape[-1] != 3 or faces.dtype.kind not in "iu" or not len(faces):
        raise ValueError(
            f"faces: got shape {faces.shape} of {faces.dtype}, need (f, 3) integers; "
            "triangulate the meshes first."
        )
    if faces.min() < 0 or faces.max() >= count:
        raise ValueError(
            f"faces: got indices {faces.min()}..{faces.max()}, need 0..{count - 1}: "
            "the faces belong to other vertices."
        )


def _check_values(name: str, vertices: np.ndarray) -> None:
    bad = int((~np.isfinite(vertices).all(-1)).sum())
    if bad:
        raise ValueError(
            f"{name}: {bad} of {len(vertices)} vertices are NaN or infinite, need finite numbers; "
            "export the mesh again or leave it out."
        )
    if not np.ptp(vertices, axis=0).max(initial=0) > 0:
        raise ValueError(f"{name}: all vertices lie in one point; leave the mesh out.")


def _check_unit(names: Sequence[str], vertices: np.ndarray, unit: float | None) -> None:
    sizes = np.linalg.norm(np.ptp(vertices, axis=1), axis=-1)
    if unit is not None:
        if not (np.isfinite(unit) and unit > 0):
            raise ValueError(f"unit: got {unit}, need the files' unit in metres (mm: 0.001).")
        return
    median = float(np.median(sizes))
    odd = np.flatnonzero((sizes > 20 * median) | (sizes < median / 20))
    if len(odd):
        raise ValueError(
            f"{names[odd[0]]}: the mesh is {sizes[odd[0]]:.3g} units across, half of the others "
            f"are below {median:.3g}; do the files have different units? Pass unit=1 (--unit 1) if "
            "the sizes are right."
        )
    low, high = PLAUSIBLE_SIZE
    if not low <= median <= high:
        guess = "millimetres (0.001)" if median > 100 * high / 50 else "another unit"
        raise ValueError(
            f"the meshes are {median:.3g} metres across, which is not plausible for an object; are "
            f"they in {guess}? Pass the length of their unit in metres as unit (--unit), "
            "1 if they really are in metres."
        )


def _check_distinct(names: Sequence[str], vertices: np.ndarray) -> None:
    seen: dict[bytes, str] = {}
    for name, mesh in zip(names, vertices, strict=True):
        other = seen.setdefault(mesh.tobytes(), name)
        if other is not name:
            raise ValueError(
                f"{name} and {other} are identical, need different instances: a duplicate counts "
                "twice and makes held-out errors look too good; leave one out."
            )
