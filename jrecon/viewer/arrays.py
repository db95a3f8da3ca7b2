"""What is drawn of a reconstruction, as arrays: points, colours of the surface, lines.

All in the frame of the camera (x right, y down, z forward), metres.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from jrecon.geometry.camera import Camera, project
from jrecon.overlay import difference
from jrecon.pictures import PALETTE, Image, color_map
from jrecon.render import rasterize
from jrecon.synth.viewpoint import window

# What the colours of a surface can tell.
COLORINGS = ("shaded", "residual", "uncertainty")
# Uncertainty that has the last colour of its scale; `jrecon.overlay` has that of the residual.
UNSURE_M = 0.1
CLAY, OUTLINE = (168, 176, 190), (220, 30, 60)
OWN, OTHER = PALETTE[4], (150, 154, 162)
# Diameter of a point, times the distance between neighbours; and its bounds.
_SIZE, _SIZES_M = 0.7, (0.002, 0.006)
# The picture by which a vertex is seen or hidden, pixels, and how far behind it counts as seen:
# the surface slants within a pixel of it.
_SIDE, _SLACK_M = 128, 0.03


@dataclasses.dataclass(frozen=True, eq=False)
class Cloud:
    """Measured points."""

    points: Float[np.ndarray, "n 3"]
    own: Bool[np.ndarray, " n"]
    """Which of them are the object's."""
    size_m: float
    """Diameter at which they are dense and still let through what is behind them."""


def make_cloud(
    depth: Float[np.ndarray, "h w"],
    camera: Camera,
    mask: Bool[np.ndarray, "h w"],
    most: int = 30_000,
) -> Cloud:
    """The points of a depth map, the object's first; at most `most`, evenly taken.

    The object gets up to half of them, so that it is dense however small it is in the image.
    """
    known = np.asarray(depth) > 0
    own = np.flatnonzero(known & mask)
    other = np.flatnonzero(known & ~np.asarray(mask))
    seen = own if len(own) else other
    thinned = max(1.0, len(seen) / (most // 2 if len(own) else most)) ** 0.5
    spacing = thinned * float(np.median(np.asarray(depth).ravel()[seen])) if len(seen) else 0.0
    own, other = _thin(own, most // 2), _thin(other, most - min(len(own), most // 2))
    pixels = np.concatenate([own, other])
    v, u = np.divmod(pixels, camera.width)
    z = np.asarray(depth, np.float32).ravel()[pixels]
    (fx, fy), (cx, cy) = np.asarray(camera.focal), np.asarray(camera.center)
    points = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z], axis=1)
    size = float(np.clip(_SIZE * spacing / fx, *_SIZES_M))
    return Cloud(points.astype(np.float32), np.arange(len(pixels)) < len(own), size)


def _thin(pixels: Int[np.ndarray, " n"], most: int) -> Int[np.ndarray, " m"]:
    if len(pixels) <= most:
        return pixels
    return pixels[np.linspace(0, len(pixels) - 1, most).astype(int)]


def cloud_colors(cloud: Cloud) -> UInt8[np.ndarray, "n 3"]:
    """The object's points stand out."""
    return np.where(cloud.own[:, None], *(np.array(tone, np.uint8) for tone in (OWN, OTHER)))


@jax.jit
def gaps(
    vertices: Float[Array, "v 3"],
    faces: Int[Array, "f 3"],
    depth: Float[Array, "h w"],
    camera: Camera,
    mask: Bool[Array, "h w"],
) -> Float[Array, " v"]:
    """How far before the measured surface each vertex is, along the optical axis, metres.

    Negative behind it; NaN where the vertex is hidden, or no pixel of the object is at its place.
    """
    z = vertices[:, 2]
    ahead = z > 0.05
    safe = jnp.where(ahead[:, None], vertices, jnp.array([[0.0, 0.0, 1.0]]))
    pixel = project(camera, safe)
    low = jnp.min(jnp.where(ahead[:, None], pixel, jnp.inf), axis=0)
    high = jnp.max(jnp.where(ahead[:, None], pixel, -jnp.inf), axis=0)
    low, high = jnp.where(jnp.any(ahead), jnp.stack([low - 1, high + 1]), jnp.array([[0.0], [1.0]]))
    part = window(camera, low, high, _SIDE, _SIDE)
    nearest = rasterize(vertices, faces, part).depth
    shown, inside = _at(nearest, project(part, safe))
    visible = ahead & inside & (shown > 0) & (z < shown + _SLACK_M)
    measured, inside = _at(jnp.where(mask, depth, 0.0), pixel)
    return jnp.where(visible & inside & (measured > 0), measured - z, jnp.nan)


def _at(image: Float[Array, "h w"], pixel: Float[Array, "n 2"]) -> tuple[Array, Array]:
    """Values of an image at its nearest pixels, and which of them are in it."""
    size = jnp.array([image.shape[1], image.shape[0]])
    inside = jnp.all((pixel > -0.5) & (pixel < size[None] - 0.5), axis=1)
    u, v = jnp.clip(jnp.round(pixel), 0, size[None] - 1).astype(jnp.int32).T
    return image[v, u], inside


def colors_of(
    coloring: str, gap: Float[np.ndarray, " v"], std: Float[np.ndarray, " v"] | None
) -> UInt8[np.ndarray, "v 3"]:
    """Colours of the vertices.

    Args:
      coloring: one of `COLORINGS`.
      gap: see `gaps`: red before the measured surface, blue behind it, grey where it is unknown.
      std: standard deviation of each vertex, metres: from dark blue (0) to yellow (`UNSURE_M`);
        None: unknown, grey.

    Raises:
      ValueError: no such colouring.
    """
    if coloring not in COLORINGS:
        raise ValueError(f"coloring: got {coloring!r}, need one of {', '.join(COLORINGS)}.")
    if coloring == "residual":
        row = np.asarray(gap, np.float64)[None]
        return difference(row, np.ones(row.shape, bool))[0]
    if coloring == "uncertainty" and std is not None:
        return color_map(np.asarray(std)[None], 0.0, UNSURE_M)[0]
    return np.tile(np.array(CLAY, np.uint8), (len(gap), 1))


def bones(joints: Float[np.ndarray, "j 3"], parents: tuple[int, ...]) -> Float[np.ndarray, "b 2 3"]:
    """A line from each joint's parent to it; a single joint has none."""
    child = np.flatnonzero(np.array(parents) >= 0)
    return np.stack([np.asarray(joints)[np.array(parents)[child]], np.asarray(joints)[child]], 1)


def frustum(camera: Camera, length: float = 0.35) -> Float[np.ndarray, "8 2 3"]:
    """Lines from the camera through the corners of its image, and that image `length` ahead."""
    (fx, fy), (cx, cy) = np.asarray(camera.focal), np.asarray(camera.center)
    left, top = (-0.5 - cx) / fx, (-0.5 - cy) / fy
    right, bottom = (camera.width - 0.5 - cx) / fx, (camera.height - 0.5 - cy) / fy
    corners = length * np.array(
        [[left, top, 1], [right, top, 1], [right, bottom, 1], [left, bottom, 1]]
    )
    rays = np.stack([np.zeros((4, 3)), corners], axis=1)
    return np.concatenate([rays, np.stack([corners, np.roll(corners, -1, 0)], 1)]).astype(
        np.float32
    )


def depth_picture(
    depth: Float[np.ndarray, "h w"],
    mask: Bool[np.ndarray, "h w"] | None = None,
    most: int = 480,
    like: Float[np.ndarray, "h w"] | None = None,
) -> Image:
    """A depth map in colours, yellow near and dark far, the object outlined; at most so wide. The
    colours span its own depths, or those of another, for pictures that are to be compared."""
    step = max(1, -(-max(depth.shape) // most))
    small = np.asarray(depth)[::step, ::step]
    known = small > 0
    own = known if mask is None else np.asarray(mask)[::step, ::step]
    values = small[own & known] if (own & known).any() else small[known]
    if like is not None:
        values = np.asarray(like)[np.asarray(like) > 0]
    low, high = np.percentile(values, [1, 99]) if values.size else (0.0, 1.0)
    image = color_map(-small, -high - 0.8, -low + 0.2, known)
    if mask is not None:
        image[_rim(own)] = OUTLINE
    return image


def _rim(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels of the mask with a neighbour outside it."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside
