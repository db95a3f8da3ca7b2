"""Triangle meshes: static topology tables, and what follows from vertices and faces.

A mesh is a pair of arrays: `vertices` (*batch v 3) in metres and `faces` (f 3), counter-clockwise
seen from outside. Faces are constants, so whatever depends on them alone is computed once on the
host (`make_topology`); what depends on vertices is batched, jit-able and differentiable.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.spatial import KDTree
from trimesh.triangles import closest_point

from jrecon.geometry.vector import norm, normalize


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Topology:
    """Tables of neighbours in a mesh; -1 means none. Build one with `make_topology`."""

    edges: Int[Array, "e 2"]
    """The two vertices of each edge, lower index first."""
    edge_faces: Int[Array, "e 2"]
    """The faces on both sides of each edge. The first one runs along the edge from the lower to
    the higher vertex, the second one back; a boundary edge has only one of them."""
    vertex_faces: Int[Array, "v d"]
    """The faces around each vertex in rising order, padded with -1 to the largest number."""
    vertex_corners: Int[Array, "v d"]
    """Which corner (0, 1, 2) of each of these faces the vertex is; 0 where padded."""


def make_topology(faces: Any, num_vertices: int) -> Topology:
    """The neighbour tables of a mesh, computed on the host.

    Raises:
      ValueError: an edge has two faces on one side: more than two faces meet there, or neighbours
        are wound in opposite directions, so that the mesh has no inside and outside.
    """
    faces = _check_faces(faces, num_vertices)
    starts, ends = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    pairs = np.stack([np.minimum(starts, ends), np.maximum(starts, ends)], axis=1)
    edges, which = np.unique(pairs, axis=0, return_inverse=True)
    side = (starts > ends).astype(np.int64)
    slots = 2 * which.ravel() + side
    uses = np.bincount(slots, minlength=2 * len(edges))
    if (uses > 1).any():
        bad = int((uses > 1).sum())
        a, b = edges[int(np.argmax(uses)) // 2]
        raise ValueError(
            f"faces: {bad} edges, the first between vertices {a} and {b}, have several faces on "
            "one side; need at most two faces at an edge, wound alike; remove duplicate faces and "
            "repair the winding (trimesh.repair.fix_normals)."
        )
    edge_faces = np.full(2 * len(edges), -1)
    edge_faces[slots] = np.repeat(np.arange(len(faces)), 3)

    corners = faces.ravel()
    order = np.argsort(corners, kind="stable")
    valence = np.bincount(corners, minlength=num_vertices)
    first = np.cumsum(valence) - valence
    column = np.arange(len(order)) - first[corners[order]]
    table = np.full((2, num_vertices, max(1, int(valence.max(initial=0)))), -1)
    table[0, corners[order], column] = order // 3
    table[1] = 0
    table[1, corners[order], column] = order % 3
    return Topology(
        edges=jnp.asarray(edges, jnp.int32),
        edge_faces=jnp.asarray(edge_faces.reshape(-1, 2), jnp.int32),
        vertex_faces=jnp.asarray(table[0], jnp.int32),
        vertex_corners=jnp.asarray(table[1], jnp.int32),
    )


def is_watertight(topology: Topology) -> bool:
    """Whether every edge has a face on both sides: the surface is closed and oriented."""
    return bool((np.asarray(topology.edge_faces) >= 0).all())


def _check_faces(faces: Any, num_vertices: int) -> np.ndarray:
    faces = np.asarray(faces)
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
        raise ValueError(
            f"faces: got shape {faces.shape} of {faces.dtype}, need (f, 3) integers; triangulate."
        )
    if faces.size and not (0 <= faces.min() and faces.max() < num_vertices):
        raise ValueError(
            f"faces: got vertex indices {faces.min()}..{faces.max()}, need "
            f"0..{num_vertices - 1}; faces and vertices are of different meshes."
        )
    return faces.astype(np.int64)


def triangles(
    vertices: Float[Array, "*batch v 3"], faces: Int[Array, "f 3"]
) -> Float[Array, "*batch f 3 3"]:
    """The corners of each face."""
    return jnp.take(vertices, faces, axis=-2)


def area_vectors(
    vertices: Float[Array, "*batch v 3"], faces: Int[Array, "f 3"]
) -> Float[Array, "*batch f 3"]:
    """The outward normal of each face, as long as its area, square metres."""
    corners = triangles(vertices, faces)
    a, b, c = corners[..., 0, :], corners[..., 1, :], corners[..., 2, :]
    return jnp.cross(b - a, c - a) / 2


def face_areas(
    vertices: Float[Array, "*batch v 3"], faces: Int[Array, "f 3"]
) -> Float[Array, "*batch f"]:
    """Areas, square metres; the derivative at a degenerate face is zero."""
    return norm(area_vectors(vertices, faces))[..., 0]


def face_normals(
    vertices: Float[Array, "*batch v 3"], faces: Int[Array, "f 3"]
) -> Float[Array, "*batch f 3"]:
    """Outward unit normals; zero, with zero derivative, at a degenerate face."""
    return normalize(area_vectors(vertices, faces))


def vertex_normals(
    vertices: Float[Array, "*batch v 3"], faces: Int[Array, "f 3"], topology: Topology
) -> Float[Array, "*batch v 3"]:
    """Outward unit normals, the area-weighted mean over the faces around each vertex.

    Gathers through `topology` instead of scattering from faces: deterministic, and fast on
    hardware where a floating-point scatter is slow.
    """
    around = topology.vertex_faces
    gathered = jnp.take(area_vectors(vertices, faces), jnp.maximum(around, 0), axis=-2)
    known = (around >= 0).reshape((1,) * (vertices.ndim - 2) + (*around.shape, 1))
    return normalize(jnp.sum(jnp.where(known, gathered, 0.0), axis=-2))


def facing(
    vertices: Float[Array, "*batch v 3"], faces: Int[Array, "f 3"], eye: Float[Array, " 3"]
) -> Float[Array, "*batch f"]:
    """Cosine of the angle between each face's normal and the direction to the eye.

    Positive where the face shows its outside.
    """
    corners = triangles(vertices, faces)
    away = eye.reshape((1,) * (corners.ndim - 2) + (3,)) - jnp.mean(corners, axis=-2)
    return jnp.sum(face_normals(vertices, faces) * normalize(away), axis=-1)


def volume(
    vertices: Float[Array, "*batch v 3"], faces: Int[Array, "f 3"]
) -> Float[Array, "*batch"]:
    """Enclosed volume of a watertight mesh, cubic metres (divergence theorem)."""
    # About the mean vertex: float32 loses digits when the mesh is far from the origin.
    centred = vertices - jnp.mean(vertices, axis=-2, keepdims=True)
    first = triangles(centred, faces)[..., 0, :]
    return jnp.sum(first * area_vectors(centred, faces), axis=(-1, -2)) / 3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SurfacePoints:
    """Points that ride on a mesh."""

    face_id: Int[Array, " n"]
    barycentrics: Float[Array, "n 3"]


def sample_surface(
    key: Array, vertices: Float[Array, "v 3"], faces: Int[Array, "f 3"], count: int
) -> SurfacePoints:
    """`count` points drawn evenly over the surface."""
    face_key, point_key = jax.random.split(key)
    areas = face_areas(vertices, faces)
    # A degenerate face has weight log 0 = -inf, and is never drawn.
    face_id = jax.random.categorical(face_key, jnp.log(areas), shape=(count,))
    # The square root makes the density even (Osada et al. 2002, "Shape Distributions").
    r, t = jax.random.uniform(point_key, (2, count))
    r = jnp.sqrt(r)
    return SurfacePoints(face_id, jnp.stack([1 - r, r * (1 - t), r * t], axis=-1))


def surface_positions(
    points: SurfacePoints, vertices: Float[Array, "*batch v 3"], faces: Int[Array, "f 3"]
) -> Float[Array, "*batch n 3"]:
    """Where points that ride on a mesh are, for these vertices."""
    corners = triangles(vertices, faces[points.face_id])
    return jnp.einsum("...nca,nc->...na", corners, points.barycentrics)


@dataclasses.dataclass(frozen=True, eq=False)
class ClosestPoints:
    """The point of a surface nearest to each query, and where it is (NumPy, host)."""

    distance: Float[np.ndarray, " n"]
    """Metres, not negative."""
    points: Float[np.ndarray, "n 3"]
    face_id: Int[np.ndarray, " n"]


def closest_on_surface(queries: Any, vertices: Any, faces: Any) -> ClosestPoints:
    """The exact nearest point of a mesh to each query point (host, float64).

    Candidate faces come from a KD-tree over face centroids. A face whose centroid is farther than
    `best + radius`, with `radius` the largest distance from a centroid to its corners, cannot hold
    a nearer point: the search widens until that bound says the answer is final. The distance to a
    triangle itself is trimesh's.

    Raises:
      ValueError: no faces, or coordinates that are not finite.
    """
    queries, vertices = np.asarray(queries, np.float64), np.asarray(vertices, np.float64)
    faces = _check_faces(faces, len(vertices))
    if not len(faces):
        raise ValueError("faces: got none, need at least one to measure a distance to.")
    if not (np.isfinite(queries).all() and np.isfinite(vertices).all()):
        raise ValueError("closest_on_surface: got NaN or infinite coordinates, need finite ones.")
    corners = vertices[faces]
    centroids = corners.mean(1)
    radius = np.linalg.norm(corners - centroids[:, None], axis=2).max()
    tree = KDTree(centroids)
    result = ClosestPoints(
        np.full(len(queries), np.inf), np.zeros((len(queries), 3)), np.zeros(len(queries), int)
    )
    open_ids, width = np.arange(len(queries)), min(16, len(faces))
    while len(open_ids):
        found = tree.query(queries[open_ids], k=width)
        reach, near = (np.asarray(table).reshape(-1, width) for table in found)
        _keep_nearest(result, open_ids, near, queries, corners)
        final = (reach[:, -1] >= result.distance[open_ids] + radius) | (width == len(faces))
        open_ids, width = open_ids[~final], min(4 * width, len(faces))
    return result


def _keep_nearest(
    result: ClosestPoints,
    ids: np.ndarray,
    near: np.ndarray,
    queries: np.ndarray,
    corners: np.ndarray,
    chunk: int = 1 << 20,
) -> None:
    """Put the nearest of each query's candidate faces into `result`, in bounded memory."""
    rows = max(1, chunk // near.shape[1])
    for start in range(0, len(ids), rows):
        some, candidates = ids[start : start + rows], near[start : start + rows]
        repeated = np.repeat(queries[some], candidates.shape[1], axis=0)
        points = np.asarray(closest_point(corners[candidates.ravel()], repeated))
        distances = np.linalg.norm(points - repeated, axis=1).reshape(candidates.shape)
        best = distances.argmin(1)
        row = np.arange(len(some))
        result.distance[some] = distances[row, best]
        result.points[some] = points.reshape(*candidates.shape, 3)[row, best]
        result.face_id[some] = candidates[row, best]
