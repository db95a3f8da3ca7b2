"""Cameras: the conventions, held down by hand-made numbers and round trips."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.geometry import camera as cameras
from jrecon.geometry.camera import make_camera
from tests.derivatives import check_derivatives


@pytest.fixture
def camera():
    return make_camera(500.0, 510.0, 320.5, 231.0, 640, 480)


def test_projection_by_hand(camera):
    points = jnp.array([[0.0, 0.0, 2.0], [1.0, 0.5, 2.0]])
    want = np.array([[320.5, 231.0], [570.5, 358.5]])
    np.testing.assert_allclose(cameras.project(camera, points), want, rtol=1e-6)


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_project_and_unproject_are_inverse(batch, rng):
    focal = rng.uniform(300, 600, size=batch)
    camera = make_camera(focal, 1.1 * focal, 300.0, 200.0, 640, 480)
    sideways, ahead = rng.normal(size=(*batch, 7, 2)), rng.uniform(0.5, 5, size=(*batch, 7, 1))
    points = jnp.asarray(np.concatenate([sideways, ahead], axis=-1), jnp.float32)
    pixels = jax.jit(cameras.project)(camera, points)
    assert pixels.shape == (*batch, 7, 2)
    back = jax.jit(cameras.unproject)(camera, pixels, points[..., 2])
    np.testing.assert_allclose(back, points, atol=1e-5)


def test_depth_is_along_the_axis_and_pixels_are_centres(camera):
    depth = jnp.full((480, 640), 3.0)
    points = cameras.unproject_depth(camera, depth)
    np.testing.assert_array_equal(points[..., 2], depth)
    corner = [(0 - 320.5) / 500 * 3, (0 - 231) / 510 * 3, 3.0]
    np.testing.assert_allclose(points[0, 0], corner, rtol=1e-6)
    grid = cameras.project(camera, points.reshape(-1, 3)).reshape(480, 640, 2)
    np.testing.assert_allclose(grid, cameras.pixel_grid(640, 480), atol=1e-3)


def test_crop_moves_pixels_by_whole_numbers(camera):
    points = jnp.array([[0.3, -0.2, 1.7]])
    window = cameras.crop(camera, 100, 50, 200, 300)
    assert (window.width, window.height) == (200, 300)
    moved = cameras.project(camera, points) - cameras.project(window, points)
    np.testing.assert_allclose(moved, [[100, 50]], atol=1e-4)


def test_crop_takes_traced_and_batched_corners(camera):
    corners = jnp.array([[0.0, 0.0], [3.5, -2.0]])
    window = jax.jit(lambda c: cameras.crop(camera, c[:, 0], c[:, 1], 64, 64))(corners)
    np.testing.assert_allclose(window.center, np.array([[320.5, 231.0]]) - corners, rtol=1e-6)
    assert window.focal.shape == (2, 2)


def test_a_window_resampled_to_a_fixed_size_by_hand(camera):
    """The pixel at u of the image is at s (u - x0 + 0.5) - 0.5 of the window, s times finer."""
    corner, factor = jnp.array([[100.25, 60.5], [0.0, -3.0]]), jnp.array([0.4, 1.7])

    @jax.jit
    def network_view(corner, factor):
        window = cameras.crop(camera, corner[:, 0], corner[:, 1], 1, 1)
        return cameras.scale(window, factor, factor, 96, 64)

    view = network_view(corner, factor)
    assert (view.width, view.height) == (96, 64)
    points = jnp.array([[0.3, -0.2, 1.7], [-0.1, 0.4, 2.0]])
    pixels = np.asarray(cameras.project(camera, points), np.float64)
    want = np.asarray(factor)[:, None, None] * (pixels - np.asarray(corner)[:, None] + 0.5) - 0.5
    np.testing.assert_allclose(cameras.project(view, points), want, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("size", [(320, 240), (1280, 960), (64, 64)])
def test_resize_keeps_the_image_borders(camera, size):
    small = cameras.resize(camera, *size)
    np.testing.assert_allclose(
        cameras.field_of_view(small), cameras.field_of_view(camera), rtol=1e-6
    )
    # A block of pixels becomes one: its centre is the mean of their centres.
    if size == (320, 240):
        block = cameras.rays(camera)[100:102, 200:202].mean((0, 1))
        np.testing.assert_allclose(cameras.rays(small)[50, 100], block, atol=1e-6)


def test_resize_back_is_the_identity(camera):
    back = cameras.resize(cameras.resize(camera, 128, 96), 640, 480)
    for got, want in zip(jax.tree.leaves(back), jax.tree.leaves(camera), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_matrix_round_trip(camera):
    back = cameras.from_matrix(cameras.matrix(camera), 640, 480)
    np.testing.assert_array_equal(back.focal, camera.focal)
    np.testing.assert_array_equal(back.center, camera.center)


def test_field_of_view_round_trip():
    camera = cameras.from_field_of_view(0.9, 200, 100)
    np.testing.assert_allclose(cameras.field_of_view(camera)[1], 0.9, rtol=1e-6)


@pytest.mark.parametrize("depth", [1.5, 1e-6, 0.0, -1.0])
def test_projection_is_finite_everywhere(camera, depth):
    points = [[0.1, -0.2, depth]]
    assert np.isfinite(cameras.project(camera, jnp.array(points))).all()
    # At MIN_DEPTH the formula has a kink, and near it the differences are not to be trusted.
    check_derivatives(project_relative, points, numerical=abs(depth) >= 1)


def project_relative(points):
    return cameras.project(make_camera(1.0, 1.1, 0.5, 0.4, 640, 480), points)


def test_derivatives_with_respect_to_the_camera(camera):
    def project_by(intrinsics):
        moved = dataclasses.replace(camera, focal=intrinsics[:2], center=intrinsics[2:])
        return cameras.project(moved, jnp.array([[0.1, -0.2, 1.5]]))

    check_derivatives(project_by, [500.0, 510.0, 320.5, 231.0])
    check_derivatives(
        lambda both: cameras.unproject(camera, both["pixels"], both["depth"]),
        {"pixels": [[30.0, 40.0]], "depth": [1.5]},
    )


def test_batches_broadcast():
    one, two = make_camera(500, 500, 2, 1, 4, 3), make_camera([400, 500], 500, 2, 1, 4, 3)
    points = jnp.array([[0.1, 0.2, 1.0], [0.3, -0.2, 2.0], [0.0, 0.1, 1.5]])
    many = jnp.stack([points, points + 0.1])
    for camera, cloud in ((one, many), (two, points), (two, many)):
        pixels = jax.jit(cameras.project)(camera, cloud)
        assert pixels.shape == (2, 3, 2)
        back = jax.jit(cameras.unproject)(camera, pixels, cloud[..., 2])
        np.testing.assert_allclose(back, np.broadcast_to(cloud, (2, 3, 3)), atol=1e-5)
        depth = jnp.ones((2, 3, 4)) if cloud is many else jnp.ones((3, 4))
        assert jax.jit(cameras.unproject_depth)(camera, depth).shape == (2, 3, 4, 3)
    np.testing.assert_array_equal(cameras.project(two, points)[1], cameras.project(one, points))


def test_a_camera_passes_through_jit_and_vmap():
    batch = make_camera([400.0, 500.0], 400.0, 31.5, 31.5, 64, 64)
    rays = jax.jit(jax.vmap(cameras.rays))(batch)
    np.testing.assert_allclose(rays, cameras.rays(batch))
    assert rays.shape == (2, 64, 64, 3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 500, 320, 240, 640, 480), "fx: got 0.0, need a focal length > 0"),
        ((500, -1, 320, 240, 640, 480), "fy"),
        ((500, 500, np.nan, 240, 640, 480), "cx: got nan, need a finite"),
        ((500, 500, 320, 240, 0, 480), "width: got 0"),
        ((500, 500, 320, 240, 640, 48.5), "height: got 48.5"),
        ((1400, 1400, 960, 2540, 640, 480), "another resolution"),
    ],
)
def test_bad_intrinsics_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_camera(*arguments)


def test_a_far_principal_point_can_be_wanted(camera):
    window = cameras.crop(camera, 600, 0, 40, 40)
    k = cameras.matrix(window)
    with pytest.raises(ValueError, match="far_center=True"):
        cameras.from_matrix(k, 40, 40)
    back = cameras.from_matrix(k, 40, 40, far_center=True)
    np.testing.assert_array_equal(back.center, window.center)


def test_sizes_that_do_not_fit_are_explained(camera):
    with pytest.raises(ValueError, match="got 480 x 640 pixels, but the camera has 640 x 480"):
        cameras.unproject_depth(camera, jnp.ones((640, 480)))
    with pytest.raises(ValueError, match="width: got 0"):
        cameras.crop(camera, 0, 0, 0, 10)
    with pytest.raises(ValueError, match="height: got -5"):
        cameras.resize(camera, 10, -5)


def test_bad_matrices_are_explained(camera):
    k = np.asarray(cameras.matrix(camera))
    with pytest.raises(ValueError, match="column-major"):
        cameras.from_matrix(k.T, 640, 480)
    with pytest.raises(ValueError, match="skew is not supported"):
        cameras.from_matrix(k + [[0, 5, 0], [0, 0, 0], [0, 0, 0]], 640, 480)
    with pytest.raises(ValueError, match="finite"):
        cameras.from_matrix(np.full((3, 3), np.nan), 640, 480)
    with pytest.raises(ValueError, match=r"need \(3, 3\)"):
        cameras.from_matrix(k[:2], 640, 480)
