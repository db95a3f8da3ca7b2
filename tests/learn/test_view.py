"""What the network sees: exact geometry, whatever the camera, the crop and the mask."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.geometry.camera import make_camera, unproject
from jrecon.learn.view import view_object

CAMERA = make_camera(80.0, 84.0, 30.0, 22.0, 60, 48)


def wall_with_square(rng):
    """A wall at 3 m and a tilted square before it."""
    v, u = np.mgrid[:48, :60].astype(np.float32)
    depth = np.full((48, 60), 3.0, np.float32)
    mask = (u > 25) & (u < 50) & (v > 10) & (v < 40)
    depth[mask] = (1.5 + 0.01 * (u - 37) + 0.005 * rng.normal(size=u.shape))[mask]
    return jnp.asarray(depth), jnp.asarray(mask)


def test_points_are_those_of_the_pixels(rng):
    depth, mask = wall_with_square(rng)
    view = jax.jit(view_object, static_argnums=3)(depth, CAMERA, mask, 32)
    v, u = np.nonzero(np.asarray(mask))
    pixels = np.stack([u, v], axis=-1).astype(np.float32)
    points = np.asarray(unproject(CAMERA, jnp.asarray(pixels), depth[v, u]))
    own = np.asarray(view.image[..., 3]) > 0
    back = np.asarray(view.image[..., :3])[own] @ np.asarray(view.turn) + np.asarray(view.middle)
    # Every point that is seen is that of a pixel, in the frame of the camera.
    nearest = np.linalg.norm(back[:, None] - points[None], axis=-1).min(1)
    assert nearest.max() < 1e-5
    assert 0.7 < own.mean() < 1.0


def test_the_middle_is_on_the_axis(rng):
    depth, mask = wall_with_square(rng)
    view = jax.tree.map(np.asarray, view_object(depth, CAMERA, mask, 16))
    ahead = np.array([0, 0, np.linalg.norm(view.middle)])
    np.testing.assert_allclose(view.turn @ view.middle, ahead, atol=1e-5)
    np.testing.assert_allclose(view.turn @ view.turn.T, np.eye(3), atol=1e-6)
    own = view.image[..., 3:4]
    mean = (view.image[..., :3] * own).sum((0, 1)) / own.sum()
    np.testing.assert_allclose(mean, 0.0, atol=1e-5)


def test_where_the_image_was_cut_makes_no_difference(rng):
    """A window of the image, with its camera, is seen the same."""
    depth, mask = wall_with_square(rng)
    window = dataclasses.replace(
        CAMERA, center=CAMERA.center - jnp.array([20.0, 5.0]), width=36, height=40
    )
    whole = view_object(depth, CAMERA, mask, 16)
    part = view_object(depth[5:45, 20:56], window, mask[5:45, 20:56], 16)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("finer", (3, 9))
def test_an_image_of_more_pixels_looks_the_same(rng, finer):
    """Functions learn from small images: finer ones must not look like nothing they have seen."""
    depth, mask = wall_with_square(rng)
    many = [jnp.asarray(np.kron(x, np.ones((finer, finer), x.dtype))) for x in (depth, mask)]
    # Of the middle of the first pixel and that of its parts.
    shift = (finer - 1) / 2
    camera = make_camera(
        80.0 * finer, 84.0 * finer, 30.0 * finer + shift, 22.0 * finer + shift,
        60 * finer, 48 * finer,
    )  # fmt: skip
    few = view_object(depth, CAMERA, mask, 16)
    fine = view_object(many[0], camera, many[1], 16)
    np.testing.assert_allclose(fine.scalars, few.scalars, atol=2e-2)
    # Rays through parts of a pixel are others than that through its middle.
    np.testing.assert_allclose(fine.image[..., 2:5], few.image[..., 2:5], atol=1e-2)


def test_what_is_around_is_told_but_bounded(rng):
    depth, mask = wall_with_square(rng)
    image = np.asarray(view_object(depth, CAMERA, mask, 32).image)
    around = image[..., 5]
    assert (around[image[..., 3] > 0] == 0).all()
    assert around.max() == 1.0
    near = depth.at[:15].set(0.3)
    assert np.asarray(view_object(near, CAMERA, mask, 32).image)[..., 5].min() == -1.0


@pytest.mark.parametrize("broken", ["empty", "no depth", "nan", "negative", "inf"])
def test_bad_input_is_finite(rng, broken):
    depth, mask = wall_with_square(rng)
    values = {"no depth": 0.0, "nan": jnp.nan, "negative": -1.0, "inf": jnp.inf}
    if broken == "empty":
        mask = jnp.zeros_like(mask)
    else:
        depth = jnp.full_like(depth, values[broken])
    view = view_object(depth, CAMERA, mask, 16)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(view))
    np.testing.assert_allclose(view.middle, [0, 0, 2.0])
    assert not view.image[..., 3].any()
