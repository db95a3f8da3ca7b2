"""Examples from keys: draw shape, pose and viewpoint, render, add surroundings, take the image.

    source = make_source(model, SynthConfig())
    examples = make_batch(source, key, start=0, count=64)      # jitted; any device

Example i is a pure function of `fold_in(key, i)`: the same in any batch and on any number of
devices. Everything in a `SynthConfig` has a unit and a range, and can be narrowed to one value.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jrecon.geometry.camera import Camera
from jrecon.model.parametric import ParametricModel, Params, pose
from jrecon.render import render
from jrecon.synth.devices import SENSORS, Mixture, choose, mixture
from jrecon.synth.example import Example
from jrecon.synth.pose_prior import PoseConfig, PosePrior, pose_prior, sample_pose
from jrecon.synth.prior import ShapePrior, sample_shape, shape_prior
from jrecon.synth.segmentation import RegionConfig, SegmentConfig, drop_regions, segment
from jrecon.synth.sensor import sense
from jrecon.synth.surroundings import SurroundingsConfig, surround
from jrecon.synth.viewpoint import (
    ViewConfig,
    Viewpoint,
    check_view,
    place,
    random_point,
    sequence_point,
    viewpoint,
    window,
)

Range = tuple[float, float]
# Ranges that may be negative: masks shrink, windows move and walls turn either way.
_SIGNED = ("shift", "shift_px", "wall_turn_deg")
# Changes when the same key and config give another example.
VERSION = 2


def _static(default: Any) -> Any:
    return dataclasses.field(default=default, metadata=dict(static=True))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SynthConfig:
    """What is drawn, and how the image is taken. Plain numbers, so that it can be written down."""

    view: ViewConfig = ViewConfig()
    pose: PoseConfig = PoseConfig()
    surroundings: SurroundingsConfig = SurroundingsConfig()
    regions: RegionConfig = RegionConfig()
    segmentation: SegmentConfig = SegmentConfig()
    margin: Range = (0.02, 0.4)
    """Of the window around the object, as a share of its larger side, on all sides together."""
    shift: Range = (-0.06, 0.06)
    """Of that window off the middle of the object, as a share of its side, along each axis."""

    crop: bool = _static(True)
    """Whether the image is a square window around the part of the object that is in the frame, or
    the whole image of the sensor; resampled to `height` x `width` pixels either way."""
    height: int = _static(128)
    width: int = _static(128)
    sensors: tuple[str, ...] = _static(tuple(SENSORS))
    """Names from `jrecon.synth.devices.SENSORS`; an example's `sensor` is an index into these."""
    sensor_shares: tuple[float, ...] = _static(())
    """Of all images; equal if empty."""
    shape_groups: tuple[str, ...] = _static(())
    """See `shape_prior`; all if empty."""
    shape_ranges: tuple[tuple[str, float, float], ...] = _static(())
    """(name, low, high) of coefficients."""
    even_views: bool = _static(False)
    """Viewpoints from a low-discrepancy sequence over the examples' numbers, not at random."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """All that examples are made from. Build one with `make_source`."""

    model: ParametricModel
    shape: ShapePrior
    pose: PosePrior
    sensors: Mixture
    config: SynthConfig


def make_source(model: ParametricModel, config: SynthConfig = SynthConfig()) -> Source:
    """A source of examples of a class; priors are the model's own, narrowed by the config.

    Args:
      model: a coarse level of detail is enough: a body at 2,000 vertices is within 1 mm on average
        of the full one, and draws in a third of the time.

    Raises:
      ValueError: a sensor, group or coefficient that does not exist, an empty image, or a setting
        that nothing can be drawn from; the message names it.
    """
    unknown = [name for name in config.sensors if name not in SENSORS]
    if unknown or not config.sensors:
        raise ValueError(f"sensors: got {list(config.sensors)}, need some of {list(SENSORS)}.")
    if config.width < 1 or config.height < 1:
        raise ValueError(f"size: got {config.width} x {config.height} pixels, need 1 x 1 or more.")
    check_view(config.view)
    for name, value in _numbers(config):
        _check(name, value)
    shares = config.pose.motion, config.pose.mixed, config.pose.limits, config.pose.hard
    if not sum(shares) > 0:
        raise ValueError(f"pose: got shares {shares} of the kinds of poses, need one above 0.")
    return Source(
        model=model,
        shape=shape_prior(
            model,
            groups=config.shape_groups or None,
            ranges={name: (low, high) for name, low, high in config.shape_ranges},
        ),
        pose=pose_prior(model),
        sensors=mixture([SENSORS[name]() for name in config.sensors], config.sensor_shares or None),
        config=config,
    )


def _numbers(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values of all numbers and ranges, but for those that others check: viewpoints,
    and lists of sensors and shapes."""
    for field in dataclasses.fields(config):
        name, value = f"{prefix}{field.name}", getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            if not isinstance(value, ViewConfig):
                yield from _numbers(value, f"{name}.")
        elif not (isinstance(value, tuple) and field.metadata.get("static")):
            yield name, value


def _check(name: str, value: Any) -> None:
    low, high = value if isinstance(value, tuple) else (value, value)
    least = -math.inf if name.split(".")[-1] in _SIGNED else 0.0
    most = 1.0 if name.endswith("rate") else math.inf
    if not least <= low <= high <= most:
        needed = "low <= high" if isinstance(value, tuple) else "a number"
        raise ValueError(f"{name}: got {value}, need {needed} between {least:g} and {most:g}.")


@functools.partial(jax.jit, static_argnames="count")
def make_batch(source: Source, key: PRNGKeyArray, start: Any, count: int) -> Example:
    """Examples start .. start + count - 1 of a run; `start` is traced, `count` static."""
    return make_examples(source, key, start + jnp.arange(count))


def make_example(source: Source, key: PRNGKeyArray, number: Any) -> Example:
    """One example of a run."""
    return jax.tree.map(lambda x: x[0], make_examples(source, key, jnp.asarray(number)[None]))


def make_examples(source: Source, key: PRNGKeyArray, numbers: Array) -> Example:
    """Examples of a run by their numbers (n,)."""
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
    subjects = jax.vmap(functools.partial(_draw, source))(keys, numbers)
    posed = pose(source.model, subjects.params)
    take = functools.partial(_take, source)
    # One after another on a CPU, where that stays in cache: a fifth of the time.
    depth, mask, sensor, visible, camera = jax.lax.platform_dependent(
        (keys, subjects, posed.vertices),
        cpu=lambda each: jax.lax.map(lambda one: take(*one), each),
        default=lambda each: jax.vmap(take)(*each),
    )
    return Example(depth, mask, camera, subjects.params, posed.joints, sensor, visible)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Subject:
    params: Params
    """In the camera frame."""
    view: Viewpoint


def _draw(source: Source, key: PRNGKeyArray, number: Array) -> _Subject:
    """Shape, pose and viewpoint."""
    shape_key, pose_key, view_key = jax.random.split(jax.random.fold_in(key, 0), 3)
    shape = sample_shape(source.shape, shape_key)
    rotations, _ = sample_pose(source.pose, source.config.pose, pose_key)
    even = source.config.even_views
    view = viewpoint(source.config.view, sequence_point(number) if even else random_point(view_key))
    own = Params(shape, rotations, jnp.zeros(3))
    # The middle of the object is that of its joints' box, or of the mesh if there is but one joint.
    joints = pose(source.model, own).joints
    points = joints if source.model.num_joints > 1 else source.model.vertices
    middle = (points.min(0) + points.max(0)) / 2
    shift = view.target - jnp.matmul(view.rotation, middle, precision=jax.lax.Precision.HIGHEST)
    return _Subject(place(source.model, own, view.rotation, shift), view)


def _take(
    source: Source, key: PRNGKeyArray, subject: _Subject, vertices: Float[Array, "v 3"]
) -> tuple[Array, Array, Array, Array, Camera]:
    """The image of one subject: depth, mask, sensor, visible share, camera."""
    config, view = source.config, subject.view
    keys = jax.random.split(jax.random.fold_in(key, 1), 6)
    camera, in_frame = _frame(config, keys[0], view.camera, vertices)
    seen = render(vertices, source.model.faces, camera)
    floor = jnp.min(jnp.matmul(vertices, view.up, precision=jax.lax.Precision.HIGHEST))
    scene = surround(config.surroundings, keys[1], seen.depth, seen.normals, camera, view.up, floor)
    index, sensor = choose(source.sensors, keys[2])
    depth = sense(sensor, keys[3], scene.depth, scene.normals, camera)
    inside = _inside(camera, view.camera)
    depth = jnp.where(inside, drop_regions(config.regions, keys[4], depth), 0.0)
    mask = segment(config.segmentation, keys[5], depth, scene.object & inside, camera)
    return depth, mask, index, in_frame * (1 - scene.hidden), camera


def _frame(
    config: SynthConfig, key: PRNGKeyArray, camera: Camera, vertices: Float[Array, "v 3"]
) -> tuple[Camera, Float[Array, ""]]:
    """The camera of the image that is kept, and the share of vertices in the sensor's frame."""
    size = jnp.array([camera.width, camera.height])
    ahead = vertices[:, 2] > 0.1
    depth = jnp.where(ahead, vertices[:, 2], 1.0)[:, None]
    pixels = vertices[:, :2] / depth * camera.focal[None] + camera.center[None]
    inside = ahead & jnp.all((pixels > -0.5) & (pixels < size[None] - 0.5), axis=1)
    in_frame = jnp.mean(inside)
    if not config.crop:
        low, high = jnp.full(2, -0.5), size - 0.5
        return window(camera, low, high, config.width, config.height), in_frame
    low = jnp.min(jnp.where(inside[:, None], pixels, jnp.inf), axis=0)
    high = jnp.max(jnp.where(inside[:, None], pixels, -jnp.inf), axis=0)
    # Nothing in the frame: the whole of it.
    low, high = jnp.where(in_frame > 0, low, -0.5), jnp.where(in_frame > 0, high, size - 0.5)
    draws = jax.random.uniform(key, (3,))
    between = lambda limits, share: limits[0] + share * (limits[1] - limits[0])
    side = jnp.maximum(jnp.max(high - low), 8.0) * (1 + between(config.margin, draws[0]))
    middle = (low + high) / 2 + side * between(config.shift, draws[1:])
    # Pixels keep their aspect: the larger side of the image spans the window.
    half = side / 2 * jnp.array([config.width, config.height]) / max(config.width, config.height)
    return window(camera, middle - half, middle + half, config.width, config.height), in_frame


def _inside(camera: Camera, whole: Camera) -> Bool[Array, "h w"]:
    """Which pixels of a window lie in the sensor's frame."""
    sides = []
    for axis, count, limit in ((0, camera.width, whole.width), (1, camera.height, whole.height)):
        scale = whole.focal[axis] / camera.focal[axis]
        place = (jnp.arange(count) - camera.center[axis]) * scale + whole.center[axis]
        sides.append((place > -0.5) & (place < limit - 0.5))
    return sides[1][:, None] & sides[0][None, :]
