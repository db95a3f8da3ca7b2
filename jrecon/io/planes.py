"""The floor and the background of a depth map: planes, found by RANSAC on a coarse grid.

Hypotheses are planes fitted to windows of the image, in inverse depth: there a plane is linear, and
the noise of stereo and structured light is even. What is on a plane is decided in metres, by the
noise along the ray.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from jrecon.geometry.camera import Camera

# Pixels that are looked at.
_CELLS = 40_000
# Windows that hypotheses are fitted to, their half widths (cells), points that each is tried on.
_HYPOTHESES, _WINDOWS, _TRIED = 160, (4, 11), 2000
_MAX_PLANES = 5
# How far from a plane a point of it may be, apart from noise, metres.
_UNEVEN_M = 0.015
# Background patches: smallest area and largest curvature (a torso has about 10), in units of the
# object's greatest extent, so that what is right for people is right for hands.
_PATCH_AREA, _LARGE_AREA, _FLAT = 0.015, 0.15, 2.3


@dataclasses.dataclass(frozen=True)
class Grid:
    """The pixels that the search looks at: every `step`-th, from step // 2."""

    step: int
    points: Float[np.ndarray, "r c 3"]
    """Camera frame; the origin where there is no depth."""
    rays: Float[np.ndarray, "r c 3"]
    """With z = 1."""
    noise: Float[np.ndarray, "r c"]
    """Standard deviation of depth, metres."""
    footprint: Float[np.ndarray, "r c"]
    """Width of a cell at its depth, metres."""

    @property
    def depth(self) -> Float[np.ndarray, "r c"]:
        return self.points[..., 2]

    def upsample(self, cells: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Values of cells as values of pixels."""
        rows = np.minimum(np.arange(shape[0]) // self.step, cells.shape[0] - 1)
        columns = np.minimum(np.arange(shape[1]) // self.step, cells.shape[1] - 1)
        return cells[rows[:, None], columns]


def pinhole(camera: Camera) -> tuple[float, float, float, float]:
    (fx, fy), (cx, cy) = np.asarray(camera.focal).tolist(), np.asarray(camera.center).tolist()
    return fx, fy, cx, cy


def make_grid(depth: Float[np.ndarray, "h w"], camera: Camera) -> Grid:
    step = max(1, round(math.sqrt(depth.size / _CELLS)))
    start = step // 2
    fx, fy, cx, cy = pinhole(camera)
    z = depth[start::step, start::step]
    u = start + step * np.arange(z.shape[1], dtype=np.float32)
    v = start + step * np.arange(z.shape[0], dtype=np.float32)
    x, y = np.broadcast_arrays((u - cx)[None] / fx, (v - cy)[:, None] / fy)
    rays = np.stack([x, y, np.ones_like(z)], -1).astype(np.float32)
    # Noise of most sensors grows with the square of depth; second differences see it alone.
    reach = 4
    a, b, c = z[:, : -2 * reach], z[:, reach:-reach], z[:, 2 * reach :]
    known = (a > 0) & (b > 0) & (c > 0)
    growth = 0.0
    if known.any():
        bends = np.abs(a - 2 * b + c)[known] / np.square(b[known])
        growth = float(np.median(bends)) / 0.6745 / math.sqrt(6)
    noise = 0.001 + min(max(growth, 0.0005), 0.006) * z * z
    return Grid(step, rays * z[..., None], rays, noise, z * np.float32(step / min(fx, fy)))


def _fit_windows(
    grid: Grid, held: Bool[np.ndarray, "r c"], random: np.random.Generator
) -> Float[np.ndarray, "k 4"]:
    """Planes through windows of held points, fitted in inverse depth, where they are linear:
    1 / z = a x / z + b y / z + c."""
    rows, columns = np.nonzero(held)
    pick = random.integers(len(rows), size=_HYPOTHESES)
    half = np.resize(_WINDOWS, _HYPOTHESES)[:, None, None]
    offset = np.array([-1, -0.5, 0, 0.5, 1])
    r = np.clip(rows[pick, None, None] + (half * offset[:, None]).astype(int), 0, held.shape[0] - 1)
    c = np.clip(columns[pick, None, None] + (half * offset).astype(int), 0, held.shape[1] - 1)
    r, c = (index.reshape(_HYPOTHESES, -1) for index in np.broadcast_arrays(r, c))
    return _solve(grid.rays[r, c].astype(float), grid.depth[r, c], held[r, c])


def _solve(
    rays: Float[np.ndarray, "k n 3"], depth: Float[np.ndarray, "k n"], held: Bool[np.ndarray, "k n"]
) -> Float[np.ndarray, "k 4"]:
    weight = held.astype(float)[..., None]
    inverse = np.where(held, 1 / np.where(held, depth, 1), 0)[..., None]
    normal_matrix = np.swapaxes(rays * weight, -1, -2) @ rays + 1e-6 * np.eye(3)
    slopes = np.linalg.solve(normal_matrix, np.swapaxes(rays, -1, -2) @ (inverse * weight))[..., 0]
    length = np.linalg.norm(slopes, axis=-1, keepdims=True)
    # Towards the camera: the origin is on the positive side.
    return np.concatenate([-slopes, np.ones_like(length)], -1) / np.maximum(length, 1e-6)


def height_above(grid: Grid, plane: Float[np.ndarray, " 4"]) -> Float[np.ndarray, "r c"]:
    """Distance of each point above the plane, metres."""
    return grid.points @ plane[:3].astype(np.float32) + np.float32(plane[3])


def tolerance(grid: Grid, plane: Float[np.ndarray, " 4"]) -> Float[np.ndarray, "r c"]:
    """How far points of a plane may be from it: noise is along the ray."""
    return _UNEVEN_M + 2.5 * grid.noise * np.abs(grid.rays @ plane[:3].astype(np.float32))


def _area(grid: Grid, plane: Float[np.ndarray, " 4"]) -> Float[np.ndarray, "r c"]:
    """What a cell covers of the plane, m^2."""
    facing = np.abs(grid.rays @ plane[:3].astype(np.float32))
    return grid.footprint**2 / np.maximum(facing / np.linalg.norm(grid.rays, axis=-1), 0.1)


def _votes(
    grid: Grid, held: Bool[np.ndarray, "r c"], planes: Any, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Of each plane, the area of held points on it and the share of held points below it."""
    index = random.choice(np.flatnonzero(held), _TRIED)
    points, rays = grid.points.reshape(-1, 3)[index], grid.rays.reshape(-1, 3)[index]
    normals = planes[:, :3].T.astype(np.float32)
    height = points @ normals + planes[:, 3].astype(np.float32)
    tolerance = _UNEVEN_M + 2.5 * grid.noise.reshape(-1)[index, None] * np.abs(rays @ normals)
    area = grid.footprint.reshape(-1)[index] ** 2
    return area @ (np.abs(height) < tolerance), (height < -2 * tolerance).mean(axis=0)


def _refine(
    grid: Grid, held: Bool[np.ndarray, "r c"], plane: Float[np.ndarray, " 4"]
) -> Float[np.ndarray, " 4"]:
    for _ in range(3):
        on = held & (np.abs(height_above(grid, plane)) < tolerance(grid, plane))
        if np.count_nonzero(on) < 30:
            break
        rows = np.flatnonzero(on)[:: max(1, np.count_nonzero(on) // 4000)]
        rays = grid.rays.reshape(-1, 3)[rows].astype(float)
        z = grid.depth.reshape(-1)[rows]
        plane = _solve(rays[None], z[None], np.ones((1, len(z)), bool))[0]
    return plane


def find_floor(grid: Grid, up: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 4"] | None:
    held = grid.depth > 0
    if np.count_nonzero(held) < 200:
        return None
    random = np.random.default_rng(0)
    planes = _fit_windows(grid, held, random)
    planes = planes[planes[:, :3] @ up > math.cos(math.pi / 4)]
    if not len(planes):
        return None
    area, below = _votes(grid, held, planes, random)
    area = np.where(below < 0.03, area, 0)
    plane = _refine(grid, held, planes[np.argmax(area)])
    on = held & (np.abs(height_above(grid, plane)) < tolerance(grid, plane))
    under = held & (height_above(grid, plane) < -2 * tolerance(grid, plane))
    found = (
        area.max() > 0
        and plane[:3] @ up > math.cos(math.pi / 4)
        and on.sum() > 0.02 * held.sum()
        and under.sum() < 0.05 * held.sum()
        and _area(grid, plane)[on].sum() > 0.2
    )
    return plane if found else None


def find_background(
    grid: Grid, held: Bool[np.ndarray, "r c"], size: float
) -> Bool[np.ndarray, "r c"]:
    """Flat patches that reach the border of the image, or are larger than the object can be."""
    background, left = np.zeros_like(held), held.copy()
    random = np.random.default_rng(0)
    for _ in range(_MAX_PLANES):
        if np.count_nonzero(left) < 200:
            break
        planes = _fit_windows(grid, left, random)
        area, _ = _votes(grid, left, planes, random)
        plane = _refine(grid, left, planes[np.argmax(area)])
        on = left & (np.abs(height_above(grid, plane)) < tolerance(grid, plane))
        patches, count = ndimage.label(on)
        areas = ndimage.sum_labels(_area(grid, plane), patches, np.arange(1, count + 1))
        for patch in np.flatnonzero(areas > _PATCH_AREA * size**2) + 1:
            where = patches == patch
            edge = where[0].any() or where[-1].any() or where[:, 0].any() or where[:, -1].any()
            large = areas[patch - 1] > _LARGE_AREA * size**2
            if (edge or large) and _curvature(grid, where, plane) * size < _FLAT:
                background |= where
        # What was looked at and is round is not looked at again.
        left &= ~on
    return background


def _curvature(grid: Grid, where: Bool[np.ndarray, "r c"], plane: Float[np.ndarray, " 4"]) -> float:
    """The largest principal curvature of a quadric through a patch of a plane, 1/m."""
    points = grid.points[where]
    points = points[:: max(1, len(points) // 1000)].astype(float)
    points = points - points.mean(axis=0)
    x = np.cross(plane[:3], [0.0, 0.0, 1.0] if abs(plane[2]) < 0.9 else [0.0, 1.0, 0.0])
    x = x / np.linalg.norm(x)
    a, b = points @ x, points @ np.cross(plane[:3], x)
    terms = np.stack([np.ones_like(a), a, b, a * a / 2, a * b, b * b / 2], -1)
    fit = np.linalg.lstsq(terms, points @ plane[:3], rcond=None)[0]
    return float(np.abs(np.linalg.eigvalsh([[fit[3], fit[4]], [fit[4], fit[5]]])).max())
