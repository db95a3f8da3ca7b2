"""What a sensor would see of a model: shape, pose, viewpoint, sensor and noise to depth maps.

shot = Shot(azimuth_deg=30)
taken = take(model, params, shot)          # one compiled program; all sensors of the shot
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jrecon.geometry.camera import Camera, make_camera
from jrecon.model.parametric import HIGHEST, ParametricModel, Params, pose
from jrecon.render import render
from jrecon.synth.devices import SENSORS
from jrecon.synth.sensor import Sensor, scale, sense
from jrecon.synth.surroundings import SurroundingsConfig, surround
from jrecon.synth.viewpoint import turntable

# Width and height of the depth map, pixels: enough to see what a sensor does, quick to draw.
SIZE = (192, 144)
_KEY = 7


@dataclasses.dataclass(frozen=True)
class Shot:
    """From where and with what an image is taken. In the units of the page's sliders."""

    azimuth_deg: float = 20.0
    """0: the camera sees the front; 90: it stands to the object's left."""
    elevation_deg: float = 10.0
    """Of the camera above the object's middle."""
    distance_m: float = 2.5
    field_of_view_deg: float = 60.0
    """Horizontal."""
    sensors: tuple[str, ...] = ("stereo",)
    """Names from `jrecon.synth.devices.SENSORS`."""
    noise: float = 1.0
    """Times the sensor's own amounts; 0 leaves quantisation and range limits."""
    surroundings: bool = True
    """A floor and a wall, or nothing."""
    seed: int = 0
    """Of noise and of the wall."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Taken:
    """What came of a shot."""

    depth: Float[Array, "n h w"]
    """By each sensor, metres, 0 = no return."""
    mask: Bool[Array, "h w"]
    """The object, where nothing hides it."""
    clean: Float[Array, "h w"]
    """Without a sensor."""
    vertices: Float[Array, "v 3"]
    """Camera frame."""
    joints: Float[Array, "j 3"]


def camera_of(shot: Shot) -> Camera:
    """The camera of a shot."""
    width, height = SIZE
    focal = width / 2 / math.tan(math.radians(shot.field_of_view_deg) / 2)
    return make_camera(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)


def take(model: ParametricModel, params: Params, shot: Shot) -> Taken:
    """The depth maps of a shot.

    Args:
      params: of the model in its own frame; the middle of its joints is what the camera looks at.

    Raises:
      ValueError: a sensor that does not exist, or none.
    """
    unknown = [name for name in shot.sensors if name not in SENSORS]
    if unknown or not shot.sensors:
        raise ValueError(f"sensors: got {list(shot.sensors)}, need some of {list(SENSORS)}.")
    # As many as there are, so that one program serves any choice of them.
    chosen = [SENSORS[name]() for name in shot.sensors]
    chosen += [chosen[0]] * (len(SENSORS) - len(chosen))
    stacked = jax.tree.map(lambda *values: np.array(values, np.float32), *chosen)
    asked = np.arange(len(chosen)) < len(shot.sensors)
    angles = np.radians([shot.azimuth_deg, shot.elevation_deg]).astype(np.float32)
    figures = np.float32(shot.distance_m), np.float32(shot.noise), np.float32(shot.surroundings)
    key = jax.random.fold_in(jax.random.key(_KEY), shot.seed)
    taken = _take(model, params, camera_of(shot), angles, figures, (stacked, asked), key)
    return dataclasses.replace(taken, depth=taken.depth[: len(shot.sensors)])


@jax.jit
def _take(
    model: ParametricModel,
    params: Params,
    camera: Camera,
    angles: Float[Array, " 2"],
    figures: tuple[Array, Array, Array],
    sensors: tuple[Sensor, Array],
    key: Array,
) -> Taken:
    distance, noise, surrounded = figures
    posed = pose(model, params)
    turn = turntable(angles[0], angles[1], jnp.zeros(()))
    middle = (posed.joints.min(0) + posed.joints.max(0)) / 2
    place = functools.partial(_place, turn, middle, distance)
    vertices, joints = place(posed.vertices), place(posed.joints)
    seen = render(vertices, model.faces, camera)
    config = SurroundingsConfig(
        floor_rate=1.0, wall_rate=1.0,
        clutter_rate=0.0, occluder_rate=0.0, boxes=0, ellipsoids=0, occluders=0,
    )  # fmt: skip
    config = dataclasses.replace(config, nothing_rate=1 - surrounded)
    up = turn[:, 1]
    floor = jnp.min(jnp.matmul(vertices, up, precision=HIGHEST))
    around, noises = jax.random.split(key)
    scene = surround(config, around, seen.depth, seen.normals, camera, up, floor)

    def expose(sensor: Sensor) -> Array:
        # The same draws for each, so that sensors differ by what they are.
        return sense(scale(sensor, noise), noises, scene.depth, scene.normals, camera)

    def expose_asked(one: tuple[Sensor, Array]) -> Array:
        return jax.lax.cond(one[1], expose, lambda _: jnp.zeros_like(scene.depth), one[0])

    return Taken(jax.lax.map(expose_asked, sensors), scene.object, scene.depth, vertices, joints)


def _place(turn: Array, middle: Array, distance: Array, points: Array) -> Array:
    """Points of the model's frame in that of a camera that looks at the middle."""
    ahead = jnp.zeros(3).at[2].set(distance)
    return jnp.matmul(points - middle[None], turn.T, precision=HIGHEST) + ahead[None]


def errors_mm(taken: Taken) -> list[tuple[float, float]]:
    """Of each depth map: the median error on the object, and the share of it that is lost."""
    mask, clean, found = np.asarray(taken.mask), np.asarray(taken.clean), []
    for depth in np.asarray(taken.depth):
        known = mask & (depth > 0)
        gap = np.abs(depth - clean)[known]
        lost = 1 - known.sum() / max(mask.sum(), 1)
        found.append((1e3 * float(np.median(gap)) if gap.size else math.nan, float(lost)))
    return found
