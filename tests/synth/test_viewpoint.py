"""Viewpoints: geometry, coverage of the ranges, and placing a model rigidly."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.transform import Rotation

from jrecon.geometry.camera import crop, make_camera, project, scale, unproject
from jrecon.model.formats import load_model
from jrecon.model.parametric import Params, pose
from jrecon.render import render
from jrecon.synth.viewpoint import (
    AXES,
    FLIP,
    ViewConfig,
    check_view,
    grid_point,
    grid_size,
    place,
    random_point,
    sequence_point,
    turntable,
    viewpoint,
    window,
)
from tests.quick import quick_jit

CONFIG = ViewConfig(size=(120, 160))
views = quick_jit(jax.vmap(viewpoint, (None, 0)))
turned = quick_jit(turntable)


@pytest.fixture(scope="module")
def drawn():
    points = jax.vmap(random_point)(jax.random.split(jax.random.key(3), 5000))
    return views(CONFIG, points)


def test_camera_stands_where_the_angles_say() -> None:
    front, left, above = (
        np.asarray(turned(a, e, 0.0)) for a, e in ((0.0, 0.0), (np.pi / 2, 0.0), (0.0, np.pi / 2))
    )
    # Towards the camera is -z.
    np.testing.assert_allclose(front @ [0, 0, 1], [0, 0, -1], atol=1e-6)
    np.testing.assert_allclose(front @ [0, 1, 0], [0, -1, 0], atol=1e-6)
    np.testing.assert_allclose(left @ [1, 0, 0], [0, 0, -1], atol=1e-6)
    np.testing.assert_allclose(above @ [0, 1, 0], [0, 0, -1], atol=1e-6)
    rolled = np.asarray(turned(0.0, 0.0, np.pi / 2))
    np.testing.assert_allclose(rolled @ [0, 1, 0], [1, 0, 0], atol=1e-6)


def test_everything_stays_in_its_range(drawn) -> None:
    turn = np.asarray(drawn.rotation)
    np.testing.assert_allclose(turn @ np.swapaxes(turn, 1, 2), np.tile(np.eye(3), (5000, 1, 1)),
                               atol=1e-5)  # fmt: skip
    np.testing.assert_allclose(np.linalg.det(turn), 1, atol=1e-5)
    distance = np.linalg.norm(drawn.target, axis=1)
    assert 1.2 <= distance.min() + 1e-5 and distance.max() - 1e-5 <= 4.5
    # Of the camera, seen from the object: -z of the camera in the model's frame.
    elevation = np.arcsin(-turn[:, 2, 1])
    assert -0.35 <= elevation.min() + 1e-4 and elevation.max() - 1e-4 <= 0.75
    field = 2 * np.arctan(160 / 2 / np.asarray(drawn.camera.focal)[:, 0])
    assert 0.8 <= field.min() + 1e-5 and field.max() - 1e-5 <= 1.4
    np.testing.assert_array_equal(drawn.up, turn[:, :, 1])


def test_the_object_appears_where_it_is_aimed(drawn) -> None:
    pixels = np.asarray(project(drawn.camera, drawn.target[:, None, :]))[:, 0]
    share = (pixels - [79.5, 59.5]) / [160, 120]
    assert np.abs(share).max() < 0.25 + 1e-4
    assert np.ptp(share, axis=0).min() > 0.49


def test_draws_are_uniform_where_they_are_said_to_be(drawn) -> None:
    low, high = np.log([1.2, 4.5])
    logs = (np.log(np.linalg.norm(drawn.target, axis=1)) - low) / (high - low)
    low, high = np.sin([-0.35, 0.75])
    sines = (-np.asarray(drawn.rotation)[:, 2, 1] - low) / (high - low)
    for values in (logs, sines):
        assert stats.kstest(values, "uniform").pvalue > 1e-3


def test_free_views_are_uniform_over_rotations() -> None:
    config = dataclasses.replace(CONFIG, upright=False)
    points = jax.vmap(random_point)(jax.random.split(jax.random.key(1), 5000))
    turn = np.asarray(views(config, points).rotation)
    # Angles of uniform rotations have density (1 - cos a) / pi.
    angle = Rotation.from_matrix(turn).magnitude()
    assert stats.kstest(angle, lambda a: (a - np.sin(a)) / np.pi).pvalue > 1e-3
    np.testing.assert_allclose(turn.mean(0), np.zeros((3, 3)), atol=0.03)


def test_a_range_of_one_value_is_fixed() -> None:
    config = dataclasses.replace(CONFIG, distance_m=(2.0, 2.0), roll_rad=(0.0, 0.0))
    points = jax.vmap(random_point)(jax.random.split(jax.random.key(1), 5000))
    some = views(config, points)
    np.testing.assert_allclose(np.linalg.norm(some.target, axis=1), 2.0, rtol=1e-5)
    # Without roll, up has no part to the side.
    np.testing.assert_allclose(np.asarray(some.up)[:, 0], 0, atol=1e-6)


@pytest.mark.parametrize("count", [64, 500])
def test_the_sequence_fills_the_cube_evenly(rng, count) -> None:
    points = np.asarray(jax.vmap(sequence_point)(jnp.arange(count)), np.float64)
    assert points.min() >= 0 and points.max() < 1
    random = [stats.qmc.discrepancy(rng.random((count, len(AXES)))) for _ in range(10)]
    assert stats.qmc.discrepancy(points) < 0.7 * min(random)


def test_the_sequence_keeps_its_digits_far_along() -> None:
    far = np.asarray(jax.vmap(sequence_point)(jnp.arange(1_000_000_000, 1_000_002_000)))
    for column in far.T:
        assert stats.kstest(column, "uniform").statistic < 0.03


def test_grids_visit_every_cell_once() -> None:
    counts = {"azimuth": 4, "distance": 3}
    assert grid_size(counts) == 12
    points = np.asarray(jax.vmap(lambda i: grid_point(i, counts))(jnp.arange(12)))
    azimuth, distance = (points[:, AXES.index(name)] for name in counts)
    np.testing.assert_allclose(azimuth, np.repeat((np.arange(4) + 0.5) / 4, 3))
    np.testing.assert_allclose(distance, np.tile((np.arange(3) + 0.5) / 3, 4), rtol=1e-6)
    others = [i for i, name in enumerate(AXES) if name not in counts]
    assert (points[:, others] == 0.5).all()
    np.testing.assert_array_equal(grid_point(12, counts), grid_point(0, counts))
    with pytest.raises(ValueError, match="counts: got 'zoom'"):
        grid_point(0, {"zoom": 2})


def test_placed_parameters_give_the_rigidly_moved_vertices(rng) -> None:
    body = load_model("body", level="2k")
    params = Params(
        jnp.asarray(rng.normal(size=body.num_shape), jnp.float32),
        jnp.asarray(rng.normal(scale=0.4, size=(body.num_joints, 3)), jnp.float32),
        jnp.asarray(rng.normal(size=3), jnp.float32),
    )
    turn = Rotation.from_rotvec(rng.normal(size=3)).as_matrix().astype(np.float32)
    shift = rng.normal(size=3).astype(np.float32)

    @quick_jit
    def both(params, turn, shift):
        return pose(body, params), pose(body, place(body, params, turn, shift))

    before, moved = both(params, turn, shift)
    np.testing.assert_allclose(
        moved.vertices, np.asarray(before.vertices) @ turn.T + shift, atol=5e-6
    )
    np.testing.assert_allclose(moved.joints, np.asarray(before.joints) @ turn.T + shift, atol=5e-6)


def test_a_window_sees_the_same_rays(drawn) -> None:
    camera = jax.tree.map(lambda leaf: leaf[0], drawn.camera)
    low, high = jnp.array([19.5, 9.5]), jnp.array([59.5, 49.5])
    part = window(camera, low, high, 20, 20)
    # The middle of the first pixel of the window, twice as large, lies between four of the image.
    seen = unproject(part, jnp.zeros((1, 2)), jnp.ones(1))
    np.testing.assert_allclose(project(camera, seen), [[20.5, 10.5]], atol=1e-4)


def test_a_window_is_a_crop_and_a_scale(drawn) -> None:
    camera = jax.tree.map(lambda leaf: leaf[0], drawn.camera)
    low, high = jnp.array([7.25, -3.5]), jnp.array([67.25, 44.5])
    part = window(camera, low, high, 20, 24)
    corner = low + 0.5
    expected = scale(crop(camera, corner[0], corner[1], 60, 48), 20 / 60, 24 / 48, 20, 24)
    np.testing.assert_allclose(part.focal, expected.focal, rtol=1e-6)
    np.testing.assert_allclose(part.center, expected.center, atol=1e-5)
    assert (part.width, part.height) == (20, 24)


@pytest.mark.parametrize("finer", [1, 3])
def test_a_window_renders_what_the_whole_image_shows_at_its_rays(finer) -> None:
    """With 1 or 3 x 3 pixels of the window to one of the image, whose centre the middle one has."""
    body = load_model("body", level="2k")
    points = body.vertices @ FLIP + jnp.array([[0.0, 0.0, 2.0]])
    whole = make_camera(45.0, 45.0, 23.8, 19.4, 48, 42)
    # Windows of as many pixels as the image, so that one program renders all.
    x, y, width, height = 16, 4, 48 // finer, 42 // finer
    low = jnp.array([x - 0.5, y - 0.5])
    part = window(whole, low, low + jnp.array([width, height]), 48, 42)
    expected = np.asarray(render(points, body.faces, whole).depth)[y : y + height, x : x + width]
    depth = np.asarray(render(points, body.faces, part).depth)
    depth = depth[finer // 2 :: finer, finer // 2 :: finer][: 42 - y, : 48 - x]
    assert 0.2 < (expected > 0).mean() < 0.9
    # A vertex may project to the other side of a pixel's centre, by rounding.
    same = (depth > 0) == (expected > 0)
    assert same.mean() > 0.995
    np.testing.assert_allclose(depth[same], expected[same], atol=2e-4)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(distance_m=(2.0, 1.0)), "distance_m: got"),
        (dict(distance_m=(-1.0, 1.0)), "distance_m: got"),
        (dict(elevation_rad=(0.0, 2.0)), "elevation_rad: got"),
        (dict(field_of_view_rad=(1.0, 3.5)), "field_of_view_rad: got"),
        (dict(size=(0, 5)), "size: got"),
    ],
)
def test_what_is_refused(change, message) -> None:
    check_view(CONFIG)
    with pytest.raises(ValueError, match=message):
        check_view(dataclasses.replace(CONFIG, **change))
