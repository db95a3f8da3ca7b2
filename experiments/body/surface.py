"""A watertight, mirror-symmetric mannequin on the vertices of MakeHuman's base mesh.

The eye sockets and the mouth cavity are cut out along the islands of the texture map and capped,
and the nipples are flattened. Every vertex of the result is a linear combination of base vertices,
so all shape targets carry over.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from body.makehuman import BaseMesh
from scipy import sparse
from scipy.interpolate import RBFInterpolator
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

# Rings of quads around the islands of the eye sockets and the mouth that are cut away with them.
EYE_RINGS, MOUTH_RINGS = 3, 2
EYEBALL_FRONT = 9  # vertices of an eyeball whose mean becomes the tip of the closed eye
# The two nipples: vertex ranges of the base mesh.
NIPPLES = (*range(1762, 1826), *range(8434, 8498))
NIPPLE_RINGS = 3  # rings of vertices around them that say how the surface goes on
SIDE = 0.01  # metres from the middle beyond which something is on one side


@dataclasses.dataclass(frozen=True)
class Surface:
    """The mannequin: triangles, and its vertices as combinations of base vertices."""

    faces: np.ndarray
    """(f, 3) counter-clockwise seen from outside."""
    matrix: sparse.csr_matrix
    """(v, n) maps base vertices, and displacements of them, to the mannequin's."""
    base_index: np.ndarray
    """(v,) the base vertex that a vertex was made from, n and n + 1 for the eye caps."""
    mirror: np.ndarray
    """(v,) the vertex on the other side."""


def mannequin(base: BaseMesh) -> Surface:
    faces, eye_fronts = _closed_faces(base)
    n = len(base.vertices)
    used = np.unique(faces)
    rows = sparse.lil_matrix((n + len(eye_fronts), n))
    rows[np.arange(n), np.arange(n)] = 1.0
    for row, front in enumerate(eye_fronts, start=n):
        rows[row, front] = 1 / len(front)
    compact = np.full(n + len(eye_fronts), -1)
    compact[used] = np.arange(len(used))
    faces = compact[faces]
    matrix = rows.tocsr()[used]
    flat = compact[list(NIPPLES)]
    matrix = _flattening(matrix @ base.vertices, faces, flat) @ matrix
    return Surface(faces, matrix.tocsr(), used, _mirror(matrix @ base.vertices))


def _closed_faces(base: BaseMesh) -> tuple[np.ndarray, list[np.ndarray]]:
    """Triangles over the base vertices and the eye caps, and the vertices behind each cap."""
    vertices, n = base.vertices, len(base.vertices)
    quads = base.quads[~_cavities(base)]
    faces = [_triangles(quads, vertices)]
    fronts = []
    for loop in boundary_loops(faces[0]):
        middle = vertices[loop].mean(0)
        if abs(middle[0]) < SIDE:
            faces.append(_minimal_area_fill(vertices, loop))
            continue
        ball = base.groups["helper-l-eye" if middle[0] > 0 else "helper-r-eye"]
        fronts.append(ball[np.argsort(-vertices[ball, 2], kind="stable")[:EYEBALL_FRONT]])
        cap = n + len(fronts) - 1
        faces.append(np.array([(a, b, cap) for a, b in zip(loop, np.roll(loop, -1), strict=True)]))
    return np.concatenate(faces), fronts


def _cavities(base: BaseMesh) -> np.ndarray:
    """Which quads line or surround the eye sockets and the mouth: small islands of the head."""
    count = base.quad_uvs.max() + 1
    ends = [(base.quad_uvs[:, i], base.quad_uvs[:, (i + 1) % 4]) for i in range(4)]
    a, b = np.concatenate(ends, axis=1)
    links = sparse.coo_matrix((np.ones(len(a)), (a, b)), (count, count))
    island = connected_components(links, directed=False)[1][base.quad_uvs[:, 0]]
    centres = base.vertices[base.quads].mean(1)
    removed = np.zeros(len(base.quads), bool)
    for label in np.unique(island):
        chosen = island == label
        middle = centres[chosen].mean(0)
        if chosen.sum() > 500 or middle[1] < 0.6:
            continue
        for _ in range(EYE_RINGS if abs(middle[0]) > SIDE else MOUTH_RINGS):
            touched = np.zeros(len(base.vertices), bool)
            touched[base.quads[chosen]] = True
            chosen = chosen | touched[base.quads].any(1)
        removed |= chosen
    return removed


def _triangles(quads: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """Quads split along the shorter diagonal; ties are broken alike on both sides."""
    corner = vertices[quads]
    first = np.linalg.norm(corner[:, 0] - corner[:, 2], axis=1)
    second = np.linalg.norm(corner[:, 1] - corner[:, 3], axis=1)
    p, q = quads[first <= second * (1 + 1e-6)], quads[first > second * (1 + 1e-6)]
    return np.concatenate([p[:, [0, 1, 2]], p[:, [0, 2, 3]], q[:, [0, 1, 3]], q[:, [1, 2, 3]]])


def boundary_loops(faces: np.ndarray) -> list[list[int]]:
    """The holes of a mesh as loops of vertices, oriented like a face that would fill them."""
    edges = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2).tolist()
    present = {(a, b) for a, b in edges}
    after = {b: a for a, b in sorted(present) if (b, a) not in present}
    loops = []
    while after:
        start, following = next(iter(after.items()))
        loop = [start]
        del after[start]
        while following != start:
            loop.append(following)
            following = after.pop(following)
        loops.append(loop)
    return loops


def _minimal_area_fill(vertices: np.ndarray, loop: list[int]) -> np.ndarray:
    """The triangulation of a polygon in space with the least area (dynamic programming, O(n^3))."""
    n, p = len(loop), vertices[loop]
    area = np.full((n, n), np.inf)
    split = np.zeros((n, n), int)
    area[np.arange(n - 1), np.arange(1, n)] = 0.0
    for gap in range(2, n):
        for i in range(n - gap):
            j = i + gap
            k = np.arange(i + 1, j)
            triangle = np.linalg.norm(np.cross(p[k] - p[i], p[j] - p[i]), axis=1) / 2
            total = area[i, k] + area[k, j] + triangle
            best = int(np.argmin(total))
            area[i, j], split[i, j] = total[best], k[best]
    faces, todo = [], [(0, n - 1)]
    while todo:
        i, j = todo.pop()
        if j - i >= 2:
            k = split[i, j]
            faces.append((loop[i], loop[k], loop[j]))
            todo += [(i, k), (k, j)]
    return np.array(faces)


def _flattening(vertices: np.ndarray, faces: np.ndarray, flat: np.ndarray) -> sparse.csr_matrix:
    """(v, v) identity, but for `flat` and a ring more: the smoothest surface through the rings
    around them.

    A thin-plate spline over the tangent plane, one for each side; linear, so that it holds for
    every body shape alike.
    """
    n = len(vertices)
    edges = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    link = sparse.csr_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), (n, n))
    result = sparse.lil_matrix(sparse.identity(n))
    for side in (1, -1):
        inner = flat[side * vertices[flat, 0] > 0]
        grown = np.zeros(n, bool)
        grown[inner] = True
        grown |= (link @ grown) > 0
        inner = np.flatnonzero(grown)
        for _ in range(NIPPLE_RINGS):
            grown |= (link @ grown) > 0
        rim = np.setdiff1d(np.flatnonzero(grown), inner)
        middle = vertices[rim].mean(0)
        plane = np.linalg.svd(vertices[rim] - middle)[2][:2].T
        spline = RBFInterpolator((vertices[rim] - middle) @ plane, np.eye(len(rim)))
        result[inner, inner] = 0.0
        result[np.ix_(inner, rim)] = spline((vertices[inner] - middle) @ plane)
    return sparse.csr_matrix(result)


def _mirror(vertices: np.ndarray) -> np.ndarray:
    nearest = KDTree(vertices).query(vertices * [-1, 1, 1])
    distance, index = np.asarray(nearest[0]), np.asarray(nearest[1])
    if distance.max() > 1e-4 or (index[index] != np.arange(len(index))).any():
        raise ValueError(f"the surface is not mirror symmetric ({distance.max():.2g} m off).")
    return index


def check_closed(faces: np.ndarray) -> None:
    """Every edge has exactly two faces, with opposite directions, and the genus is zero.

    Raises:
      ValueError: saying which of these does not hold.
    """
    edges = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    directed = {(int(a), int(b)) for a, b in edges}
    unpaired = sum((b, a) not in directed for a, b in directed)
    euler = len(np.unique(faces)) - len(directed) // 2 + len(faces)
    if len(directed) != len(edges) or unpaired or euler != 2:
        raise ValueError(
            f"not a closed surface of genus 0: {len(edges) - len(directed)} doubled and {unpaired} "
            f"unpaired edges, Euler characteristic {euler} (need 2)."
        )
