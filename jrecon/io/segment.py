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
from jaxtyping import Bool, Float, Int
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
_LIMITS = (5.7, 2.5, 1.3, 0.8, 0.55)
_STEEP = math.tan(math.radians(85))
# In units of the object's greatest extent, so that hands are found as people are. Holes up to the
# bridge do not part it; an object ends where depth steps back by the edge within the reach; what is
# off a surface by a step is not of it.
_BRIDGE, _EDGE, _REACH, _STEP, _SMALL_AREA = 0.015, 0.04, 0.035, 0.08, 0.0008
# Parts looked at closely, for each limit; segments that are returned.
_CLOSELY, _MOST = 16, 6
# Parts that one body is put together from, and how far apart they may be, cells.
_MOST_PARTS, _CREST = 5, 6
# A body found at a stricter limit is preferred by this factor: it has less of other things.
_STRICT = 1.1
# In units of the object's extent: parts of one body differ in depth by less than this where they
# meet; a limb is in front of the rest by less than that.
_LEVEL, _LIMB = 0.04, 0.3
# Fragments that complete a body are smaller than this share of it.
_FRAGMENT = 0.12


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
    bodies = []
    if held.any():
        surface = _make_surface(grid, held, size_m[1])
        bodies = _rank(grid, _candidates(grid, surface, size_m, upward))
        bodies = _complete(grid, surface, bodies, size_m[1])
    segments = tuple(
        _segment(depth, usable, grid, body, upward, score, size_m[1]) for score, body in bodies
    )
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


@dataclasses.dataclass(frozen=True)
class _Body:
    """A connected part of the grid, in the window that holds it."""

    window: tuple[slice, slice]
    mask: Bool[np.ndarray, "r c"]
    """Of the window."""

    def cells(self, values: np.ndarray) -> np.ndarray:
        """Of values on the grid, those at this body's cells."""
        return values[self.window][self.mask]


@dataclasses.dataclass(frozen=True)
class _Surface:
    """What is neither floor nor background, with narrow holes filled."""

    held: Bool[np.ndarray, "r c"]
    """Cells with depth."""
    near: Bool[np.ndarray, "r c"]
    """Those, and narrow holes between them."""
    depth: Float[np.ndarray, "r c"]
    """Everywhere, from the nearest measurement."""
    steepness: Float[np.ndarray, "r c"]
    """Change of depth per length across."""


def _candidates(
    grid: Grid, surface: _Surface, size_m: tuple[float, float], up: Float[np.ndarray, " 3"]
) -> list[tuple[float, _Body]]:
    """What hangs together at each limit of steepness, and what its parts make up; with scores."""
    size, held = size_m[1], surface.held
    found = []
    for strictness, limit in enumerate(_LIMITS):
        seeds, count = ndimage.label(surface.near & (surface.steepness < limit))
        areas = np.bincount(seeds[held], grid.footprint[held] ** 2, minlength=count + 1)
        areas[0] = 0
        kept = np.argsort(-areas)[:_CLOSELY]
        kept = kept[areas[kept] > _SMALL_AREA * size**2]
        if not len(kept):
            continue
        number = np.zeros(count + 1, np.int32)
        number[kept] = np.arange(len(kept)) + 1
        labels = _flood(surface, number[seeds], _STEP * size) * held
        gain = _STRICT**strictness
        found += [(gain * score, body) for score, body in _grouped(grid, labels, size_m, up)]
    return found


def _grouped(
    grid: Grid,
    labels: Int[np.ndarray, "r c"],
    size_m: tuple[float, float],
    up: Float[np.ndarray, " 3"],
) -> list[tuple[float, _Body]]:
    """The parts of a labelling, and the best of them grown by its neighbours while that makes it
    more like an object: an arm in front of a body parts it from its legs."""
    windows = ndimage.find_objects(labels)
    parts = {
        label: _Body(window, labels[window] == label)
        for label, window in enumerate(windows, 1)
        if window is not None
    }
    scores = {label: _score(grid, body, size_m, up) for label, body in parts.items()}
    found = [(scores[label], body) for label, body in parts.items() if scores[label] > 0]
    if not found:
        return []
    first = max(scores, key=lambda label: scores[label])
    group, best = [first], scores[first]
    depth = {label: float(np.median(body.cells(grid.depth))) for label, body in parts.items()}
    steps = _contacts(grid, labels)
    for _ in range(_MOST_PARTS):
        tried = []
        for label in parts.keys() - set(group):
            if _belongs(label, group, steps, depth, size_m[1]):
                body = _united(labels, windows, [*group, label])
                tried.append((_score(grid, body, size_m, up), label, body))
        score, label, body = max(tried, key=lambda one: one[0], default=(0.0, 0, None))
        if body is None or score <= best:
            break
        group.append(label)
        best = score
        found.append((score, body))
    return found


def _united(labels: Int[np.ndarray, "r c"], windows: list[Any], members: list[int]) -> _Body:
    window = tuple(
        slice(
            min(windows[label - 1][axis].start for label in members),
            max(windows[label - 1][axis].stop for label in members),
        )
        for axis in (0, 1)
    )
    return _Body((window[0], window[1]), np.isin(labels[window], members))


def _contacts(grid: Grid, labels: Int[np.ndarray, "r c"]) -> dict[tuple[int, int], float]:
    """Of labels that come within a few cells of each other, the mean depth of the second less that
    of the first there, metres."""
    count = int(labels.max()) + 1
    total, number = np.zeros(count * count), np.zeros(count * count)
    for one, other in (
        ((slice(None), slice(None, -_CREST)), (slice(None), slice(_CREST, None))),
        ((slice(None, -_CREST), slice(None)), (slice(_CREST, None), slice(None))),
    ):
        a, b = labels[one], labels[other]
        meet = (a > 0) & (b > 0) & (a != b)
        step = (grid.depth[other] - grid.depth[one])[meet]
        for first, second, sign in ((a, b, 1), (b, a, -1)):
            code = first[meet] * count + second[meet]
            total += np.bincount(code, sign * step, count * count)
            number += np.bincount(code, minlength=count * count)
    pairs = np.flatnonzero(number >= 5)
    return {divmod(int(pair), count): total[pair] / number[pair] for pair in pairs}


def _belongs(
    label: int,
    group: list[int],
    steps: dict[tuple[int, int], float],
    depth: dict[int, float],
    size: float,
) -> bool:
    """Whether a part may be of the same body as a group: where they meet it is level with it or in
    front, as an arm is; or it is behind, and as deep as another part of the group, as legs are that
    an arm hides from the chest. Chairs are behind, too, but deeper."""
    met = [steps[one, label] for one in group if (one, label) in steps]
    level = any(abs(depth[one] - depth[label]) < _LEVEL * size for one in group)
    front = any(-_LIMB * size < step < _LEVEL / 2 * size for step in met)
    return front or (bool(met) and level)


def _make_surface(grid: Grid, held: Bool[np.ndarray, "r c"], size: float) -> _Surface:
    distance, index = ndimage.distance_transform_edt(~held, return_indices=True)
    depth = grid.depth[tuple(index)]
    near = held | ((grid.depth == 0) & (2 * distance * depth * grid.pitch < _BRIDGE * size))
    smooth = np.pad(ndimage.uniform_filter(depth, 3, mode="nearest"), 2, mode="edge")
    across = np.abs(smooth[2:-2, 4:] - smooth[2:-2, :-4])
    down = np.abs(smooth[4:, 2:-2] - smooth[:-4, 2:-2])
    return _Surface(held, near, depth, np.maximum(across, down) / (4 * grid.pitch * depth))


def _flood(surface: _Surface, seeds: Int[np.ndarray, "r c"], step: float) -> np.ndarray:
    """Seeds grown up the slopes around them, to the crest where they meet; less what is further in
    depth from the nearest seed than `step`: it is in the air."""
    heights = np.minimum(surface.steepness * 100, 65535).astype(np.uint16)
    markers = np.where(surface.near, seeds, -1).astype(np.int32)
    labels = ndimage.watershed_ift(heights, markers)
    _, index = ndimage.distance_transform_edt(seeds == 0, return_indices=True)
    index = tuple(index)
    own = (seeds[index] == labels) & (np.abs(surface.depth[index] - surface.depth) < step)
    return np.where(own & (labels > 0), labels, 0)


def _rank(grid: Grid, candidates: list[tuple[float, _Body]]) -> list[tuple[float, _Body]]:
    """The best first, none overlapping another."""
    taken = np.zeros(grid.depth.shape, bool)
    kept: list[tuple[float, _Body]] = []
    for score, body in sorted(candidates, key=lambda pair: -pair[0]):
        if len(kept) == _MOST:
            break
        if np.count_nonzero(body.cells(taken)) < 0.2 * np.count_nonzero(body.mask):
            taken[body.window] |= body.mask
            kept.append((score, body))
    return kept


def _complete(
    grid: Grid, surface: _Surface, bodies: list[tuple[float, _Body]], size: float
) -> list[tuple[float, _Body]]:
    """The bodies with the small fragments that touch them and are level with them or in front."""
    free = surface.held & (surface.steepness < _LIMITS[1])
    for _, body in bodies:
        free[body.window] &= ~body.mask
    fragments, _ = ndimage.label(free)
    areas = np.bincount(fragments.ravel())
    completed = []
    for score, body in bodies:
        labels = fragments + 1
        labels[fragments == 0] = 0
        labels[body.window][body.mask] = 1
        small = areas < _FRAGMENT * np.count_nonzero(body.mask)
        own = [1] + [
            other
            for (one, other), step in _contacts(grid, labels).items()
            if one == 1 and small[other - 1] and -_LIMB * size < step < _LEVEL / 2 * size
        ]
        mask = np.isin(labels, own)
        window = ndimage.find_objects(mask.astype(np.int8))[0]
        completed.append((score, _Body(window, mask[window])))
    return completed


def _score(
    grid: Grid, body: _Body, size_m: tuple[float, float], up: Float[np.ndarray, " 3"]
) -> float:
    """How much of an object of this size a body looks like: 0 (not at all) to 1."""
    rows, columns = body.mask.shape
    if math.hypot(rows, columns) * grid.pitch * body.cells(grid.depth).max() < size_m[0] / 2:
        return 0.0
    index = np.flatnonzero(body.mask)
    index = index[:: max(1, len(index) // 500)]
    points = grid.points[body.window].reshape(-1, 3)[index]
    low, high = np.percentile(points @ up.astype(np.float32), (1, 99))
    extent = float(np.linalg.norm(np.subtract(*np.percentile(points, (99, 1), axis=0))))
    if extent < size_m[0] or high - low > size_m[1] or extent > 1.3 * size_m[1]:
        return 0.0
    area = float((body.cells(grid.footprint) ** 2).sum())
    # A person fills about an eighth of the square of their height.
    share = area / min(extent, size_m[1]) ** 2
    full = min(1.0, share / 0.12) * min(1.0, 0.16 / share)
    large = min(1.0, extent / (0.7 * size_m[1]))
    rows, columns = np.nonzero(body.mask)
    offset = (
        2 * (body.window[0].start + rows.mean()) / grid.depth.shape[0] - 1,
        2 * (body.window[1].start + columns.mean()) / grid.depth.shape[1] - 1,
    )
    centred = math.exp(-(offset[0] ** 2 + offset[1] ** 2))
    return math.sqrt(full) * large * centred * _outline(grid, body, size_m[1]) ** 2


def _outline(grid: Grid, body: _Body, size: float) -> float:
    """The share of an outline at which depth steps back, or ends."""
    reach = int(np.clip(_REACH * size / np.median(body.cells(grid.footprint)), 2, 10))
    shape = grid.depth.shape
    window = tuple(
        slice(max(axis.start - reach, 0), min(axis.stop + reach, length))
        for axis, length in zip(body.window, shape, strict=True)
    )
    margins = [
        (inner.start - outer.start, outer.stop - inner.stop)
        for inner, outer in zip(body.window, window, strict=True)
    ]
    own, z = np.pad(body.mask, margins), grid.depth[window]
    distance, index = ndimage.distance_transform_edt(~own, return_indices=True)
    ring = (distance > reach - 1) & (distance <= reach)
    back = z - z[tuple(index)]
    ends = np.count_nonzero(ring & ((z == 0) | (back > _EDGE * size)))
    hidden = np.count_nonzero(ring & (z > 0) & (back < -_EDGE * size))
    # Along the border of the image the object goes on, unless it is the lower border.
    sides = [body.mask[0]] * (body.window[0].start == 0)
    sides += [body.mask[:, 0]] * (body.window[1].start == 0)
    sides += [body.mask[:, -1]] * (body.window[1].stop == shape[1])
    cut = sum(np.count_nonzero(side) for side in sides)
    return ends / max(np.count_nonzero(ring) - hidden / 2 + cut, 1)


def _segment(
    depth: Float[np.ndarray, "h w"],
    usable: Bool[np.ndarray, "h w"],
    grid: Grid,
    body: _Body,
    up: Float[np.ndarray, " 3"],
    score: float,
    size: float,
) -> Segment:
    """A body at full resolution."""
    low, high = np.percentile(body.cells(grid.points) @ up, (1, 99))
    mask = _full(depth, usable, grid, body, _STEP / 2 * size)
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
    body: _Body,
    off: float,
) -> Bool[np.ndarray, "h w"]:
    """The pixels of a body's cells, no further `off` its depth than that (metres)."""
    step = grid.step
    start = [axis.start * step for axis in body.window]
    near = np.kron(np.where(body.mask, grid.depth[body.window], 0), np.ones((step, step)))
    pixels = tuple(slice(low, low + size) for low, size in zip(start, near.shape, strict=True))
    part = depth[pixels]
    rows, columns = part.shape
    mask = np.zeros_like(usable)
    mask[pixels] = usable[pixels] & (np.abs(part - near[:rows, :columns]) < off)
    return mask
