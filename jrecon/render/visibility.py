"""Visibility: which face of a mesh is nearest at the centre of each pixel.

Nothing is blurred or snapped. The parts of the answer:

- **Coverage** by the signs of three edge functions. Each is evaluated from its end points in a
  geometric order, whichever face asks, so neighbours get the same number with the opposite sign and
  a pixel on a shared edge cannot be lost or drawn twice by rounding. A pixel exactly on an edge is
  decided as if moved by (e, e^2), an infinitely small e: the two faces of an edge, or the many of a
  vertex, share such pixels out exactly once (the purpose of the top-left rule).
- **The near plane** needs no clipping: an edge with an end point behind the camera, or so near that
  its projection is far away, is tested by the plane through the edge and the pinhole
  (Olano and Greer 1997, "Triangle Scan Conversion using 2D Homogeneous Coordinates"). Both tests
  have one form, linear in the pixel.
- **Depth** from the plane of the face: its inverse is linear in the pixel as well. The nearest face
  wins. Depths are compared as the integers that their bits are, so the minimum is exact, and the
  same in any order. Among faces of equal depth one that is seen from outside wins, then the one
  with the smaller hash of its corners: properties of the geometry, not of the numbering.

The boxes around all faces are cut into small tiles of pixels, one list for the whole mesh, and the
list is worked off in chunks of static size by a loop of dynamic length. So a face may have any
size, from less than a pixel to the whole image, and there is no buffer for it to overflow.

Where scatters are slow (TPU) each block of the image is swept by the faces near it instead, chosen
for the platform when the code is lowered. It is also an oracle for the tests.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float, Int, UInt32

from jrecon.geometry.camera import Camera
from jrecon.render.columns import cross, dot, minus

# Nothing nearer than this is seen, metres.
NEAR = 1e-4
# Beyond this distance from the principal point, projected coordinates lose float32 digits that
# coverage needs; edges that reach there are tested in three dimensions. Pixels.
_FAR_OUT = 1024.0
# Pixels in a tile, along each side: most faces of a body at 64-256 pixels fit one.
_TILE = 2
# Tiles in a chunk. On a CPU they stay in cache, but every chunk passes over the whole image, so a
# large image gets larger ones; a GPU wants more to do at once.
_CHUNK_CPU, _CHUNK_GPU = 4096, 65536
_PIXELS_PER_TILE = 16
# Tiles are counted in int32.
MAX_TILES = 2**31 - 2**24
# The sweep takes blocks of so many rows and columns, and so many faces at once.
_BLOCK_ROWS, _BLOCK_COLUMNS, _SWEEP = 8, 128, 128
_EMPTY = np.uint32(0xFFFFFFFF)


def nearest_faces(
    vertices: Float[Array, "*batch v 3"],
    faces: Int[Array, "f 3"],
    camera: Camera,
    *,
    max_tiles: int = MAX_TILES,
) -> tuple[Int[Array, "*batch h w"], Float[Array, "*batch h w"], Int[Array, "*batch"]]:
    """The face seen at each pixel (-1 = none), its depth (metres, 0 = none), and how many faces
    were left out because the mesh has more than `max_tiles` tiles (static).

    Without derivatives. The images of a batch are drawn one after another on a CPU, where that
    stays in cache, and on a TPU; together on a GPU. `jax.vmap` of it is the same.
    """
    shape = jnp.broadcast_shapes(vertices.shape[:-2], camera.focal.shape[:-1])
    images = (
        jnp.broadcast_to(vertices, (*shape, *vertices.shape[-2:])),
        jnp.broadcast_to(camera.focal, (*shape, 2)),
        jnp.broadcast_to(camera.center, (*shape, 2)),
    )
    rank = len(shape)
    flat = [x.reshape(math.prod(shape), *x.shape[rank:]) for x in jax.lax.stop_gradient(images)]
    found = _draw_all(camera.width, camera.height, max_tiles)(faces, *flat)
    face_id, depth, left_out = (x.reshape(*shape, *x.shape[1:]) for x in found)
    return face_id, depth, left_out


def _draw_all(width: int, height: int, max_tiles: int) -> Any:
    """A function of faces and (vertices, focal, center), these with one leading axis of images."""

    def draw(method: Any, faces: Any, image: Any) -> Any:
        return method(image[0], faces, Camera(image[1], image[2], width, height))

    chunk = max(_CHUNK_CPU, width * height // _PIXELS_PER_TILE)
    on_cpu = functools.partial(draw, functools.partial(_scatter, chunk, max_tiles))
    on_gpu = functools.partial(draw, functools.partial(_scatter, _CHUNK_GPU, max_tiles))
    on_tpu = functools.partial(draw, _sweep)

    @custom_vmap
    def draw_all(faces: Array, *images: Array) -> Any:
        return jax.lax.platform_dependent(
            faces,
            images,
            cpu=lambda faces, images: jax.lax.map(functools.partial(on_cpu, faces), images),
            tpu=lambda faces, images: jax.lax.map(functools.partial(on_tpu, faces), images),
            default=lambda faces, images: jax.vmap(functools.partial(on_gpu, faces))(images),
        )

    @draw_all.def_vmap
    def _(size: int, batched: list[bool], faces: Array, *images: Array) -> Any:
        arrays = [
            x if mapped else jnp.broadcast_to(x, (size, *x.shape))
            for x, mapped in zip((faces, *images), batched, strict=True)
        ]
        done = True, True, True
        if batched[0]:
            return jax.lax.map(lambda each: draw_all(*each), arrays), done
        found = draw_all(faces, *(x.reshape(-1, *x.shape[2:]) for x in arrays[1:]))
        return tuple(x.reshape(size, -1, *x.shape[1:]) for x in found), done

    return draw_all


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Linear:
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
class _Faces:
    """What a pixel asks of a face. Columns over faces: one array a number, for vector units."""

    edges: tuple[_Linear, ...]
    """All positive or all negative inside the face."""
    inverse_depth: _Linear
    """1 / depth on the plane of the face."""
    low: tuple[Int[Array, " f"], Int[Array, " f"]]
    """First pixel (u, v) of the bounding box inside the image."""
    high: tuple[Int[Array, " f"], ...]
    """Last pixel of it; before the first one if the face cannot be seen."""
    rank: UInt32[Array, " f"]
    """Among equal depths the lowest rank wins. Its low bits are the number of the face."""


class _Corner(NamedTuple):
    """One corner of each face."""

    point: tuple[Float[Array, " f"], ...]
    """x, y, z, metres; NaN unless all are finite."""
    pixel: tuple[Float[Array, " f"], ...]
    """Its projection (u, v), see `_project`."""
    ahead: Bool[Array, " f"]
    """Beyond the near plane."""
    tame: Bool[Array, " f"]
    """Its projection has all the digits that coverage needs."""


Columns = tuple[Float[Array, " v"], ...]


def _project(vertices: Float[Array, "v 3"], camera: Camera) -> Columns:
    """x, y, z, u, v of all vertices. Without a projection u and v are NaN; v is 0 if the vertex is
    no point at all, with a number that is not finite."""
    finite = jnp.isfinite(vertices).all(1)
    point = [jnp.where(finite, axis, jnp.nan) for axis in vertices.T]
    depth = jnp.where(point[2] > NEAR, point[2], jnp.nan)
    u, v = (point[i] / depth * camera.focal[i] + camera.center[i] for i in range(2))
    return (*point, u, jnp.where(finite, v, 0.0))


def _corners(columns: Columns, ids: list[Int[Array, " f"]], camera: Camera) -> list[_Corner]:
    """The corners of faces by the numbers of their vertices."""
    corners = []
    for index in ids:
        x, y, z, u, v = (column[index] for column in columns)
        tame = (jnp.abs(u - camera.center[0]) < _FAR_OUT) & (
            jnp.abs(v - camera.center[1]) < _FAR_OUT
        )
        corners.append(_Corner((x, y, z), (u, v), z > NEAR, tame))
    return corners


def _faces(corners: list[_Corner], number: Int[Array, " f"], count: int, camera: Camera) -> _Faces:
    """What pixels ask of faces, by their corners and their numbers out of `count`."""
    points = [corner.point for corner in corners]
    normal = cross(minus(points[1], points[0]), minus(points[2], points[0]))
    height = dot(normal, points[0])
    low, high = _box([corner.pixel for corner in corners], camera)
    # False for NaN, too.
    seen = jnp.abs(height) > 0
    return _Faces(
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


def _box(pixels: list[Any], camera: Camera) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
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


def _edge(begin: _Corner, end: _Corner, camera: Camera) -> _Linear:
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
    return _Linear(
        origin=(
            jnp.where(flat, first[3], camera.center[0]),
            jnp.where(flat, first[4], camera.center[1]),
        ),
        slope=(along_u * flip, along_v * flip),
        value=jnp.where(flat, 0.0, plane[2]) * flip,
    )


def _inverse_depth(
    normal: list[Array], height: Float[Array, " f"], corners: list[_Corner], camera: Camera
) -> _Linear:
    """On the plane `normal . x = height`; told from a corner, if known, for precision."""
    first = corners[0]
    safe = jnp.where(height == 0, 1.0, height)
    return _Linear(
        origin=(
            jnp.where(first.tame, first.pixel[0], camera.center[0]),
            jnp.where(first.tame, first.pixel[1], camera.center[1]),
        ),
        slope=(normal[0] / (safe * camera.focal[0]), normal[1] / (safe * camera.focal[1])),
        value=jnp.where(first.tame, 1.0 / first.point[2], normal[2] / safe),
    )


def _depth_bits(face: _Faces, u: Int[Array, "*n"], v: Int[Array, "*n"]) -> UInt32[Array, "*n"]:
    """Depth of faces at pixels (broadcast), as ordered bits; `_EMPTY` where not covered."""
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
    return jnp.where(covered, jax.lax.bitcast_convert_type(depth, jnp.uint32), _EMPTY)


def _scatter(
    chunk: int,
    max_tiles: int,
    vertices: Float[Array, "v 3"],
    faces: Int[Array, "f 3"],
    camera: Camera,
) -> tuple[Array, Array, Array]:
    """Draw all tiles of all faces, so many at a time, keeping the nearest at each pixel.

    What pixels ask of a face is computed for its tiles, not before: half of the faces of a fine
    mesh hold no pixel at all.
    """
    count, size = len(faces), camera.width * camera.height
    columns, ids = _project(vertices, camera), [faces[:, k] for k in range(3)]
    grid, ends, left_out = _tiles(columns, ids, camera, max_tiles)

    def draw(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        start, nearest, winner = state
        slot = start + jnp.arange(chunk)
        owner = jnp.minimum(jnp.searchsorted(ends, slot, side="right"), count - 1)
        face = _faces(_corners(columns, [x[owner] for x in ids], camera), owner, count, camera)
        wide, high = grid[0][owner], grid[1][owner]
        within = slot - (ends[owner] - wide * high)
        row = jax.lax.div(within, jnp.maximum(wide, 1))
        corner_u = face.low[0] + _TILE * (within - row * wide)
        corner_v = face.low[1] + _TILE * row
        # Past the end of the list nothing is covered.
        last = jnp.where(slot < ends[-1], face.high[0], -1)
        face = dataclasses.replace(face, high=(last, face.high[1]))

        def sample(step: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            nearest, winner = state
            u, v = corner_u + step % _TILE, corner_v + step // _TILE
            bits = _depth_bits(face, u, v)
            # What is not covered goes to some pixel of the image and changes nothing there:
            # scatters without a range check are three times as fast.
            v, u = jnp.clip(v, 0, camera.height - 1), jnp.clip(u, 0, camera.width - 1)
            pixel = v * camera.width + u
            nearer = nearest.at[pixel].min(bits, mode="promise_in_bounds")
            wins = (bits == nearer[pixel]) & (bits != _EMPTY)
            winner = jnp.where(nearer < nearest, _EMPTY, winner)
            rank = jnp.where(wins, face.rank, _EMPTY)
            return nearer, winner.at[pixel].min(rank, mode="promise_in_bounds")

        # A loop over the pixels of a tile: unrolled, XLA would compute the faces anew for each.
        return start + chunk, *jax.lax.fori_loop(0, _TILE**2, sample, (nearest, winner))

    blank = jnp.full(size, _EMPTY)
    state = (jnp.zeros((), jnp.int32), blank, blank)
    _, nearest, winner = jax.lax.while_loop(lambda state: state[0] < ends[-1], draw, state)
    shape = camera.height, camera.width
    return *_decode(nearest.reshape(shape), winner.reshape(shape), count), left_out


def _tiles(
    columns: Columns, ids: list[Int[Array, " f"]], camera: Camera, max_tiles: int
) -> tuple[tuple[Array, ...], Int[Array, " f"], Int[Array, ""]]:
    """Columns and rows of tiles of each face, where its tiles end in the list of all, and how many
    faces do not fit the list."""
    low, high = _box([[column[index] for column in columns[3:]] for index in ids], camera)
    grid = tuple(
        jax.lax.div(jnp.maximum(high[i] - low[i] + _TILE, 0), np.int32(_TILE)) for i in range(2)
    )
    tiles = grid[0] * grid[1]
    image = math.ceil(camera.width / _TILE) * math.ceil(camera.height / _TILE)
    if len(tiles) * image <= max_tiles:
        return grid, jnp.cumsum(tiles), jnp.zeros((), jnp.int32)
    # A float32 sum cannot wrap around. It is rounded, for which `MAX_TILES` leaves room.
    fits = jnp.cumsum(tiles.astype(jnp.float32)) <= max_tiles
    kept = jnp.where(fits, tiles, 0)
    return (
        (jnp.where(fits, grid[0], 0), grid[1]),
        jnp.cumsum(kept),
        jnp.sum(~fits & (tiles > 0), dtype=jnp.int32),
    )


def _decode(
    nearest: UInt32[Array, "*n"], winner: UInt32[Array, "*n"], count: int
) -> tuple[Int[Array, "*n"], Float[Array, "*n"]]:
    empty = nearest == _EMPTY
    depth = jax.lax.bitcast_convert_type(jnp.where(empty, 0, nearest), jnp.float32)
    return jnp.where(empty, -1, _face_of_rank(winner, count)), depth


def _sweep(
    vertices: Float[Array, "v 3"], faces: Int[Array, "f 3"], camera: Camera
) -> tuple[Array, Array, Array]:
    """Sweep blocks of the image by chunks of faces, skipping the chunks that are elsewhere."""
    count = len(faces)
    # Behind a barrier, so that all faces at a vertex see the very same numbers.
    columns = jax.lax.optimization_barrier(_project(vertices, camera))
    corners = _corners(columns, [faces[:, k] for k in range(3)], camera)
    chunks = _sorted_chunks(_faces(corners, jnp.arange(count), count, camera), camera)
    low = [chunks.low[i].min((1, 2)) for i in range(2)]
    high = [chunks.high[i].max((1, 2)) for i in range(2)]
    rows, columns = math.ceil(camera.height / _BLOCK_ROWS), math.ceil(camera.width / _BLOCK_COLUMNS)
    step_v, step_u = jnp.divmod(jnp.arange(_BLOCK_ROWS * _BLOCK_COLUMNS)[None], _BLOCK_COLUMNS)

    def sweep_block(block: Int[Array, ""]) -> tuple[Array, Array]:
        v, u = (block // columns) * _BLOCK_ROWS, (block % columns) * _BLOCK_COLUMNS

        def nearer(i: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
            chunk = jax.tree.map(lambda column: column[i], chunks)
            bits = _depth_bits(chunk, u + step_u, v + step_v)
            value = bits.min(0)
            rank = jnp.where(bits == value[None], chunk.rank, _EMPTY).min(0)
            better = (value < best[0]) | ((value == best[0]) & (rank < best[1]))
            return jnp.where(better, value, best[0]), jnp.where(better, rank, best[1])

        def visit(i: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
            meets_u = (low[0][i] < u + _BLOCK_COLUMNS) & (high[0][i] >= u)
            meets_v = (low[1][i] < v + _BLOCK_ROWS) & (high[1][i] >= v)
            return jax.lax.cond(meets_u & meets_v, nearer, lambda i, best: best, i, best)

        blank = jnp.full(step_u.shape[1], _EMPTY)
        return jax.lax.fori_loop(0, len(low[0]), visit, (blank, blank))

    def assemble(blocks: Array) -> Array:
        grid = blocks.reshape(rows, columns, _BLOCK_ROWS, _BLOCK_COLUMNS).swapaxes(1, 2)
        image = grid.reshape(rows * _BLOCK_ROWS, columns * _BLOCK_COLUMNS)
        return image[: camera.height, : camera.width]

    nearest, winner = jax.lax.map(sweep_block, jnp.arange(rows * columns))
    return *_decode(assemble(nearest), assemble(winner), count), jnp.zeros((), jnp.int32)


def _sorted_chunks(faces: _Faces, camera: Camera) -> _Faces:
    """Columns (chunk, face, 1), in an order in which the faces of a chunk are near each other."""
    count = len(faces.rank)
    centre = [(faces.low[i] + faces.high[i]) // 2 for i in range(2)]
    block = centre[1] // _BLOCK_ROWS * math.ceil(camera.width / _BLOCK_COLUMNS)
    unseen = (faces.high[0] < faces.low[0]) | (faces.high[1] < faces.low[1])
    order = jnp.argsort(
        jnp.where(unseen, jnp.iinfo(jnp.int32).max, block + centre[0] // _BLOCK_COLUMNS)
    )
    # The last face fills the last chunk: the same face once more changes nothing.
    order = order[jnp.minimum(jnp.arange(math.ceil(count / _SWEEP) * _SWEEP), count - 1)]
    chunks = jax.tree.map(lambda column: column[order].reshape(-1, _SWEEP, 1), faces)
    # Faces that cannot be seen must not widen the box of their chunk.
    hidden = unseen[order].reshape(-1, _SWEEP, 1)
    far = max(camera.width, camera.height)
    return dataclasses.replace(
        chunks,
        low=tuple(jnp.where(hidden, far, first) for first in chunks.low),
        high=tuple(jnp.where(hidden, -1, last) for last in chunks.high),
    )
