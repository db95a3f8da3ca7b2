"""Distances and the nearest, against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.geometry.nearest import distances, index_of_least


def test_distances_are_those_of_differences_metres_from_the_camera():
    a, b = (
        np.random.default_rng(i).normal(size=(n, 3)) + [0.3, -0.2, 6.0]
        for i, n in ((0, 40), (1, 30))
    )
    b[:5] = a[:5]
    exact = np.linalg.norm(a[:, None] - b[None], axis=-1)
    found = jax.jit(distances)(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    np.testing.assert_allclose(found, exact, atol=2e-3)
    far = exact > 0.05
    np.testing.assert_allclose(np.asarray(found)[far], exact[far], atol=5e-5)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_the_first_of_the_least_as_argmin_has_it(axis):
    values = np.random.default_rng(2).integers(0, 4, size=(6, 50, 7)).astype(np.float32)
    values[:, :, 3] = np.inf
    found = jax.jit(index_of_least, static_argnums=1)(values, axis)
    np.testing.assert_array_equal(found, np.argmin(values, axis=axis))
    assert found.dtype == jnp.int32
