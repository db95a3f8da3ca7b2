"""What is drawn: points, distances, colours, lines."""

import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from jrecon.geometry.camera import make_camera, project, rays
from jrecon.viewer.arrays import (
    bones,
    cloud_colors,
    colors_of,
    depth_picture,
    frustum,
    gaps,
    make_cloud,
)

CAMERA = make_camera(60, 62, 23.5, 15.0, 48, 32)


def scene(rng):
    depth = rng.uniform(1, 3, (32, 48)).astype(np.float32)
    depth[:4] = 0
    mask = np.zeros(depth.shape, bool)
    mask[2:20, 10:30] = True
    return depth, mask


def test_points_project_back_to_their_pixels(rng):
    depth, mask = scene(rng)
    cloud = make_cloud(depth, CAMERA, mask)
    assert len(cloud.points) == (depth > 0).sum()
    assert cloud.own.sum() == (mask & (depth > 0)).sum()
    u, v = np.rint(np.asarray(project(CAMERA, jnp.asarray(cloud.points)))).astype(int).T
    np.testing.assert_allclose(cloud.points[:, 2], depth[v, u], rtol=1e-6)
    np.testing.assert_array_equal(cloud.own, mask[v, u])
    own, other = cloud_colors(cloud)[[0, -1]]
    assert (own != other).any()


def test_clouds_are_thinned_but_keep_the_object(rng):
    depth, mask = scene(rng)
    cloud = make_cloud(depth, CAMERA, mask, most=100)
    assert len(cloud.points) == 100
    assert cloud.own.sum() == 50
    assert len(make_cloud(np.zeros_like(depth), CAMERA, mask).points) == 0


def test_gaps_are_known_where_the_object_is_seen():
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.3)
    vertices = np.asarray(ball.vertices, np.float32) + np.array([0, 0, 2], np.float32)
    # A wall 5 cm behind the nearest point of the ball.
    depth = np.full((32, 48), 1.75, np.float32)
    mask = np.ones(depth.shape, bool)
    mask[:, :20] = False
    faces = np.asarray(ball.faces, np.int32)
    seen = jnp.asarray(faces), jnp.asarray(depth), CAMERA, jnp.asarray(mask)
    gap = np.asarray(gaps(jnp.asarray(vertices), *seen))
    pixel = np.asarray(project(CAMERA, jnp.asarray(vertices)))
    front = vertices[:, 2] < 1.9
    known = front & (pixel[:, 0] > 20)
    np.testing.assert_allclose(gap[known], 1.75 - vertices[known, 2], atol=1e-6)
    assert known.sum() > 20
    assert np.isnan(gap[vertices[:, 2] > 2.1]).all(), "what is hidden has no distance"
    assert np.isnan(gap[pixel[:, 0] < 19]).all(), "outside the mask there is none"
    # Behind the camera, or nowhere: nothing is seen, nothing fails.
    assert np.isnan(np.asarray(gaps(jnp.asarray(-vertices), *seen))).all()


def test_colors_tell_before_from_behind():
    gap, std = np.array([0.1, -0.1, 0.0, np.nan]), np.array([0.0, 0.05, 0.1, 0.2])
    before, behind, level, unknown = colors_of("residual", gap, std).astype(int)
    assert before[0] > before[2] + 50
    assert behind[2] > behind[0] + 50
    assert np.ptp(level) < 10
    assert np.ptp(unknown) < 10
    assert (level != unknown).any()
    sure, _, unsure, beyond = colors_of("uncertainty", gap, std).astype(int)
    assert unsure.sum() > sure.sum()
    np.testing.assert_array_equal(unsure, beyond)
    assert len(np.unique(colors_of("uncertainty", gap, None), axis=0)) == 1
    with pytest.raises(ValueError, match="got 'heat', need one of shaded"):
        colors_of("heat", gap, std)


def test_lines():
    joints = np.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(
        bones(joints, (-1, 0, 1, 0)), [joints[[0, 1]], joints[[1, 2]], joints[[0, 3]]]
    )
    assert bones(joints[:1], (-1,)).shape == (0, 2, 3)
    corners = frustum(CAMERA, 1.0)[:4, 1]
    inside = np.asarray(rays(CAMERA)).reshape(-1, 3)
    assert (corners[:, :2].min(0) < inside[:, :2].min(0)).all()
    assert (corners[:, :2].max(0) > inside[:, :2].max(0)).all()


def test_depth_pictures_are_bounded(rng):
    depth, mask = scene(rng)
    assert depth_picture(depth, mask).shape == (32, 48, 3)
    assert max(depth_picture(np.tile(depth, (30, 30)), most=480).shape) <= 480
    assert (depth_picture(np.zeros((4, 4))) == 255).all()


def test_depth_pictures_that_are_compared_have_the_same_colours():
    far = np.full((4, 4), 3.0)
    far[0] = 1.0
    near = np.where(far < 2, far, 0.0)
    one, other = (depth_picture(depth, like=far) for depth in (far, near))
    np.testing.assert_array_equal(one[0], other[0])
    assert (depth_picture(near)[0] != other[0]).any()
