"""Cameras in all their spellings, lens distortion, and figures that make no sense."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from jrecon.geometry.camera import make_camera
from jrecon.io.intrinsics import MAX_BYTES, NAMED, read_camera, read_lens
from jrecon.io.lens import Lens, largest_shift, undistort

SIZE = (640, 480)
FIGURES = (525.5, 526.25, 319.5, 240.25)
FX, FY, CX, CY = FIGURES
K = [[FX, 0, CX], [0, FY, CY], [0, 0, 1]]
PLAIN = dict(zip(("fx", "fy", "cx", "cy"), FIGURES, strict=True))
YAML = f"""image_width: 640
image_height: 480
camera_name: depth
camera_matrix:
  rows: 3
  cols: 3
  data: [{FX}, 0, {CX}, 0, {FY}, {CY}, 0, 0, 1]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [0, 0, 0, 0, 0]
"""
COLUMNS = np.transpose(K).ravel().tolist()
ROWS = np.ravel(K).tolist()
SPELLINGS = {
    "a.txt": "525.5 526.25 319.5 240.25\n",
    "b.txt": "# fx fy cx cy w h\n525.5, 526.25, 319.5, 240.25, 640, 480\n",
    "k.txt": "525.5 0 319.5\n0 526.25 240.25\n0 0 1\n",
    "k.csv": "525.5,0,319.5\n0,526.25,240.25\n0,0,1\n",
    "header.csv": "fx,fy,cx,cy\n525.5,526.25,319.5,240.25\n",
    "plain.json": json.dumps({**PLAIN, "width": 640, "height": 480}),
    "no_size.json": json.dumps(PLAIN),
    "open3d.json": json.dumps({"width": 640, "height": 480, "intrinsic_matrix": COLUMNS}),
    "open3d_view.json": json.dumps(
        {"intrinsic": {"width": 640, "height": 480, "intrinsic_matrix": COLUMNS}, "extrinsic": []}
    ),
    "rows.json": json.dumps({"width": 640, "height": 480, "intrinsic_matrix": ROWS}),
    "bop.json": json.dumps({"cam_K": ROWS, "depth_scale": 0.1}),
    "nested.json": json.dumps({"K": K, "width": 640, "height": 480}),
    "ros.json": json.dumps({"width": 640, "height": 480, "k": ROWS, "d": [], "p": [0] * 12}),
    "ros.yaml": YAML,
    # COLMAP's pixel centres are at halves.
    "cameras.txt": "# Camera list\n1 PINHOLE 640 480 525.5 526.25 320.0 240.75\n",
}


def assert_camera(camera, figures=FIGURES, size=SIZE):
    np.testing.assert_allclose(np.r_[camera.focal, camera.center], figures, rtol=1e-6)
    assert (camera.width, camera.height) == size


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(tmp_path, name):
    (tmp_path / name).write_text(SPELLINGS[name])
    assert_camera(read_camera(tmp_path / name, SIZE))


def test_figures_as_text():
    assert_camera(read_camera("525.5,526.25,319.5,240.25", SIZE))
    assert_camera(read_camera("525.5 526.25 319.5 240.25", SIZE))
    with pytest.raises(ValueError, match="does not say the image's width and height"):
        read_camera("525.5,526.25,319.5,240.25")


@pytest.mark.parametrize("name", NAMED)
def test_named_sensors_scale_and_look_ahead(name):
    camera = read_camera(name)
    width, height = camera.width, camera.height
    np.testing.assert_allclose(camera.center, ((width - 1) / 2, (height - 1) / 2))
    half = read_camera(name.upper(), (width // 2, height // 2))
    alone = [mode for mode, _ in NAMED[name] if mode == (width // 2, height // 2)]
    assert alone or np.allclose(half.focal, np.asarray(camera.focal) / 2)
    angle = np.degrees(2 * np.arctan(width / 2 / float(camera.focal[0])))
    assert 50 < angle < 95


def test_named_sensors_refuse_other_pictures():
    with pytest.raises(ValueError, match="848 x 480 or 640 x 480.*512 x 424"):
        read_camera("d435", (512, 424))
    with pytest.raises(ValueError, match="Did you mean 'kinect2'"):
        read_camera("kinnect2", SIZE)
    np.testing.assert_allclose(read_camera("d435", (848, 480)).focal, 424)
    np.testing.assert_allclose(read_camera("d435", (640, 480)).focal, 383)


@pytest.mark.parametrize(
    "name, text, match",
    [
        ("a.txt", "0 526 320 240", "focal length > 0"),
        ("a.txt", "nan 526 320 240", "finite"),
        ("a.txt", "525 526 320", "need fx fy cx cy"),
        ("a.txt", "fx = 525", "need fx fy cx cy"),
        ("a.txt", "", "need fx fy cx cy"),
        ("a.txt", "1050 1050 640 480", "another resolution"),
        ("a.txt", "20000 20000 320 240", "field of view of 2 degrees"),
        ("a.txt", "525 0 0\n0 525 0\n320 240 1", "column-major"),
        ("a.json", "{", "not JSON"),
        ("a.json", "[1, 2]", "not an object"),
        ("a.json", '{"fx": 525}', "no 'fy'"),
        ("a.json", '{"fx": "x", "fy": 1, "cx": 1, "cy": 1}', "need a number"),
        ("a.json", '{"fx": true, "fy": 1, "cx": 1, "cy": 1}', "need a number"),
        ("a.json", "[" * 5000, "not JSON"),
        ("a.json", json.dumps({**PLAIN, "width": 640.5, "height": 480}), "whole pixels"),
        ("a.json", json.dumps({**PLAIN, "width": 640}), "no 'height'"),
        ("a.json", json.dumps({"K": [1, 2, 3]}), "need 9 numbers"),
        ("a.yaml", "a: [", "not YAML"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "not YAML"),
        (
            "a.yaml",
            YAML.replace("plumb_bob", "equidistant").replace("[0, 0, 0", "[1, 0, 0"),
            "rect",
        ),
        ("cameras.txt", "1 OPENCV_FISHEYE 640 480 1 1 1 1 0 0 0 0", "OPENCV_FISHEYE, need one of"),
        ("cameras.txt", "1 PINHOLE 640 480 525 525", "need width, height and 4 parameters"),
        (
            "cameras.txt",
            "1 PINHOLE 640 480 525 525 320 240\n2 PINHOLE 640 480 5e2 5e2 320 240",
            "2",
        ),
        ("a.txt", "1 " * MAX_BYTES, "larger than"),
    ],
)
def test_what_makes_no_sense_is_explained(tmp_path, name, text, match):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=match) as caught:
        read_camera(tmp_path / name, SIZE)
    assert name in str(caught.value)


def test_another_size_is_refused_with_what_would_fit(tmp_path):
    path = tmp_path / "camera.json"
    path.write_text(json.dumps({**PLAIN, "width": 640, "height": 480}))
    with pytest.raises(
        ValueError, match="640 x 480.*320 x 240.*scaled.*262.75,263.125,159.5,119.8"
    ):
        read_camera(path, (320, 240))
    with pytest.raises(ValueError, match="transposed"):
        read_camera(path, (480, 640))
    with pytest.raises(ValueError, match="not of the colour image"):
        read_camera(path, (512, 424))


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match="not a text file"):
        read_camera(tmp_path / "a.txt", SIZE)
    with pytest.raises(FileNotFoundError, match=r"none.json': no such file; need a file, fx,fy"):
        read_camera(tmp_path / "none.json", SIZE)
    with pytest.raises(OSError):
        read_camera(tmp_path, SIZE)


DISTORTION = (-0.28, 0.07, 0.001, -0.0005, 0.01)


def test_distortion_is_read_and_not_ignored(tmp_path):
    text = YAML.replace("data: [0, 0, 0, 0, 0]", f"data: {list(DISTORTION)}")
    (tmp_path / "a.yaml").write_text(text)
    lens = read_lens(tmp_path / "a.yaml", SIZE)
    np.testing.assert_allclose(lens.distortion, (*DISTORTION, 0, 0, 0))
    assert_camera(lens.camera)
    with pytest.raises(ValueError, match="shifts pixels by up to .*undistort"):
        read_camera(tmp_path / "a.yaml", SIZE)
    line = "1 OPENCV 640 480 525.5 526.25 320 240.75 -0.28 0.07 0.001 -0.0005\n"
    (tmp_path / "cameras.txt").write_text(line)
    colmap = read_lens(tmp_path / "cameras.txt", SIZE)
    np.testing.assert_allclose(colmap.distortion, (*DISTORTION[:4], 0, 0, 0, 0))


def distorted(x, y, k):
    """OpenCV's model, written out for one ray (its documentation of calib3d)."""
    k1, k2, p1, p2, k3, k4, k5, k6 = k
    r = x**2 + y**2
    scale = (1 + k1 * r + k2 * r**2 + k3 * r**3) / (1 + k4 * r + k5 * r**2 + k6 * r**3)
    return (
        x * scale + 2 * p1 * x * y + p2 * (r + 2 * x**2),
        y * scale + p1 * (r + 2 * y**2) + 2 * p2 * x * y,
    )


def test_undistorting_gives_the_pinhole_s_view():
    """A slanted plane seen through a lens, freed from it, is the plane again."""
    coefficients = (-0.2, 0.05, 0.002, -0.001, 0.01, 0.01, 0.0, 0.0)
    camera = make_camera(150, 152, 80, 58, 160, 120)
    lens = Lens(camera, coefficients)
    plane = lambda x, y: 2 + 0.3 * x - 0.2 * y
    seen = np.zeros((120, 160), np.float32)
    for v in range(120):
        for u in range(160):
            # Which ray is imaged here: by fixed point iteration.
            at = (u - 80) / 150, (v - 58) / 152
            x, y = at
            for _ in range(20):
                bent = distorted(x, y, coefficients)
                x, y = x + at[0] - bent[0], y + at[1] - bent[1]
            seen[v, u] = plane(x, y)
    freed = undistort(seen, lens)
    v, u = np.mgrid[:120, :160]
    truth = plane((u - 80) / 150, (v - 58) / 152)
    known = freed > 0
    assert known.mean() > 0.97
    # Nearest pixels: half a pixel of the plane's slope.
    assert np.abs(freed - truth)[known].max() < 0.0035
    assert np.abs(seen - truth).max() > 0.02


def test_lenses_without_effect():
    camera = make_camera(150, 150, 80, 60, 160, 120)
    depth = np.ones((120, 160), np.float32)
    assert undistort(depth, Lens(camera)) is depth
    assert largest_shift(Lens(camera)) == 0
    with pytest.raises(ValueError, match="160 x 100"):
        undistort(depth[:100], Lens(camera))
    for value in (1e9, np.nan):
        with pytest.raises(ValueError, match="moves pixels by"):
            largest_shift(Lens(camera, (value, 0, 0, 0, 0, 0, 0, 0)))


@pytest.mark.parametrize("name", ("a.txt", "a.json", "a.yaml", "cameras.txt"))
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_raises_nothing_but_value_and_os_errors(tmp_path, name, data):
    good = [text for spelled, text in SPELLINGS.items() if spelled.endswith(name[-4:])]
    text = data.draw(st.sampled_from(good))
    at, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 30))
    junk = data.draw(
        st.text(max_size=12) | st.sampled_from(["1e999", "-", "nan", "[", "{", "&a *a"])
    )
    (tmp_path / name).write_text(text[:at] + junk + text[at + length :], encoding="utf-8")
    try:
        lens = read_lens(tmp_path / name, SIZE)
    except (ValueError, OSError):
        return
    assert np.isfinite(np.r_[lens.camera.focal, lens.camera.center]).all()
