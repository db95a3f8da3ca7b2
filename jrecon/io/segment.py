"""Where an object may be in a depth map that nobody segmented: NumPy and SciPy alone.

1. Range gate: nearer than `near` or further than `far` is not it.
2. Flying pixels: measurements in the air between two surfaces, where depth runs steeply on both
   sides of a pixel.
3. Floor: the plane, within 45 degrees of level, that nearly everything else stands on.
4. Background: walls and furniture, flat and large; bodies are round.
5. Candidates: what hangs together where depth is less steep than a limit, for several limits.
   Sensors that smooth depth turn the step between a leg and a chair into a slope, so no one limit
   serves all; across small holes the surface goes on.
6. Ranking by size in metres, by how much of the outline is a step in depth, by place in the image;
   of candidates that overlap the best stays. Fragments near it join it.

The search works on every second or third pixel; masks have full resolution.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from jrecon.geometry.camera import Camera
from jrecon.io.planes import (
    Grid,
    find_background,
    find_floor,
    height_above,
    make_grid,
    pinhole,
    tolerance,
)

# Depth per length across, at which a surface is cut, one after the other. The first is 80 degrees
# between the normal and the line of sight.
_LIMITS = (5.7, 2.5, 1.3, 0.8)
_STEEP = math.tan(math.radians(85))
# In units of the object's greatest extent, so that hands are found as people are: holes up to the
# bridge do not part it; fragments of one body are nearer than the gap.
_BRIDGE, _GAP, _SMALL_AREA = 0.015, 0.035, 0.002
# A step in depth this large, in the same unit, ends an object.
_EDGE = 0.04
# Candidates that are looked at closely.
_CLOSELY = 12


@dataclasses.dataclass(frozen=True)
class Segment:
    """Something in the depth map that may be the object."""

    mask: Bool[np.ndarray, "h w"]
    box: tuple[int, int, int, int]
    """u0, v0, u1, v1: columns u0 <= u < u1, rows v0 <= v < v1."""
    median_depth_m: float
    height_m: float
    """Extent along `Segmentation.up`, 1st to 99th percentile of its points."""
    points: int
    """Pixels of the mask."""
    score: float
    """What segments are ranked by; 0 to 1, for one image only."""


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """What was found in a depth map, and what was removed on the way."""

    segments: tuple[Segment, ...]
    """Best first; empty if nothing is of the size that was asked for."""
    plane: Float[np.ndarray, " 4"] | None
    """The floor in the camera frame: n . x + d = 0, n upwards, of length one; d in metres."""
    removed: dict[str, Bool[np.ndarray, "h w"]]
    """By reason: range, flying pixels, floor, background, small."""
    up: Float[np.ndarray, " 3"]
    """Upwards in the camera frame: the floor's normal, or else as told."""


def find_objects(
    depth: Float[np.ndarray, "h w"],
    camera: Camera,
    *,
    near: float = 0.3,
    far: float = 6.0,
    box: tuple[int, int, int, int] | None = None,
    size_m: tuple[float, float] = (0.5, 2.3),
    up: tuple[float, float, float] = (0.0, -1.0, 0.0),
) -> Segmentation:
    """Finds what may be the object in a depth map; the best first.

    Args:
      depth: metres, 0 = no return.
      near, far: the range in which it may be, metres.
      box: u0, v0, u1, v1, pixels: look only at columns u0 <= u < u1 and rows v0 <= v < v1.
      size_m: its least and greatest extent, metres.
      up: roughly upwards in the camera frame; the floor's normal is within 45 degrees of it.

    Raises:
      ValueError: depth of another size than the camera's, or settings that contradict themselves.
    """
    depth = _check(depth, camera, (near, far), box, size_m)
    upward = np.asarray(up, float) / np.linalg.norm(up)
    removed = {"range": (depth > 0) & ((depth < near) | (depth > far))}
    usable = (depth > 0) & ~removed["range"]
    if box is not None:
        inside = np.zeros_like(usable)
        inside[max(box[1], 0) : box[3], max(box[0], 0) : box[2]] = True
        usable &= inside
    removed["flying pixels"] = _flying(depth, usable, camera)
    usable &= ~removed["flying pixels"]
    grid = make_grid(np.where(usable, depth, 0), camera)
    plane = find_floor(grid, upward)
    floor = np.zeros(grid.depth.shape, bool)
    if plane is not None:
        upward = plane[:3]
        floor = (grid.depth > 0) & (height_above(grid, plane) < tolerance(grid, plane))
    background = find_background(grid, (grid.depth > 0) & ~floor, size_m[1])
    held = (grid.depth > 0) & ~floor & ~background
    removed["floor"] = usable & grid.upsample(floor, depth.shape)
    removed["background"] = usable & grid.upsample(background, depth.shape)
    usable &= ~removed["floor"] & ~removed["background"]
    bodies = _rank(grid, _candidates(grid, held, size_m[1]), size_m, upward)
    segments = tuple(_segment(depth, usable, grid, body, upward, score) for score, body in bodies)
    rest = usable.copy()
    for segment in segments:
        rest &= ~segment.mask
    removed["small"] = rest
    return Segmentation(segments, plane, removed, upward)


def _check(
    depth: Any,
    camera: Camera,
    range_m: tuple[float, float],
    box: tuple[int, int, int, int] | None,
    size_m: tuple[float, float],
) -> Float[np.ndarray, "h w"]:
    depth = np.asarray(depth, np.float32)
    if depth.shape != (camera.height, camera.width):
        raise ValueError(
            f"depth: got shape {depth.shape}, but the camera has {camera.width} x {camera.height} "
            "pixels; need an array (height, width) of the camera's size."
        )
    for name, (low, high) in (("near, far", range_m), ("size_m", size_m)):
        if not 0 < low < high:
            raise ValueError(f"{name}: got {low}, {high}; need 0 < {name.replace(', ', ' < ')}.")
    if box is not None:
        inside = (
            min(box[2], camera.width) > max(box[0], 0),
            min(box[3], camera.height) > max(box[1], 0),
        )
        if not all(inside):
            raise ValueError(
                f"box: got {box}, need u0, v0, u1, v1 with u0 < u1, v0 < v1 that overlaps the "
                f"image of {camera.width} x {camera.height} pixels."
            )
    return np.where(np.isfinite(depth), depth, 0)


def _flying(
    depth: Float[np.ndarray, "h w"], usable: Bool[np.ndarray, "h w"], camera: Camera
) -> Bool[np.ndarray, "h w"]:
    """Pixels through which depth rises, or falls, more steeply than any surface that is seen."""
    fx, fy, _, _ = pinhole(camera)
    # A surface 5 degrees from edge-on, and as much noise as any sensor has from pixel to pixel.
    steep = depth * np.float32(_STEEP / min(fx, fy)) + np.float32(0.005) * depth * depth
    flying = np.zeros_like(usable)
    for axis in (0, 1):
        across = np.moveaxis(depth, axis, 0)
        step = np.diff(across, axis=0)
        known = np.moveaxis(usable, axis, 0)
        both = known[1:-1] & known[:-2] & known[2:]
        limit = np.moveaxis(steep, axis, 0)[1:-1]
        slowest = np.minimum(np.abs(step[:-1]), np.abs(step[1:]))
        runs = both & (slowest > limit) & (step[:-1] * step[1:] > 0)
        np.moveaxis(flying, axis, 0)[1:-1] |= runs
    return flying


def _candidates(
    grid: Grid, held: Bool[np.ndarray, "r c"], size: float
) -> list[Bool[np.ndarray, "r c"]]:
    """What hangs together, at each limit of steepness."""
    if not held.any():
        return []
    depth, near = _filled(grid, held, _BRIDGE * size)
    steepness = _steepness(grid, depth)
    smallest = _SMALL_AREA * size**2
    found: list[np.ndarray] = []
    for limit in _LIMITS:
        labels, count = ndimage.label(near & (steepness < limit))
        areas = np.bincount(labels[held], grid.footprint[held] ** 2, minlength=count + 1)
        areas[0] = 0
        for label in np.argsort(-areas)[:_CLOSELY]:
            if areas[label] < smallest:
                break
            mask = _regrown(grid, labels == label, held & ((labels == label) | (labels == 0)))
            found.append(mask)
    return found


def _filled(
    grid: Grid, held: Bool[np.ndarray, "r c"], bridge: float
) -> tuple[Float[np.ndarray, "r c"], Bool[np.ndarray, "r c"]]:
    """Depth with holes filled by the nearest measurement, and what is held or a narrow hole."""
    distance, index = ndimage.distance_transform_edt(~held, return_indices=True)
    depth = grid.depth[tuple(index)]
    footprint = grid.footprint[tuple(index)]
    return depth, held | ((grid.depth == 0) & (2 * distance * footprint < bridge))


def _steepness(grid: Grid, depth: Float[np.ndarray, "r c"]) -> Float[np.ndarray, "r c"]:
    """Change of depth per length across, over four cells."""
    smooth = ndimage.uniform_filter(depth, 3, mode="nearest")
    change = np.zeros_like(depth)
    for axis in (0, 1):
        padded = np.moveaxis(
            np.pad(smooth, [(2, 2) if a == axis else (0, 0) for a in (0, 1)], mode="edge"), axis, 0
        )
        change = np.maximum(change, np.abs(np.moveaxis(padded[4:] - padded[:-4], 0, axis)))
    width = 4 * depth * (grid.footprint.max() / max(grid.depth.max(), 1e-6))
    return change / np.maximum(width, 1e-6)


def _regrown(
    grid: Grid, core: Bool[np.ndarray, "r c"], free: Bool[np.ndarray, "r c"]
) -> Bool[np.ndarray, "r c"]:
    """The core with the rim that the width of the slope filter has cost it."""
    limit = _LIMITS[0] * grid.footprint + 3 * grid.noise
    z = grid.depth
    mask = core & free
    for _ in range(3):
        grown = mask.copy()
        for axis in (0, 1):
            one = np.moveaxis(mask, axis, 0)
            close = (
                np.abs(np.diff(np.moveaxis(z, axis, 0), axis=0)) < np.moveaxis(limit, axis, 0)[1:]
            )
            out = np.moveaxis(grown, axis, 0)
            out[1:] |= one[:-1] & close
            out[:-1] |= one[1:] & close
        mask = grown & free
    return mask


def _rank(
    grid: Grid,
    candidates: list[Bool[np.ndarray, "r c"]],
    size_m: tuple[float, float],
    up: Float[np.ndarray, " 3"],
) -> list[tuple[float, Bool[np.ndarray, "r c"]]]:
    """Scores and bodies of the right size, best first, none overlapping another."""
    scored = [(_score(grid, mask, size_m, up), mask) for mask in candidates]
    scored = sorted((pair for pair in scored if pair[0] > 0), key=lambda pair: -pair[0])
    kept: list[tuple[float, np.ndarray]] = []
    for score, mask in scored:
        if all(np.count_nonzero(mask & other) < 0.2 * mask.sum() for _, other in kept):
            kept.append((score, mask))
    return kept


def _score(
    grid: Grid,
    mask: Bool[np.ndarray, "r c"],
    size_m: tuple[float, float],
    up: Float[np.ndarray, " 3"],
) -> float:
    points = grid.points[mask]
    low, high = np.percentile(points @ up, (1, 99))
    spread = np.subtract(*np.percentile(points, (99, 1), axis=0))
    extent = float(np.linalg.norm(spread))
    if extent < size_m[0] or high - low > size_m[1] or extent > 1.3 * size_m[1]:
        return 0.0
    area = float((grid.footprint[mask] ** 2).sum())
    # A person fills about an eighth of the square of their height.
    full = min(1.0, area / (0.12 * min(extent, size_m[1]) ** 2))
    rows, columns = np.nonzero(mask)
    middle = 2 * np.array([rows.mean() / mask.shape[0], columns.mean() / mask.shape[1]]) - 1
    centred = math.exp(-float(middle @ middle))
    large = min(1.0, extent / (0.7 * size_m[1]))
    return math.sqrt(full) * large * centred * _outline(grid, mask, _EDGE * size_m[1]) ** 2


def _outline(grid: Grid, mask: Bool[np.ndarray, "r c"], edge: float) -> float:
    """The share of an outline at which depth steps back, or ends."""
    reach = 4
    rows, columns = np.nonzero(mask)
    r0, r1, c0, c1 = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    window = tuple(slice(max(low - reach, 0), high + reach) for low, high in ((r0, r1), (c0, c1)))
    own, z = mask[window], grid.depth[window]
    distance, index = ndimage.distance_transform_edt(~own, return_indices=True)
    ring = (distance > reach - 1) & (distance <= reach)
    ends = (z == 0) | (np.abs(z - z[tuple(index)]) > edge)
    # Along the border of the image the object goes on: neither here nor there, except below.
    sides = mask[0].sum() + mask[:, 0].sum() + mask[:, -1].sum()
    return float(np.count_nonzero(ring & ends) / max(np.count_nonzero(ring) + sides, 1))


def _segment(
    depth: Float[np.ndarray, "h w"],
    usable: Bool[np.ndarray, "h w"],
    grid: Grid,
    body: Bool[np.ndarray, "r c"],
    up: Float[np.ndarray, " 3"],
    score: float,
) -> Segment:
    """A body at full resolution."""
    low, high = np.percentile(grid.points[body] @ up, (1, 99))
    mask = _full(depth, usable, grid, body)
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return Segment(
        mask=mask,
        box=(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1),
        median_depth_m=float(np.median(depth[mask])),
        height_m=float(high - low),
        points=int(np.count_nonzero(mask)),
        score=score,
    )


def _full(
    depth: Float[np.ndarray, "h w"],
    usable: Bool[np.ndarray, "h w"],
    grid: Grid,
    body: Bool[np.ndarray, "r c"],
) -> Bool[np.ndarray, "h w"]:
    """The pixels of a body's cells, and their neighbours, at its depth."""
    limit = _LIMITS[0] * grid.footprint + 3 * grid.noise
    near = grid.upsample(np.where(body, grid.depth, 0), depth.shape)
    within = grid.upsample(np.where(body, limit, 0), depth.shape)
    return usable & (np.abs(depth - near) < within)
