"""Pictures of a reconstruction: what was seen, the model over it, where they part, other views.

All panels have one size, so that drawing compiles once, whatever the image.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from jrecon.geometry.camera import Camera, crop, scale
from jrecon.io.segment import Segmentation
from jrecon.pictures import (
    PALETTE,
    Image,
    color_map,
    downsample,
    look_at,
    shade,
    sheet,
    smooth_normals,
)
from jrecon.reconstructor import Reconstruction, Reconstructor
from jrecon.render import render

# Its annotation leaves open what it returns.
_filled: Any = ndimage.binary_fill_holes

# Width and height of a panel, pixels.
PANEL = (330, 440)
# Panels are drawn finer and averaged.
_FINER = 2
_DRAWN = (_FINER * PANEL[0], _FINER * PANEL[1])
# Around the object, as a share of its extent; and what the colours of depth span around it, metres.
_MARGIN, _BEFORE_M, _BEHIND_M = 0.15, 0.3, 0.8
_APART_M = 0.1
_OUTLINE = (220, 30, 60)
_AZIMUTHS = (math.radians(-75), math.radians(150))
# Blue where the model is behind what was measured, red where it is before it.
_BEHIND, _EVEN, _FRONT = np.array([[33, 102, 172], [247, 247, 247], [178, 24, 43]], float)
_UNKNOWN = (214, 214, 220)
CAPTIONS = (
    "depth, object outlined",
    "model over it",
    "red: model before, blue: behind, 100 mm",
    "from its side",
    "from behind",
)


def preview(
    recon: Reconstructor,
    result: Reconstruction,
    depth: Float[np.ndarray, "h w"],
    camera: Camera,
    mask: Bool[np.ndarray, "h w"],
    title: str = "",
) -> Image:
    """Five panels side by side, see `CAPTIONS`.

    Args:
      result: of one image, in the frame of `camera`.
      depth, mask: what it was reconstructed from.
    """
    panels = views(recon, result, depth, camera, mask)
    return sheet(panels, columns=len(panels), captions=CAPTIONS, title=title)


def views(
    recon: Reconstructor,
    result: Reconstruction,
    depth: Float[np.ndarray, "h w"],
    camera: Camera,
    mask: Bool[np.ndarray, "h w"],
    around: Bool[np.ndarray, "h w"] | None = None,
) -> list[Image]:
    """The panels of `preview`, each of `PANEL` pixels; they show what is `around`, the mask if
    nothing is said."""
    window, rows, columns = _window(camera, mask if around is None else around)
    seen = np.asarray(result.vertices, np.float32)
    # The camera frame turned upright: y up, towards the camera z.
    upright = seen * np.array([1, -1, -1], np.float32)
    width, height = _DRAWN
    points = [look_at(upright, width=width, height=height, azimuth=turn) for turn in _AZIMUTHS]
    placed = np.stack([seen, *(point.place(upright) for point in points)])
    cameras = [window, *(point.camera for point in points)]
    every = jax.tree.map(lambda *x: jnp.stack(x), *cameras)
    drawn = jax.tree.map(np.asarray, render(placed, recon.model.faces, every))
    shaded = []
    for i, vertices in enumerate(placed):
        one = jax.tree.map(lambda x, i=i: x[i], drawn)
        shaded.append(shade(one, normals=smooth_normals(one, recon.model.faces, vertices)))
    covered, surface = drawn.mask[0], drawn.depth[0]
    inside = ((rows >= 0) & (rows < depth.shape[0]))[:, None]
    inside = inside & ((columns >= 0) & (columns < depth.shape[1]))[None]
    pick = np.ix_(rows.clip(0, depth.shape[0] - 1), columns.clip(0, depth.shape[1] - 1))
    z, own = np.where(inside, depth[pick], 0), mask[pick] & inside
    known = z > 0
    of_object = z[own & known] if (own & known).any() else z[known]
    low, high = np.percentile(of_object, [2, 98]) if of_object.size else (0.0, 1.0)
    colors = color_map(-z, -high - _BEHIND_M, -low + _BEFORE_M, known)
    pale = np.where(inside[..., None], colors // 2 + 100, 255).astype(np.uint8)
    over = np.where(covered[..., None], shaded[0], pale)
    gap = np.where(covered & own & known, z - surface, np.nan)
    # Pixels that lost their depth are no outline.
    colors[_outline(_filled(own))] = _OUTLINE
    panels = [colors, over, difference(gap, covered | own), *shaded[1:]]
    return [downsample(panel, _FINER) for panel in panels]


def difference(gap: Float[np.ndarray, "h w"], where: Bool[np.ndarray, "h w"]) -> Image:
    """Signed distances in depth (metres, NaN = none) as colours; grey `where` there is none."""
    share = np.clip(np.nan_to_num(gap) / _APART_M, -1, 1)[..., None]
    toned = np.where(share > 0, _EVEN + share * (_FRONT - _EVEN), _EVEN - share * (_BEHIND - _EVEN))
    image = np.full((*gap.shape, 3), 255, np.uint8)
    image[where] = _UNKNOWN
    known = np.isfinite(gap)
    image[known] = np.rint(toned[known]).astype(np.uint8)
    return image


def removed_sheet(depth: Float[np.ndarray, "h w"], found: Segmentation) -> Image:
    """What the search for objects removed, by reason, and the objects that it found."""
    known = depth > 0
    low, high = np.percentile(depth[known], [1, 99]) if known.any() else (0.0, 1.0)
    base = color_map(-depth, -high, -low, known)
    images, captions = [base], ["depth"]
    for reason, where in found.removed.items():
        image = base // 3 + 150
        image[where] = _OUTLINE
        images.append(image.astype(np.uint8))
        captions.append(f"{reason}: {np.count_nonzero(where) / depth.size:.0%} removed")
    image = (base // 3 + 150).astype(np.uint8)
    for number, segment in enumerate(found.segments):
        image[segment.mask] = PALETTE[number % len(PALETTE)]
    images.append(image)
    captions.append(f"{len(found.segments)} found, the best in blue")
    factor = max(1, round(depth.shape[1] / 320))
    small = [image[::factor, ::factor] for image in images]
    return sheet(small, columns=4, captions=captions)


def _window(camera: Camera, mask: Bool[np.ndarray, "h w"]) -> tuple[Camera, Any, Any]:
    """The camera of a panel around the object; and the rows and columns that its pixels show."""
    width, height = _DRAWN
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    middle = (columns[0] + columns[-1]) / 2, (rows[0] + rows[-1]) / 2
    # Pixels of the image for each pixel of the panel.
    zoom = max(np.ptp(columns) / width, np.ptp(rows) / height) * (1 + 2 * _MARGIN)
    zoom = max(float(zoom), 1 / 32)
    corner = middle[0] - zoom * width / 2 + 0.5, middle[1] - zoom * height / 2 + 0.5
    window = scale(crop(camera, *corner, 1, 1), 1 / zoom, 1 / zoom, width, height)
    at = lambda count, first: np.rint((np.arange(count) + 0.5) * zoom - 0.5 + first).astype(int)
    return jax.tree.map(jnp.asarray, window), at(height, corner[1]), at(width, corner[0])


def _outline(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels of the mask with a neighbour outside it."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge = mask & ~inside
    # As wide as a pixel of the picture.
    return edge | (np.roll(edge, 1, 0) & mask) | (np.roll(edge, 1, 1) & mask)
