"""What pixels ask of triangles: do you cover me, and at what depth?

- **Coverage** by the signs of three edge functions. Each is evaluated from its end points in a
  geometric order, whichever face asks, so neighbours get the same number with the opposite sign and
  a pixel on a shared edge cannot be lost or drawn twice by rounding. A pixel exactly on an edge is
  decided as if moved by (e, e^2), an infinitely small e: the two faces of an edge, or the many of a
  vertex, share such pixels out exactly once (the purpose of the top-left rule).
- **The near plane** needs no clipping: an edge with an end point behind the camera, or so near that
  its projection is far away, is tested by the plane through the edge and the pinhole
  (Olano and Greer 1997, "Triangle Scan Conversion using 2D Homogeneous Coordinates"). Both tests
  have one form, linear in the pixel.
- **Depth** from the plane of the face: its inverse is linear in the pixel as well. Depths are
  compared as the integers that their bits are, so the minimum is exact, and the same in any order.
  Among faces of equal depth one that is seen from outside wins, then the one with the smaller hash
  of its corners: properties of the geometry, not of the numbering.
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
# Beyond this distance from the principal point, projected coordinates lose float32 digits that
# coverage needs; edges that reach there are tested in three dimensions. Pixels.
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

    edges: tuple[Linear, ...]
    """All positive or all negative inside the face."""
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

    point: tuple[Float[Array, " f"], ...]
    """x, y, z, metres; NaN unless all are finite."""
    pixel: tuple[Float[Array, " f"], ...]
    """Its projection (u, v), see `project`."""
    tame: Bool[Array, " f"]
    """Its projection has all the digits that coverage needs."""


Columns = tuple[Float[Array, " v"], ...]


def project(vertices: Float[Array, "v 3"], camera: Camera) -> Columns:
    """x, y, z, u, v of all vertices. Without a projection u and v are NaN; v is 0 if the vertex is
    no point at all, with a number that is not finite."""
    finite = jnp.isfinite(vertices).all(1)
    point = [jnp.where(finite, axis, jnp.nan) for axis in vertices.T]
    depth = jnp.where(point[2] > NEAR, point[2], jnp.nan)
    u, v = (point[i] / depth * camera.focal[i] + camera.center[i] for i in range(2))
    return (*point, u, jnp.where(finite, v, 0.0))


def corners_of(columns: Columns, ids: list[Int[Array, " f"]], camera: Camera) -> list[Corner]:
    """The corners of faces by the numbers of their vertices."""
    corners = []
    for index in ids:
        x, y, z, u, v = (column[index] for column in columns)
        tame = (jnp.abs(u - camera.center[0]) < _FAR_OUT) & (
            jnp.abs(v - camera.center[1]) < _FAR_OUT
        )
        corners.append(Corner((x, y, z), (u, v), tame))
    return corners


def triangles(
    corners: list[Corner], number: Int[Array, " f"], count: int, camera: Camera
) -> Triangles:
    """What pixels ask of faces, by their corners and their numbers out of `count`."""
    points = [corner.point for corner in corners]
    normal = cross(minus(points[1], points[0]), minus(points[2], points[0]))
    height = dot(normal, points[0])
    low, high = box([corner.pixel for corner in corners], camera)
    # False for NaN, too.
    seen = jnp.abs(height) > 0
    return Triangles(
        edges=tuple(_edge(corners[k], corners[(k + 1) % 3], camera) for k in range(3)),
        inverse_depth=_inverse_depth(normal, height, corners, camera),
        low=low,
        high=tuple(jnp.where(seen, last, -1) for last in high),
        rank=_rank(height > 0, points, number, count),
    )


def _rank(
    inside: Bool[Array, " f"], points: list[Any], number: Int[Array, " f"], count: int
) -> UInt32[Array, " f"]:
    """First what is seen from outside, then by a hash of the corners, then by number."""
    hashed = jnp.zeros(inside.shape, jnp.uint32)
    for point in points:
        x, y, z = (jax.lax.bitcast_convert_type(axis, jnp.uint32) for axis in point)
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


def _edge(begin: Corner, end: Corner, camera: Camera) -> Linear:
    """The edge function between two corners, positive on one side and negative beyond."""
    # In order of position, so that the faces on both sides compute the very same numbers.
    (x, y, z), (x_end, y_end, z_end) = begin.point, end.point
    swap = (x > x_end) | ((x == x_end) & ((y > y_end) | ((y == y_end) & (z > z_end))))
    first, second = (
        [
            jnp.where(swap, b, a)
            for a, b in zip((*p.point, *p.pixel), (*q.point, *q.pixel), strict=True)
        ]
        for p, q in ((begin, end), (end, begin))
    )
    flip = jnp.where(swap, -1.0, 1.0)
    # An edge that does not project: the plane through it and the pinhole, at the ray of the pixel.
    plane = cross(first[:3], second[:3])
    # One that does: the cross product of its direction with (pixel - first).
    flat = begin.tame & end.tame
    along_u = jnp.where(flat, first[4] - second[4], plane[0] / camera.focal[0])
    along_v = jnp.where(flat, second[3] - first[3], plane[1] / camera.focal[1])
    return Linear(
        origin=(
            jnp.where(flat, first[3], camera.center[0]),
            jnp.where(flat, first[4], camera.center[1]),
        ),
        slope=(along_u * flip, along_v * flip),
        value=jnp.where(flat, 0.0, plane[2]) * flip,
    )


def _inverse_depth(
    normal: list[Array], height: Float[Array, " f"], corners: list[Corner], camera: Camera
) -> Linear:
    """On the plane `normal . x = height`; told from a corner, if known, for precision."""
    first = corners[0]
    safe = jnp.where(height == 0, 1.0, height)
    return Linear(
        origin=(
            jnp.where(first.tame, first.pixel[0], camera.center[0]),
            jnp.where(first.tame, first.pixel[1], camera.center[1]),
        ),
        slope=(normal[0] / (safe * camera.focal[0]), normal[1] / (safe * camera.focal[1])),
        value=jnp.where(first.tame, 1.0 / first.point[2], normal[2] / safe),
    )


def depth_bits(face: Triangles, u: Int[Array, "*n"], v: Int[Array, "*n"]) -> UInt32[Array, "*n"]:
    """Depth of faces at pixels (broadcast), as ordered bits; `EMPTY` where not covered."""
    x, y = u.astype(jnp.float32), v.astype(jnp.float32)
    within = (u >= face.low[0]) & (u <= face.high[0]) & (v >= face.low[1]) & (v <= face.high[1])
    all_positive, all_negative = within, within
    for edge in face.edges:
        value = edge(x, y)
        # The slopes along u, then v, decide a pixel that is exactly on the edge.
        tie = jnp.where(edge.slope[0] == 0, edge.slope[1], edge.slope[0])
        value = jnp.where(value == 0, tie, value)
        all_positive &= value > 0
        all_negative &= value < 0
    inverse = face.inverse_depth(x, y)
    ahead = inverse > 0
    depth = 1.0 / jnp.where(ahead, inverse, 1.0)
    covered = (all_positive | all_negative) & ahead & (depth > NEAR)
    # The bits of positive floats are ordered as the floats are.
    return jnp.where(covered, jax.lax.bitcast_convert_type(depth, jnp.uint32), EMPTY)


def decode(
    nearest: UInt32[Array, "*n"], winner: UInt32[Array, "*n"], count: int
) -> tuple[Int[Array, "*n"], Float[Array, "*n"]]:
    empty = nearest == EMPTY
    depth = jax.lax.bitcast_convert_type(jnp.where(empty, 0, nearest), jnp.float32)
    return jnp.where(empty, -1, _face_of_rank(winner, count)), depth
