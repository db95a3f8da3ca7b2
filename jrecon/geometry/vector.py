"""Length and direction of vectors, finite with finite derivatives at zero.

`where(x > 0, sqrt(x), 0)` has a NaN gradient at 0, because the gradient of the branch not taken is
multiplied by zero and is infinite. Here the argument is replaced before the square root.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def norm(vector: Float[Array, "*batch n"]) -> Float[Array, "*batch 1"]:
    """Euclidean length along the last axis, which is kept; the derivative at zero is zero."""
    squared = jnp.sum(vector**2, axis=-1, keepdims=True)
    zero = squared == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squared)))


def normalize(vector: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """The vector at unit length; a zero vector stays zero."""
    length = norm(vector)
    return vector / jnp.where(length == 0, 1.0, length)
