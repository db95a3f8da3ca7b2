"""The change of an area-averaged depth map by moving silhouettes, as an integral over the mesh's
silhouette edges in float64: an independent reference that never looks at pixel pairs."""

from typing import Any

import numpy as np


def boundary_integral(
    vertices: Any, faces: Any, velocity: Any, camera: Any, weights: np.ndarray
) -> tuple[float, float]:
    """d/dt of the sum of weights * image by the motion of silhouettes alone, for depth (0 where
    nothing is) and for coverage.

    By Reynolds' transport theorem that is the integral, over every curve where the image jumps, of
    weight * (value behind the normal - value before it) * (normal . velocity of the curve).
    """
    vertices, velocity = np.asarray(vertices, float), np.asarray(velocity, float)
    faces = np.asarray(faces)
    focal, center = np.asarray(camera.focal, float), np.asarray(camera.center, float)
    depth_rate = coverage_rate = 0.0
    begin, end = vertices[(edges := silhouette_edges(vertices, faces)).T]
    begin_rate, end_rate = velocity[edges.T]
    pixels = [point[:, :2] / point[:, 2:] * focal + center for point in (begin, end)]
    length = np.linalg.norm(pixels[1] - pixels[0], axis=1)
    for index in range(len(edges)):
        count = int(np.ceil(4 * length[index])) + 1
        share = (np.arange(count) + 0.5)[:, None] / count
        place = pixels[0][index] + share * (pixels[1][index] - pixels[0][index])
        # Equal steps in the image are not equal steps along the edge.
        along = share / end[index, 2] / (share / end[index, 2] + (1 - share) / begin[index, 2])
        point = begin[index] + along * (end[index] - begin[index])
        rate = begin_rate[index] + along * (end_rate[index] - begin_rate[index])
        motion = (rate[:, :2] - point[:, :2] / point[:, 2:] * rate[:, 2:]) / point[:, 2:] * focal
        direction = (pixels[1][index] - pixels[0][index]) / max(length[index], 1e-12)
        normal = np.array([direction[1], -direction[0]])
        column, row = np.rint(place).astype(int).T
        inside = (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
        if not inside.any():
            continue
        behind, before = (
            cast(vertices, faces, (place[inside] + step * normal - center) / focal)
            for step in (-1e-3, 1e-3)
        )
        flow = weights[row, column][inside] * (motion[inside] @ normal) * length[index] / count
        depth_rate += np.sum(flow * (behind - before))
        coverage_rate += np.sum(flow * ((behind > 0).astype(float) - (before > 0)))
    return depth_rate, coverage_rate


def silhouette_edges(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Edges of one face only, or of two of which one faces the camera."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    facing = np.einsum("ij,ij->i", np.cross(b - a, c - a), a) < 0
    sides: dict[tuple[int, int], list[bool]] = {}
    for face, front in zip(faces, facing, strict=True):
        for k in range(3):
            i, j = sorted((int(face[k]), int(face[k - 1])))
            sides.setdefault((i, j), []).append(bool(front))
    return np.array([edge for edge, seen in sides.items() if len(seen) == 1 or len(set(seen)) > 1])


def cast(vertices: np.ndarray, faces: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Depth along the rays (x, y, 1); 0 where they meet nothing."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    planes = np.stack([np.cross(a, b), np.cross(b, c), np.cross(c, a)])
    rays = np.column_stack([rays, np.ones(len(rays))])
    sides = np.einsum("efi,ri->erf", planes, rays)
    inside = (sides > 0).all(0) | (sides < 0).all(0)
    normal = np.cross(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.einsum("fi,fi->f", normal, a) / (rays @ normal.T)
    depth = np.where(inside & (depth > 0), depth, np.inf).min(1)
    return np.where(np.isfinite(depth), depth, 0.0)
