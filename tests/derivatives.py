"""One check for every derivative in the project: forward = reverse = numerical."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree


def check_derivatives(
    function: Callable[[Any], Any],
    point: Any,
    *,
    tolerance: float = 1e-4,
    numerical: bool = True,
    modes: tuple[Callable, ...] = (jax.jacfwd, jax.jacrev),
    dtype: Any = np.float64,
) -> None:
    """Assert that the Jacobian of `function` (pytree to pytree of floats) at `point` is right.

    The Jacobian is taken in float32, as it is used, and compared with central differences of
    fourth order in float64, so that a rounding error in the derivative shows as well.

    Args:
      function: a named function is compiled once for all calls, a lambda once for each.
      point: an array, a list of numbers, or a pytree of these.
      tolerance: largest error, as a share of the largest entry of the Jacobian.
      numerical: False where the function has a kink or a jump at `point`: the derivative must be
        finite and the modes must agree.
      modes: (jax.jacrev,) for a function with a custom_vjp, which has no forward mode.
      dtype: of the differences; float32 for functions that cannot compute in float64. Scale the
        problem so that a step of 0.01 is small, and allow a tolerance of about 1e-3.
    """
    point = _arrays(point, np.float32)
    jacobians = [np.asarray(jacobian) for jacobian in _jacobians(function, modes, point)]
    expected = jacobians[0]
    if numerical:
        with jax.enable_x64(np.dtype(dtype) == np.float64):
            step = 1e-4 if np.dtype(dtype) == np.float64 else 1e-2
            expected = np.asarray(_differences(function, _arrays(point, dtype), step))
    allowed = tolerance * max(float(np.abs(expected).max(initial=0)), 1e-3)
    for mode, jacobian in zip(modes, jacobians, strict=True):
        assert np.isfinite(jacobian).all(), f"{mode.__name__} is not finite: {jacobian}"
        np.testing.assert_allclose(
            jacobian, expected, rtol=0, atol=allowed, err_msg=f"{mode.__name__} is wrong"
        )


def _arrays(point: Any, dtype: Any) -> Any:
    is_list = lambda node: isinstance(node, list)
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), point, is_leaf=is_list)


def _flat(function: Callable, point: Any) -> tuple[Callable, jax.Array]:
    flat, unravel = ravel_pytree(point)
    return lambda x: ravel_pytree(function(unravel(x)))[0], flat


# Compiling takes all the time: each function goes to the compiler as few times as possible, and
# comes out unoptimised.
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.partial(_jit, static_argnums=(0, 1))
def _jacobians(function: Callable, modes: tuple[Callable, ...], point: Any) -> list[jax.Array]:
    flat_function, flat = _flat(function, point)
    return [mode(flat_function)(flat) for mode in modes]


@functools.partial(_jit, static_argnums=0)
def _differences(function: Callable, point: Any, step: float) -> jax.Array:
    flat_function, flat = _flat(function, point)
    offsets = jnp.array([1, -1, 2, -2], flat.dtype).reshape(4, 1, 1)
    points = flat.reshape(1, 1, -1) + step * offsets * jnp.eye(flat.size, dtype=flat.dtype)[None]
    near, near_back, far, far_back = jax.vmap(jax.vmap(flat_function))(points)
    return (8 * (near - near_back) - (far - far_back)).T / (12 * step)
