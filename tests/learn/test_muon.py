"""Muon: that of optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from jrecon.learn.muon import muon, orthogonalize

WEIGHTS = {"kernel": np.ones((3, 3, 2, 5)), "matrix": np.ones((4, 7)), "bias": np.ones(4)}


def decayed(tree):
    return jax.tree.map(lambda x: x.ndim > 1, tree)


def changes(optimizer, rng, weights, steps=4):
    """What it makes of some gradients, and its state at the end."""
    memory, update, found = optimizer.init(weights), jax.jit(optimizer.update), []
    for _ in range(steps):
        slopes = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), weights)
        change, memory = update(slopes, memory, weights)
        found.append(change)
    return jax.tree.map(lambda *x: np.stack(x), *found), memory


@pytest.fixture
def reference():
    numbers = lambda weights: jax.tree.map(
        lambda x: optax.contrib.MuonDimensionNumbers(tuple(range(x.ndim - 1)), (x.ndim - 1,))
        if x.ndim > 1 else None,
        weights,
    )  # fmt: skip
    return optax.contrib.muon(
        optax.constant_schedule(0.1), weight_decay=0.1, weight_decay_mask=decayed,
        consistent_rms=0.2, muon_weight_dimension_numbers=numbers,
    )  # fmt: skip


def test_it_is_that_of_optax(reference):
    weights = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), WEIGHTS)
    own = muon(optax.constant_schedule(0.1), decay=0.1, decayed=decayed)
    one, state = changes(own, np.random.default_rng(0), weights)
    other, expected = changes(reference, np.random.default_rng(0), weights)
    for name in WEIGHTS:
        size = np.abs(other[name]).max()
        np.testing.assert_allclose(one[name], other[name], atol=1e-4 * size)
    # So that checkpoints are of one kind, and whoever reads them can choose.
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in jax.tree.leaves((one, state)))


def test_it_turns_in_all_directions_alike(rng):
    """A matrix that is nearly of rank one comes out with about equal singular values."""
    nearly_flat = rng.normal(size=(18, 1)) * rng.normal(size=5) + 0.03 * rng.normal(size=(18, 5))
    before = np.linalg.svd(nearly_flat, compute_uv=False)
    for matrix in (nearly_flat, nearly_flat.T):
        found = np.asarray(orthogonalize(jnp.asarray(matrix, jnp.float32)))
        assert found.dtype == np.float32 and found.shape == matrix.shape
        after = np.linalg.svd(found, compute_uv=False)
        assert after[0] / after[-1] < 2 < 10 < before[0] / before[-1]
        assert 0.5 < after[-1] and after[0] < 1.3
        # The directions are those of the matrix itself.
        u, _, vt = np.linalg.svd(matrix, full_matrices=False)
        inner = u.T @ found @ vt.T
        assert np.abs(inner - np.diag(np.diag(inner))).max() < 0.15
