"""Levels of detail whose vertices are subsets of one another.

Symmetric half-edge collapse with quadric error (Garland and Heckbert 1997, "Surface simplification
using quadric error metrics"), the quadrics summed over several bodies and poses: a vertex is never
moved, only removed, so blend shapes, weights and priors carry over by indexing, and one pass
yields every level.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

_SHAPE_WEIGHT = 1e-6  # prefers well-shaped triangles where the surface error is alike
_MIN_QUALITY = 0.12  # of a triangle, 1 for equilateral
_MIN_COSINE = 0.35  # between a face's normals before and after a collapse


def decimate(
    bodies: np.ndarray,
    faces: np.ndarray,
    mirror: np.ndarray,
    importance: np.ndarray,
    counts: Sequence[int],
) -> list[np.ndarray]:
    """Triangles (in the same vertex numbering) of each of the falling vertex `counts`.

    Args:
      bodies: (k, v, 3) the surface in several shapes and poses; the first is symmetric.
      faces: (f, 3) closed mesh.
      mirror: (v,) the vertex on the other side.
      importance: (v,) factor on the error of each vertex.
      counts: target vertex counts, falling.
    """
    mesh = _Mesh(bodies, faces, mirror, importance)
    levels = []
    for count in counts:
        mesh.reduce(count)
        levels.append(mesh.triangles())
    return levels


def _quadrics(bodies: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(k, v, 4, 4) area-weighted squared distances to the planes around every vertex."""
    result = np.zeros((*bodies.shape[:2], 4, 4))
    for quadric, vertices in zip(result, bodies, strict=True):
        a, b, c = np.moveaxis(vertices[faces], 1, 0)
        normal = np.cross(b - a, c - a)
        length = np.linalg.norm(normal, axis=1)
        normal /= np.maximum(length, 1e-15)[:, None]
        plane = np.concatenate([normal, -(normal * a).sum(1, keepdims=True)], 1)
        outer = length[:, None, None] / 6 * plane[:, :, None] * plane[:, None, :]
        for corner in range(3):
            np.add.at(quadric, faces[:, corner], outer)
    return result


class _Mesh:
    """The mesh being reduced. Collapse (u, v) removes u; its faces are handed to v."""

    def __init__(self, bodies, faces, mirror, importance):
        self.rest, self.shapes = bodies[0], bodies[[0, -1]]
        self.homogeneous = np.concatenate([bodies, np.ones((*bodies.shape[:2], 1))], 2)
        self.quadrics = _quadrics(bodies, faces) * importance[None, :, None, None]
        self.mirror, self.importance = mirror.tolist(), importance
        self.faces = {index: tuple(face) for index, face in enumerate(faces.tolist())}
        self.around: dict[int, set[int]] = {}
        for index, face in self.faces.items():
            for vertex in face:
                self.around.setdefault(vertex, set()).add(index)
        self.version = [0] * len(importance)
        self.heap: list[tuple[float, int, int, int, int]] = []
        for u in self.around:
            if self._canonical(u):
                for v in sorted(self._neighbours(u)):
                    self._push(u, v)

    def triangles(self) -> np.ndarray:
        return np.array([self.faces[index] for index in sorted(self.faces)])

    def reduce(self, count: int) -> None:
        postponed = []
        while len(self.around) > count and self.heap:
            entry = heapq.heappop(self.heap)
            _, u, v, version_u, version_v = entry
            stale = (self.version[u], self.version[v]) != (version_u, version_v)
            if u not in self.around or v not in self.around or stale:
                continue
            mu, mv = self.mirror[u], self.mirror[v]
            if mu != u and len(self.around) == count + 1:  # only one in the middle fits
                postponed.append(entry)
                continue
            # A pair that touches across the middle would have to go through one another.
            if not self._manifold_after(u, v) or (mu != u and mu in self._neighbours(u)):
                continue
            touched = self._collapse(u, v)
            if mu != u:
                if not self._manifold_after(mu, mv):
                    raise RuntimeError(f"collapse ({u}, {v}) and its mirror image interfere.")
                touched |= self._collapse(mu, mv)
            self._renew(touched)
        for entry in postponed:
            heapq.heappush(self.heap, entry)

    def _canonical(self, u: int) -> bool:
        """Costs are kept for one side only; the other side repeats every step."""
        return self.rest[u, 0] >= -1e-9

    def _neighbours(self, u: int) -> set[int]:
        return {x for face in self.around[u] for x in self.faces[face]} - {u}

    def _push(self, u: int, v: int) -> None:
        mu, mv = self.mirror[u], self.mirror[v]
        if v == mu or (mu == u and mv != v):
            return
        shape = self._shape_penalty(u, v)
        if shape is None:
            return
        x, quadric = self.homogeneous[:, v], self.quadrics[:, u] + self.quadrics[:, v]
        cost = float(((quadric @ x[:, :, None])[:, :, 0] * x).sum()) / len(x)
        step = self.rest[u] - self.rest[v]
        length = float(step @ step)
        cost += _SHAPE_WEIGHT * self.importance[u] * length * shape + 1e-12 * length
        heapq.heappush(self.heap, (cost, u, v, self.version[u], self.version[v]))

    def _shape_penalty(self, u: int, v: int) -> float | None:
        """How badly shaped the faces around u become; None where one flips or degenerates."""
        faces = np.array([self.faces[f] for f in self.around[u] if v not in self.faces[f]])
        if len(faces) == 0:
            return None
        before, after = self.shapes[:, faces], self.shapes[:, np.where(faces == u, v, faces)]
        old = np.cross(before[:, :, 1] - before[:, :, 0], before[:, :, 2] - before[:, :, 0])
        edges = after - after[:, :, [1, 2, 0]]
        new = np.cross(edges[:, :, 0], edges[:, :, 2]) * -1
        old_length, new_length = (np.sqrt((n * n).sum(-1)) for n in (old, new))
        turned = (old * new).sum(-1) < _MIN_COSINE * old_length * new_length
        if turned.any() or new_length.min() < 1e-12:
            return None
        squares = (edges[-1] ** 2).sum((-1, -2))
        quality = 2 * np.sqrt(3) * new_length[-1] / squares
        if quality.min() < _MIN_QUALITY:
            return None
        return float(((1 - quality) * squares).sum())

    def _manifold_after(self, u: int, v: int) -> bool:
        """The link condition: u and v share exactly the two corners of their two faces."""
        shared = self._neighbours(u) & self._neighbours(v)
        faces = sum(v in self.faces[face] for face in self.around[u])
        return len(shared) == 2 and faces == 2 and all(len(self.around[x]) > 3 for x in shared)

    def _collapse(self, u: int, v: int) -> set[int]:
        touched = (self._neighbours(u) | {v}) - {u}
        for index in list(self.around[u]):
            face = self.faces[index]
            if v in face:
                for vertex in face:
                    self.around[vertex].discard(index)
                del self.faces[index]
            else:
                self.faces[index] = tuple(v if x == u else x for x in face)
                self.around[v].add(index)
        del self.around[u]
        self.quadrics[:, v] += self.quadrics[:, u]
        for vertex in touched:
            self.version[vertex] += 1
        return touched

    def _renew(self, touched: set[int]) -> None:
        pairs = set()
        for x in touched:
            if x not in self.around:
                continue
            for y in self._neighbours(x):
                for u, v in ((x, y), (y, x)):
                    if not self._canonical(u):
                        u, v = self.mirror[u], self.mirror[v]
                    if u in self.around and v in self.around:
                        pairs.add((u, v))
        for u, v in sorted(pairs):
            self._push(u, v)
