"""Depth maps whose edges are blurred: how wide the blur is, and how far off it puts an object.

Filters of stereo cameras and the upsampling of sparse LiDAR average over neighbours, across edges
too. Near its outline a person then lies between themselves and the wall behind, by decimetres; a
forearm at 3 m may do so entirely. What was measured is

    z = (1 - a) z_near + a z_far

where a, the share of the far surface, is known once the width of the blur is: the outline is that
of the mask. So z is off by a (z_far - z_near). Depth is not corrected by that: the blur of real
sensors is not quite a Gaussian, and on real frames corrected depth fits worse than doubted depth.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

HIGHEST = jax.lax.Precision.HIGHEST
# How far to each side of an outline the step at it is looked for: a share of the window's side, and
# in pixels at least.
_REACH, _LEAST_REACH = 0.08, 5
# Smaller steps tell nothing about an edge, metres.
_LEAST_STEP_M = 0.4
# Outlines of so many pixels tell how wide the blur is.
_LEAST_EDGES = 6
# Narrower blurs, standard deviation in pixels, are not told from sharp edges.
_SHARP = 0.65
# How far what is seen beside an object is continued behind it: a standard deviation, as a share of
# the window's side.
_SPREAD = 0.125
# Beside the object lies its background where it is farther by so much, metres.
_BEHIND_M = 0.1
# How far behind the object a background that returned nothing may be, metres.
_UNKNOWN_M = 1.5
# The share of the background is not known better than this share of it, as simulated blur shows.
_UNSURE = 0.6
# A pixel that is nearly all background is treated as having this share of it.
_LARGEST_SHARE = 0.9


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Blur:
    """What blur does to an object's depth."""

    width: Float[Array, ""]
    """Standard deviation of the Gaussian, pixels; 0 = the edges are sharp."""
    error: Float[Array, "n n"]
    """How far off the depth of the object's pixels may be, metres; 0 elsewhere."""


def measure_blur(
    depth: Float[Array, "n n"], own: Bool[Array, "n n"], inside: Bool[Array, "n n"] | None = None
) -> Blur:
    """How blurred a depth map is, and what that means for an object in it; total, for `vmap`.

    Args:
      depth: metres, 0 = no return, of the whole scene.
      own: pixels of the object that have a depth.
      inside: pixels of the image, if not all: what lies beyond its border was not averaged in.
    """
    size, valid = len(depth), depth > 0
    inside = jnp.ones_like(own) if inside is None else inside
    width = _width(depth, own)
    narrow = _kernel(size, width)
    covered = _smooth(narrow, own)
    share_of = lambda near: jnp.where(width > 0, jnp.clip(1 - near, 0.0, _LARGEST_SHARE), 0.0)
    share = share_of(covered / jnp.maximum(_smooth(narrow, valid), 1e-6))
    # What returned nothing may have been averaged in before it was lost for being too far.
    with_lost = share_of(covered / jnp.maximum(_smooth(narrow, inside), 1e-6))

    wide = _kernel(size, jnp.asarray(_SPREAD * size))
    mean = lambda held: (
        _smooth(wide, jnp.where(held, depth, 0.0)) / jnp.maximum(_smooth(wide, held), 1e-6)
    )
    # The background, beyond the ramp that leads to it.
    beside = valid & (_smooth(_kernel(size, 2 * width), own) < 0.02)
    beside &= depth > mean(own) + _BEHIND_M
    known = _smooth(wide, beside) > 0.02
    gap = jnp.where(known, jnp.maximum(mean(beside) - depth, 0.0) / (1 - share), _UNKNOWN_M)
    off = jnp.where(known, share * gap, 0.0)
    unsure = jnp.where(known, _UNSURE, 1.0) * gap * share / (1 - share)
    unsure += _UNKNOWN_M * (with_lost - share) / (1 - with_lost)
    return Blur(width, jnp.where(own, off + unsure, 0.0))


def _width(depth: Float[Array, "n n"], own: Bool[Array, "n n"]) -> Float[Array, ""]:
    """Standard deviation of the blur of edges, in pixels; 0 if they are sharp or there are none.

    A step of height h that is blurred by a Gaussian is h / (sigma sqrt(2 pi)) steep in its middle.
    """
    found = []
    reach = max(_LEAST_REACH, round(_REACH * len(depth)))
    for z, held in ((depth, own), (depth.T, own.T)):
        edge = held[:, 1:] != held[:, :-1]
        # Entry i: the edge between columns i and i + 1, and what is around it.
        complete = (_largest(jnp.where(z > 0, 0.0, 1.0), reach) < 0.5)[:, :-1]
        height = (_largest(z, reach) + _largest(-z, reach))[:, :-1]
        steepest = _largest(jnp.abs(z[:, 1:] - z[:, :-1]), reach - 1)
        widths = height / jnp.maximum(steepest, 1e-3) / (2 * jnp.pi) ** 0.5
        told = edge & complete & (height > _LEAST_STEP_M)
        found.append(jnp.where(told, widths, jnp.nan).reshape(-1))
    widths = jnp.concatenate(found)
    enough = jnp.sum(~jnp.isnan(widths)) >= _LEAST_EDGES
    middle = jnp.nan_to_num(jnp.nanmedian(widths))
    return jnp.where(enough & (middle > _SHARP), middle, 0.0)


def _largest(image: Float[Array, "n m"], reach: int) -> Float[Array, "n m"]:
    """Of every pixel, `reach` before it and `reach` after it in its row; the border is no value."""
    return jax.lax.reduce_window(
        image, -jnp.inf, jax.lax.max, (1, 2 * reach + 1), (1, 1), ((0, 0), (reach, reach))
    )


def _kernel(size: int, sigma: Float[Array, ""]) -> Float[Array, "n n"]:
    """The matrix that averages a row of pixels by a Gaussian; beyond the border there is nothing.
    A sigma of 0 leaves every pixel as it is."""
    steps = jnp.arange(-size, size + 1.0)
    weigh = lambda apart: jnp.exp(-0.5 * (apart / jnp.maximum(sigma, 1e-3)) ** 2)
    return weigh(steps[size:-1, None] - steps[None, size:-1]) / jnp.sum(weigh(steps))


def _smooth(kernel: Float[Array, "n n"], image: Array) -> Float[Array, "n n"]:
    image = image.astype(jnp.float32)
    return jnp.matmul(jnp.matmul(kernel, image, precision=HIGHEST), kernel, precision=HIGHEST)
