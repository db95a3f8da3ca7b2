"""What a camera saw of an object, brought to the form and size that a fit compares with.

A fit asks three things of a depth map. Where are points of the object's surface: some of the
object's pixels, evenly taken. How far is space known to be empty along the ray through any pixel:
up to the depth there, whatever it belongs to; a model in that space is wrong, one behind it may be
hidden. And in which direction is the object from a pixel that shows none of it.

Several cameras that see one object are a tuple of views, each with its place in the frame of the
parameters.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jrecon.fit.blur import measure_blur
from jrecon.geometry.camera import Camera
from jrecon.geometry.nearest import index_of_least
from jrecon.synth.viewpoint import window

HIGHEST = jax.lax.Precision.HIGHEST
# The window around the object, as a share of its larger side: the model may reach beyond.
_MARGIN = 0.25
# Rise by more than this, in metres per metre across, makes a ramp; and this many times the noise.
_RAMP, _NOISES = 3.0, 3.0
# Rays without a return: the fit may put nothing before this depth, with less weight.
_FAR_M = 50.0
# Depth that blur may have put off by so much, metres, is trusted half.
_SURE_M = 0.02
# Where depth was averaged over neighbours, their errors are alike: they do not show in how much
# neighbours differ, and are so many metres per square metre of distance (that of stereo filters, by
# `jrecon.synth.devices.stereo`). Averaging over less than this, metres, loses no measurement.
_SMOOTHED_PER_M, _SMOOTHED_M = 0.004, 0.03
# Ramps are followed over so many pixels, at most, as a share of the window's side.
_WIDEST_RAMP = 1 / 16


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """One camera's share of what is known. Build one with `observe`."""

    camera: Camera
    """Of a window around the object, n x n pixels."""
    depth: Float[Array, "n n"]
    """Of the whole scene, metres; 0 = no return, or out of the image."""
    own: Bool[Array, "n n"]
    """Pixels of the object that have a depth."""
    clear: Float[Array, "n n"]
    """Depth up to which the rays of a pixel and its neighbours are empty, metres."""
    trust: Float[Array, "n n"]
    """In that: 1 where it was measured, less where nothing came back, 0 out of the image."""
    noise: Float[Array, ""]
    """Standard deviation of the object's depth, metres: that of neighbouring pixels, as measured,
    and what blur hides of it."""
    nearest: Int[Array, "n n 2"]
    """(u, v) of the object's pixel that is nearest in the window; itself for those."""
    points: Float[Array, "k 3"]
    """On the object's surface, camera frame, metres: evenly taken from its pixels."""
    pixels: Int[Array, " k"]
    """Of these points, in the flattened window."""
    shares: Float[Array, " k"]
    """Surface, seen from the camera, that each point stands for, square metres; less where depth is
    blurred, as neighbours repeat each other; 0 for those that only fill the array up."""
    firm: Float[Array, " k"]
    """How much the depth of each point is to be trusted, 0 to 1: see `firmness` and
    `jrecon.fit.blur`."""
    rotation: Float[Array, "3 3"]
    """From the frame of the parameters to that of the camera."""
    translation: Float[Array, " 3"]


@functools.partial(jax.jit, static_argnames=("size", "samples"))
def observe(
    depth: Float[Array, "h w"],
    camera: Camera,
    mask: Bool[Array, "h w"],
    *,
    size: int = 96,
    samples: int = 960,
    hole_trust: float = 0.1,
    rotation: Float[Array, "3 3"] | None = None,
    translation: Float[Array, " 3"] | None = None,
) -> View:
    """One depth map as a view, for `vmap`; total: an empty mask gives a view that wants nothing.

    Args:
      depth: metres, 0 = no return; all of the image. Values that are not finite count as 0.
      mask: pixels of the object.
      size: pixels along each side of the window; static.
      samples: points of the surface; static.
      hole_trust: how much a pixel without a return counts as empty space.
      rotation, translation: of this camera, x_camera = rotation x + translation; by default
        parameters are in the camera's own frame.
    """
    depth = jnp.where(jnp.isfinite(depth) & (depth > 0), depth, 0.0)
    low, high = _bounds(mask & (depth > 0), size)
    part = window(camera, low, high, size, size)
    step = (jnp.arange(size) + 0.5) / size
    u, v = (low[axis] + step * (high[axis] - low[axis]) for axis in (0, 1))
    inside = ((v > -0.5) & (v < depth.shape[0] - 0.5))[:, None]
    inside &= ((u > -0.5) & (u < depth.shape[1] - 0.5))[None, :]
    column = jnp.clip(jnp.round(u), 0, depth.shape[1] - 1).astype(jnp.int32)
    row = jnp.clip(jnp.round(v), 0, depth.shape[0] - 1).astype(jnp.int32)
    z = jnp.where(inside, depth[row[:, None], column[None, :]], 0.0)
    held = inside & mask[row[:, None], column[None, :]]
    own = held & (z > 0)
    # The nearest pixel was measured along its own ray, not along that through the window's pixel.
    slopes = jnp.stack(
        [
            jnp.broadcast_to((column - camera.center[0]) / camera.focal[0], z.shape),
            jnp.broadcast_to(((row - camera.center[1]) / camera.focal[1])[:, None], z.shape),
            jnp.ones_like(z),
        ],
        axis=-1,
    )
    blur = measure_blur(z, own, inside)
    pixels, known = evenly(own.reshape(-1), samples)
    points = (slopes * z[..., None]).reshape(-1, 3)[pixels]
    each = jnp.sum(own) / jnp.maximum(jnp.minimum(jnp.sum(own), samples), 1)
    footprint = points[:, 2] ** 2 / jnp.prod(part.focal)
    shares = footprint * each / (1 + footprint * (blur.width / _SMOOTHED_M) ** 2)
    rough = _roughness(z, own & (blur.error < _SURE_M))
    # Where nothing is blurred, ramps of single pixels are what else there is.
    ramps = jnp.where(blur.width > 0, 1.0, firmness(z, part, rough))
    firm = ramps / (1 + (blur.error / _SURE_M) ** 2)
    sure = jnp.where(own, firm, 0.0)
    middle = jnp.sum(sure * z) / jnp.maximum(jnp.sum(sure), 1e-6)
    hidden = jnp.where(blur.width > 0, _SMOOTHED_PER_M * middle**2, 0.0)
    return View(
        camera=part,
        own=own,
        depth=z,
        # Outlines are known to a pixel: what is empty for all neighbours is empty.
        clear=_clear(z, blur.width),
        # Of a hole in the object nothing is known but that the object is there.
        trust=_least_around(jnp.where(z > 0, firm, jnp.where(inside & ~held, hole_trust, 0.0))),
        noise=jnp.hypot(rough, hidden),
        nearest=nearest_own(own),
        points=points,
        pixels=pixels,
        shares=jnp.where(known, shares, 0.0),
        firm=firm.reshape(-1)[pixels],
        rotation=jnp.eye(3) if rotation is None else rotation,
        translation=jnp.zeros(3) if translation is None else translation,
    )


def _clear(depth: Float[Array, "n n"], blur: Float[Array, ""]) -> Float[Array, "n n"]:
    """Depth up to which rays are empty: the least nearby, as far as an outline may be off, which is
    a pixel, and more where it is blurred."""
    clear = _least_around(jnp.where(depth > 0, depth, _FAR_M))
    widen = lambda i, clear: jnp.where(1.5 * blur > i, _least_around(clear), clear)
    return jax.lax.fori_loop(0, round(_WIDEST_RAMP * len(depth)), widen, clear)


def _least_around(image: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Of every pixel and its eight neighbours."""
    for axis in (0, 1):
        wide = jnp.pad(image, [(1, 1) if axis == a else (0, 0) for a in (0, 1)], mode="edge")
        parts = [jax.lax.slice_in_dim(wide, i, i + len(image), axis=axis) for i in range(3)]
        image = functools.reduce(jnp.minimum, parts)
    return image


def firmness(
    depth: Float[Array, "n n"], camera: Camera, noise: Float[Array, ""]
) -> Float[Array, "n n"]:
    """Near 0 on the ramps by which a blurred edge leads from one surface to another, near 1
    elsewhere.

    On a ramp depth rises or falls on both sides of a pixel, steeper than surfaces that can be
    measured do. At a sharp edge it is level on one side, and so it is at the foot of a ramp.
    """
    steep = jnp.zeros_like(depth)
    for axis in (0, 1):
        wide = jnp.pad(depth, [(1, 1) if axis == a else (0, 0) for a in (0, 1)])
        before, after = (jax.lax.slice_in_dim(wide, i, i + len(depth), axis=axis) for i in (0, 2))
        into, out = depth - before, after - depth
        # Where a ramp ends in nothing, its last pixel is steep on the one side that there is.
        into, out = jnp.where(before > 0, into, out), jnp.where(after > 0, out, into)
        both = ((before > 0) | (after > 0)) & (depth > 0) & (into * out > 0)
        steep = jnp.maximum(steep, jnp.where(both, jnp.minimum(jnp.abs(into), jnp.abs(out)), 0.0))
    slope = steep * jnp.sqrt(jnp.prod(camera.focal)) / jnp.maximum(depth, 1e-3)
    far = _NOISES * noise * jnp.sqrt(jnp.prod(camera.focal)) / jnp.maximum(depth, 1e-3)
    return 1 / (1 + (slope / (_RAMP + far)) ** 4)


def _roughness(depth: Float[Array, "n n"], own: Bool[Array, "n n"]) -> Float[Array, ""]:
    """Standard deviation of depth, from second differences along rows and columns, by their median:
    edges and most of the object's own curvature do not count."""
    found = []
    for z, held in ((depth, own), (depth.T, own.T)):
        whole = held[:, 2:] & held[:, 1:-1] & held[:, :-2]
        bend = jnp.abs(z[:, 2:] - 2 * z[:, 1:-1] + z[:, :-2])
        found.append(jnp.where(whole, bend, jnp.nan).reshape(-1))
    # 0.6745: median of |normal|; 6 = 1 + 4 + 1: variance of a second difference.
    rough = jnp.nanmedian(jnp.concatenate(found)) / (0.6745 * 6.0**0.5)
    return jnp.nan_to_num(rough)


def _bounds(mask: Bool[Array, "h w"], size: int) -> tuple[Float[Array, " 2"], Float[Array, " 2"]]:
    """Outer edges of a square window around a mask, in pixels; of the image if it is empty.

    At least `size` pixels: steps between copies of one would say that there is no noise, no blur.
    """
    edges = []
    for axis in (0, 1):
        held = jnp.any(mask, axis=axis)
        count = held.shape[0]
        some = jnp.any(held)
        first = jnp.where(some, jnp.argmax(held), 0)
        last = jnp.where(some, count - 1 - jnp.argmax(held[::-1]), count - 1)
        edges.append(jnp.stack([first - 0.5, last + 0.5]))
    low, high = jnp.stack(edges, axis=1)
    side = jnp.maximum(jnp.max(high - low) * (1 + _MARGIN), size)
    # From the edge of a pixel on, so that a window without scaling has every pixel once.
    low = jnp.round((low + high - side + 1) / 2) - 0.5
    return low, low + side


def evenly(held: Bool[Array, " n"], count: int) -> tuple[Int[Array, " k"], Bool[Array, " k"]]:
    """`count` of the true entries, evenly spaced in their order, and which of them are meant: all
    true entries, and then copies, where there are fewer."""
    rank = jnp.cumsum(held)
    total = rank[-1]
    wanted = (jnp.arange(count) * jnp.maximum(total, count)) // count + 1
    found = jnp.searchsorted(rank, jnp.minimum(wanted, total))
    return jnp.clip(found, 0, held.shape[0] - 1).astype(jnp.int32), wanted <= total


def nearest_own(own: Bool[Array, "n n"]) -> Int[Array, "n n 2"]:
    """(u, v) of the nearest true pixel of every pixel, exact; (0, 0) everywhere if there is none.

    Separable (Felzenszwalb and Huttenlocher 2012, "Distance transforms of sampled functions"): the
    nearest in each column of pixels, and then the nearest of those along the row.
    """
    n = own.shape[0]
    far = 4.0 * n * n
    place = jnp.arange(n)
    apart = (place[:, None] - place[None, :]).astype(jnp.float32) ** 2
    in_column = apart[:, :, None] + jnp.where(own, 0.0, far)[None]
    v, height = index_of_least(in_column, 1), jnp.min(in_column, axis=1)
    total = apart[None] + height[:, None, :]
    u = index_of_least(total, 2)
    found = jnp.stack([u, jnp.take_along_axis(v, u, axis=1)], axis=-1)
    return jnp.where(jnp.any(own), found, 0).astype(jnp.int32)


def to_camera(view: View, points: Float[Array, "n 3"]) -> Float[Array, "n 3"]:
    """Points in the frame of the view's camera."""
    turned = jnp.einsum("ab,nb->na", view.rotation, points, precision=HIGHEST)
    return turned + view.translation[None]


def from_camera(view: View, vectors: Float[Array, "n 3"]) -> Float[Array, "n 3"]:
    """Vectors (not places) in the frame of the parameters."""
    return jnp.einsum("ba,nb->na", view.rotation, vectors, precision=HIGHEST)


def slopes_at(view: View, pixels: Float[Array, "n 2"]) -> Float[Array, "n 3"]:
    """Rays (x, y, 1) through pixel coordinates of the window."""
    flat = (pixels - view.camera.center[None]) / view.camera.focal[None]
    return jnp.concatenate([flat, jnp.ones((len(flat), 1))], axis=1)
