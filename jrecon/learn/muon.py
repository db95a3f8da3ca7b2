"""Muon (Jordan 2024): steps that turn each kernel in all of its directions alike.

optax has it; the orthogonalisation is done here, as nearly all of an optimiser's time goes into it.
Each of its iterations multiplies a matrix by a polynomial of its Gram matrix, so the polynomials
can be multiplied first, which are small and square, and the matrix once.
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
    rate: optax.Schedule, *, decay: float, decayed: Callable[[Any], Any]
) -> optax.GradientTransformation:
    """Muon for kernels, Adam for vectors. Its state is that of `optax.contrib.muon`.

    Args:
      rate: learning rate by step.
      decay: weight decay of kernels.
      decayed: weights -> which of them are drawn towards zero.
    """
    turned = lambda slopes, _: jax.tree.map(_step, slopes)
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


def orthogonalize(matrix: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """About the nearest matrix with equal singular values, by Newton-Schulz iteration."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalize(matrix.T).T
    x = matrix / (jnp.linalg.norm(matrix) + 1e-8)
    a, b, c = _QUINTIC
    gram, product = x @ x.T, None
    for _ in range(_TIMES):
        factor = a * jnp.eye(len(x), dtype=x.dtype) + b * gram + c * gram @ gram
        # All are polynomials of one symmetric matrix, so they commute.
        product = factor if product is None else factor @ product
        gram = factor @ gram @ factor
    return product @ x


def _step(kernel: Float[Array, "*n m"]) -> Float[Array, "*n m"]:
    """Of one kernel, seen as a matrix from all axes but the last to the last."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    size = _RMS * math.sqrt(max(matrix.shape))
    return size * orthogonalize(matrix).reshape(kernel.shape)


def _matrices(weights: Any) -> Any:
    """How optax is told of the same view; `partition` has taken the vectors away."""
    numbers = lambda x: optax.contrib.MuonDimensionNumbers(tuple(range(x.ndim - 1)), (x.ndim - 1,))
    return jax.tree.map(numbers, weights)
