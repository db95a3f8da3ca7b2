"""Random fields of one image, cheap enough to draw many of them per image on a CPU.

Threefry, the default of `jax.random`, needs 60 us for the bits of one 128 x 128 field on a CPU
core; here a key is expanded by a counter-based hash in less than a tenth of that. Fields of one
key are reproducible, the same under `jit`, `vmap` and on every backend, and pass for independent:
good enough for noise, not for cryptography.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

# 2^32 over the golden ratio: consecutive fields start far from each other.
_STRIDE = 0x9E3779B9
# Standard deviation of the sum of four uniform bytes.
_SUM_STD = float(np.sqrt(4 * (256**2 - 1) / 12))


def words(key: PRNGKeyArray, count: int, size: int) -> list[UInt32[Array, " size"]]:
    """`count` independent fields of `size` random 32-bit words."""
    seeds = jax.random.bits(key, (2,), jnp.uint32)
    pixel = _hash(jax.lax.iota(jnp.uint32, size) + seeds[0])
    return [_hash(pixel ^ (seeds[1] + jnp.uint32(i * _STRIDE % 2**32))) for i in range(count)]


def _hash(x: UInt32[Array, " n"]) -> UInt32[Array, " n"]:
    """A bijection of 32-bit words with little bias: C. Wellons' public-domain `lowbias32`."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def uniforms(
    word: UInt32[Array, " n"],
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Two independent uniform numbers in [0, 1) per word, in steps of 2^-16."""
    return _unit(word >> 16), _unit(word & 0xFFFF)


def _unit(bits: UInt32[Array, " n"]) -> Float[Array, " n"]:
    return bits.astype(jnp.int32).astype(jnp.float32) * 2.0**-16


def gaussian(word: UInt32[Array, " n"]) -> Float[Array, " n"]:
    """Mean 0, standard deviation 1: the sum of the word's four bytes.

    Kurtosis 2.7 instead of 3 and nothing beyond 3.45: an inverse error function would cost several
    times as much as all the rest.
    """
    mask = jnp.uint32(0xFF)
    total = (word & mask) + ((word >> 8) & mask) + ((word >> 16) & mask) + (word >> 24)
    return (total.astype(jnp.int32).astype(jnp.float32) - 510.0) / _SUM_STD


def smooth_field(
    key: PRNGKeyArray, length: Any, height: int, width: int, *, shortest: int = 2
) -> Float[Array, "h w"]:
    """A Gaussian field (mean 0, standard deviation 1 at every pixel) correlated over `length`.

    White noise on a grid of that spacing, averaged with Gaussian weights: two small products of
    matrices. The correlation of two pixels falls to 1/e at a distance of about `length`.

    Args:
      length: in pixels, may be traced; taken as `shortest` where it is less.
      shortest: decides the size of the grid, and with it the cost.
    """
    spacing = jnp.maximum(jnp.asarray(length, jnp.float32), shortest)
    rows, columns = (_weights(size, spacing, shortest) for size in (height, width))
    count = rows.shape[1], columns.shape[1]
    white = gaussian(words(key, 1, count[0] * count[1])[0]).reshape(count)
    return rows @ white @ columns.T


def _weights(size: int, spacing: Float[Array, ""], shortest: int) -> Float[Array, "size nodes"]:
    """Weights of the grid's nodes for each pixel, as rows of length 1."""
    nodes = spacing * (jnp.arange(size // shortest + 3) - 1.0)
    # Averaging twice with standard deviation s correlates over 2 s: exp(-x^2 / (2 s)^2).
    offset = (jnp.arange(float(size))[:, None] - nodes[None, :]) / (spacing / 2)
    weights = jnp.exp(-0.5 * offset**2)
    return weights / jnp.sqrt(jnp.sum(weights**2, axis=1, keepdims=True))
