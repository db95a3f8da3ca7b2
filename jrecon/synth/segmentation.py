"""What goes wrong between the sensor and the reconstruction: dropped regions, imperfect masks."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jrecon.geometry.camera import Camera
from jrecon.synth.noise import smooth_field

# The outline of a mask moves by at most this many pixels, less a half.
_BAND = 3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class RegionConfig:
    """Regions of the depth map that are lost as a whole. All traced."""

    rate: float = 0.15
    """Probability of each region."""
    size: tuple[float, float] = (0.02, 0.2)
    """Half the extent along each axis, as a share of the image's."""
    count: int = dataclasses.field(default=2, metadata=dict(static=True))


def drop_regions(
    config: RegionConfig, key: PRNGKeyArray, depth: Float[Array, "h w"]
) -> Float[Array, "h w"]:
    """The depth map with ellipses and rectangles of it set to 0."""
    height, width = depth.shape
    for one in jax.random.split(key, config.count):
        draws = jax.random.uniform(one, (6,))
        u = (jnp.arange(float(width)) + 0.5) / width - draws[0]
        v = (jnp.arange(float(height)) + 0.5) / height - draws[1]
        half = config.size[0] + draws[2:4] * (config.size[1] - config.size[0])
        a, b = (u / half[0])[None, :], (v / half[1])[:, None]
        round_ = draws[4] < 0.5
        inside = jnp.where(round_, a * a + b * b < 1, jnp.maximum(jnp.abs(a), jnp.abs(b)) < 1)
        depth = jnp.where(inside & (draws[5] < config.rate), 0.0, depth)
    return depth


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SegmentConfig:
    """How a segmentation errs. Rates are probabilities per image; all traced."""

    exact_rate: float = 0.25
    """Images whose mask is right."""
    shift_px: tuple[float, float] = (-1.0, 1.0)
    """How far the whole outline moves outwards (at most 2.5)."""
    ragged_px: float = 0.7
    """Standard deviation of the outline around that, along the outline."""
    ragged_length_px: float = 4.0
    """Over which the outline wanders."""
    missing_rate: float = 0.15
    """A round part of the object is missing."""
    leak_rate: float = 0.2
    """A round part of what touches the object is taken for it."""
    part: tuple[float, float] = (0.05, 0.25)
    """Radius of those parts, as a share of the object's size in the image."""
    leak_m: float = 0.15
    """The mask leaks only to points this near in depth to where the leak is."""


def segment(
    config: SegmentConfig,
    key: PRNGKeyArray,
    depth: Float[Array, "h w"],
    truth: Bool[Array, "h w"],
    camera: Camera,
) -> Bool[Array, "h w"]:
    """The mask that an imperfect segmentation of the sensor's depth map gives.

    Args:
      depth: as the sensor returned it, metres; the mask is false where it is 0.
      truth: where the object is what is seen.

    Returns:
      The mask; empty if the object is not seen.
    """
    keys = jax.random.split(key, 3)
    draws = jax.random.uniform(keys[0], (4,))
    shift = config.shift_px[0] + draws[0] * (config.shift_px[1] - config.shift_px[0])

    def ragged() -> Array:
        shape = camera.height, camera.width
        wander = smooth_field(keys[1], config.ragged_length_px, *shape, shortest=4)
        return _moved(truth, shift + config.ragged_px * wander)

    def with_parts(mask: Array) -> Array:
        missing_key, leak_key = jax.random.split(keys[2])
        missing, _ = _part(config, missing_key, depth, truth)
        leaked, level = _part(config, leak_key, depth, truth)
        leaked &= jnp.abs(depth - level) < config.leak_m
        mask &= ~(missing & (draws[1] < config.missing_rate))
        return mask | (leaked & (draws[2] < config.leak_rate))

    # Where images are computed one after another, only what goes wrong costs time.
    exact = (draws[3] < config.exact_rate) | ~jnp.any(truth)
    parts = ~exact & ((draws[1] < config.missing_rate) | (draws[2] < config.leak_rate))
    mask = jax.lax.cond(exact, lambda: truth, ragged)
    mask = jax.lax.cond(parts, with_parts, lambda mask: mask, mask)
    return mask & (depth > 0)


def _moved(mask: Bool[Array, "h w"], shift: Float[Array, "h w"]) -> Bool[Array, "h w"]:
    """The mask with its outline moved outwards by a number of pixels, given at each pixel."""
    height, width = mask.shape
    padded = jnp.pad(mask, _BAND, mode="edge")
    distance = jnp.full(mask.shape, _BAND + 1.0)
    for dv in range(-_BAND, _BAND + 1):
        for du in range(-_BAND, _BAND + 1):
            length = math.hypot(du, dv)
            if 0 < length <= _BAND:
                other = padded[_BAND + dv :, _BAND + du :][:height, :width]
                distance = jnp.where(other != mask, jnp.minimum(distance, length), distance)
    # The outline runs half a pixel before the nearest pixel on its other side.
    return jnp.where(mask, 0.5 - distance, distance - 0.5) < shift


def _part(
    config: SegmentConfig, key: PRNGKeyArray, depth: Float[Array, "h w"], truth: Bool[Array, "h w"]
) -> tuple[Bool[Array, "h w"], Float[Array, ""]]:
    """A disc around a random pixel of the object, and the depth there."""
    height, width = truth.shape
    draws = jax.random.uniform(key, (3,))
    # A random pixel of a random row of the object, without sorting: by cumulative counts.
    rows = jnp.cumsum(jnp.sum(truth, axis=1))
    v = jnp.clip(jnp.sum(rows <= draws[0] * rows[-1]), 0, height - 1)
    row = jax.lax.dynamic_index_in_dim(truth, v, keepdims=False)
    columns = jnp.cumsum(row)
    u = jnp.clip(jnp.sum(columns <= draws[1] * columns[-1]), 0, width - 1)
    extent = jnp.maximum(jnp.sum(jnp.any(truth, axis=0)), jnp.sum(jnp.any(truth, axis=1)))
    radius = extent * (config.part[0] + draws[2] * (config.part[1] - config.part[0]))
    du = jnp.arange(float(width))[None, :] - u
    dv = jnp.arange(float(height))[:, None] - v
    return du * du + dv * dv < radius * radius, depth[v, u]
