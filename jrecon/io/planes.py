"""The floor and the background of a depth map: planes, on a coarse grid of pixels.

Planes are fitted to blocks of the grid, in inverse depth: there a plane is linear, and the noise of
stereo and structured light is even. The floor is the one of them that most points agree to (the
consensus of RANSAC, with blocks instead of random triples); background patches grow from the
flattest blocks. What is on a plane is decided in metres, by the noise along the ray.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from jrecon.geometry.camera import Camera

# Their annotations leave open what they return.
_label: Any = ndimage.label
_dilate: Any = ndimage.binary_dilation

# Pixels that are looked at.
_CELLS = 40_000
# Side of the blocks that planes are fitted to (cells), and points that hypotheses are tried on.
_BLOCK, _TRIED = 8, 2000
_MAX_PATCHES = 16
# Cosine of the angle by which the surface of a plane may turn from it.
_LEVEL = math.cos(math.radians(35))
# How far from a plane a point of it may be, apart from noise, in units of the object's extent.
_UNEVEN = 0.0065
# Background patches: smallest area and largest curvature (a torso has about 10), in units of the
# object's greatest extent, so that what is right for people is right for hands.
_PATCH_AREA, _LARGE_AREA, _FLAT = 0.03, 0.15, 1.0


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
    uneven_m: float
    """How far from a plane its points may be, apart from noise, metres."""
    pitch: float
    """Width of a cell for each metre of depth."""
    normals: Float[np.ndarray, "r c 3"]
    """Of the surface smoothed over five cells, of length one, towards the camera."""

    @property
    def depth(self) -> Float[np.ndarray, "r c"]:
        return self.points[..., 2]

    @property
    def footprint(self) -> Float[np.ndarray, "r c"]:
        """Width of a cell at its depth, metres."""
        return self.depth * np.float32(self.pitch)

    def upsample(self, cells: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Values of cells as values of pixels."""
        rows = np.minimum(np.arange(shape[0]) // self.step, cells.shape[0] - 1)
        columns = np.minimum(np.arange(shape[1]) // self.step, cells.shape[1] - 1)
        return cells[rows[:, None], columns]


def pinhole(camera: Camera) -> tuple[float, float, float, float]:
    (fx, fy), (cx, cy) = np.asarray(camera.focal).tolist(), np.asarray(camera.center).tolist()
    return fx, fy, cx, cy


def make_grid(depth: Float[np.ndarray, "h w"], camera: Camera, size: float = 2.3) -> Grid:
    """The cells of a depth map in which an object of `size` (metres) is looked for."""
    step = max(1, round(math.sqrt(depth.size / _CELLS)))
    start = step // 2
    fx, fy, cx, cy = pinhole(camera)
    z = depth[start::step, start::step]
    u = start + step * np.arange(z.shape[1], dtype=np.float32)
    v = start + step * np.arange(z.shape[0], dtype=np.float32)
    x, y = np.broadcast_arrays((u - cx)[None] / fx, (v - cy)[:, None] / fy)
    rays = np.stack([x, y, np.ones_like(z)], -1).astype(np.float32)
    # Noise of most sensors grows with the square of depth; second differences see it alone.
    reach = 2
    a, b, c = z[:, : -2 * reach], z[:, reach:-reach], z[:, 2 * reach :]
    known = (a > 0) & (b > 0) & (c > 0)
    growth = 0.0
    if known.any():
        bends = np.abs(a - 2 * b + c)[known] / np.square(b[known])
        growth = float(np.median(bends)) / 0.6745 / math.sqrt(6)
    noise = 0.001 + min(max(growth, 0.0005), 0.006) * z * z
    pitch = step / min(fx, fy)
    normals = _normals(z, rays, step / fx, step / fy)
    return Grid(step, rays * z[..., None], rays, noise, _UNEVEN * size, pitch, normals)


def _normals(
    z: Float[np.ndarray, "r c"], rays: Float[np.ndarray, "r c 3"], dx: float, dy: float
) -> Float[np.ndarray, "r c 3"]:
    """From the slopes of inverse depth: 1 / z = a x + b y + c is the plane a X + b Y + c Z = 1."""
    known = z > 0
    share = ndimage.uniform_filter(known.astype(np.float32), 5, mode="nearest")
    inverse = np.where(known, 1 / np.where(known, z, 1), 0).astype(np.float32)
    inverse = ndimage.uniform_filter(inverse, 5, mode="nearest") / np.maximum(share, 0.04)
    padded = np.pad(inverse, 2, mode="edge")
    a = (padded[2:-2, 4:] - padded[2:-2, :-4]) / np.float32(4 * dx)
    b = (padded[4:, 2:-2] - padded[:-4, 2:-2]) / np.float32(4 * dy)
    c = inverse - a * rays[..., 0] - b * rays[..., 1]
    normals = -np.stack([a, b, c], -1)
    return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-6)


def _blocks(
    grid: Grid, held: Bool[np.ndarray, "r c"]
) -> tuple[Float[np.ndarray, "k 4"], Float[np.ndarray, " k"], np.ndarray]:
    """Of the blocks of the grid that are mostly held: the plane through each, how far its points
    are from that (in units of the noise), and its middle cell (row, column)."""
    rows, columns = (length // _BLOCK for length in held.shape)

    def blocked(values: np.ndarray) -> np.ndarray:
        cut = values[: rows * _BLOCK, : columns * _BLOCK]
        each = math.prod(values.shape[2:])
        split = cut.reshape(rows, _BLOCK, columns, _BLOCK, each).swapaxes(1, 2)
        return split.reshape(rows * columns, _BLOCK * _BLOCK, each)

    use = blocked(held)[..., 0]
    full = use.sum(axis=1) > 0.75 * _BLOCK * _BLOCK
    rays, depth, noise = (blocked(x)[full] for x in (grid.rays, grid.depth, grid.noise))
    planes = _solve(rays.astype(float), depth[..., 0], use[full])
    height = np.einsum("knc,kc->kn", rays, planes[:, :3]) * depth[..., 0] + planes[:, 3:]
    off = np.sqrt(np.mean(np.square(height / noise[..., 0]) * use[full], axis=1))
    middle = np.indices((rows, columns)).reshape(2, -1).T[full] * _BLOCK + _BLOCK // 2
    return planes, off, middle


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
    return grid.uneven_m + 2.5 * grid.noise * np.abs(grid.rays @ plane[:3].astype(np.float32))


def _on(
    grid: Grid, held: Bool[np.ndarray, "r c"], plane: Float[np.ndarray, " 4"]
) -> Bool[np.ndarray, "r c"]:
    """Cells whose surface lies in the plane."""
    level = grid.normals @ plane[:3].astype(np.float32) > _LEVEL
    return held & level & (np.abs(height_above(grid, plane)) < tolerance(grid, plane))


def _area(grid: Grid, where: Bool[np.ndarray, "r c"], plane: Float[np.ndarray, " 4"]) -> float:
    """What cells cover of a plane, m^2."""
    rays = grid.rays[where]
    facing = np.abs(rays @ plane[:3].astype(np.float32)) / np.linalg.norm(rays, axis=-1)
    return float((grid.footprint[where] ** 2 / np.maximum(facing, 0.1)).sum())


def _votes(
    grid: Grid, held: Bool[np.ndarray, "r c"], planes: Float[np.ndarray, "k 4"]
) -> tuple[np.ndarray, np.ndarray]:
    """Of each plane, the area of held points on it and the share of held points below it."""
    index = np.flatnonzero(held)[:: max(1, np.count_nonzero(held) // _TRIED)]
    points, rays = grid.points.reshape(-1, 3)[index], grid.rays.reshape(-1, 3)[index]
    normals = planes[:, :3].T.astype(np.float32)
    height = points @ normals + planes[:, 3].astype(np.float32)
    within = grid.uneven_m + 2.5 * grid.noise.reshape(-1)[index, None] * np.abs(rays @ normals)
    level = grid.normals.reshape(-1, 3)[index] @ normals > _LEVEL
    area = grid.footprint.reshape(-1)[index] ** 2
    return area @ (level & (np.abs(height) < within)), (height < -2 * within).mean(axis=0)


def _refine(
    grid: Grid, held: Bool[np.ndarray, "r c"], plane: Float[np.ndarray, " 4"]
) -> Float[np.ndarray, " 4"]:
    for _ in range(3):
        on = _on(grid, held, plane)
        if np.count_nonzero(on) < 30:
            break
        plane = _fit(grid, on)
    return plane


def _fit(grid: Grid, where: Bool[np.ndarray, "r c"]) -> Float[np.ndarray, " 4"]:
    index = np.flatnonzero(where)
    index = index[:: max(1, len(index) // 2000)]
    rays, z = grid.rays.reshape(-1, 3)[index].astype(float), grid.depth.reshape(-1)[index]
    return _solve(rays[None], z[None], np.ones((1, len(z)), bool))[0]


def find_floor(grid: Grid, up: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 4"] | None:
    held = grid.depth > 0
    if np.count_nonzero(held) < 200:
        return None
    planes, _, _ = _blocks(grid, held)
    planes = planes[planes[:, :3] @ up > math.cos(math.pi / 4)]
    if not len(planes):
        return None
    area, below = _votes(grid, held, planes)
    area = np.where(below < 0.03, area, 0)
    plane = _refine(grid, held, planes[np.argmax(area)])
    on = _on(grid, held, plane)
    under = held & (height_above(grid, plane) < -2 * tolerance(grid, plane))
    found = (
        area.max() > 0
        and plane[:3] @ up > math.cos(math.pi / 4)
        and on.sum() > 0.02 * held.sum()
        and under.sum() < 0.05 * held.sum()
        and _area(grid, on, plane) > 0.2
    )
    return plane if found else None


def find_background(
    grid: Grid, held: Bool[np.ndarray, "r c"], size: float
) -> Bool[np.ndarray, "r c"]:
    """Flat patches that reach the border of the image, or are larger than the object can be."""
    background, left = np.zeros_like(held), held.copy()
    planes, off, middle = _blocks(grid, held)
    tried = 0
    # Flattest blocks first: what they grow to is then looked at once.
    for seed in np.argsort(off):
        if tried == _MAX_PATCHES:
            break
        if not left[tuple(middle[seed])]:
            continue
        tried += 1
        plane, patch = _grow(grid, left, planes[seed], tuple(middle[seed]))
        left &= ~patch
        area = _area(grid, patch, plane)
        border = patch[0].any() or patch[-1].any() or patch[:, 0].any() or patch[:, -1].any()
        least = _PATCH_AREA if border else _LARGE_AREA
        if area > least * size**2 and _curvature(grid, patch, plane) * size < _FLAT:
            # The smoothed surface turns at the patch's rim; its points are still in the plane.
            rim = _dilate(patch, iterations=3)
            rim &= np.abs(height_above(grid, plane)) < tolerance(grid, plane)
            background |= patch | (rim & held)
            left &= ~background
    return background


def _grow(
    grid: Grid,
    held: Bool[np.ndarray, "r c"],
    plane: Float[np.ndarray, " 4"],
    seed: tuple[int, ...],
) -> tuple[Float[np.ndarray, " 4"], Bool[np.ndarray, "r c"]]:
    """The connected patch around a cell that is on a plane, and the plane fitted to it."""
    patch = np.zeros_like(held)
    for _ in range(2):
        patches, _ = _label(_on(grid, held, plane))
        if patches[seed] == 0:
            break
        patch = patches == patches[seed]
        plane = _fit(grid, patch)
    patch[seed] = True
    return plane, patch


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
