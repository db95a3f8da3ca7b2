"""What a fit compares with: points, empty space, the way to the object."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, gaussian_filter

from jrecon.fit.observation import (
    evenly,
    firmness,
    from_camera,
    nearest_own,
    observe as observe_,
    to_camera,
)
from jrecon.geometry.camera import make_camera, project

CAMERA = make_camera(80.0, 82.0, 40.0, 29.0, 80, 60)
# Compiled as a whole: a hundred small programs otherwise.
observe = jax.jit(observe_, static_argnames=("size", "samples"))


def scene():
    depth = np.full((60, 80), 4.0, np.float32)
    mask = np.zeros((60, 80), bool)
    mask[10:50, 30:45] = True
    depth[mask] = 2.0 + 0.01 * np.arange(15)[None].repeat(40, 0).ravel()
    depth[:, :5] = 0.0
    return jnp.asarray(depth), jnp.asarray(mask)


@pytest.mark.parametrize("share", (0.02, 0.3))
def test_the_nearest_own_pixel_is_that_of_a_distance_transform(share):
    own = np.random.default_rng(1).random((24, 24)) < share
    found = np.asarray(nearest_own(jnp.asarray(own)))
    rows, columns = np.indices(own.shape)
    assert own[found[..., 1], found[..., 0]].all()
    distance = np.hypot(found[..., 0] - columns, found[..., 1] - rows)
    np.testing.assert_allclose(distance, np.asarray(distance_transform_edt(~own)), rtol=1e-6)


@pytest.mark.parametrize("total", (0, 3, 10, 57))
def test_samples_are_spread_over_what_there_is(total):
    held = np.zeros(100, bool)
    held[np.random.default_rng(0).permutation(100)[:total]] = True
    ids, known = (np.asarray(x) for x in evenly(jnp.asarray(held), 10))
    assert known.sum() == min(total, 10)
    assert held[ids[known]].all() and len(set(ids[known])) == known.sum()


def test_points_lie_where_their_pixels_measured_them():
    depth, mask = scene()
    view = observe(depth, CAMERA, mask, size=32, samples=50)
    points = np.asarray(view.points)[np.asarray(view.shares) > 0]
    pixels = np.asarray(project(CAMERA, jnp.asarray(points)))
    np.testing.assert_allclose(pixels, np.round(pixels), atol=1e-3)
    u, v = np.round(pixels).astype(int).T
    np.testing.assert_allclose(points[:, 2], np.asarray(depth)[v, u], rtol=1e-6)
    # Together they stand for the surface of the object as the camera sees it.
    area = np.sum(np.asarray(depth)[np.asarray(mask)] ** 2) / (80.0 * 82.0)
    assert view.shares.sum() == pytest.approx(area, rel=0.1)


def test_empty_space_is_known_to_a_pixel_and_less_where_nothing_came_back():
    depth, mask = scene()
    view = observe(depth, CAMERA, mask, size=48)
    own, clear = np.asarray(view.own), np.asarray(view.clear)
    assert (clear[own] < 2.2).all()
    trust = np.asarray(view.trust).round(3)
    assert set(np.unique(trust)) <= {0.0, 0.1, 1.0}
    far = (clear > 3.9) & (clear < 4.1)
    assert far.any() and (np.asarray(view.trust)[far] > 0).all()


def test_noise_is_measured_where_there_is_some():
    depth, mask = scene()
    assert observe(depth, CAMERA, mask).noise < 1e-3
    noisy = depth + 0.02 * jax.random.normal(jax.random.key(0), depth.shape)
    assert observe(noisy, CAMERA, mask, size=30).noise == pytest.approx(0.02, rel=0.35)


def test_ramps_between_surfaces_are_not_firm_and_sharp_edges_are():
    depth = np.full((24, 24), 3.0, np.float32)
    depth[:, 12:] = 2.0
    sharp = np.asarray(firmness(jnp.asarray(depth), CAMERA, jnp.asarray(0.0)))
    np.testing.assert_allclose(sharp, 1.0, atol=1e-6)
    depth[:, 10:14] = np.linspace(2.8, 2.2, 4, dtype=np.float32)
    blurred = np.asarray(firmness(jnp.asarray(depth), CAMERA, jnp.asarray(0.0)))
    assert (blurred[:, 10:14] < 0.1).all() and (blurred[:, :9] > 0.99).all()
    # A surface that is seen at 45 degrees is no ramp; nor is noise, once it is known.
    slanted = 2.0 + np.arange(24.0) / 40 * np.ones((24, 1))
    assert (np.asarray(firmness(jnp.asarray(slanted), CAMERA, jnp.asarray(0.0))) > 0.9).all()
    noise = 0.05 * np.random.default_rng(0).standard_normal(depth.shape)
    rough = np.asarray(firmness(jnp.asarray(2.0 + noise), CAMERA, jnp.asarray(0.05)))
    assert np.median(rough) > 0.95


def test_blurred_outlines_are_doubted_and_empty_only_beyond_their_ramps():
    depth, mask = (np.array(x) for x in scene())
    depth[:, :5] = 4.0
    blurred = jnp.asarray(gaussian_filter(depth, 2.0), jnp.float32)
    sharp, soft = (observe(jnp.asarray(z), CAMERA, jnp.asarray(mask)) for z in (depth, blurred))
    assert np.asarray(sharp.firm).min() > 0.99
    # Near the outline points are decimetres off and not firm; in the middle right and firm.
    firm, known = np.asarray(soft.firm), np.asarray(soft.shares) > 0
    off = np.asarray(soft.points)[:, 2] - 2.07
    assert (firm[known & (off > 0.3)] < 0.1).all() and (known & (off > 0.3)).sum() > 50
    assert (firm[known & (np.abs(off) < 0.075)] > 0.5).mean() > 0.5
    # Where the object is, rays are not said to be empty far behind it.
    assert np.asarray(soft.clear)[np.asarray(soft.own)].max() < 2.5


def test_blurred_depth_counts_for_less_by_metres_and_not_by_pixels():
    depth, mask = (np.array(x) for x in scene())
    depth[:, :5] = 4.0
    told = []
    for finer in (1, 2):
        fine, held = (np.kron(x, np.ones((finer, finer), x.dtype)) for x in (depth, mask))
        camera = make_camera(
            fx=80 * finer, fy=82 * finer, cx=0, cy=0, width=fine.shape[1], height=fine.shape[0]
        )
        for sigma in (0.0, 2.0):
            seen = jnp.asarray(gaussian_filter(fine, finer * sigma), jnp.float32)
            view = observe(seen, camera, jnp.asarray(held), size=72 * finer, samples=4000)
            told.append((float(view.shares.sum()), float(view.noise)))
    (sharp, low), (soft, high), (fine_sharp, _), (fine_soft, fine_high) = told
    # At 2.1 m a pixel is 26 mm: 2 of them are 1.7 times 30 mm.
    assert 0.15 < soft / sharp < 0.35 and low < 1e-3
    assert high == pytest.approx(0.004 * 2.1**2, rel=0.2)
    assert fine_soft / fine_sharp == pytest.approx(soft / sharp, rel=0.25)
    assert fine_high == pytest.approx(high, rel=0.2)


def test_holes_of_the_object_are_not_empty_space():
    """Black clothes return nothing; the mask says that the object is there."""
    depth, mask = (np.array(x) for x in scene())
    depth[30:50, 30:45] = 0.0
    view = observe(jnp.asarray(depth), CAMERA, jnp.asarray(mask), size=72)
    less = observe(jnp.asarray(depth), CAMERA, jnp.asarray(mask & (depth > 0)), size=72)
    np.testing.assert_array_equal(view.own, less.own)
    # Most of 20 x 15 pixels: their rim is next to what was measured.
    changed = np.asarray(view.trust) != np.asarray(less.trust)
    assert changed.sum() > 250
    np.testing.assert_array_equal(np.asarray(view.trust)[changed], 0.0)
    np.testing.assert_allclose(np.asarray(less.trust)[changed], 0.1, rtol=1e-5)


def test_an_empty_or_broken_image_wants_nothing():
    depth, mask = scene()
    for bad in (jnp.zeros_like(depth), jnp.full_like(depth, jnp.nan)):
        view = observe(bad, CAMERA, mask)
        assert not view.own.any() and not view.shares.any()
        assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(view))
    assert not observe(depth, CAMERA, jnp.zeros_like(mask)).own.any()


def test_views_know_their_place():
    depth, mask = scene()
    turn = jnp.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    shift = jnp.array([0.1, 0.2, 2.0])
    view = observe(depth, CAMERA, mask, rotation=turn, translation=shift)
    points = jax.random.normal(jax.random.key(0), (5, 3))
    there = to_camera(view, points)
    np.testing.assert_allclose(there, points @ turn.T + shift[None], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(from_camera(view, there - shift[None]), points, atol=1e-5)
