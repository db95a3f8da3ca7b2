"""All of some points against all of others, in whole arrays that CPUs can vectorise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def distances(a: Float[Array, "a 3"], b: Float[Array, "b 3"]) -> Float[Array, "a b"]:
    """Of each point of `a` to each of `b`, by a product of matrices: no array of differences.

    To some 3e-4 of the extent of `a`, as squares are subtracted; both are taken from the middle of
    `a`, so that metres to the camera cost no digits.
    """
    middle = jnp.mean(a, axis=0, keepdims=True)
    a, b = a - middle, b - middle
    squares = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)[None]
    squares -= 2 * jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.sqrt(jnp.maximum(squares, 0.0))


def index_of_least(values: Float[Array, "*n"], axis: int) -> Int[Array, "*m"]:
    """As `argmin`, for axes of fewer than 2^24 entries that are not NaN: the first of the least.

    XLA's `argmin` is one scalar loop on CPUs; two plain minima take a third of its time.
    """
    count = values.shape[axis]
    least = jnp.min(values, axis=axis, keepdims=True)
    # As floats, of which XLA vectorises the minimum.
    shape = [count if i == axis % values.ndim else 1 for i in range(values.ndim)]
    places = jnp.arange(count, dtype=jnp.float32).reshape(shape)
    first = jnp.min(jnp.where(values <= least, places, count - 1.0), axis=axis)
    return first.astype(jnp.int32)
