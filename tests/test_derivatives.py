"""The checker of derivatives must itself catch wrong ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.derivatives import check_derivatives


def test_a_right_derivative_passes_for_any_pytree():
    point = {"a": [1.0, -2.0], "b": np.full((2, 2), 0.5)}
    check_derivatives(lambda p: (jnp.sin(p["a"]) * 1e-3, p["b"] @ p["a"]), point)
    check_derivatives(lambda p: jnp.outer(p["a"], p["a"]), point, dtype=np.float32, tolerance=1e-3)


@jax.custom_jvp
def slightly_wrong(x):
    return x**2


slightly_wrong.defjvp(lambda x, t: (x[0] ** 2, 2.001 * x[0] * t[0]))


@jax.custom_vjp
def wrong_in_reverse(x):
    return x**2


wrong_in_reverse.defvjp(lambda x: (x**2, x), lambda x, c: (x * c,))


@pytest.mark.parametrize(
    "function, point, options, message",
    [
        (slightly_wrong, [0.3, 2.0], {}, "jacfwd is wrong"),
        (wrong_in_reverse, [0.3], {"modes": (jax.jacrev,)}, "jacrev is wrong"),
        (lambda x: jnp.linalg.norm(x), [0.0, 0.0], {"numerical": False}, "jacfwd is not finite"),
        (jnp.floor, [0.99995], {}, "jacfwd is wrong"),
        (lambda x: x - jax.lax.stop_gradient(x), [1.0], {}, "jacfwd is wrong"),
    ],
)
def test_a_wrong_derivative_fails(function, point, options, message):
    with pytest.raises(AssertionError, match=message):
        check_derivatives(function, point, **options)
