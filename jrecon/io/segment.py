"""Where an object may be in a depth map that nobody segmented: NumPy and SciPy alone.

1. Range gate: nearer than `near` or further than `far` is not it.
2. Flying pixels: measurements in the air between two surfaces, where depth runs steeply on both
   sides of a pixel.
3. Floor: the plane, within 45 degrees of level, that nearly everything else stands on.
4. Background: walls and furniture, flat and large; bodies are round.
5. Candidates: what hangs together where depth is less steep than a limit, for several limits.
   Sensors that smooth depth turn the step between a leg and a chair into a slope, so no one limit
   serves all; across small holes the surface goes on. And clusters that stand apart in space.
6. Ranking by size in metres, by how much of the outline is a step in depth, by place in the image;
   of candidates that overlap the best stays. Fragments near it join it,
   and what is level with it along its rim.

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
from jrecon.io.bodies import Body, find_bodies
from jrecon.io.planes import (
    Grid,
    find_background,
    find_floor,
    height_above,
    make_grid,
    pinhole,
    tolerance,
)

# Its annotation leaves open what it returns.
_distance: Any = ndimage.distance_transform_edt

# A surface is never seen under a smaller angle than 5 degrees.
_STEEP = math.tan(math.radians(85))
# A pixel is of a body's cell if it is no further from its depth than this, in units of the object's
# greatest extent.
_OFF = 0.04
# Width of the rim that is looked for around a body, in the same unit.
_RIM = 0.035


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
    """What segments of one image are ranked by: about 1 for all of a standing person."""
    others: tuple[Bool[np.ndarray, "h w"], ...] = ()
    """Smaller masks that it may be instead, where other things touch it: which of them is right is
    for the model to say. Of the best segment alone; the likeliest first."""


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
    removed["flying pixels"], blur = _flying(depth, usable, camera)
    usable &= ~removed["flying pixels"]
    grid = make_grid(np.where(usable, depth, 0), camera, size_m[1])
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
    found = find_bodies(grid, held, size_m, upward, blur)
    segments = [_segment(depth, usable, grid, body, upward, size_m[1]) for body in found]
    segments = tuple(segment for segment in segments if segment is not None)
    free = usable | removed["flying pixels"]
    for segment in segments:
        free &= ~segment.mask
    whole = []
    for segment in segments:
        mask = _with_rim(segment.mask, depth, free, camera, size_m[1])
        others = tuple(
            _with_rim(other, depth, free | (segment.mask & ~other), camera, size_m[1])
            for other in segment.others
        )
        whole.append(
            dataclasses.replace(
                segment, mask=mask, others=others, box=_box(mask), points=int(mask.sum())
            )
        )
        free &= ~mask
    removed["flying pixels"] &= free
    removed["small"] = usable & free
    return Segmentation(tuple(whole), plane, removed, upward)


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
) -> tuple[Bool[np.ndarray, "h w"], float]:
    """Pixels through which depth rises, or falls, more steeply than any surface that is seen; and
    how blurred edges are: the share of such steps that are no edge but part of a slope."""
    fx, fy, _, _ = pinhole(camera)
    # A surface 5 degrees from edge-on, and as much noise as any sensor has from pixel to pixel.
    limit = depth * np.float32(_STEEP / min(fx, fy)) + np.float32(0.005) * depth * depth
    flying = np.zeros_like(usable)
    slopes, steps = 0, 1
    for turn in (lambda image: image, np.transpose):
        z, known, most = turn(depth), turn(usable), turn(limit)[1:]
        change = np.diff(z, axis=0)
        step = np.sign(change) * (np.abs(change) > most) * (known[1:] & known[:-1])
        through = step[1:] * step[:-1] > 0
        turn(flying)[1:-1] |= through
        slopes += np.count_nonzero(through)
        steps += np.count_nonzero(step)
    return flying, slopes / steps


def _segment(
    depth: Float[np.ndarray, "h w"],
    usable: Bool[np.ndarray, "h w"],
    grid: Grid,
    body: Body,
    up: Float[np.ndarray, " 3"],
    size: float,
) -> Segment | None:
    """A body at full resolution."""
    low, high = np.percentile(body.cells(grid.points) @ up, (1, 99))
    mask = _full(depth, usable, grid, body, _OFF * size)
    if not mask.any():
        return None
    return Segment(
        mask=mask,
        box=_box(mask),
        median_depth_m=float(np.median(depth[mask])),
        height_m=float(high - low),
        points=int(np.count_nonzero(mask)),
        score=float(body.score),
        others=tuple(
            other
            for other in (_full(depth, usable, grid, one, _OFF * size) for one in body.others)
            if other.any()
        ),
    )


def _with_rim(
    mask: Bool[np.ndarray, "h w"],
    depth: Float[np.ndarray, "h w"],
    free: Bool[np.ndarray, "h w"],
    camera: Camera,
    size: float,
) -> Bool[np.ndarray, "h w"]:
    """A mask with the free pixels beside it that are level with it: its rim, where the surface
    turns away or the sensor has smeared the edge, is too steep to have been found with it."""
    u0, v0, u1, v1 = _box(mask)
    width = _RIM * size * min(pinhole(camera)[:2])
    pad = 1 + int(width / np.median(depth[mask]))
    window = np.s_[max(v0 - pad, 0) : v1 + pad, max(u0 - pad, 0) : u1 + pad]
    z = depth[window]
    away, index = _distance(~mask[window], return_indices=True)
    beside = z[tuple(index)]
    level = (away * beside < width) & (np.abs(z - beside) < _OFF * size)
    wider = mask.copy()
    wider[window] |= free[window] & (z > 0) & level
    return wider


def _box(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _full(
    depth: Float[np.ndarray, "h w"],
    usable: Bool[np.ndarray, "h w"],
    grid: Grid,
    body: Body,
    off: float,
) -> Bool[np.ndarray, "h w"]:
    """The pixels of a body's cells, where they are within `off` (metres) of its depth."""
    step = grid.step
    near = np.kron(np.where(body.mask, grid.depth[body.window], 0), np.ones((step, step)))
    top, left = (axis.start * step for axis in body.window)
    pixels = slice(top, top + near.shape[0]), slice(left, left + near.shape[1])
    part = depth[pixels]
    mask = np.zeros_like(usable)
    mask[pixels] = usable[pixels] & (np.abs(part - near[: part.shape[0], : part.shape[1]]) < off)
    return mask
