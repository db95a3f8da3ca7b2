"""What pixels ask of triangles: do you cover me, and at what depth?

- **Coverage** by the signs of three edge functions. The corners of a face are put in order of their
  position first, so the faces on both sides of an edge compute the very same number for it, and a
  pixel cannot be lost or drawn twice by rounding. Corners are told from the pixel, so the number is
  exactly zero at a corner. A pixel exactly on an edge is decided as if moved by (e, e^2), an
  infinitely small e: the two faces of an edge, or the many of a vertex, share such pixels out
  exactly once (the purpose of the top-left rule).
- **The near plane** needs no clipping: a corner behind it has no projection (u, v, 1), but its
  homogeneous coordinates serve as well (Olano and Greer 1997, "Triangle Scan Conversion using 2D
  Homogeneous Coordinates").
- **Depth** from the plane of the face: its inverse is linear in the pixel. Depths are compared as
  the integers that their bits are, so the minimum is exact, and the same in any order. Among faces
  of equal depth one that is seen from outside wins, then the one with the smaller hash of its
  corners: properties of the geometry, not of the numbering, which decides only between faces whose
  hashes are equal, too.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from jrecon.geometry.camera import Camera
from jrecon.render.columns import cross, dot, minus

# Nothing nearer than this is seen, metres.
NEAR = 1e-4
# A vertex with a coordinate this large, metres, is as good as infinite: fourth powers of distances,
# which derivatives need, would leave the range of float32.
FARTHEST = 1e8
# Told from a corner that projects farther than this from the principal point, depth would lose
# digits. Pixels.
_FAR_OUT = 1024.0
# Instead of the bits of a depth, or of a rank: nothing.
EMPTY = np.uint32(0xFFFFFFFF)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """A linear function of the pixel for each face."""

    origin: tuple[Float[Array, " f"], Float[Array, " f"]]
    """A pixel (u, v) where the value is known well."""
    slope: tuple[Float[Array, " f"], Float[Array, " f"]]
    """Change per pixel along u and v."""
    value: Float[Array, " f"]
    """At the origin."""

    def __call__(self, u: Array, v: Array) -> Array:
        (u0, v0), (along_u, along_v) = self.origin, self.slope
        return along_u * (u - u0) + along_v * (v - v0) + self.value


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Triangles:
    """What a pixel asks of a face. Columns over faces: one array a number, for vector units."""

    corners: tuple[tuple[Float[Array, " f"], ...], ...]
    """Homogeneous pixels (u, v, w) of the three corners, in order of position: w = 1 where there is
    a projection."""
    on_edge: tuple[Float[Array, " f"], ...]
    """What decides, by its sign, instead of the edge functions, at a pixel where they are zero."""
    inverse_depth: Linear
    """1 / depth on the plane of the face."""
    low: tuple[Int[Array, " f"], Int[Array, " f"]]
    """First pixel (u, v) of the bounding box inside the image."""
    high: tuple[Int[Array, " f"], ...]
    """Last pixel of it; before the first one if the face cannot be seen."""
    rank: UInt32[Array, " f"]
    """Among equal depths the lowest rank wins. Its low bits are the number of the face."""


class Corner(NamedTuple):
    """One corner of each face."""

    x: Float[Array, " f"]
    """Metres; x, y and z are NaN unless all are numbers below `FARTHEST`."""
    y: Float[Array, " f"]
    z: Float[Array, " f"]
    u: Float[Array, " f"]
    """Its projection, pixels, see `project`."""
    v: Float[Array, " f"]


Columns = tuple[Float[Array, " v"], ...]


def project(vertices: Float[Array, "v 3"], camera: Camera) -> Columns:
    """x, y, z, u, v of all vertices. Without a projection u and v are NaN; v is 0 if the vertex is
    no point at all, with a number that is not finite or beyond `FARTHEST`."""
    # False for NaN, too.
    sound = (jnp.abs(vertices) < FARTHEST).all(1)
    point = [jnp.where(sound, axis, jnp.nan) for axis in vertices.T]
    depth = jnp.where(point[2] > NEAR, point[2], jnp.nan)
    # No product is followed by a sum, which a compiler might fuse, with other rounding, in one
    # place and not in another: the faces at a vertex must see the very same numbers.
    u, v = (point[i] * camera.focal[i] / depth + camera.center[i] for i in range(2))
    return (*point, u, jnp.where(sound, v, 0.0))


def corners_of(columns: Columns, ids: list[Int[Array, " f"]]) -> list[Corner]:
    """The corners of faces by the numbers of their vertices."""
    return [Corner(*(column[index] for column in columns)) for index in ids]


def triangles(
    corners: list[Corner], number: Int[Array, " f"], count: int, camera: Camera
) -> Triangles:
    """What pixels ask of faces, by their corners and their numbers out of `count`."""
    (a, b, c), turned = _in_order(*corners)
    normal = cross(minus(b, a), minus(c, a))
    height = dot(normal, a)
    low, high = box([(corner.u, corner.v) for corner in (a, b, c)], camera)
    # False for NaN, too.
    seen = jnp.abs(height) > 0
    homogeneous = tuple(_homogeneous(corner, camera) for corner in (a, b, c))
    return Triangles(
        corners=homogeneous,
        on_edge=tuple(_shifted(*ends) for ends in _edges(homogeneous)),
        inverse_depth=_inverse_depth(normal, height, a, camera),
        low=low,
        high=tuple(jnp.where(seen, last, -1) for last in high),
        rank=_rank((height > 0) ^ turned, [a, b, c], number, count),
    )


def _in_order(a: Corner, b: Corner, c: Corner) -> tuple[tuple[Corner, ...], Bool[Array, " f"]]:
    """The corners in order of position, and whether that turns the face around."""

    def ordered(p: Corner, q: Corner) -> tuple[Corner, Corner, Bool[Array, " f"]]:
        swap = (p.x > q.x) | ((p.x == q.x) & ((p.y > q.y) | ((p.y == q.y) & (p.z > q.z))))
        pairs = list(zip(p, q, strict=True))
        first = Corner(*(jnp.where(swap, y, x) for x, y in pairs))
        return first, Corner(*(jnp.where(swap, x, y) for x, y in pairs)), swap

    a, b, first = ordered(a, b)
    b, c, second = ordered(b, c)
    a, b, third = ordered(a, b)
    return (a, b, c), first ^ second ^ third


def _homogeneous(corner: Corner, camera: Camera) -> tuple[Array, Array, Array]:
    """(u, v, 1), or, without a projection, that times the depth, which need not be positive."""
    ahead = corner.z > NEAR
    u, v = (
        jnp.where(ahead, known, corner[i] * camera.focal[i] + corner.z * camera.center[i])
        for i, known in enumerate((corner.u, corner.v))
    )
    return u, v, jnp.where(ahead, 1.0, corner.z)


def _edges(corners: Any) -> tuple[Any, ...]:
    """First and second end of the three edges; the last one goes against the other two."""
    a, b, c = corners
    return (a, b), (b, c), (a, c)


def _shifted(first: Any, second: Any) -> Float[Array, " f"]:
    """Slope of an edge function along u, or, where that is zero, along v."""
    along_u = second[2] * first[1] - first[2] * second[1]
    along_v = first[2] * second[0] - second[2] * first[0]
    return jnp.where(along_u == 0, along_v, along_u)


def _rank(
    inside: Bool[Array, " f"], points: list[Any], number: Int[Array, " f"], count: int
) -> UInt32[Array, " f"]:
    """First what is seen from outside, then by a hash of the corners, then by number."""
    hashed = jnp.zeros(inside.shape, jnp.uint32)
    for point in points:
        x, y, z = (jax.lax.bitcast_convert_type(axis, jnp.uint32) for axis in point[:3])
        mixed = x * np.uint32(0x9E3779B1) ^ y * np.uint32(0x85EBCA77) ^ z * np.uint32(0xC2B2AE3D)
        # A sum, which does not care which corner is the first.
        hashed += (mixed ^ (mixed >> 15)) * np.uint32(0x27D4EB2F)
    bits = max(1, (count - 1).bit_length())
    geometric = inside.astype(jnp.uint32) << 31 | hashed >> 1
    return geometric >> bits << bits | number.astype(jnp.uint32)


def _face_of_rank(rank: UInt32[Array, "*n"], count: int) -> Int[Array, "*n"]:
    bits = max(1, (count - 1).bit_length())
    return (rank & np.uint32((1 << bits) - 1)).astype(jnp.int32)


def box(pixels: list[Any], camera: Camera) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """First and last pixel centre in the box around each face, given its projected corners; the
    whole image where some are behind the near plane; none of it where all are, or one is broken."""
    behind = [jnp.isnan(corner[0]) for corner in pixels]
    broken = [away & ~jnp.isnan(corner[1]) for away, corner in zip(behind, pixels, strict=True)]
    known = ~(behind[0] | behind[1] | behind[2])
    unseen = (behind[0] & behind[1] & behind[2]) | broken[0] | broken[1] | broken[2]
    low, high = [], []
    for i, size in enumerate((camera.width, camera.height)):
        a, b, c = (corner[i] for corner in pixels)
        first = jnp.where(known, jnp.ceil(jnp.minimum(jnp.minimum(a, b), c)), 0.0)
        last = jnp.where(known, jnp.floor(jnp.maximum(jnp.maximum(a, b), c)), size - 1.0)
        # Clamped while still floats: a huge float has no integer.
        low.append(jnp.clip(first, 0.0, size).astype(jnp.int32))
        high.append(jnp.clip(jnp.where(unseen, -1.0, last), -1.0, size - 1.0).astype(jnp.int32))
    return (low[0], low[1]), (high[0], high[1])


def _inverse_depth(
    normal: list[Array], height: Float[Array, " f"], corner: Corner, camera: Camera
) -> Linear:
    """On the plane `normal . x = height`; told from a corner, if known, for precision."""
    safe = jnp.where(height == 0, 1.0, height)
    near = (jnp.abs(corner.u - camera.center[0]) < _FAR_OUT) & (
        jnp.abs(corner.v - camera.center[1]) < _FAR_OUT
    )
    slope = normal[0] / (safe * camera.focal[0]), normal[1] / (safe * camera.focal[1])
    # On a plane that is seen at a tenth of a degree, the last bit of a place is 40 micrometres.
    off_u, off_v = (_rounding(corner[3 + i], corner[i], corner.z, i, camera) for i in range(2))
    at_corner = 1.0 / corner.z + (slope[0] * off_u + slope[1] * off_v)
    return Linear(
        origin=(
            jnp.where(near, corner.u, camera.center[0]),
            jnp.where(near, corner.v, camera.center[1]),
        ),
        slope=slope,
        value=jnp.where(near, at_corner, normal[2] / safe),
    )


def _rounding(
    place: Float[Array, " f"], x: Array, z: Array, axis: int, camera: Camera
) -> Float[Array, " f"]:
    """By how much projected places (pixels) are larger than focal * x / z + center exactly."""
    focal, center = camera.focal[axis], camera.center[axis]
    # The place from the principal point, and what that loses by rounding (Knuth's two-sum).
    offset = place - center
    back = offset - place
    lost = (place - (offset - back)) - (center + back)
    quotient = focal * x / z
    (product, rest), (whole, part) = _product(focal, x), _product(quotient, z)
    exact = ((product - whole) + (rest - part)) / z
    return (offset - quotient) + (lost - exact)


def _product(a: Array, b: Array) -> tuple[Array, Array]:
    """a * b as a rounded number and the exact rest (Dekker 1971), from halves of 12 bits."""

    def halves(x: Array) -> tuple[Array, Array]:
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32) & np.uint32(0xFFFFF000)
        high = jax.lax.bitcast_convert_type(bits, jnp.float32)
        return high, x - high

    (a_high, a_low), (b_high, b_low) = halves(a), halves(b)
    product = a * b
    rest = a_high * b_high - product + a_high * b_low + a_low * b_high + a_low * b_low
    return product, rest


def depth_bits(face: Triangles, u: Int[Array, "*n"], v: Int[Array, "*n"]) -> UInt32[Array, "*n"]:
    """Depth of faces at pixels (broadcast), as ordered bits; `EMPTY` where not covered."""
    x, y = u.astype(jnp.float32), v.astype(jnp.float32)
    within = (u >= face.low[0]) & (u <= face.high[0]) & (v >= face.low[1]) & (v <= face.high[1])
    from_pixel = [(a - w * x, b - w * y) for a, b, w in face.corners]
    sides = [
        jnp.where(side == 0, tie, side)
        for side, tie in zip(
            (p[0] * q[1] - p[1] * q[0] for p, q in _edges(from_pixel)), face.on_edge, strict=True
        )
    ]
    left = (sides[0] > 0) & (sides[1] > 0) & (sides[2] < 0)
    right = (sides[0] < 0) & (sides[1] < 0) & (sides[2] > 0)
    inverse = face.inverse_depth(x, y)
    ahead = inverse > 0
    depth = 1.0 / jnp.where(ahead, inverse, 1.0)
    covered = within & (left | right) & ahead & (depth > NEAR)
    # The bits of positive floats are ordered as the floats are.
    return jnp.where(covered, jax.lax.bitcast_convert_type(depth, jnp.uint32), EMPTY)


def decode(
    nearest: UInt32[Array, "*n"], winner: UInt32[Array, "*n"], count: int
) -> tuple[Int[Array, "*n"], Float[Array, "*n"]]:
    empty = nearest == EMPTY
    depth = jax.lax.bitcast_convert_type(jnp.where(empty, 0, nearest), jnp.float32)
    return jnp.where(empty, -1, _face_of_rank(winner, count)), depth
