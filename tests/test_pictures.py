"""Pictures show what they are given: framing, light, colours, grids and curves."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from jrecon.pictures import (
    PALETTE,
    color_map,
    downsample,
    interpolate,
    look_at,
    plot_intervals,
    plot_lines,
    shade,
    sheet,
    smooth_normals,
    stack,
    write_image,
)

FRONT_UP_LEFT = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


def project(viewpoint, points):
    placed = viewpoint.place(points)
    focal, center = np.asarray(viewpoint.camera.focal), np.asarray(viewpoint.camera.center)
    return placed[..., :2] / placed[..., 2:] * focal + center


@pytest.mark.parametrize("azimuth", [0.0, 1.0, np.pi, -2.0])
@pytest.mark.parametrize("elevation", [0.0, 0.7, -np.pi / 2])
@pytest.mark.parametrize("size", [(64, 48), (30, 90)])
def test_look_at_just_fits_the_object(rng, azimuth, elevation, size):
    width, height = size
    points = rng.normal(size=(2, 50, 3)) * [1.0, 2.0, 0.5] + 7.0
    viewpoint = look_at(
        points, width=width, height=height, azimuth=azimuth, elevation=elevation, margin=0.1
    )
    np.testing.assert_allclose(np.linalg.det(viewpoint.rotation), 1.0)
    np.testing.assert_allclose(viewpoint.rotation @ viewpoint.rotation.T, np.eye(3), atol=1e-12)
    assert (viewpoint.place(points)[..., 2] > 0).all()
    # Distance from the middle of the image (pixel centres at integers), in image sizes.
    middle = (np.array(size) - 1) / 2
    off = np.abs(project(viewpoint, points) - middle) / np.array(size)
    assert off.max() == pytest.approx(0.4, abs=1e-4)


def test_look_at_turns_the_way_it_says():
    center = np.zeros((1, 3))
    for azimuth, elevation, toward in ((0, 0, "front"), (np.pi / 2, 0, "left"), (0, 1.57, "up")):
        viewpoint = look_at(
            np.concatenate([FRONT_UP_LEFT, -FRONT_UP_LEFT]), azimuth=azimuth, elevation=elevation
        )
        depth = viewpoint.place(FRONT_UP_LEFT)[:, 2] - viewpoint.place(center)[:, 2]
        assert ("front", "up", "left")[int(depth.argmin())] == toward
    upright = project(look_at(FRONT_UP_LEFT, azimuth=0.3), np.stack([center[0], [0, 1, 0]]))
    assert upright[1, 1] < upright[0, 1]  # up in the model is up in the image


def test_look_at_needs_points():
    with pytest.raises(ValueError, match="got 0 points"):
        look_at(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="margin: got 0.5"):
        look_at(FRONT_UP_LEFT, margin=0.5)


@dataclasses.dataclass
class FlatView:
    """A view of one row of pixels, or of none that see a face."""

    mask: np.ndarray
    normals: np.ndarray
    face_id: np.ndarray = dataclasses.field(default_factory=lambda: np.array([[-1]]))
    barycentrics: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((1, 1, 3)))


def view_of(normals):
    normals = np.asarray(normals, np.float64)[None]
    return FlatView((normals != 0).any(-1), normals)


def test_shade_lights_from_above_left_and_both_sides():
    unit = np.sqrt(0.5)
    normals = [[0, -unit, -unit], [0, unit, -unit], [-unit, 0, -unit], [unit, 0, -unit], [0, 0, 0]]
    up, down, left, right, background = shade(view_of(normals))[0].astype(int)
    assert (up > down).all() and (left > right).all() and (background == 255).all()
    back = shade(view_of(-np.asarray(normals)))
    np.testing.assert_array_equal(back, shade(view_of(normals)))
    red = shade(view_of(normals), color=(0.8, 0.0, 0.0))[0, 0]
    assert red[0] > 100 and red[1] == red[2] == 0
    with pytest.raises(ValueError, match="shade one view at a time"):
        shade(FlatView(np.ones((2, 4, 4)), np.ones((2, 4, 4, 3))))


def test_values_and_normals_of_vertices_reach_the_pixels():
    # A roof: two faces that meet at an edge in the plane x = 0, seen from -z.
    vertices = np.array([[0, -1, 1], [0, 1, 1], [-1, 0, 2], [1, 0, 2.0]])
    faces = np.array([[0, 2, 1], [0, 1, 3]])
    ids = np.array([[0, 0, 1, -1]])
    at = np.array([[[1, 0, 0], [0, 1, 0], [0.25, 0.25, 0.5], [0, 0, 0]]], float)
    view = FlatView(ids >= 0, np.zeros((1, 4, 3)), ids, at)
    seen = interpolate(view, faces, np.arange(8.0).reshape(4, 2))
    np.testing.assert_allclose(seen, [[[0, 1], [4, 5], [3.5, 4.5], [0, 0]]])
    ridge, left, mixed, nothing = smooth_normals(view, faces, vertices)[0]
    np.testing.assert_allclose(ridge, [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(left, [-np.sqrt(0.5), 0, -np.sqrt(0.5)], atol=1e-12)
    assert 0 < mixed[0] < np.sqrt(0.5) and np.linalg.norm(mixed) == pytest.approx(1)
    assert (nothing == 0).all()
    smooth = shade(view, normals=smooth_normals(view, faces, vertices))
    assert smooth.shape == (1, 4, 3) and (smooth[0, 3] == 255).all()


def test_color_map_ends_and_holes():
    values = np.array([[0.0, 5.0, 10.0, 99.0, np.nan, 3.0]])
    mask = np.array([[True, True, True, True, True, False]])
    image = color_map(values, 0.0, 10.0, mask)[0]
    np.testing.assert_array_equal(image[0], [0x44, 0x01, 0x54])
    np.testing.assert_array_equal(image[2], [0xFD, 0xE7, 0x25])
    np.testing.assert_array_equal(image[2], image[3])
    np.testing.assert_array_equal(image[4:], 255)
    ramp = color_map(np.linspace(0, 1, 50)[None], 0, 1)[0].astype(float) @ [0.21, 0.72, 0.07]
    assert (np.diff(ramp) > 0).all(), "brighter means more, in grey too"


def test_downsample_averages():
    image = np.zeros((4, 6, 3), np.uint8)
    image[:2, :2, 0] = [[0, 100], [100, 200]]
    assert downsample(image, 2).shape == (2, 3, 3)
    assert downsample(image, 2)[0, 0, 0] == 100


def test_sheet_places_every_image():
    images = [np.full((20, 30 + i, 3), 20 * i, np.uint8) for i in range(5)]
    grid = sheet(images, columns=2, captions=list("abcde"), title="title")
    for i in range(5):
        assert (grid == 20 * i).all(-1).sum() >= 20 * (30 + i)
    assert sheet(images[:1], columns=4, gap=0).shape == (20, 30, 3)
    with pytest.raises(ValueError, match="got 2 captions for 5 images"):
        sheet(images, columns=2, captions=["a", "b"])
    with pytest.raises(ValueError, match="got 0 images"):
        sheet([], columns=2)


def test_stack_pads_with_white():
    images = [np.zeros((2, 3, 3), np.uint8), np.zeros((1, 5, 3), np.uint8)]
    result = stack(images)
    assert result.shape == (3, 5, 3) and (result[:2, 3:] == 255).all() and (result[2] == 0).all()


def colored(image, color):
    return np.abs(image.astype(int) - color).max(-1) < 20


def test_plot_lines_draws_each_curve_in_its_colour():
    x = np.arange(6.0)
    image = plot_lines({"rising": (x, x), "falling": (x, 5 - x)}, x_label="x", y_label="y (mm)")
    assert image.shape == (320, 520, 3)
    for color, sign in ((PALETTE[0], -1), (PALETTE[1], 1)):
        rows, columns = np.nonzero(colored(image, color))
        inside = rows > 50  # below the legend
        assert sign * np.corrcoef(rows[inside], columns[inside])[0, 1] > 0.99


def test_plot_lines_survives_odd_data():
    nan = np.nan
    for x, y in (([1], [2]), ([0, 1], [3, 3]), ([0, 1, 2], [1, nan, 2]), ([0, 1], [-1e-9, 1e9])):
        plot_lines({"a": (x, y)}, x_label="x", y_label="y")
    with pytest.raises(ValueError, match="no finite point"):
        plot_lines({"a": ([0], [nan])}, x_label="x", y_label="y")
    with pytest.raises(ValueError, match="series 'a': got x"):
        plot_lines({"a": ([0, 1], [1])}, x_label="x", y_label="y")


def test_write_image_keeps_pixels_and_existing_files(rng, tmp_path):
    image = rng.integers(0, 255, size=(4, 5, 3)).astype(np.uint8)
    write_image(tmp_path / "a.png", image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), image)
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_image(tmp_path / "a.png", image)
    write_image(tmp_path / "a.png", image, overwrite=True)


def test_plot_intervals_draws_rows_on_one_scale():
    def columns(image, color):
        """Where a colour is, in the upper row and in the lower one."""
        near = np.abs(image.astype(int) - color).max(axis=-1) < 60
        return [np.flatnonzero(part.any(axis=0)) for part in (near[10:34], near[34:58])]

    rows = {"near": (10.0, 20.0, 30.0, 7), "far": (60.0, 80.0, 100.0, 9)}
    image = plot_intervals(rows, x_label="error, mm", reference=50.0, width=400)
    upper, lower = columns(image, PALETTE[0])
    # To scale, whatever the margins of the chart are.
    assert np.ptp(lower) / np.ptp(upper) == pytest.approx(2.0, rel=0.1)
    line = columns(image, PALETTE[1])[0]
    assert line.mean() == pytest.approx((upper.mean() + lower.mean()) / 2, abs=3)
    longer = plot_intervals(rows, x_label="error, mm", limit=200.0, width=400)
    assert np.ptp(columns(longer, PALETTE[0])[1]) == pytest.approx(np.ptp(lower) / 2, rel=0.1)


def test_plot_intervals_refuses_what_cannot_be_drawn():
    for rows in ({}, {"a": (0.0, np.nan, 1.0, 3)}):
        with pytest.raises(ValueError, match="all finite"):
            plot_intervals(rows, x_label="mm")
