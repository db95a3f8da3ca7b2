"""Depth maps whose edges are blurred: how much, and what was there before.

Filters of stereo cameras and the upsampling of sparse ones average over neighbours, across edges
too. Near its outline a person then lies between themselves and the wall behind, by decimetres; a
forearm at 3 m may do so entirely. What was measured is

    z = (1 - a) z_near + a z_far

where a, the share of the far surface, is known once the width of the blur is: the outline is that
of the mask. So z_near follows from z, less certain the larger a is.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

HIGHEST = jax.lax.Precision.HIGHEST
# Pixels to each side of an outline in which the step at it is looked for.
_REACH = 5
# Smaller steps tell nothing about an edge, metres.
_LEAST_STEP_M = 0.4
# Outlines of so many pixels tell how wide the blur is.
_LEAST_EDGES = 6
# Narrower blurs, standard deviation in pixels, are not told from sharp edges.
_SHARP = 0.65
# Pixels over which what is seen beside an object is continued behind it, as a standard deviation.
_SPREAD = 8.0
# Beside the object lies its background where it is farther by so much, metres.
_BEHIND_M = 0.1
# How far a background that returned nothing may be, metres.
_UNKNOWN_M = 1.5
# Share of a correction that is not known better: what is left of simulated blur, against what was
# rendered, is 1.5 times the doubt that 0.4 gave.
_DOUBT = 0.6


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Sharpened:
    """A depth map without its blur."""

    depth: Float[Array, "n n"]
    """Metres; corrected at the object's pixels, as it was elsewhere."""
    doubt: Float[Array, "n n"]
    """Standard deviation of what the correction may be off by, metres."""
    blur: Float[Array, ""]
    """Standard deviation of the blur, pixels; 0 = the edges are sharp."""


def sharpen(depth: Float[Array, "n n"], own: Bool[Array, "n n"]) -> Sharpened:
    """Undo what blur did to an object's depth; total, for `vmap`.

    Args:
      depth: metres, 0 = no return, of the whole scene.
      own: pixels of the object that have a depth.
    """
    blur = blur_of(depth, own)
    valid = depth > 0
    narrow = _kernel(len(depth), jnp.maximum(blur, 1e-3))
    near = _smooth(narrow, own) / jnp.maximum(_smooth(narrow, valid), 1e-6)
    share = jnp.where(blur > 0, jnp.clip(1 - near, 0.0, 0.9), 0.0)
    wide = _kernel(len(depth), jnp.asarray(_SPREAD))
    mean = lambda held: (
        _smooth(wide, jnp.where(held, depth, 0.0)) / jnp.maximum(_smooth(wide, held), 1e-6)
    )
    # Beyond the ramp, which is as wide as the blur reaches.
    beside = valid & (_smooth(_kernel(len(depth), jnp.maximum(2 * blur, 1e-3)), own) < 0.02)
    beside &= depth > mean(own) + _BEHIND_M
    known = _smooth(wide, beside) > 0.02
    far = mean(beside)
    behind = known & (far > depth)
    corrected = jnp.where(behind, (depth - share * far) / (1 - share), depth)
    gap = jnp.where(known, jnp.maximum(far - corrected, 0.0), _UNKNOWN_M)
    doubt = jnp.where(known, _DOUBT, 1.0) * gap * share / (1 - share)
    # What returned nothing may have been averaged in before it was lost for being too far.
    absent = jnp.where(blur > 0, jnp.clip(1 - _smooth(narrow, own), 0.0, 0.9), 0.0)
    doubt += _UNKNOWN_M * (absent - share) / (1 - absent)
    return Sharpened(
        depth=jnp.where(own, jnp.maximum(corrected, 0.0), depth),
        doubt=jnp.where(own, doubt, 0.0),
        blur=blur,
    )


def blur_of(depth: Float[Array, "n n"], own: Bool[Array, "n n"]) -> Float[Array, ""]:
    """Standard deviation of the blur of edges, in pixels; 0 if they are sharp or there are none.

    A step of height h that is blurred by a Gaussian is h / (sigma sqrt(2 pi)) steep in its middle.
    """
    found = []
    for z, held in ((depth, own), (depth.T, own.T)):
        edge = held[:, 1:] != held[:, :-1]
        rise = jnp.abs(z[:, 1:] - z[:, :-1])
        complete = _around(jnp.where(z > 0, 0.0, 1.0), 2 * _REACH)[:, :-1] < 0.5
        height = _around(z, 2 * _REACH) + _around(-z, 2 * _REACH)
        # Window i of length 2 reach + 2 around the edge between columns i and i + 1.
        height = height[:, :-1]
        steepest = _around(rise, 2 * _REACH - 1)
        width = height / jnp.maximum(steepest, 1e-3) / (2 * jnp.pi) ** 0.5
        told = edge & complete & (height > _LEAST_STEP_M)
        found.append(jnp.where(told, width, jnp.nan).reshape(-1))
    widths = jnp.concatenate(found)
    enough = jnp.sum(~jnp.isnan(widths)) >= _LEAST_EDGES
    middle = jnp.nan_to_num(jnp.nanmedian(widths))
    return jnp.where(enough & (middle > _SHARP), middle, 0.0)


def _around(image: Float[Array, "n m"], length: int) -> Float[Array, "n m"]:
    """Largest value of `length` neighbours along rows, half to each side, and itself."""
    before = length // 2
    return jax.lax.reduce_window(
        image, -jnp.inf, jax.lax.max, (1, length + 1), (1, 1),
        ((0, 0), (before, length - before)),
    )  # fmt: skip


def _kernel(size: int, sigma: Float[Array, ""]) -> Float[Array, "n n"]:
    """The matrix that averages a row of pixels by a Gaussian."""
    apart = jnp.arange(size, dtype=jnp.float32)[:, None] - jnp.arange(size)[None]
    weight = jnp.exp(-0.5 * (apart / sigma) ** 2)
    return weight / jnp.sum(jnp.exp(-0.5 * (jnp.arange(-size, size + 1.0) / sigma) ** 2))


def _smooth(kernel: Float[Array, "n n"], image: Array) -> Float[Array, "n n"]:
    image = image.astype(jnp.float32)
    return jnp.matmul(jnp.matmul(kernel, image, precision=HIGHEST), kernel, precision=HIGHEST)
