"""One check for every derivative in the project: forward = reverse = numerical."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_derivatives(
    function: Callable[[Any], Any],
    point: Any,
    *,
    step: float = 2e-3,
    atol: float = 5e-3,
    numerical: bool = True,
) -> None:
    """Assert that the Jacobian of `function` (array to array) at `point` is finite and right.

    Forward mode must equal reverse mode to rounding, and both the central difference of fourth
    order, which in float32 with steps of `step` is good to about 1e-7 / step.
    """
    point = jnp.asarray(point, jnp.float32)
    forward = np.asarray(jax.jit(jax.jacfwd(function))(point))
    reverse = np.asarray(jax.jit(jax.jacrev(function))(point))
    assert np.isfinite(forward).all() and np.isfinite(reverse).all()
    np.testing.assert_allclose(reverse, forward, atol=1e-5, rtol=1e-4)
    if not numerical:
        return
    value = jax.jit(function)
    for index in np.ndindex(point.shape):
        shift = np.zeros(point.shape, np.float32)
        shift[index] = step
        near = np.asarray(value(point + shift)) - np.asarray(value(point - shift))
        far = np.asarray(value(point + 2 * shift)) - np.asarray(value(point - 2 * shift))
        slope = (8 * near.astype(np.float64) - far) / (12 * step)
        np.testing.assert_allclose(forward[(..., *index)], slope, atol=atol)
