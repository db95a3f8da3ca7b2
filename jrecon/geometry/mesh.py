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
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from trimesh.triangles import closest_point

from jrecon.geometry.arrays import place
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
    face_faces: Int[Array, "f 3"]
    """The neighbour of each face across its side from corner k to corner k + 1."""
    vertex_faces: Int[Array, "v d"]
    """The faces around each vertex in rising order, padded with -1 to the largest number."""
    vertex_corners: Int[Array, "v d"]
    """Which corner (0, 1, 2) of each of these faces the vertex is; 0 where padded."""


def make_topology(faces: Any, num_vertices: int, *, split: bool = False) -> Topology:
    """The neighbour tables of a mesh, computed on the host.

    A face that names a vertex twice is listed at its vertices; its side of no length is no edge.

    Args:
      split: accept edges where more than two faces meet or where neighbours are wound in opposite
        directions, as in meshes from anywhere: such an edge is listed several times, each time
        with at most one face on either side. Rendering needs no more; normals may be wrong.

    Raises:
      ValueError: faces out of range, or, without `split`, such an edge: the mesh has no inside and
        outside there.
    """
    faces = _check_faces(faces, num_vertices)
    starts, ends = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    proper = np.flatnonzero(starts != ends)
    side = (starts > ends).astype(np.int64)
    pair = np.minimum(starts, ends) * num_vertices + np.maximum(starts, ends)
    # How many sides of faces run along the same pair of vertices in the same direction before.
    copy = _rank_within(2 * pair + side)
    copies = int(copy[proper].max(initial=0)) + 1
    if copies > 1 and not split:
        repeated = proper[copy[proper] > 0]
        raise ValueError(
            f"faces: {len(np.unique(pair[repeated]))} edges, the first between vertices "
            f"{starts[repeated[0]]} and {ends[repeated[0]]}, have several faces on one side; need "
            "at most two faces at an edge, wound alike; remove duplicate faces and repair the "
            "winding (trimesh.repair.fix_normals), or pass split=True."
        )
    rows, row = np.unique(pair[proper] * copies + copy[proper], return_inverse=True)
    edge_faces = np.full((len(rows), 2), -1)
    edge_faces[row, side[proper]] = proper // 3
    face_faces = np.full(faces.size, -1)
    face_faces[proper] = edge_faces[row, 1 - side[proper]]
    around = _faces_around(faces.ravel(), num_vertices)
    tables: dict[str, Any] = dict(
        edges=np.stack(np.divmod(rows // copies, num_vertices), axis=1),
        edge_faces=edge_faces,
        face_faces=face_faces.reshape(-1, 3),
        vertex_faces=np.where(around < 0, -1, around // 3),
        vertex_corners=np.where(around < 0, 0, around % 3),
    )
    return Topology(**place(tables))


def _faces_around(corners: np.ndarray, num_vertices: int) -> np.ndarray:
    """For each vertex the places in `corners` that name it, padded with -1."""
    valence = np.bincount(corners, minlength=num_vertices)
    table = np.full((num_vertices, max(1, int(valence.max(initial=0)))), -1)
    table[corners, _rank_within(corners)] = np.arange(len(corners))
    return table


def _rank_within(groups: np.ndarray) -> np.ndarray:
    """For each element the number of equal elements before it."""
    order = np.argsort(groups, kind="stable")
    first = np.searchsorted(groups[order], groups[order])
    rank = np.zeros_like(order)
    rank[order] = np.arange(len(order)) - first
    return rank


def is_watertight(topology: Topology) -> bool:
    """Whether every edge has a face on both sides: the surface is closed and oriented."""
    return bool((np.asarray(topology.edge_faces) >= 0).all())


def is_outward(vertices: Any, faces: Any, topology: Topology) -> bool:
    """Whether every closed piece of the surface encloses a positive volume (host).

    Pieces with a boundary enclose nothing and are not judged. A piece that is meant as a cavity
    inside another one counts as turned inside out.
    """
    faces = np.asarray(faces)
    inner = np.asarray(topology.edge_faces)
    inner = inner[(inner >= 0).all(axis=1)]
    links = coo_array((np.ones(len(inner)), (inner[:, 0], inner[:, 1])), (len(faces), len(faces)))
    count, piece = connected_components(links, directed=False)
    corners = np.asarray(vertices, np.float64)[faces]
    volumes = np.bincount(piece, np.linalg.det(corners) / 6, minlength=count)
    open_faces = np.flatnonzero((np.asarray(topology.face_faces) < 0).any(axis=1))
    is_closed = np.bincount(piece[open_faces], minlength=count) == 0
    return bool((volumes[is_closed] > 0).all())


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


@jax.jit
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
    gathered = jnp.take(area_vectors(vertices, faces), around, axis=-2, mode="clip")
    return normalize(_sum_known(gathered, around))


def sum_at_vertices(
    values: Float[Array, "*batch f 3 c"], topology: Topology
) -> Float[Array, "*batch v c"]:
    """The sum over all corners of faces that meet at each vertex.

    The transpose of `triangles`, by a gather instead of a scatter: deterministic on every device.
    """
    around = topology.vertex_faces
    corners = values.reshape(*values.shape[:-3], -1, values.shape[-1])
    gathered = jnp.take(corners, 3 * around + topology.vertex_corners, axis=-2, mode="clip")
    return _sum_known(gathered, around)


def _sum_known(
    gathered: Float[Array, "*batch v d c"], around: Int[Array, "v d"]
) -> Float[Array, "*batch v c"]:
    known = (around >= 0).reshape((1,) * (gathered.ndim - 3) + (*around.shape, 1))
    return jnp.sum(jnp.where(known, gathered, 0.0), axis=-2)


def facing(
    vertices: Float[Array, "*batch v 3"], faces: Int[Array, "f 3"], eye: Float[Array, "*batch 3"]
) -> Float[Array, "*batch f"]:
    """Cosine of the angle between each face's normal and the direction to the eye.

    Positive where the face shows its outside. One eye may serve a batch of meshes, and the eyes of
    many cameras may look at one mesh.
    """
    centroids = jnp.mean(triangles(vertices, faces), axis=-2)
    normals = face_normals(vertices, faces)
    eye = eye[..., None, :]
    rank = max(eye.ndim, normals.ndim)
    eye, centroids, normals = (
        array.reshape((1,) * (rank - array.ndim) + array.shape)
        for array in (eye, centroids, normals)
    )
    return jnp.sum(normals * normalize(eye - centroids), axis=-1)


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
    """`count` points drawn evenly over the surface; never on a face without area."""
    face_key, point_key = jax.random.split(key)
    areas = face_areas(vertices, faces)
    # By the inverse of the cumulative area: memory for `count` + f numbers, not for `count` * f.
    face_id = jax.random.choice(face_key, len(faces), (count,), p=areas)
    # The square root makes the density even (Osada et al. 2002, "Shape Distributions").
    r, t = jax.random.uniform(point_key, (2, count))
    r = jnp.sqrt(r)
    return SurfacePoints(face_id, jnp.stack([1 - r, r * (1 - t), r * t], axis=-1))


def surface_positions(
    points: SurfacePoints, vertices: Float[Array, "*batch v 3"], faces: Int[Array, "f 3"]
) -> Float[Array, "*batch n 3"]:
    """Where points that ride on a mesh are, for these vertices."""
    corners = triangles(vertices, jnp.take(jnp.asarray(faces), points.face_id, axis=0))
    weights = points.barycentrics.reshape((1,) * (corners.ndim - 3) + (*corners.shape[-3:-1], 1))
    return jnp.sum(corners * weights, axis=-2)


@dataclasses.dataclass(frozen=True, eq=False)
class ClosestPoints:
    """The point of a surface nearest to each query, and where it is (NumPy, host)."""

    distance: Float[np.ndarray, " n"]
    """Metres, not negative."""
    points: Float[np.ndarray, "n 3"]
    face_id: Int[np.ndarray, " n"]


def closest_on_surface(queries: Any, vertices: Any, faces: Any) -> ClosestPoints:
    """The exact nearest point of a mesh to each query point (host, float64).

    Candidate faces come from KD-trees over face centroids. A face whose centroid is farther away
    than `best + radius`, with `radius` the largest distance from a centroid to a corner in its
    tree, cannot hold a nearer point than the best one so far: the search widens until that bound
    says that the answer is final. Faces larger than most go to trees of their own, one for each
    doubling of their size, so that a few of them do not spoil the bound for all. The distance to
    a triangle itself is trimesh's: exact to rounding, but for slivers, where it may be wrong by
    1e-6 of their length.

    Raises:
      ValueError: no faces, wrong shapes, or coordinates that are not finite.
    """
    queries, vertices = np.asarray(queries, np.float64), np.asarray(vertices, np.float64)
    for name, array in (("queries", queries), ("vertices", vertices)):
        if array.ndim != 2 or array.shape[1] != 3:
            raise ValueError(f"{name}: got shape {array.shape}, need (n, 3).")
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: got NaN or infinite coordinates, need finite ones.")
    faces = _check_faces(faces, len(vertices))
    if not len(faces):
        raise ValueError("faces: got none, need at least one to measure a distance to.")
    triangle = _UnitTriangles.of(vertices[faces])
    typical = max(float(np.median(triangle.radii)), np.finfo(np.float64).tiny)
    octaves = np.rint(np.log2(np.maximum(triangle.radii, typical) / typical)).astype(int)
    result = ClosestPoints(
        np.full(len(queries), np.inf), np.zeros((len(queries), 3)), np.zeros(len(queries), int)
    )
    for octave in np.unique(octaves):
        _search(result, queries, triangle, np.flatnonzero(octaves == octave))
    return result


@dataclasses.dataclass(frozen=True, eq=False)
class _UnitTriangles:
    """Triangles moved to the origin, scaled to unit size, longest side first.

    trimesh's tolerances are absolute: at a side of 1 mm it takes points within 2 % of an edge to be
    on the edge. And only a first side of no length could make it divide by zero.
    """

    centroids: np.ndarray
    radii: np.ndarray
    scales: np.ndarray
    corners: np.ndarray

    @classmethod
    def of(cls, corners: np.ndarray) -> _UnitTriangles:
        centroids = corners.mean(axis=1)
        local = corners - centroids[:, None]
        radii = np.linalg.norm(local, axis=2).max(axis=1)
        scales = np.where(radii > 0, radii, 1.0)
        sides = np.linalg.norm(np.roll(local, -1, axis=1) - local, axis=2)
        order = (sides.argmax(axis=1)[:, None] + np.arange(3)) % 3
        longest_first = np.take_along_axis(local, order[:, :, None], axis=1)
        return cls(centroids, radii, scales, longest_first / scales[:, None, None])

    def closest(self, ids: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """The nearest point to `queries[i]` on triangle `ids[i]`."""
        scale, centroid = self.scales[ids, None], self.centroids[ids]
        local = closest_point(self.corners[ids], (queries - centroid) / scale)
        return np.asarray(local) * scale + centroid


def _search(
    result: ClosestPoints, queries: np.ndarray, triangle: _UnitTriangles, members: np.ndarray
) -> None:
    """Bring `result` up to date with the faces `members`, which are of similar size."""
    tree, radius = KDTree(triangle.centroids[members]), triangle.radii[members].max()
    open_ids, width = np.arange(len(queries)), min(8, len(members))
    while len(open_ids):
        still_open = []
        # In blocks, so that memory stays bounded however wide the search becomes.
        for ids in np.array_split(open_ids, 1 + len(open_ids) * width // 2**20):
            found = tree.query(queries[ids], k=width)
            # SciPy drops the last axis when one neighbour is asked for.
            reach, near = (np.reshape(table, (len(ids), width)) for table in found)
            row, column = np.nonzero(reach < result.distance[ids, None] + radius)
            _keep_nearest(result, queries, triangle, ids[row], members[near[row, column]])
            still_open.append(ids[reach[:, -1] < result.distance[ids] + radius])
        if width == len(members):
            return
        open_ids, width = np.concatenate(still_open), min(4 * width, len(members))


def _keep_nearest(
    result: ClosestPoints,
    queries: np.ndarray,
    triangle: _UnitTriangles,
    ids: np.ndarray,
    candidates: np.ndarray,
) -> None:
    """Measure each query in `ids` against its candidate face; keep what is nearer than `result`."""
    if not len(ids):
        return
    points = triangle.closest(candidates, queries[ids])
    distances = np.linalg.norm(points - queries[ids], axis=1)
    # The nearest candidate of each query comes first among its rows; of equal ones, the lower face.
    order = np.lexsort((candidates, distances, ids))
    order = order[np.unique(ids[order], return_index=True)[1]]
    order = order[distances[order] < result.distance[ids[order]]]
    result.distance[ids[order]] = distances[order]
    result.points[ids[order]] = points[order]
    result.face_id[ids[order]] = candidates[order]
