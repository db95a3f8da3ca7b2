"""Bodies: which cells of a depth map make up one object.

What hangs together depends on how steep a surface may be. Sensors that smooth depth turn the step
between a leg and a chair into a slope, and an arm before the chest parts it from the hips. So
parts are found at several limits of steepness, grown to the crest between them (a watershed),
joined where that makes them more like an object, and ranked.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from jrecon.io.planes import Grid

Window = tuple[slice, slice]

# Their annotations leave open what they return.
_label: Any = ndimage.label
_distance: Any = ndimage.distance_transform_edt

# Depth per length across, at which a surface is cut, one after the other. The first is 80 degrees
# between the normal and the line of sight.
_LIMITS = (5.7, 2.5, 1.3, 0.8, 0.55)
# Where edges are blurred, a body found at the next limit is preferred by this factor: it has less
# of other things. Where they are sharp, strict limits only cut off limbs.
_STRICT, _LOOSE = 1.1, 0.97
# What belongs to a body is added to it unless that lowers the score by more than this factor.
_KEEP = 0.96
# In units of the object's greatest extent, so that hands are found as people are. Holes up to the
# bridge do not part it; it ends where depth steps back by the edge within the reach; what is off a
# surface by a step is not of it.
_BRIDGE, _EDGE, _REACH, _STEP, _SMALL_AREA = 0.015, 0.04, 0.035, 0.08, 0.0008
# In the same unit: parts of one body differ in depth by less than the first where they meet; a limb
# is in front of the rest by less than the second, or behind by less than the third.
_LEVEL, _LIMB, _BEHIND = 0.04, 0.3, 0.12
# Gaps in depth, in the same unit, by which clusters stand apart.
_GAPS = (0.05, 0.1, 0.17)
# A body that shares more than this with a better one is not another one.
_SHARED = 0.2
# What a body may be instead: less than the first share of its size, more than the second, of no
# less than this share of its score, and mostly within it. So many are looked at.
_SMALLER, _LEAST, _LIKELY, _WITHIN, _OTHERS = 0.92, 0.4, 0.6, 0.9, 3
# Parts looked at for each limit, parts of one body, bodies returned.
_CLOSELY, _MOST_PARTS, _MOST = 16, 5, 6
# Parts touch if they come this near, cells: what is between them is too steep.
_CREST = 6
# Fragments that complete a body are smaller than this share of it; so many are looked at.
_FRAGMENT, _FRAGMENTS = 0.12, 60


@dataclasses.dataclass(frozen=True)
class Body:
    """A connected part of the grid, in the window that holds it."""

    window: Window
    mask: Bool[np.ndarray, "r c"]
    """Of the window."""
    score: float = 0.0
    """How much of an object of the size asked for it looks like."""
    others: tuple[Body, ...] = ()
    """Smaller ones that it may be instead, if it has other things to it; the best first."""

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


def find_bodies(
    grid: Grid,
    held: Bool[np.ndarray, "r c"],
    size_m: tuple[float, float],
    up: Float[np.ndarray, " 3"],
    blur: float = 0.0,
) -> list[Body]:
    """Bodies among the cells that are held, the best first, none overlapping another.

    Args:
      size_m: least and greatest extent, metres.
      up: upwards in the camera frame.
      blur: 0 where edges are steps, up to 1 where the sensor turns them into slopes.
    """
    if not held.any():
        return []
    surface = _make_surface(grid, held, size_m[1])
    taken = np.zeros(held.shape, np.int8)
    kept: list[Body] = []
    gain = _LOOSE + (_STRICT - _LOOSE) * min(1.0, 5 * blur)
    candidates = sorted(_candidates(grid, surface, size_m, up, gain), key=lambda body: -body.score)
    for body in candidates:
        if len(kept) == _MOST:
            break
        shared = body.cells(taken)
        inside = [np.count_nonzero(shared == index + 1) for index in range(len(kept))]
        sizes = [np.count_nonzero(other.mask) for other in kept]
        if shared.astype(bool).mean() < _SHARED and all(
            count < _SHARED * size for count, size in zip(inside, sizes, strict=True)
        ):
            own = body.mask & (taken[body.window] == 0)
            others = () if kept else _others(body, candidates, held.shape)
            kept.append(dataclasses.replace(body, mask=own, others=others))
            taken[body.window][own] = len(kept)
    return _completed(grid, surface, kept, size_m[1])


def _others(body: Body, candidates: list[Body], shape: tuple[int, ...]) -> tuple[Body, ...]:
    """Candidates that are mostly of a body, and clearly smaller than it and each other."""
    whole = np.zeros(shape, bool)
    whole[body.window] = body.mask
    found: list[Body] = []
    sizes = [np.count_nonzero(body.mask)]
    for other in candidates:
        size = np.count_nonzero(other.mask)
        differs = size < _SMALLER * sizes[0] and all(
            not _SMALLER < size / one < 1 / _SMALLER for one in sizes
        )
        likely = other.score > _LIKELY * body.score and size > _LEAST * sizes[0]
        if differs and likely and other.cells(whole).mean() > _WITHIN:
            found.append(other)
            sizes.append(size)
        if len(found) == _OTHERS:
            break
    return tuple(found)


def _make_surface(grid: Grid, held: Bool[np.ndarray, "r c"], size: float) -> _Surface:
    distance, index = _distance(~held, return_indices=True)
    depth = grid.depth[tuple(index)]
    near = held | ((grid.depth == 0) & (2 * distance * depth * grid.pitch < _BRIDGE * size))
    smooth = np.pad(ndimage.uniform_filter(depth, 3, mode="nearest"), 2, mode="edge")
    across = np.abs(smooth[2:-2, 4:] - smooth[2:-2, :-4])
    down = np.abs(smooth[4:, 2:-2] - smooth[:-4, 2:-2])
    return _Surface(held, near, depth, np.maximum(across, down) / (4 * grid.pitch * depth))


def _candidates(
    grid: Grid,
    surface: _Surface,
    size_m: tuple[float, float],
    up: Float[np.ndarray, " 3"],
    gain: float,
) -> list[Body]:
    """What hangs together at each limit of steepness, and what its parts make up; the score of each
    stricter limit is raised by `gain`."""
    size, held = size_m[1], surface.held
    found = _clusters(grid, held, size_m, up)
    for strictness, limit in enumerate(_LIMITS):
        seeds, count = _label(surface.near & (surface.steepness < limit))
        areas = np.bincount(seeds[held], grid.footprint[held] ** 2, minlength=count + 1)
        areas[0] = 0
        largest = np.argsort(-areas)[:_CLOSELY]
        largest = largest[areas[largest] > _SMALL_AREA * size**2]
        number = np.zeros(count + 1, np.int32)
        number[largest] = np.arange(len(largest)) + 1
        labels = _flood(surface, number[seeds], _STEP * size) * held
        found += [
            dataclasses.replace(body, score=gain**strictness * body.score)
            for body in _grouped(grid, labels, size_m, up)
        ]
    return found


def _clusters(
    grid: Grid, held: Bool[np.ndarray, "r c"], size_m: tuple[float, float], up: Any
) -> list[Body]:
    """What stands apart from all else in space: cells near each other in the image and in depth
    are of one cluster, also past something narrow that hides what is between them."""
    number = np.full(held.shape, -1)
    number[held] = np.arange(np.count_nonzero(held))
    found = []
    for gap in _GAPS:
        pairs = []
        for reach in (1, 2, _CREST):
            for a, b in (
                (np.s_[:, :-reach], np.s_[:, reach:]),
                (np.s_[:-reach], np.s_[reach:]),
            ):
                meet = held[a] & held[b] & (np.abs(grid.depth[a] - grid.depth[b]) < gap * size_m[1])
                pairs.append(np.stack([number[a][meet], number[b][meet]]))
        first, second = np.concatenate(pairs, axis=1)
        count = int(number.max()) + 1
        graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(count, count))
        _, own = connected_components(graph, directed=False)
        labels = np.zeros(held.shape, np.int32)
        labels[held] = own + 1
        for label, window in enumerate(ndimage.find_objects(labels), 1):
            if window is not None:
                found.append(_rated(grid, window, labels[window] == label, size_m, up))
    return [body for body in found if body.score > 0]


def _flood(surface: _Surface, seeds: Int[np.ndarray, "r c"], step: float) -> Int[np.ndarray, "r c"]:
    """Seeds grown up the slopes around them, to the crest where they meet; less what is further in
    depth from the nearest seed than `step`: it is in the air."""
    if not seeds.any():
        return seeds
    heights = np.minimum(surface.steepness * 100, 65535).astype(np.uint16)
    markers = np.where(surface.near, seeds, -1).astype(np.int32)
    labels = ndimage.watershed_ift(heights, markers)
    _, index = _distance(seeds == 0, return_indices=True)
    index = tuple(index)
    own = (seeds[index] == labels) & (np.abs(surface.depth[index] - surface.depth) < step)
    return np.where(own & (labels > 0), labels, 0)


def _grouped(
    grid: Grid,
    labels: Int[np.ndarray, "r c"],
    size_m: tuple[float, float],
    up: Float[np.ndarray, " 3"],
) -> list[Body]:
    """The parts of a labelling that have the right size, and the best of them with its neighbours,
    while these make it more like an object."""
    windows = dict(enumerate(ndimage.find_objects(labels), 1))
    parts = {
        label: _rated(grid, window, labels[window] == label, size_m, up)
        for label, window in windows.items()
        if window is not None
    }
    found = [body for body in parts.values() if body.score > 0]
    if not found:
        return []
    depth = {label: float(np.median(body.cells(grid.depth))) for label, body in parts.items()}
    area = np.bincount(labels.ravel())
    steps = _contacts(grid, labels)
    scored = [label for label, body in parts.items() if body.score > 0]
    used: set[int] = set()
    # An arm may look more like an object than the halves that it parts a body into.
    for rank in (lambda label: parts[label].score, lambda label: area[label]):
        start = max(scored, key=rank)
        if start in used:
            continue
        group, best = [start], parts[start]
        while len(group) < _MOST_PARTS:
            tried = {}
            for label in parts.keys() - set(group):
                small = area[label] < _FRAGMENT * sum(area[one] for one in group)
                if _belongs(label, group, steps, depth, small, size_m[1]):
                    window = _around([windows[one] for one in (*group, label)])
                    mask = np.isin(labels[window], [*group, label])
                    tried[label] = _rated(grid, window, mask, size_m, up)
            label = max(tried, key=lambda label: (tried[label].score, label), default=0)
            if label == 0 or tried[label].score < _KEEP * best.score:
                break
            best = tried[label]
            group.append(label)
            found.append(best)
        used.update(group)
    return found


def _around(windows: Sequence[Window]) -> Window:
    rows = slice(min(w[0].start for w in windows), max(w[0].stop for w in windows))
    return rows, slice(min(w[1].start for w in windows), max(w[1].stop for w in windows))


def _contacts(grid: Grid, labels: Int[np.ndarray, "r c"]) -> dict[tuple[int, int], float]:
    """Of labels that come within a few cells of each other, the mean depth of the second less that
    of the first there, metres."""
    count = int(labels.max()) + 1
    total, number = np.zeros(count * count), np.zeros(count * count)
    z = grid.depth
    for a, b, step in (
        (labels[:, :-_CREST], labels[:, _CREST:], z[:, _CREST:] - z[:, :-_CREST]),
        (labels[:-_CREST], labels[_CREST:], z[_CREST:] - z[:-_CREST]),
    ):
        meet = (a > 0) & (b > 0) & (a != b)
        for code, change in (
            (a[meet] * count + b[meet], step[meet]),
            (b[meet] * count + a[meet], -step[meet]),
        ):
            total += np.bincount(code, change, count * count)
            number += np.bincount(code, minlength=count * count)
    pairs = np.flatnonzero(number >= 5)
    return {
        (int(pair) // count, int(pair) % count): float(total[pair] / number[pair]) for pair in pairs
    }


def _belongs(
    label: int,
    group: list[int],
    steps: dict[tuple[int, int], float],
    depth: dict[int, float],
    small: bool,
    size: float,
) -> bool:
    """Whether a part may be of the same body as a group: where they meet it is level with it or in
    front, as an arm is; or it is behind, and as deep as another part of the group, as legs are that
    an arm hides from the chest; or it is behind and small. Chairs are behind, too, but neither."""
    met = [steps[one, label] for one in group if (one, label) in steps]
    level = any(abs(depth[one] - depth[label]) < _LEVEL * size for one in group)
    behind = _BEHIND if small else _LEVEL / 2
    close = any(-_LIMB * size < step < behind * size for step in met)
    return close or (bool(met) and level)


def _completed(grid: Grid, surface: _Surface, bodies: list[Body], size: float) -> list[Body]:
    """The bodies with the small fragments that touch them and are level with them or in front."""
    free = surface.held & (surface.steepness < _LIMITS[1])
    for body in bodies:
        free[body.window] &= ~body.mask
    fragments, count = _label(free)
    areas = np.bincount(fragments.ravel())
    areas[0] = 0
    largest = np.argsort(-areas)[:_FRAGMENTS]
    number = np.zeros(count + 1, int)
    # 1 is the body.
    number[largest[areas[largest] > 0]] = np.arange(np.count_nonzero(areas[largest])) + 2
    fragments, areas = number[fragments], np.concatenate([[0, 0], areas[largest]])
    completed = []
    for body in bodies:
        labels = fragments.copy()
        labels[body.window][body.mask] = 1
        small = areas < _FRAGMENT * np.count_nonzero(body.mask)
        own = [
            other
            for (one, other), step in _contacts(grid, labels).items()
            if one == 1 and small[other] and -_LIMB * size < step < _BEHIND * size
        ]
        mask = np.isin(labels, [1, *own])
        fragments[mask] = 0
        window = ndimage.find_objects(mask.astype(np.int8))[0]
        completed.append(dataclasses.replace(body, window=window, mask=mask[window]))
    return completed


def _rated(
    grid: Grid,
    window: Window,
    mask: Bool[np.ndarray, "r c"],
    size_m: tuple[float, float],
    up: Float[np.ndarray, " 3"],
) -> Body:
    """A body and how much of an object of this size it looks like: 0 (not at all) to 1."""
    body = Body(window, mask)
    if math.hypot(*mask.shape) * grid.pitch * body.cells(grid.depth).max() < size_m[0] / 2:
        return body
    index = np.flatnonzero(mask)
    points = grid.points[window].reshape(-1, 3)[index[:: max(1, len(index) // 500)]]
    low, high = np.percentile(points @ up.astype(np.float32), (1, 99))
    extent = float(np.linalg.norm(np.subtract(*np.percentile(points, (99, 1), axis=0))))
    if extent < size_m[0] or high - low > size_m[1] or extent > 1.3 * size_m[1]:
        return body
    # A person fills an eighth to a fifth of the square of their height.
    share = float((body.cells(grid.footprint) ** 2).sum()) / min(extent, size_m[1]) ** 2
    full = min(1.0, share / 0.12) * min(1.0, 0.17 / share)
    large = min(1.0, extent / (0.7 * size_m[1]))
    rows, columns = np.nonzero(mask)
    across = 2 * (window[1].start + columns.mean()) / grid.depth.shape[1] - 1
    down = 2 * (window[0].start + rows.mean()) / grid.depth.shape[0] - 1
    centred = math.exp(-(across**2 + down**2))
    score = math.sqrt(full) * large * centred * _outline(grid, body, size_m[1]) ** 2
    return dataclasses.replace(body, score=score)


def _outline(grid: Grid, body: Body, size: float) -> float:
    """The share of an outline at which depth steps back, or ends, within the reach."""
    reach = int(np.clip(_REACH * size / np.median(body.cells(grid.footprint)), 2, 10))
    rows, columns = body.window
    bounds = zip(body.window, grid.depth.shape, strict=True)
    margins = [(max(reach - w.start, 0), max(w.stop + reach - n, 0)) for w, n in bounds]
    part = grid.depth[
        max(rows.start - reach, 0) : rows.stop + reach,
        max(columns.start - reach, 0) : columns.stop + reach,
    ]
    # -1 is beyond the image.
    around, own = np.pad(part, margins, constant_values=-1), np.pad(body.mask, reach)
    height, width = body.mask.shape
    ends, total = 0, 0.0
    for down, right in ((0, 1), (0, -1), (-1, 0), (1, 0)):
        beside = own[reach + down :, reach + right :][:height, :width]
        place = slice(reach * (1 + down), None), slice(reach * (1 + right), None)
        there, same = around[place][:height, :width], own[place][:height, :width]
        rim = body.mask & ~beside & ~same
        back = there - grid.depth[body.window]
        ends += np.count_nonzero(rim & (there >= 0) & ((there == 0) | (back > _EDGE * size)))
        hidden = np.count_nonzero(rim & (there > 0) & (back < -_EDGE * size))
        # Along the border of the image the object goes on, unless it is the lower border.
        counted = rim & (there >= 0) if down == 1 else rim
        total += np.count_nonzero(counted) - hidden / 2
    return ends / max(total, 1.0)
