"""Muon (Jordan 2024): steps that turn each kernel in all of its directions alike.

optax has it, with the orthogonalisation in the type of the weights. Here it is done in bfloat16 on
request, as in the author's own code: nearly all of an optimiser's time goes into these products,
and their result is a direction that need not be exact. Momentum, weights and the rest stay float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jaxtyping import Array, Float

# Steps are given the size of AdamW's, so that one learning rate fits both (Liu et al. 2025, "Muon
# is scalable for LLM training").
_RMS = 0.2
# Of the quintic x -> a x + b x^3 + c x^5 on singular values, and how often it is applied: chosen by
# Jordan to be steep at zero, at the price of ending near one and not at it (0.7 to 1.2).
_QUINTIC = (3.4445, -4.7750, 2.0315)
_TIMES = 5


def muon(
    rate: optax.Schedule, *, decay: float, decayed: Callable[[Any], Any], bf16: bool
) -> optax.GradientTransformation:
    """Muon for kernels, Adam for vectors. Its state is that of `optax.contrib.muon`.

    Args:
      rate: learning rate by step.
      decay: weight decay of kernels.
      decayed: weights -> which of them are drawn towards zero.
      bf16: orthogonalise in bfloat16.
    """
    dtype = jnp.bfloat16 if bf16 else jnp.float32
    turned = lambda slopes, _: jax.tree.map(lambda x: _step(x, dtype), slopes)
    kernels = optax.chain(
        # No steps of its own: momentum alone.
        optax.contrib.scale_by_muon(ns_steps=0, weight_dimension_numbers=_matrices),
        optax.stateless(turned),
        optax.add_decayed_weights(decay, decayed),
        optax.scale_by_learning_rate(rate),
    )
    vectors = optax.adamw(rate, weight_decay=0.0, nesterov=True)
    kinds = lambda tree: jax.tree.map(lambda x: "muon" if x.ndim > 1 else "adam", tree)
    return optax.partition({"muon": kernels, "adam": vectors}, kinds)


def orthogonalize(
    matrix: Float[Array, "n m"], dtype: jnp.dtype | type = jnp.float32
) -> Float[Array, "n m"]:
    """About the nearest matrix with equal singular values, by Newton-Schulz iteration."""
    x = matrix.astype(dtype)
    if x.shape[0] > x.shape[1]:
        return orthogonalize(matrix.T, dtype).T
    x /= jnp.linalg.norm(x) + 1e-8
    a, b, c = _QUINTIC
    for _ in range(_TIMES):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.astype(matrix.dtype)


def _step(kernel: Float[Array, "*n m"], dtype: Any) -> Float[Array, "*n m"]:
    """Of one kernel, seen as a matrix from all axes but the last to the last."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    size = _RMS * math.sqrt(max(matrix.shape))
    return size * orthogonalize(matrix, dtype).reshape(kernel.shape)


def _matrices(weights: Any) -> Any:
    """How optax is told of the same view; `partition` has taken the vectors away."""
    numbers = lambda x: optax.contrib.MuonDimensionNumbers(tuple(range(x.ndim - 1)), (x.ndim - 1,))
    return jax.tree.map(numbers, weights)
