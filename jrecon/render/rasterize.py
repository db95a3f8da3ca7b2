"""Visibility: which face of a mesh is seen at each pixel.

A pixel shows the nearest face whose projection holds the pixel's *centre*; nothing is blurred or
snapped. The parts of the answer:

- **Coverage** by the signs of three edge functions. Each is evaluated from its end points in a
  geometric order, whichever face asks, so neighbours get the same number with the opposite sign and
  a pixel on a shared edge cannot be lost or drawn twice by rounding. A pixel exactly on an edge is
  decided as if moved by (e, e^2), an infinitely small e: the two faces of an edge, or the many of a
  vertex, share such pixels out exactly once (the purpose of the top-left rule).
- **The near plane** needs no clipping: an edge with an end point behind the camera, or so near that
  its projection is far away, is tested by the plane through the edge and the pinhole
  (Olano and Greer 1997, "Triangle Scan Conversion using 2D Homogeneous Coordinates"). Both tests
  have one form, linear in the pixel.
- **Depth** from the plane of the face; the nearest wins, by an integer scatter-min over the bits of
  the float: exact, deterministic, and independent of the order of the faces.

Work is static in shape. Every face first tries the 2 x 2 pixels at the corner of its bounding box,
which is all of it for most faces of a fine mesh. What is larger is cut into tiles of 4 x 4 pixels,
up to a budget; tiles beyond the budget are counted in `overflow`, never dropped in silence.

Where scatters are slow (TPU) a dense sweep takes the place of the scatter, chosen for the platform
when the code is lowered. It is also the oracle of the tests.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from jrecon.geometry.camera import Camera

# Nothing nearer than this is seen, metres.
NEAR = 1e-4
# Beyond this distance from the principal point, projected coordinates lose float32 digits that
# coverage needs; such edges are tested in three dimensions. Pixels.
_FAR_OUT = 4096.0
_SMALL, _TILE = 2, 4
# From this many faces on, a mesh is expected to have faces of a few pixels.
_FINE = 4096
_EMPTY = np.uint32(0xFFFFFFFF)
# The dense sweep takes so many faces at once: enough to fill vector units, few enough for memory.
_SWEEP = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Fragments:
    """What each pixel sees."""

    face_id: Int[Array, "*batch h w"]
    """Index into `faces`; -1 where there is none."""
    mask: Bool[Array, "*batch h w"]
    """Whether any face is seen."""
    overflow: Int[Array, "*batch"]
    """Tiles beyond the budget: 0 means that the image is complete. Otherwise repeat with
    `budget` larger by at least this number."""


def default_budget(num_faces: int, width: int, height: int) -> int:
    """Tiles that suffice for a closed mesh that fills the image.

    The boxes around the faces of its front and back cover the image four times over, and large
    faces share tiles at their borders; few faces of a fine mesh need a tile at all.
    """
    image = math.ceil(width / _TILE) * math.ceil(height / _TILE)
    return 64 + num_faces // 8 + image * (4 if num_faces >= _FINE else 12)


def rasterize(
    vertices: Float[Array, "*batch v 3"],
    faces: Int[Array, "f 3"],
    camera: Camera,
    *,
    budget: int | None = None,
) -> Fragments:
    """The face seen at each pixel of the camera's image.

    Args:
      vertices: camera frame, metres. Batch axes broadcast against those of the camera.
      faces: both sides are visible. Faces with a vertex that is not finite, or without area, are
        never seen.
      camera: gives the image size, too.
      budget: how many 4 x 4 tiles larger faces may be cut into, for each image; static.

    Returns:
      Pure and total: it never raises on values. Not differentiable (`render` is). `overflow` must
      be checked by the caller; `render` on concrete arrays does so.
    """
    shape = jnp.broadcast_shapes(vertices.shape[:-2], camera.focal.shape[:-1])
    tiles = default_budget(len(faces), camera.width, camera.height) if budget is None else budget
    vertices = jax.lax.stop_gradient(vertices)
    flat = (
        jnp.broadcast_to(vertices, (*shape, *vertices.shape[-2:])).reshape(
            -1, *vertices.shape[-2:]
        ),
        jnp.broadcast_to(jax.lax.stop_gradient(camera.focal), (*shape, 2)).reshape(-1, 2),
        jnp.broadcast_to(jax.lax.stop_gradient(camera.center), (*shape, 2)).reshape(-1, 2),
    )

    def scatter(one: Any) -> Any:
        image_camera = dataclasses.replace(camera, focal=one[1], center=one[2])
        return _scatter_image(_prepare(one[0], faces, image_camera), image_camera, tiles)

    def sweep(one: Any) -> Any:
        image_camera = dataclasses.replace(camera, focal=one[1], center=one[2])
        return _sweep_image(_prepare(one[0], faces, image_camera), image_camera)

    # On a CPU one image after another stays in cache and beats the batch at once.
    face_id, overflow = jax.lax.platform_dependent(
        flat,
        cpu=lambda images: jax.lax.map(scatter, images),
        tpu=lambda images: jax.lax.map(sweep, images),
        default=lambda images: jax.vmap(scatter)(images),
    )
    face_id = face_id.reshape(*shape, camera.height, camera.width)
    return Fragments(face_id, face_id >= 0, overflow.reshape(shape))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Faces:
    """What the coverage test needs of each face, as columns over faces."""

    origin: Float[Array, "f 3 2"]
    """The pixel (u, v) that each edge function is linear about."""
    slope: Float[Array, "f 3 2"]
    """Change of the edge function per pixel along u and v."""
    offset: Float[Array, "f 3"]
    """Value of the edge function at its origin."""
    inverse_depth: Float[Array, "f 3"]
    """1 / depth = inverse_depth . (x / z, y / z, 1) on the plane of the face."""
    low: Int[Array, "f 2"]
    """First pixel (u, v) of the bounding box inside the image."""
    high: Int[Array, "f 2"]
    """Last pixel of it; before the first one if the face cannot be seen."""


def _prepare(vertices: Float[Array, "v 3"], faces: Int[Array, "f 3"], camera: Camera) -> _Faces:
    finite = jnp.isfinite(vertices).all(-1, keepdims=True)
    known = jnp.where(finite, vertices, 0.0)
    ahead = known[:, 2:] > NEAR
    offset = known[:, :2] / jnp.where(ahead, known[:, 2:], 1.0) * camera.focal[None]
    tame = ahead & (jnp.abs(offset) < _FAR_OUT).all(-1, keepdims=True)
    pixels = jnp.where(tame, offset + camera.center[None], 0.0)

    corners = known[faces]
    corner_pixels, corner_tame = pixels[faces], tame[faces][..., 0]
    normal = jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    height = jnp.sum(normal * corners[:, 0], axis=-1, keepdims=True)
    seen = finite[faces].all((1, 2)) & (height[:, 0] != 0) & ahead[faces].any((1, 2))
    low, high = _bounding_boxes(corner_pixels, corner_tame, camera)
    nobody = jnp.array([[-1, -1]])
    return _Faces(
        **_edges(corners, corner_pixels, corner_tame, camera),
        inverse_depth=normal / jnp.where(height == 0, 1.0, height),
        low=jnp.where(seen[:, None], low, 0),
        high=jnp.where(seen[:, None], high, nobody),
    )


def _bounding_boxes(
    pixels: Float[Array, "f 3 2"], tame: Bool[Array, "f 3"], camera: Camera
) -> tuple[Int[Array, "f 2"], Int[Array, "f 2"]]:
    """First and last pixel centre in the box around each face; the image where unknown."""
    last = jnp.array([[camera.width - 1, camera.height - 1]], jnp.float32)
    whole = ~tame.all(1, keepdims=True)
    low = jnp.where(whole, 0.0, jnp.ceil(pixels.min(1)))
    high = jnp.where(whole, last, jnp.floor(pixels.max(1)))
    # Clamped while still floats: a huge float has no integer.
    low = jnp.clip(low, 0.0, last + 1)
    return low.astype(jnp.int32), jnp.clip(high, -1.0, last).astype(jnp.int32)


def _edges(
    corners: Float[Array, "f 3 3"],
    pixels: Float[Array, "f 3 2"],
    tame: Bool[Array, "f 3"],
    camera: Camera,
) -> dict[str, Array]:
    """The three edge functions of each face, positive on one side of the edge, negative beyond."""
    begin, end = corners, jnp.roll(corners, -1, axis=1)
    begin_px, end_px = pixels, jnp.roll(pixels, -1, axis=1)
    # In order of position, so that the faces on both sides compute the very same numbers.
    swap = _comes_after(begin, end)[..., None]
    start, stop = jnp.where(swap, end_px, begin_px), jnp.where(swap, begin_px, end_px)
    first, second = jnp.where(swap, end, begin), jnp.where(swap, begin, end)
    # An edge that projects: the cross product of its direction with (pixel - start).
    flat_slope = jnp.stack([start[..., 1] - stop[..., 1], stop[..., 0] - start[..., 0]], axis=-1)
    # An edge that does not: the plane through it and the pinhole, at the ray of the pixel.
    plane = jnp.cross(first, second)
    flat = tame & jnp.roll(tame, -1, axis=1)
    flip = jnp.where(swap[..., 0], -1.0, 1.0)
    slope = jnp.where(flat[..., None], flat_slope, plane[..., :2] / camera.focal[None, None])
    return dict(
        origin=jnp.where(flat[..., None], start, camera.center[None, None]),
        slope=slope * flip[..., None],
        offset=jnp.where(flat, 0.0, plane[..., 2]) * flip,
    )


def _comes_after(a: Float[Array, "f 3 3"], b: Float[Array, "f 3 3"]) -> Bool[Array, "f 3"]:
    """Lexicographic order of points."""
    greater, equal = a > b, a == b
    rest = greater[..., 1] | (equal[..., 1] & greater[..., 2])
    return greater[..., 0] | (equal[..., 0] & rest)


def _depth_bits(
    face: _Faces, u: Int[Array, "n k"], v: Int[Array, "n k"], camera: Camera
) -> UInt32[Array, "n k"]:
    """Depth of each face (n rows) at k pixels, as ordered bits; `_EMPTY` where not covered."""
    x, y = u.astype(jnp.float32), v.astype(jnp.float32)
    ray_x = (x - camera.center[0]) / camera.focal[0]
    ray_y = (y - camera.center[1]) / camera.focal[1]
    inside_left = jnp.ones(u.shape, bool)
    inside_right = jnp.ones(u.shape, bool)
    for edge in range(3):
        origin, slope = face.origin[:, edge, :, None], face.slope[:, edge, :, None]
        value = slope[:, 0] * (x - origin[:, 0]) + slope[:, 1] * (y - origin[:, 1])
        value = value + face.offset[:, edge, None]
        # The slopes along u, then v, decide a pixel that is exactly on the edge.
        tie = jnp.where(slope[:, 0] == 0, slope[:, 1], slope[:, 0])
        value = jnp.where(value == 0, tie, value)
        inside_left &= value > 0
        inside_right &= value < 0
    slopes = face.inverse_depth[:, :, None]
    inverse = slopes[:, 0] * ray_x + slopes[:, 1] * ray_y + slopes[:, 2]
    ahead = inverse > 0
    depth = 1.0 / jnp.where(ahead, inverse, 1.0)
    box = (u >= face.low[:, :1]) & (u <= face.high[:, :1])
    box &= (v >= face.low[:, 1:]) & (v <= face.high[:, 1:])
    covered = (inside_left | inside_right) & ahead & (depth > NEAR) & box
    # The bits of positive floats are ordered as the floats are.
    bits = jax.lax.bitcast_convert_type(depth, jnp.uint32)
    return jnp.where(covered, bits, _EMPTY)


def _scatter_image(faces: _Faces, camera: Camera, budget: int) -> tuple[Array, Array]:
    count = len(faces.low)
    owner, corner, overflow = _tiles(faces, budget)
    some = jax.tree.map(lambda column: column[owner], faces)
    first = _window(faces.low, _SMALL)
    later = _window(corner, _TILE)
    bits = jnp.concatenate(
        [
            _depth_bits(faces, *first, camera).reshape(-1),
            _depth_bits(some, *later, camera).reshape(-1),
        ]
    )
    pixel = jnp.concatenate([(v * camera.width + u).reshape(-1) for u, v in (first, later)])
    ids = jnp.concatenate(
        [
            jnp.repeat(jnp.arange(count), _SMALL**2, total_repeat_length=count * _SMALL**2),
            jnp.repeat(owner, _TILE**2, total_repeat_length=budget * _TILE**2),
        ]
    )
    size = camera.width * camera.height
    # Out of range is dropped by scatters: that is where uncovered samples go.
    pixel = jnp.where(bits == _EMPTY, size, pixel)
    nearest = jnp.full(size, _EMPTY).at[pixel].min(bits, mode="drop")
    wins = bits == nearest.at[pixel].get(mode="fill", fill_value=0)
    face_id = jnp.full(size, count).at[jnp.where(wins, pixel, size)].min(ids, mode="drop")
    face_id = jnp.where(face_id == count, -1, face_id)
    return face_id.reshape(camera.height, camera.width), overflow


def _window(low: Int[Array, "n 2"], size: int) -> tuple[Int[Array, "n k"], Int[Array, "n k"]]:
    """The pixels (u, v) of a square whose first pixel is `low`."""
    steps = np.arange(size)
    u = low[:, :1] + np.tile(steps, size)[None]
    v = low[:, 1:] + np.repeat(steps, size)[None]
    return u, v


def _tiles(faces: _Faces, budget: int) -> tuple[Array, Array, Array]:
    """Faces larger than the small window, cut into tiles: (face, first pixel) of each tile."""
    extent = jnp.maximum(faces.high - faces.low + 1, 0)
    large = (extent > _SMALL).any(1) & (extent > 0).all(1)
    grid = jnp.where(large[:, None], -(-extent // _TILE), 0)
    needed = grid[:, 0] * grid[:, 1]
    ends = jnp.cumsum(needed)
    slot = jnp.arange(budget)
    owner = jnp.minimum(jnp.searchsorted(ends, slot, side="right"), len(needed) - 1)
    within = slot - (ends - needed)[owner]
    columns = jnp.maximum(grid[owner, 0], 1)
    place = jnp.stack([within % columns, within // columns], axis=-1)
    corner = faces.low[owner] + _TILE * place
    # Slots that no tile needs point outside the image.
    corner = jnp.where((slot < ends[-1])[:, None], corner, -_TILE)
    return owner, corner, jnp.maximum(ends[-1] - budget, 0)


def _sweep_image(faces: _Faces, camera: Camera) -> tuple[Array, Array]:
    """Every face against every pixel, some faces at a time: no scatter, no overflow."""
    count = len(faces.low)
    padding = -count % _SWEEP

    def pad(column: Array) -> Array:
        filled = jnp.concatenate([column, jnp.zeros((padding, *column.shape[1:]), column.dtype)])
        return filled.reshape(-1, _SWEEP, *column.shape[1:])

    chunks = jax.tree.map(pad, faces)
    # A padding face has its last pixel before its first one.
    last = jnp.arange(count + padding).reshape(-1, _SWEEP) < count
    chunks = dataclasses.replace(chunks, high=jnp.where(last[..., None], chunks.high, -1))
    v, u = jnp.divmod(jnp.arange(camera.width * camera.height), camera.width)
    u, v = (jnp.broadcast_to(axis[None], (_SWEEP, len(axis))) for axis in (u, v))

    def nearer(best: tuple[Array, Array], chunk: tuple[_Faces, Array]) -> tuple[Any, None]:
        bits = _depth_bits(chunk[0], u, v, camera)
        row = jnp.argmin(bits, axis=0)
        value = jnp.min(bits, axis=0)
        better = value < best[0]
        return (jnp.where(better, value, best[0]), jnp.where(better, chunk[1] + row, best[1])), None

    start = (jnp.full(len(u[0]), _EMPTY), jnp.full(len(u[0]), -1, jnp.int32))
    firsts = jnp.arange(0, count + padding, _SWEEP, dtype=jnp.int32)
    (_, face_id), _ = jax.lax.scan(nearer, start, (chunks, firsts))
    return face_id.reshape(camera.height, camera.width), jnp.zeros((), jnp.int32)
