"""Viewpoints: from where and through what the virtual camera looks at the object.

A viewpoint is a function of nine numbers between 0 and 1, one for each thing that varies. Where
they come from is the caller's choice: at random (`random_point`), from a low-discrepancy sequence
that fills the ranges evenly (`sequence_point`), or on a grid (`grid_point`):

    view = viewpoint(ViewConfig(), random_point(key))
    params = place(model, params, view.rotation, shift)         # the same body, camera frame

Ranges may be single values, (a, a): what they stand for is then fixed.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jrecon.geometry import rotation
from jrecon.geometry.camera import Camera
from jrecon.model.parametric import HIGHEST, ParametricModel, Params

Range = tuple[float, float]
# What the nine numbers stand for, in order.
AXES = (
    "distance", "azimuth", "elevation", "roll", "field_of_view",
    "center_u", "center_v", "aim_u", "aim_v",
)  # fmt: skip
# Flips the y and z axes: the model frame is y up, facing +z; the camera's is y down, z forward.
FLIP = np.diag([1.0, -1.0, -1.0]).astype(np.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ViewConfig:
    """Ranges of viewpoints, drawn from uniformly unless stated; all traced but the last."""

    distance_m: Range = (1.2, 4.5)
    """From the camera to the middle of the object; uniform in its logarithm."""
    azimuth_rad: Range = (-np.pi, np.pi)
    """0: the camera sees the front; pi / 2: it stands to the object's left."""
    elevation_rad: Range = (-0.35, 0.75)
    """Of the camera above the object's middle, -pi / 2 to pi / 2; uniform in its sine, so that
    equal parts of the sphere around the object are equally likely."""
    roll_rad: Range = (-0.15, 0.15)
    """About the optical axis."""
    field_of_view_rad: Range = (0.8, 1.4)
    """Horizontal, of the whole image of the sensor."""
    center: Range = (-0.03, 0.03)
    """Principal point off the middle of the image, as a share of its size, along each axis."""
    aim: Range = (-0.25, 0.25)
    """Where the middle of the object appears, off the middle of the image, as a share of its size,
    along each axis; large objects then reach out of the frame."""
    upright: bool = dataclasses.field(default=True, metadata=dict(static=True))
    """Whether the camera keeps to the ranges of azimuth, elevation and roll. Otherwise they are
    full, and all rotations are equally likely, as for an object without a natural stand."""
    size: tuple[int, int] = dataclasses.field(default=(480, 640), metadata=dict(static=True))
    """(height, width) of the whole image of the sensor, pixels."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Viewpoint:
    """A camera and where the object is before it."""

    camera: Camera
    """Of the whole image of the sensor."""
    rotation: Float[Array, "3 3"]
    """From the model's frame (y up) to the camera's."""
    target: Float[Array, " 3"]
    """Where the middle of the object is, camera frame, metres."""
    up: Float[Array, " 3"]
    """Against gravity, camera frame."""


def viewpoint(config: ViewConfig, point: Float[Array, " 9"]) -> Viewpoint:
    """The viewpoint at a point of the unit cube, whose axes are `AXES`."""
    x = dict(zip(AXES, point, strict=True))
    height, width = config.size
    nearest, farthest = jnp.log(jnp.asarray(config.distance_m, jnp.float32))
    distance = jnp.exp(nearest + x["distance"] * (farthest - nearest))
    angle = _between(config.field_of_view_rad, x["field_of_view"])
    focal = width / 2 / jnp.tan(angle / 2)
    middle = jnp.array([(width - 1) / 2, (height - 1) / 2])
    size = jnp.array([width, height], jnp.float32)
    share = jnp.stack(
        [_between(config.center, x["center_u"]), _between(config.center, x["center_v"])]
    )
    camera = Camera(jnp.stack([focal, focal]), middle + share * size, width, height)
    aim = jnp.stack([_between(config.aim, x["aim_u"]), _between(config.aim, x["aim_v"])])
    ray = jnp.append((middle + aim * size - camera.center) / focal, 1.0)
    target = distance * ray / jnp.linalg.norm(ray)
    around, quarter = (-np.pi, np.pi), (-np.pi / 2, np.pi / 2)
    azimuth = _between(config.azimuth_rad if config.upright else around, x["azimuth"])
    lowest, highest = jnp.sin(jnp.asarray(config.elevation_rad if config.upright else quarter))
    elevation = jnp.arcsin(jnp.clip(_between((lowest, highest), x["elevation"]), -1.0, 1.0))
    roll = _between(config.roll_rad if config.upright else around, x["roll"])
    turn = turntable(azimuth, elevation, roll)
    return Viewpoint(camera, turn, target, turn[:, 1])


def turntable(azimuth: Array, elevation: Array, roll: Array) -> Float[Array, "3 3"]:
    """The rotation from the model's frame (y up, facing +z) to the camera's, angles in radians."""
    parts = (_about(2, roll), _about(0, elevation), jnp.asarray(FLIP), _about(1, -azimuth))
    return functools.reduce(functools.partial(jnp.matmul, precision=HIGHEST), parts)


def check_view(config: ViewConfig) -> None:
    """Refuse a config that no camera can have.

    Raises:
      ValueError: a range that is empty or reaches beyond what is possible, or an empty image.
    """
    half = float(np.pi / 2)
    allowed = dict(
        distance_m=(1e-6, np.inf), azimuth_rad=(-np.inf, np.inf), elevation_rad=(-half, half),
        roll_rad=(-np.inf, np.inf), field_of_view_rad=(1e-6, np.pi - 1e-6),
        center=(-np.inf, np.inf), aim=(-np.inf, np.inf),
    )  # fmt: skip
    for name, (least, most) in allowed.items():
        low, high = (float(bound) for bound in getattr(config, name))
        if not least - 1e-6 <= low <= high <= most + 1e-6:
            raise ValueError(
                f"{name}: got ({low:g}, {high:g}), need low <= high between {least:g} and {most:g}."
            )
    if min(config.size) < 1:
        raise ValueError(f"size: got {config.size}, need (height, width) of 1 pixel or more.")


def _between(limits: Range, share: Array) -> Array:
    return limits[0] + share * (limits[1] - limits[0])


def _about(axis: int, angle: Array) -> Float[Array, "3 3"]:
    return rotation.exp(jnp.zeros(3).at[axis].set(angle))


def random_point(key: PRNGKeyArray) -> Float[Array, " 9"]:
    """Independent uniform numbers."""
    return jax.random.uniform(key, (len(AXES),))


def sequence_point(index: Array | int) -> Float[Array, " 9"]:
    """Point `index` (below 2^32) of an additive recurrence: however many of the first points are
    taken, they are spread evenly.

    Source: Roberts 2018, "The unreasonable effectiveness of quasirandom sequences": steps are the
    powers of the inverse of the root of x^(d + 1) = x + 1.
    """
    root = 2.0
    for _ in range(60):
        root = (1 + root) ** (1 / (len(AXES) + 1))
    # In 32-bit integers, whose overflow is the fraction that is wanted: exact for every index.
    steps = np.array([int(2**32 * (root ** -(k + 1) % 1)) for k in range(len(AXES))], np.uint32)
    whole = jnp.asarray(index).astype(jnp.uint32) * steps + np.uint32(2**31)
    return whole.astype(jnp.float32) * np.float32(2.0**-32) * np.float32(1 - 2**-23)


def grid_size(counts: Mapping[str, int]) -> int:
    """How many points a grid has."""
    return math.prod(counts.values())


def grid_point(index: Array | int, counts: Mapping[str, int]) -> Float[Array, " 9"]:
    """Point `index` of a grid with so many cells along the named axes, in the middle of its cell;
    the last named axis runs fastest, and axes without a name stay in the middle. After
    `grid_size(counts)` points it begins again.

    Raises:
      ValueError: a name that is not in `AXES`, or a count below 1.
    """
    for name, count in counts.items():
        if name not in AXES or count < 1:
            raise ValueError(f"counts: got {name!r}: {count}, need counts >= 1 of {list(AXES)}.")
    point, rest = jnp.full(len(AXES), 0.5), jnp.asarray(index)
    for name, count in reversed(list(counts.items())):
        point = point.at[AXES.index(name)].set((rest % count + 0.5) / count)
        rest = rest // count
    return point


def place(
    model: ParametricModel, params: Params, turn: Float[Array, "3 3"], shift: Float[Array, " 3"]
) -> Params:
    """Parameters of the rigidly moved instance, for `vmap`: its vertices are turn x + shift.

    The root turns about its own rest joint J, which depends on shape, so the translation has to
    make up for it: t' = turn (J + t) + shift - J.
    """
    joint = model.joints[0] + jnp.matmul(model.joint_basis[0], params.shape, precision=HIGHEST)
    turned = jnp.matmul(turn, rotation.exp(params.pose[0]), precision=HIGHEST)
    moved = jnp.matmul(turn, joint + params.translation, precision=HIGHEST) + shift - joint
    return Params(params.shape, params.pose.at[0].set(rotation.log(turned)), moved)


def window(
    camera: Camera, low: Float[Array, " 2"], high: Float[Array, " 2"], width: int, height: int
) -> Camera:
    """The camera of a part of the image, from pixel coordinates `low` to `high` (their outer edges,
    so a pixel p covers p - 0.5 to p + 0.5), resampled to width x height."""
    scale = jnp.array([width, height]) / (high - low)
    return Camera(camera.focal * scale, (camera.center - low) * scale - 0.5, width, height)
