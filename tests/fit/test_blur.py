"""Blurred edges: how wide the blur is, and how far off it puts what is measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from jrecon.fit.blur import measure_blur

measure = jax.jit(measure_blur)
NEAR, FAR = 2.5, 4.0


def scene(sigma):
    """A person-like shape before a wall: (blurred depth, mask, depth before)."""
    own = np.zeros((64, 64), bool)
    own[8:18, 26:36] = True
    own[18:40, 20:42] = True
    own[40:60, 22:29] = True
    own[40:60, 33:40] = True
    clean = np.where(own, NEAR + 0.004 * np.arange(64)[None], FAR)
    depth = gaussian_filter(clean, sigma, truncate=6) if sigma else clean
    return depth.astype(np.float32), own, clean


@pytest.mark.parametrize("sigma", (0.9, 1.3, 1.8))
def test_the_width_of_a_blur_is_found(sigma):
    depth, own, _ = scene(sigma)
    assert measure(jnp.asarray(depth), jnp.asarray(own)).width == pytest.approx(sigma, rel=0.12)


def test_sharp_edges_are_not_doubted():
    depth, own, _ = scene(0.0)
    for noise in (0.0, 0.03):
        noisy = depth + noise * np.random.default_rng(0).standard_normal(depth.shape)
        found = measure(jnp.asarray(noisy, jnp.float32), jnp.asarray(own))
        assert found.width == 0 and not found.error.any()


@pytest.mark.parametrize("sigma", (0.9, 1.3))
def test_depth_is_off_by_what_is_said(sigma):
    depth, own, clean = scene(sigma)
    error = np.asarray(measure(jnp.asarray(depth), jnp.asarray(own)).error)
    off = np.abs(depth - clean)[own]
    assert off.max() > 0.5 and (off <= error[own] + 0.005).mean() > 0.97
    # With the true outline and an even wall a bound is not far from what it bounds.
    assert (error[own] <= 3.5 * off + 0.02).mean() > 0.95
    # The middle of the trunk was never in doubt, the outline is.
    assert error[28, 31] < 0.005 < 0.1 < error[28, 20]
    assert not error[~own].any()


def test_a_wall_that_is_out_of_range_leaves_doubt():
    depth, own, _ = scene(1.3)
    # On the right, ramps are cut off where the sensor's range ends.
    depth[:, 32:] = np.where(depth < 3.6, depth, 0.0)[:, 32:]
    found = measure(jnp.asarray(depth), jnp.asarray(own))
    assert found.width > 0
    assert found.error[28, 41] > 0.1
    assert found.error[28, 31] < 0.02


def test_where_the_image_ends_nothing_was_lost():
    """An object that is cut off by the image is as well measured there as in its middle."""
    depth, own = np.full((64, 64), 4.0, np.float32), np.zeros((64, 64), bool)
    own[20:, 22:42] = True
    depth[own] = 2.0
    # What the camera saw goes on beyond row 50; the window does, too, and has nothing there.
    depth = gaussian_filter(depth, 2.0)
    inside = np.arange(64)[:, None] < np.full((1, 64), 50)
    seen, held = jnp.asarray(depth * inside), jnp.asarray(own & inside)
    cut = measure(seen, held, jnp.asarray(inside))
    middle = np.asarray(cut.error)[:, 30:34]
    assert cut.width > 1.5 and middle[46:50].max() < 2 * middle[35:40].max() + 0.01
    # Of which no border is known, something may have been lost there.
    assert np.asarray(measure(seen, held).error)[49, 30:34].min() > 0.3


def test_nothing_and_batches():
    empty = measure(jnp.zeros((64, 64)), jnp.zeros((64, 64), bool))
    assert empty.width == 0 and not empty.error.any()
    scenes = [scene(sigma) for sigma in (0.0, 1.3)]
    depth, own = (jnp.asarray(np.stack([one[i] for one in scenes])) for i in (0, 1))
    together = jax.jit(jax.vmap(measure_blur))(depth, own)
    for i in range(2):
        alone = measure(depth[i], own[i])
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-4)
