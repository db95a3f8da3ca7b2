"""What a depth sensor makes of a clean depth map: noise, quantisation, shadows, edges, holes.

A sensor is numbers, not code: every kind goes through the same stages with its own amounts, so one
compiled function serves all sensors, a mixture of them and a sweep of their noise, and a batch of
different sensors costs what a batch of equal ones does.

    aperture    a pixel looks slightly beside its centre: noise on slopes, and at edges it sees the
                other surface, a blend of both (flying pixel), or nothing
    shadow      the second viewpoint (projector or camera) does not see the point
    blur        neighbours are averaged
    noise       in disparity or along the axis, white or correlated; one offset per image
    dropout     at grazing incidence, single pixels, whole patches (dark material)
    quantise    disparity steps, range limits, whole millimetres

The image may be a window of the sensor's image resampled to fewer pixels, so whatever belongs to
the sensor (disparity, widths of edge effects) is in *native* pixels, those of the sensor itself,
and is brought to pixels of the image by the ratio of focal lengths. Effects narrower than a pixel
of the image strike a pixel at an edge with the probability that they cover its centre. Resampling
is taken to be by nearest neighbour: it leaves the noise of a pixel as it is.

Incidence is the angle between the surface normal and the ray of the pixel (not the optical axis).
The sensors that exist, with the formulas behind their numbers, are in `jrecon.synth.devices`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt32

from jrecon.geometry.camera import Camera
from jrecon.synth.noise import gaussian, smooth_field, uniforms, words

# Two pixels belong to different surfaces when the one is this much nearer or farther (a share of
# the inverse depth) than the plane through the other says.
EDGE = 0.03
# Incidence is clipped here: 85 degrees, where grazing terms are about to diverge.
_MIN_COSINE = 0.0872
# Pixels of the image that a pixel can look aside.
_REACH = 2
# Shadows are followed over 2 ** (_SHADOW_STEPS - 1) pixels of the image: wider ones, as in whole
# images at the sensor's own resolution, end there.
_SHADOW_STEPS = 5
# Rows that share one draw of where an outline runs within a pixel.
_SHADOW_ROWS = 4


def _amount(default: float = 0.0) -> Any:
    """A field that `scale` multiplies and `jitter` varies: how bad the sensor is."""
    return dataclasses.field(default=default, metadata=dict(amount=True))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Sensor:
    """The numbers of a sensor, all traced; a stage whose amounts are 0 does nothing."""

    native_focal_px: float = 500.0
    """Focal length of the sensor's own depth image."""
    baseline_m: float = 0.0
    """From the camera to the projector or second camera, along +x; 0 = none, no shadow."""
    shadow: float = _amount()
    """Share of the baseline that casts a shadow (0 to 1)."""
    lateral_px: float = _amount()
    """Standard deviation of where a pixel looks, native pixels, along each axis."""
    lateral_grazing_px: float = _amount()
    """Added to it, times angle / (90 deg - angle)."""
    edge_px: float = _amount()
    """Added to it at depth edges only."""
    edge_blend: float = 0.0
    """Share of the pixels that look across an edge and return a depth between both surfaces."""
    edge_drop: float = 0.0
    """Share of them that return nothing. The rest return the other surface."""
    blur_px: float = _amount()
    """Standard deviation of the average over neighbours, native pixels; edges are blurred too."""
    disparity_noise_px: float = _amount()
    """Standard deviation of disparity, native pixels."""
    disparity_bias_px: float = _amount()
    """Largest error of disparity common to an image, native pixels."""
    disparity_step_px: float = 0.0
    """Quantisation of disparity, native pixels; 0 = none."""
    axial_noise_m: float = _amount()
    """Standard deviation of depth."""
    axial_quadratic_per_m: float = _amount()
    """Added to it, times (depth - `axial_from_m`) squared."""
    axial_from_m: float = 0.0
    axial_grazing_m: float = _amount()
    """Added to it, times (angle / (90 deg - angle)) squared / sqrt(depth in metres)."""
    axial_bias_m: float = _amount()
    """Largest error of depth common to an image."""
    correlated: float = 0.0
    """Share of the noise's variance that neighbours have in common."""
    correlation_px: float = 1.0
    """Where that correlation has fallen to 1/e, native pixels."""
    uneven: float = 0.0
    """Standard deviation of the logarithm of the noise from place to place, about the amounts
    above: what has no texture is matched worse."""
    uneven_px: float = 30.0
    """Where places have that in common by 1/e, native pixels."""
    grazing_dropout: float = _amount()
    """Probability that a pixel is lost, times 1 - cos(angle)."""
    pixel_dropout: float = _amount()
    """Probability that a pixel is lost."""
    patch_dropout: float = _amount()
    """Share of the image that is lost in patches, as on dark or shiny material."""
    patch_m: float = 0.08
    """Size of such a patch on the surface."""
    depth_step_m: float = 0.0
    """Quantisation of depth; 0 = none."""
    min_range_m: float = 0.0
    max_range_m: float = 100.0


def scale(sensor: Sensor, factor: Any) -> Sensor:
    """The sensor with all its amounts multiplied; at 0 only quantisation and range limits stay."""
    return _over_amounts(sensor, lambda index, value: value * factor)


def jitter(sensor: Sensor, key: PRNGKeyArray, low: float = 0.5, high: float = 2.0) -> Sensor:
    """The sensor with each amount multiplied by its own factor, uniform in [low, high]."""
    count = sum("amount" in field.metadata for field in dataclasses.fields(Sensor))
    factors = jax.random.uniform(key, (count,), minval=low, maxval=high)
    return _over_amounts(sensor, lambda index, value: value * factors[index])


def _over_amounts(sensor: Sensor, change: Any) -> Sensor:
    names = [field.name for field in dataclasses.fields(Sensor) if "amount" in field.metadata]
    values = {name: change(i, getattr(sensor, name)) for i, name in enumerate(names)}
    return dataclasses.replace(sensor, **values)


def sense(
    sensor: Sensor,
    key: PRNGKeyArray,
    depth: Float[Array, "h w"],
    normals: Float[Array, "h w 3"],
    camera: Camera,
    *,
    blur_radius: int = 4,
) -> Float[Array, "h w"]:
    """The depth map that the sensor returns of a scene; one image, for `vmap` or `lax.map`.

    Args:
      depth: clean depth z, metres, 0 = nothing there.
      normals: unit normals of the surfaces seen, camera frame, of either sign.
      camera: of this image; its size and focal length may differ from the sensor's own.
      blur_radius: how many pixels to each side the blur averages (static): at least twice its
        standard deviation in pixels of the image, or the blur is less than asked for.

    Returns:
      Depth in metres, exactly 0 where there is no return. Where `depth` is not a positive number
      it is 0. Always finite if the normals are. Not differentiable: it is for making data.

    Raises:
      ValueError: depth, normals and camera are not of one size (known when tracing).
    """
    _check_size(depth, normals, camera)
    keys = jax.random.split(key, 4)
    noise = [word.reshape(depth.shape) for word in words(keys[0], 6, camera.width * camera.height)]
    depth = jnp.where((depth > 0) & (depth < jnp.inf), depth, 0.0)
    ratio = jnp.mean(camera.focal) / sensor.native_focal_px
    inverse = jnp.where(depth > 0, 1 / jnp.maximum(depth, 1e-3), 0.0)
    surface = _incidence(inverse, normals, camera)
    seen = _if(
        (sensor.lateral_px > 0) | (sensor.lateral_grazing_px > 0) | (sensor.edge_px > 0),
        lambda: _look(sensor, ratio, inverse, surface, noise[:4]),
        lambda: depth,
    )
    drop, shade = uniforms(noise[4])
    lost = _shadow(sensor, inverse, camera, shade)
    lost |= drop < _dropout_rate(sensor, surface)
    lost |= _patches(sensor, keys[1], inverse, camera)
    radius = sensor.blur_px * ratio
    seen = _if(radius > 0, lambda: _blur(radius, seen, blur_radius), lambda: seen)
    error = _error(sensor, keys[2], ratio, gaussian(noise[5]))
    error *= _unevenness(sensor, jax.random.fold_in(keys[2], 1), ratio, depth.shape)
    offsets = jax.random.uniform(keys[3], (2,), minval=-1.0, maxval=1.0)
    return _measure(sensor, jnp.where(lost, 0.0, seen), error, surface, offsets)


def _if(active: Any, stage: Any, otherwise: Any) -> Array:
    """Stages that would do nothing are left out where images are computed one after another.

    On a CPU it also keeps the compiler from merging stages: merged, they are computed anew for
    each pixel of the next stage's window.
    """
    return jax.lax.cond(jnp.asarray(active), stage, otherwise)


def _check_size(depth: Array, normals: Array, camera: Camera) -> None:
    size = (camera.height, camera.width)
    if depth.shape != size or normals.shape != (*size, 3):
        raise ValueError(
            f"sense: got depth {depth.shape} and normals {normals.shape}, need (h, w) and (h, w, 3)"
            f" of the camera's {camera.width} x {camera.height} pixels; use jax.vmap for batches."
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Surface:
    """How the surface lies to the ray at each pixel of the clean image."""

    cosine: Float[Array, "h w"]
    """Of the incidence, clipped at 85 degrees."""
    grazing: Float[Array, "h w"]
    """angle / (90 deg - angle)"""
    slope: tuple[Float[Array, "h w"], Float[Array, "h w"]]
    """Change of inverse depth per pixel along u and v, as a share of the inverse depth."""


def _incidence(
    inverse: Float[Array, "h w"], normals: Float[Array, "h w 3"], camera: Camera
) -> _Surface:
    """Incidence and slope of the surface seen at each pixel."""
    fx, fy = camera.focal[0], camera.focal[1]
    x = ((jnp.arange(float(camera.width)) - camera.center[0]) / fx)[None, :]
    y = ((jnp.arange(float(camera.height)) - camera.center[1]) / fy)[:, None]
    nx, ny, nz = normals[..., 0], normals[..., 1], normals[..., 2]
    along = nx * x + ny * y + nz
    length = jnp.sqrt(x * x + y * y + 1)
    cosine = jnp.clip(jnp.abs(along) / length, _MIN_COSINE, 1.0)
    # arccos to 7e-5 rad (Abramowitz and Stegun 4.4.45); the exact one takes ten times as long.
    terms = 1.5707288 + cosine * (-0.2121144 + cosine * (0.0742610 - 0.0187293 * cosine))
    angle = jnp.sqrt(1 - cosine) * terms
    # 1/z = n . ray / (n . p) is linear in the pixel on a plane.
    toward = jnp.where(along < 0, -1.0, 1.0) * cosine * length
    slope = nx / (fx * toward), ny / (fy * toward)
    return _Surface(cosine, angle / (jnp.pi / 2 - angle), slope)


def _look(
    sensor: Sensor,
    ratio: Float[Array, ""],
    inverse: Float[Array, "h w"],
    surface: _Surface,
    noise: list[UInt32[Array, "h w"]],
) -> Float[Array, "h w"]:
    """Depth where each pixel really looks: slightly beside its centre.

    On a surface the plane through the pixel is followed by a fraction of a pixel. Whether an edge
    lies between is decided on a whole pixel, to which the shift is rounded up or down at random,
    so that an edge anywhere between two centres is crossed as often as it should be.
    """
    gu, gv = gaussian(noise[0]), gaussian(noise[1])
    (ru, rv), (fate, blend) = uniforms(noise[2]), uniforms(noise[3])
    sigma = (sensor.lateral_px + sensor.lateral_grazing_px * surface.grazing) * ratio
    slope_u, slope_v = surface.slope
    # Steep surfaces would be followed beyond the next edge.
    follow = jnp.clip(sigma * (slope_u * gu + slope_v * gv), -0.1, 0.1)
    depth = _invert(inverse * (1 + follow))

    reach = sigma + sensor.edge_px * ratio
    du, dv = jnp.floor(reach * gu + ru), jnp.floor(reach * gv + rv)
    other, change = _neighbor(inverse, du, dv, surface)
    across = jnp.abs(other - inverse - change) > EDGE * inverse
    beyond = _invert(other)
    mixed = jnp.where(beyond > 0, depth + blend * (beyond - depth), 0.0)
    mixed = jnp.where(fate < sensor.edge_blend, mixed, beyond)
    mixed = jnp.where(fate >= 1 - sensor.edge_drop, 0.0, mixed)
    return jnp.where(inverse > 0, jnp.where(across, mixed, depth), 0.0)


def _neighbor(
    inverse: Float[Array, "h w"],
    du: Float[Array, "h w"],
    dv: Float[Array, "h w"],
    surface: _Surface,
) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """Inverse depth at the shifted pixel, along the longer of the two shifts, and the change that
    the surface's own plane would show there. Selections, because gathers are not vectorised."""
    height, width = inverse.shape
    padded = jnp.pad(inverse, _REACH, mode="edge")
    along_u = jnp.abs(du) >= jnp.abs(dv)
    shift = jnp.clip(jnp.where(along_u, du, dv), -_REACH, _REACH)
    other = inverse
    for step in range(-_REACH, _REACH + 1):
        if step:
            here = slice(_REACH, -_REACH)
            there = _REACH + step
            beside = padded[here, there : there + width]
            below = padded[there : there + height, here]
            other = jnp.where(shift == step, jnp.where(along_u, beside, below), other)
    slope = jnp.where(along_u, surface.slope[0], surface.slope[1])
    return other, inverse * slope * shift


def _invert(x: Float[Array, "h w"]) -> Float[Array, "h w"]:
    return jnp.where(x > 0, 1 / jnp.where(x > 0, x, 1.0), 0.0)


def _shadow(
    sensor: Sensor, inverse: Float[Array, "h w"], camera: Camera, shade: Float[Array, "h w"]
) -> Bool[Array, "h w"]:
    """Pixels whose point the second viewpoint, at +x, does not see.

    A point at column u appears there at u - disparity. Something at column u + m hides it if its
    disparity is larger by m or more. Its edge lies anywhere between u + m - 1 and u + m, so that a
    shadow narrower than a pixel strikes with the probability of its width, for some rows at a time:
    outlines are smooth. The margin keeps steep surfaces from shading themselves by that draw.
    """
    shade = jnp.repeat(shade[::_SHADOW_ROWS], _SHADOW_ROWS, axis=0)[: len(shade)]
    reach = camera.focal[0] * sensor.baseline_m * jnp.clip(sensor.shadow, 0.0, 1.0)
    disparity = reach * inverse
    width = inverse.shape[1]
    columns = jax.lax.broadcasted_iota(jnp.float32, inverse.shape, 1)
    position = jnp.pad(columns - disparity, ((0, 0), (0, 2**_SHADOW_STEPS)), constant_values=1e6)
    # The least position over the next 1, 2, 4, ..., 2 ** (_SHADOW_STEPS - 1) columns.
    nearest = position[:, 1:]
    for step in range(_SHADOW_STEPS - 1):
        shift = 2**step
        nearest = jnp.minimum(nearest[:, :-shift], nearest[:, shift:])
    margin = 1 - shade - EDGE * disparity
    return nearest[:, :width] - (columns - disparity) <= margin - 1e-3


def _dropout_rate(sensor: Sensor, surface: _Surface) -> Float[Array, "h w"]:
    grazing = jnp.clip(sensor.grazing_dropout * (1 - surface.cosine), 0.0, 1.0)
    return 1 - (1 - grazing) * (1 - jnp.clip(sensor.pixel_dropout, 0.0, 1.0))


def _patches(
    sensor: Sensor, key: PRNGKeyArray, inverse: Float[Array, "h w"], camera: Camera
) -> Bool[Array, "h w"]:
    """Patches that return nothing, of one size on the nearest surface."""
    share = jnp.clip(jnp.asarray(sensor.patch_dropout, jnp.float32), 0.0, 1.0)
    length = sensor.patch_m * inverse.max() * jnp.mean(camera.focal)
    shape = camera.height, camera.width
    return _if(
        share > 0,
        lambda: smooth_field(key, length, *shape, shortest=4) < jax.scipy.special.ndtri(share),
        lambda: jnp.zeros(shape, bool),
    )


def _error(
    sensor: Sensor, key: PRNGKeyArray, ratio: Float[Array, ""], white: Float[Array, "h w"]
) -> Float[Array, "h w"]:
    """Noise of standard deviation 1, partly correlated; white where pixels are coarser than the
    correlation length."""
    length = sensor.correlation_px * ratio
    share = sensor.correlated * jnp.clip(length - 1, 0.0, 1.0)
    return _if(
        share > 0,
        lambda: (
            jnp.sqrt(1 - share) * white + jnp.sqrt(share) * smooth_field(key, length, *white.shape)
        ),
        lambda: white,
    )


def _unevenness(
    sensor: Sensor, key: PRNGKeyArray, ratio: Float[Array, ""], shape: tuple[int, ...]
) -> Float[Array, "h w"]:
    """What the noise is multiplied by from place to place; its median is 1."""
    length = sensor.uneven_px * ratio
    return _if(
        jnp.asarray(sensor.uneven) > 0,
        lambda: jnp.exp(sensor.uneven * smooth_field(key, length, *shape, shortest=4)),
        lambda: jnp.ones(shape),
    )


def _blur(sigma: Float[Array, ""], depth: Float[Array, "h w"], radius: int) -> Float[Array, "h w"]:
    """Gaussian average (pixels of the image) over neighbours that have a depth; 0 stays 0."""
    taps = jnp.exp(-0.5 * (jnp.arange(-radius, radius + 1.0) / jnp.maximum(sigma, 1e-3)) ** 2)
    total, weight = depth, (depth > 0).astype(depth.dtype)
    for axis in (0, 1):
        total, weight = (_convolve(taps / taps.sum(), field, axis) for field in (total, weight))
    return jnp.where(depth > 0, total / jnp.maximum(weight, 1e-6), 0.0)


def _convolve(
    taps: Float[Array, " n"], field: Float[Array, "h w"], axis: int
) -> Float[Array, "h w"]:
    radius, size = len(taps) // 2, field.shape[axis]
    padded = jnp.pad(field, [(radius, radius) if i == axis else (0, 0) for i in (0, 1)])
    shifted = [jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(len(taps))]
    return sum((tap * shift for tap, shift in zip(taps, shifted, strict=True)), jnp.zeros(()))


def _measure(
    sensor: Sensor,
    depth: Float[Array, "h w"],
    error: Float[Array, "h w"],
    surface: _Surface,
    offsets: Float[Array, " 2"],
) -> Float[Array, "h w"]:
    """Noise of unit variance applied in disparity and in depth, then the quantisers."""
    reach = sensor.native_focal_px * sensor.baseline_m
    per_px = jnp.where(reach > 0, 1 / jnp.where(reach > 0, reach, 1.0), 0.0)
    shift = sensor.disparity_noise_px * error + sensor.disparity_bias_px * offsets[0]
    inverse = _invert(depth) + per_px * shift
    step = sensor.disparity_step_px * per_px
    rounded = jnp.round(inverse / jnp.where(step > 0, step, 1.0)) * step
    z = _invert(jnp.where(step > 0, rounded, inverse))
    sigma = sensor.axial_noise_m + sensor.axial_quadratic_per_m * (depth - sensor.axial_from_m) ** 2
    # The grazing term belongs to angles beyond 60 degrees, where grazing is 2.
    steep = jnp.where(surface.grazing > 2, surface.grazing**2, 0.0)
    sigma += sensor.axial_grazing_m * steep / jnp.sqrt(jnp.maximum(depth, 0.1))
    z += jnp.where(z > 0, sigma * error + sensor.axial_bias_m * offsets[1], 0.0)
    unit = sensor.depth_step_m
    z = jnp.where(unit > 0, jnp.round(z / jnp.where(unit > 0, unit, 1.0)) * unit, z)
    inside = (depth > 0) & (z > sensor.min_range_m) & (z < sensor.max_range_m) & (z > 0)
    return jnp.where(inside, z, 0.0)
