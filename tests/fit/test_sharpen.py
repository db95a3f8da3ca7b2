"""Blurred edges: how wide the blur is, and what was there before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from jrecon.fit import sharpen as module

blur_of, sharpen = jax.jit(module.blur_of), jax.jit(module.sharpen)
NEAR, FAR = 2.5, 4.0


def scene(sigma, far=FAR):
    """A person-like shape before a wall, averaged over neighbours that have a depth, as sensors do;
    (blurred depth, mask, depth before)."""
    own = np.zeros((64, 64), bool)
    own[8:18, 26:36] = True
    own[18:40, 20:42] = True
    own[40:60, 22:29] = True
    own[40:60, 33:40] = True
    clean = np.where(own, NEAR + 0.004 * np.arange(64)[None], far)
    valid = clean > 0
    if sigma:
        weight = gaussian_filter(valid.astype(float), sigma, truncate=6)
        mixed = gaussian_filter(clean, sigma, truncate=6) / np.maximum(weight, 1e-9)
        return np.where(valid, mixed, 0.0).astype(np.float32), own, clean
    return clean.astype(np.float32), own, clean


@pytest.mark.parametrize("sigma", (0.9, 1.3, 1.8))
def test_the_width_of_a_blur_is_found(sigma):
    depth, own, _ = scene(sigma)
    assert blur_of(jnp.asarray(depth), jnp.asarray(own)) == pytest.approx(sigma, rel=0.12)


def test_sharp_edges_stay_as_they_are():
    depth, own, _ = scene(0.0)
    for noise in (0.0, 0.03):
        noisy = depth + noise * np.random.default_rng(0).standard_normal(depth.shape)
        found = sharpen(jnp.asarray(noisy, jnp.float32), jnp.asarray(own))
        assert found.blur == 0 and not found.doubt.any()
        np.testing.assert_array_equal(found.depth, noisy.astype(np.float32))


@pytest.mark.parametrize("sigma", (0.9, 1.3))
def test_what_blur_did_is_undone_as_far_as_doubt_says(sigma):
    depth, own, clean = scene(sigma)
    found = sharpen(jnp.asarray(depth), jnp.asarray(own))
    before, after = (np.abs(x - clean)[own] for x in (depth, np.asarray(found.depth)))
    doubt = np.asarray(found.doubt)[own]
    # Without noise, with the true outline and an even wall, most of it comes back.
    assert after.mean() < 0.3 * before.mean()
    assert (after < 0.02 + doubt).mean() > 0.95
    # The middle of the trunk was never in doubt, the outline is.
    assert np.asarray(found.doubt)[28, 31] < 0.005 < 0.1 < np.asarray(found.doubt)[28, 20]
    np.testing.assert_array_equal(np.asarray(found.depth)[~own], depth[~own])


def test_a_wall_that_is_out_of_range_leaves_doubt():
    depth, own, _ = scene(1.3)
    # Ramps are cut off where the sensor's range ends.
    depth = np.where(depth < 3.6, depth, 0.0)
    depth[:, :32] = scene(1.3)[0][:, :32]
    found = sharpen(jnp.asarray(depth), jnp.asarray(own))
    assert found.blur > 0
    assert np.asarray(found.doubt)[28, 41] > 0.1
    assert np.asarray(found.doubt)[28, 31] < 0.02


def test_nothing_and_batches():
    empty = sharpen(jnp.zeros((64, 64)), jnp.zeros((64, 64), bool))
    assert empty.blur == 0 and not empty.depth.any() and not empty.doubt.any()
    scenes = [scene(sigma) for sigma in (0.0, 1.3)]
    depth, own = (jnp.asarray(np.stack([one[i] for one in scenes])) for i in (0, 1))
    together = jax.jit(jax.vmap(module.sharpen))(depth, own)
    for i in range(2):
        alone = sharpen(depth[i], own[i])
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-4)
