"""Visibility without scatters, for platforms where those are slow (TPU), and an oracle for tests.

The image is cut into blocks of static size, and the faces, sorted by the block that holds the
middle of their box, into chunks. Each block goes through all chunks, skips those whose common box
is elsewhere, and keeps the nearest face at each of its pixels: dense arithmetic on (faces, pixels).
Memory does not grow with faces times pixels, and a face of any size needs no buffer, so nothing is
ever left out.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jrecon.geometry.camera import Camera
from jrecon.render.triangles import (
    EMPTY,
    Triangles,
    corners_of,
    decode,
    depth_bits,
    project,
    triangles,
)

# Blocks of so many rows and columns of pixels, and so many faces at once.
_BLOCK_ROWS, _BLOCK_COLUMNS, _SWEEP = 8, 128, 128


def sweep(
    vertices: Float[Array, "v 3"], faces: Int[Array, "f 3"], camera: Camera
) -> tuple[Array, Array, Array]:
    """Sweep blocks of the image by chunks of faces, skipping the chunks that are elsewhere."""
    count = len(faces)
    corners = corners_of(project(vertices, camera), [faces[:, k] for k in range(3)])
    chunks = _sorted_chunks(triangles(corners, jnp.arange(count), count, camera), camera)
    low = [chunks.low[i].min((1, 2)) for i in range(2)]
    high = [chunks.high[i].max((1, 2)) for i in range(2)]
    rows, columns = math.ceil(camera.height / _BLOCK_ROWS), math.ceil(camera.width / _BLOCK_COLUMNS)
    step_v, step_u = jnp.divmod(jnp.arange(_BLOCK_ROWS * _BLOCK_COLUMNS)[None], _BLOCK_COLUMNS)

    def sweep_block(block: Int[Array, ""]) -> tuple[Array, Array]:
        v, u = (block // columns) * _BLOCK_ROWS, (block % columns) * _BLOCK_COLUMNS

        def nearer(i: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
            chunk = jax.tree.map(lambda column: column[i], chunks)
            bits = depth_bits(chunk, u + step_u, v + step_v)
            value = bits.min(0)
            rank = jnp.where(bits == value[None], chunk.rank, EMPTY).min(0)
            better = (value < best[0]) | ((value == best[0]) & (rank < best[1]))
            return jnp.where(better, value, best[0]), jnp.where(better, rank, best[1])

        def visit(i: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
            meets_u = (low[0][i] < u + _BLOCK_COLUMNS) & (high[0][i] >= u)
            meets_v = (low[1][i] < v + _BLOCK_ROWS) & (high[1][i] >= v)
            return jax.lax.cond(meets_u & meets_v, nearer, lambda i, best: best, i, best)

        blank = jnp.full(step_u.shape[1], EMPTY)
        return jax.lax.fori_loop(0, len(low[0]), visit, (blank, blank))

    def assemble(blocks: Array) -> Array:
        grid = blocks.reshape(rows, columns, _BLOCK_ROWS, _BLOCK_COLUMNS).swapaxes(1, 2)
        image = grid.reshape(rows * _BLOCK_ROWS, columns * _BLOCK_COLUMNS)
        return image[: camera.height, : camera.width]

    nearest, winner = jax.lax.map(sweep_block, jnp.arange(rows * columns))
    return *decode(assemble(nearest), assemble(winner), count), jnp.zeros((), jnp.int32)


def _sorted_chunks(faces: Triangles, camera: Camera) -> Triangles:
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
