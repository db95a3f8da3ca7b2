"""What stands around the object: floor, wall, clutter behind and beside it, occluders before it.

All is composed pixel by pixel into the depth map of the object: the surroundings are planes,
upright boxes, ellipsoids and flat cards, met by the ray of each pixel in closed form. So a sensor
model sees one scene with all its edges.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jrecon.geometry.camera import Camera
from jrecon.geometry.vector import normalize

Range = tuple[float, float]
# A surface: inverse depth (0 = not met) and its normal, a column for each axis.
_Surface = tuple[Array, tuple[Array, Array, Array]]
_Columns = tuple[Array, Array, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SurroundingsConfig:
    """How often things stand around the object, where, and how large. Rates are probabilities per
    image (or per thing), ranges are drawn from uniformly, and all are traced."""

    nothing_rate: float = 0.2
    """Images of the object alone."""
    floor_rate: float = 0.85
    wall_rate: float = 0.75
    wall_gap_m: Range = (0.1, 3.0)
    """From the farthest point of the object to the wall."""
    wall_turn_deg: Range = (-45.0, 45.0)
    """About the vertical, from facing the camera."""
    clutter_rate: float = 0.4
    """For each box and each ellipsoid."""
    clutter_size_m: Range = (0.1, 0.6)
    """Half the extent along each axis."""
    clutter_distance_m: Range = (0.5, 2.5)
    """From the middle of the object, on the floor, to the sides and behind."""
    occluder_rate: float = 0.2
    """For each card before the object."""
    occluder_depth: Range = (0.4, 0.97)
    """Share of the object's least depth."""
    occluder_size: Range = (0.1, 0.9)
    """Half the extent, as a share of the object's size in the image."""
    occluder_tilt_deg: float = 40.0
    boxes: int = dataclasses.field(default=2, metadata=dict(static=True))
    ellipsoids: int = dataclasses.field(default=1, metadata=dict(static=True))
    occluders: int = dataclasses.field(default=2, metadata=dict(static=True))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """A clean view of the object in its surroundings."""

    depth: Float[Array, "h w"]
    """z, metres; 0 where there is nothing."""
    normals: Float[Array, "h w 3"]
    """Unit normals, camera frame; 0 where there is nothing."""
    object: Bool[Array, "h w"]
    """Where the object is what is seen."""
    hidden: Float[Array, ""]
    """Share of the object's pixels that something else hides; 0 if the object has none."""


def surround(
    config: SurroundingsConfig,
    key: PRNGKeyArray,
    depth: Float[Array, "h w"],
    normals: Float[Array, "h w 3"],
    camera: Camera,
    up: Float[Array, " 3"],
    floor: Float[Array, ""] | None = None,
) -> Scene:
    """The object's depth map with surroundings; one image, for `vmap` or `lax.map`.

    Args:
      depth: the object alone, z in metres, 0 = background.
      up: unit vector against gravity, camera frame.
      floor: `up . p` of the points p of the floor, metres; by default the floor is under the
        lowest point of the object that is seen.

    Returns:
      A scene. An image without the object comes back with surroundings around a point 2 m away.
    """
    place = _Place.of(depth, camera, jnp.asarray(up, jnp.float32), floor)
    kinds = [_floor, _wall]
    kinds += [_box] * config.boxes + [_ellipsoid] * config.ellipsoids + [_card] * config.occluders
    keys = jax.random.split(key, 2 * len(kinds) + 1)
    busy = jax.random.uniform(keys[0]) >= config.nothing_rate

    mask = depth > 0
    seen = (
        jnp.where(mask, 1 / jnp.maximum(depth, 1e-3), 0.0),
        (normals[..., 0], normals[..., 1], normals[..., 2]),
    )
    for kind, chance, draw in zip(kinds, keys[1::2], keys[2::2], strict=True):
        on = busy & (jax.random.uniform(chance) < _rate(config, kind))
        # Where images are computed one after another, only what is there costs time.
        add = lambda place, seen, kind=kind, draw=draw: _nearer(seen, kind(config, draw, place))
        seen = jax.lax.cond(on, add, lambda place, seen: seen, place, seen)

    inverse, columns = seen
    own = mask & (inverse == 1 / jnp.maximum(depth, 1e-3))
    total = jnp.sum(mask)
    return Scene(
        # The object's own depth is returned as it came.
        depth=jnp.where(own, depth, _invert(inverse)),
        normals=jnp.stack(columns, axis=-1),
        object=own,
        hidden=(total - jnp.sum(own)) / jnp.maximum(total, 1),
    )


def _rate(config: SurroundingsConfig, kind: Any) -> Any:
    rates = {_floor: config.floor_rate, _wall: config.wall_rate, _card: config.occluder_rate}
    return rates.get(kind, config.clutter_rate)


def _nearer(a: _Surface, b: _Surface) -> _Surface:
    """At each pixel the nearer of two surfaces, the first if they are level."""
    first = a[0] >= b[0]
    x, y, z = (jnp.where(first, p, q) for p, q in zip(a[1], b[1], strict=True))
    return jnp.maximum(a[0], b[0]), (x, y, z)


def _invert(x: Float[Array, "h w"]) -> Float[Array, "h w"]:
    return jnp.where(x > 0, 1 / jnp.where(x > 0, x, 1.0), 0.0)


def _draw(uniform: Array, limits: Any) -> Array:
    """A uniform number brought to a range."""
    return limits[0] + uniform * (limits[1] - limits[0])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
    """Where the object is, and a frame of its place: right, up and away, all camera frame."""

    rays: _Columns
    """Per pixel, z = 1."""
    mask: Bool[Array, "h w"]
    depth: Float[Array, "h w"]
    right: Float[Array, " 3"]
    up: Float[Array, " 3"]
    away: Float[Array, " 3"]
    """Horizontal, from the camera."""
    middle: Float[Array, " 3"]
    nearest: Float[Array, ""]
    floor: Float[Array, ""]
    """up . p of the floor."""
    spread: Float[Array, " 2"]
    """Standard deviation of the object's rays along x and y: its size in the image."""

    @staticmethod
    def of(
        depth: Float[Array, "h w"], camera: Camera, up: Float[Array, " 3"], floor: Any
    ) -> _Place:
        mask = depth > 0
        x = (jnp.arange(float(camera.width)) - camera.center[0]) / camera.focal[0]
        y = (jnp.arange(float(camera.height)) - camera.center[1]) / camera.focal[1]
        rays = (
            jnp.broadcast_to(x[None, :], depth.shape),
            jnp.broadcast_to(y[:, None], depth.shape),
            jnp.ones_like(depth),
        )
        # Forward, made horizontal; looking straight down, the top of the image is away.
        ahead = jnp.array([0.0, 0.0, 1.0]) + 1e-3 * jnp.array([0.0, -1.0, 0.0])
        away = normalize(ahead - jnp.dot(ahead, up) * up)
        count = jnp.maximum(jnp.sum(mask), 1)
        empty = ~jnp.any(mask)
        moment = lambda values: jnp.sum(jnp.where(mask, values, 0.0)) / count
        mean = [moment(ray) for ray in rays[:2]]
        spread = jnp.stack([moment((r - m) ** 2) for r, m in zip(rays[:2], mean, strict=True)])
        middle_depth = jnp.where(empty, 2.0, moment(depth))
        middle = middle_depth * jnp.stack([*mean, jnp.ones(())])
        place = _Place(
            rays=rays,
            mask=mask,
            depth=depth,
            right=jnp.cross(away, up),
            up=up,
            away=away,
            middle=middle,
            nearest=jnp.where(empty, 2.0, jnp.min(jnp.where(mask, depth, jnp.inf))),
            floor=jnp.zeros(()),
            spread=jnp.sqrt(spread) + 0.02,
        )
        if floor is None:
            floor = place.least(up) - jnp.where(empty, 1.0, 0.0)
        return dataclasses.replace(place, floor=jnp.asarray(floor, jnp.float32))

    def least(self, direction: Float[Array, " 3"]) -> Float[Array, ""]:
        """The least `direction . p` over the object's points p."""
        along = self.depth * _dot(self.rays, direction)
        least = jnp.min(jnp.where(self.mask, along, jnp.inf))
        return jnp.where(jnp.isfinite(least), least, jnp.dot(direction, self.middle))

    def horizontal(self, angle: Float[Array, ""]) -> Float[Array, " 3"]:
        """A horizontal direction, by its angle from `away` towards `right`."""
        return jnp.cos(angle) * self.away + jnp.sin(angle) * self.right


def _dot(columns: _Columns, vector: Float[Array, " 3"]) -> Float[Array, "h w"]:
    return columns[0] * vector[0] + columns[1] * vector[1] + columns[2] * vector[2]


def _plane(rays: _Columns, normal: Float[Array, " 3"], distance: Float[Array, ""]) -> _Surface:
    """The plane normal . p = distance; the normal faces the camera, so the distance is negative."""
    inverse = _dot(rays, normal) / jnp.minimum(distance, -1e-3)
    # Beyond 20 m no sensor sees it.
    facing = inverse > 0.05
    return jnp.where(facing, inverse, 0.0), _where(facing, normal)


def _where(met: Bool[Array, "h w"], normal: Float[Array, " 3"]) -> _Columns:
    a, b, c = (jnp.where(met, normal[axis], 0.0) for axis in range(3))
    return a, b, c


def _floor(config: SurroundingsConfig, key: PRNGKeyArray, place: _Place) -> _Surface:
    # A camera under the floor does not see it.
    inverse, normal = _plane(place.rays, place.up, place.floor)
    return jnp.where(place.floor < -0.05, inverse, 0.0), normal


def _wall(config: SurroundingsConfig, key: PRNGKeyArray, place: _Place) -> _Surface:
    """A vertical plane behind every point of the object."""
    gap, turn = jax.random.uniform(key, (2,))
    normal = -place.horizontal(jnp.deg2rad(_draw(turn, config.wall_turn_deg)))
    distance = place.least(normal) - _draw(gap, config.wall_gap_m)
    return _plane(place.rays, normal, distance)


def _stand(
    config: SurroundingsConfig, key: PRNGKeyArray, place: _Place
) -> tuple[Float[Array, " 3"], Float[Array, "3 3"], Float[Array, " 3"]]:
    """A thing on the floor: its middle, axes (rows) and half extents."""
    draws = jax.random.uniform(key, (6,))
    size = _draw(draws[:3], config.clutter_size_m)
    # Up to 126 degrees from `away`: beside and behind the object, hardly ever before it.
    where = place.horizontal(2.2 * (2 * draws[3] - 1))
    flat = place.middle - jnp.dot(place.middle, place.up) * place.up
    ground = flat + _draw(draws[4], config.clutter_distance_m) * where + place.floor * place.up
    turn = 2 * jnp.pi * draws[5]
    axes = jnp.stack([place.horizontal(turn), place.up, place.horizontal(turn + jnp.pi / 2)])
    return ground + size[1] * place.up, axes, size


def _box(config: SurroundingsConfig, key: PRNGKeyArray, place: _Place) -> _Surface:
    """An upright box, by its slabs: the ray is inside between the last entry and first exit."""
    middle, axes, size = _stand(config, key, place)
    enter, leave = jnp.zeros_like(place.depth), jnp.full_like(place.depth, jnp.inf)
    nx = ny = nz = jnp.zeros_like(place.depth)
    for axis, half in zip(axes, size, strict=True):
        speed = _dot(place.rays, axis)
        speed = jnp.where(jnp.abs(speed) < 1e-6, 1e-6, speed)
        reciprocal, offset = 1 / speed, jnp.dot(axis, middle)
        near = offset * reciprocal - half * jnp.abs(reciprocal)
        leave = jnp.minimum(leave, offset * reciprocal + half * jnp.abs(reciprocal))
        side = -jnp.sign(speed)
        later = near > enter
        enter = jnp.maximum(enter, near)
        columns = enumerate((nx, ny, nz))
        nx, ny, nz = (jnp.where(later, side * axis[i], column) for i, column in columns)
    met = (enter < leave) & (enter > 0.05)
    return jnp.where(met, 1 / jnp.where(met, enter, 1.0), 0.0), (nx, ny, nz)


def _ellipsoid(config: SurroundingsConfig, key: PRNGKeyArray, place: _Place) -> _Surface:
    """An upright ellipsoid, met as the unit sphere in its own frame."""
    middle, axes, size = _stand(config, key, place)
    scaled = axes / size[:, None]
    ray = [_dot(place.rays, row) for row in scaled]
    start = [-jnp.dot(row, middle) for row in scaled]
    a = sum(r * r for r in ray)
    b = sum(r * s for r, s in zip(ray, start, strict=True))
    c = sum(s * s for s in start) - 1.0
    inside = b * b - a * c
    depth = -(b + jnp.sqrt(jnp.maximum(inside, 0.0))) / a
    met = (inside > 0) & (depth > 0.05)
    point = [s + depth * r for s, r in zip(start, ray, strict=True)]
    raw = [sum(p * row[axis] for p, row in zip(point, scaled, strict=True)) for axis in range(3)]
    shrink = jax.lax.rsqrt(jnp.maximum(sum(n * n for n in raw), 1e-12))
    normal = (raw[0] * shrink, raw[1] * shrink, raw[2] * shrink)
    return jnp.where(met, 1 / jnp.where(met, depth, 1.0), 0.0), normal


def _card(config: SurroundingsConfig, key: PRNGKeyArray, place: _Place) -> _Surface:
    """A flat rectangle, ellipse or bar before the object: what else can be in the way."""
    draws = jax.random.uniform(key, (8,))
    scatter = jax.random.normal(jax.random.fold_in(key, 1), (2,))
    depth = place.nearest * _draw(draws[0], config.occluder_depth)
    aim = place.middle[:2] / place.middle[2] + place.spread * scatter
    # Four standard deviations are about the object's whole extent.
    half = 2 * place.spread.max() * _draw(draws[1:3], config.occluder_size)
    bar = draws[3] < 0.3
    half = jnp.where(bar, half * jnp.array([0.25, 8.0]), half)
    angle = jnp.pi * draws[4]
    x, y = place.rays[0] - aim[0], place.rays[1] - aim[1]
    a = (jnp.cos(angle) * x + jnp.sin(angle) * y) / half[0]
    b = (jnp.cos(angle) * y - jnp.sin(angle) * x) / half[1]
    round_ = ~bar & (draws[5] < 0.5)
    within = jnp.where(round_, a * a + b * b < 1, jnp.maximum(jnp.abs(a), jnp.abs(b)) < 1)
    tilt = jnp.tan(jnp.deg2rad(config.occluder_tilt_deg)) * (2 * draws[6:8] - 1)
    normal = normalize(jnp.append(tilt, -1.0))
    distance = depth * (jnp.dot(normal[:2], aim) + normal[2])
    inverse, columns = _plane(place.rays, normal, distance)
    # A tilted card may reach behind the object's nearest point, or to the camera.
    inverse = jnp.clip(inverse, 1 / place.nearest, 4 / place.nearest)
    return jnp.where(within, inverse, 0.0), columns
