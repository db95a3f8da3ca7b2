"""Visibility: which face of a mesh is nearest at the centre of each pixel.

Nothing is blurred or snapped; `jrecon.render.triangles` says which pixels a face covers, and at
what depth. Here the faces meet: the boxes around all of them are cut into small tiles of pixels,
one list for the whole mesh, and the list is worked off in chunks of static size by a loop of
dynamic length. So a face may have any size, from less than a pixel to the whole image, and there is
no buffer for it to overflow.

Where scatters are slow (TPU) `jrecon.render.sweep` takes its place, chosen for the platform when
the code is lowered.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, Int

from jrecon.geometry.camera import Camera
from jrecon.render.sweep import sweep
from jrecon.render.triangles import (
    EMPTY,
    Columns,
    box,
    corners_of,
    decode,
    depth_bits,
    project,
    triangles,
)

# Pixels in a tile, along each side: most faces of a body at 64-256 pixels fit one.
_TILE = 2
# Tiles in a chunk. On a CPU they stay in cache, but every chunk passes over the whole image, so a
# large image gets larger ones; a GPU wants more to do at once.
_CHUNK_CPU, _CHUNK_GPU = 4096, 65536
_PIXELS_PER_TILE = 16
# Tiles are counted in int32.
MAX_TILES = 2**31 - 2**24


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
    on_tpu = functools.partial(draw, sweep)

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
    columns, ids = project(vertices, camera), [faces[:, k] for k in range(3)]
    grid, ends, left_out = _tiles(columns, ids, camera, max_tiles)

    def draw(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        start, nearest, winner = state
        slot = start + jnp.arange(chunk)
        owner = jnp.minimum(jnp.searchsorted(ends, slot, side="right"), count - 1)
        face = triangles(corners_of(columns, [x[owner] for x in ids]), owner, count, camera)
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
            bits = depth_bits(face, u, v)
            # What is not covered goes to some pixel of the image and changes nothing there:
            # scatters without a range check are three times as fast.
            v, u = jnp.clip(v, 0, camera.height - 1), jnp.clip(u, 0, camera.width - 1)
            pixel = v * camera.width + u
            nearer = nearest.at[pixel].min(bits, mode="promise_in_bounds")
            wins = (bits == nearer[pixel]) & (bits != EMPTY)
            winner = jnp.where(nearer < nearest, EMPTY, winner)
            rank = jnp.where(wins, face.rank, EMPTY)
            return nearer, winner.at[pixel].min(rank, mode="promise_in_bounds")

        # A loop over the pixels of a tile: unrolled, XLA would compute the faces anew for each.
        return start + chunk, *jax.lax.fori_loop(0, _TILE**2, sample, (nearest, winner))

    blank = jnp.full(size, EMPTY)
    state = (jnp.zeros((), jnp.int32), blank, blank)
    _, nearest, winner = jax.lax.while_loop(lambda state: state[0] < ends[-1], draw, state)
    shape = camera.height, camera.width
    return *decode(nearest.reshape(shape), winner.reshape(shape), count), left_out


def _tiles(
    columns: Columns, ids: list[Int[Array, " f"]], camera: Camera, max_tiles: int
) -> tuple[tuple[Array, ...], Int[Array, " f"], Int[Array, ""]]:
    """Columns and rows of tiles of each face, where its tiles end in the list of all, and how many
    faces do not fit the list."""
    low, high = box([[column[index] for column in columns[3:]] for index in ids], camera)
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
