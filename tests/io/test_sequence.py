"""Files and folders as captures: order, times, cameras, confidence."""

import json

import numpy as np
import pytest
from PIL import Image

from jrecon.geometry.camera import make_camera
from jrecon.io.sequence import open_capture

CAMERA = {"fx": 60.0, "fy": 60.0, "cx": 31.5, "cy": 23.5, "width": 64, "height": 48}


def save(path, count):
    """A depth image whose every pixel says `count`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((48, 64), count, np.uint16)).save(path)


def depths(capture):
    return [round(float(np.median(frame.depth)), 4) for frame in capture]


def test_numbered_files_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9, 100, 1):
        save(tmp_path / f"f{number}_depth.png", 1000 + number)
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(tmp_path / f"f{number}_mask.png")
    (tmp_path / "intrinsics.json").write_text(json.dumps(CAMERA))
    capture = open_capture(tmp_path)
    assert (capture.kind, len(capture), capture.fps) == ("folder", 4, None)
    assert depths(capture) == [1.001, 1.009, 1.01, 1.1]
    frame = capture.read(0)
    assert frame.name == "f1_depth.png" and frame.time_s is None
    np.testing.assert_allclose(frame.camera.focal, 60)


def test_one_file(tmp_path):
    save(tmp_path / "a.png", 1500)
    frame = open_capture(tmp_path / "a.png", camera="60,60,31.5,23.5").read()
    assert depths([frame]) == [1.5] and frame.camera.width == 64
    camera = make_camera(60, 60, 31.5, 23.5, 64, 48)
    assert open_capture(tmp_path / "a.png", camera=camera).read().camera is camera
    with pytest.raises(ValueError, match=r"a\.png: no camera; give a file"):
        open_capture(tmp_path / "a.png").read()
    with pytest.raises(ValueError, match="64 x 48 pixels, but the camera has 32 x 24"):
        small = make_camera(30, 30, 15.5, 11.5, 32, 24)
        open_capture(tmp_path / "a.png", camera=small).read()


def test_tum(tmp_path):
    lines = ["# timestamp filename"]
    for index, time in enumerate((10.0, 10.033, 10.067)):
        save(tmp_path / "depth" / f"{time:.6f}.png", 5000 * (index + 1))
        lines.append(f"{time:.6f} depth/{time:.6f}.png")
    (tmp_path / "depth.txt").write_text("\n".join(lines))
    capture = open_capture(tmp_path, camera="60,60,31.5,23.5")
    assert capture.kind == "tum" and depths(capture) == [1.0, 2.0, 3.0]
    assert capture.times_s == (10.0, 10.033, 10.067)
    assert capture.fps == pytest.approx(30, rel=0.02)
    for line, match in (
        ("1.0 ../secret.png", "outside the folder"),
        ("1.0 /etc/passwd", "outside the folder"),
        ("x depth/a.png", "need TIME FILE"),
        ("1.0", "need TIME FILE"),
        ("", "got 0 frames"),
    ):
        (tmp_path / "depth.txt").write_text(line)
        with pytest.raises(ValueError, match=match):
            open_capture(tmp_path)


def stray(folder, frames=3):
    for index in range(frames):
        save(folder / "depth" / f"{index:06d}.png", 1000 + index)
        unsure = np.full((48, 64), 2, np.uint8)
        unsure[:, :8] = 0
        (folder / "confidence").mkdir(exist_ok=True)
        Image.fromarray(unsure).save(folder / "confidence" / f"{index:06d}.png")
    rows = ["timestamp, frame, x, y, z, qx, qy, qz, qw, fx, fy, cx, cy"]
    for index in range(frames):
        rows.append(f"{index / 60}, {index:06d}, 0,0,0,0,0,0,1, {1600 + index}, 1600, 960, 720")
    (folder / "odometry.csv").write_text("\n".join(rows))


def test_stray_scanner(tmp_path):
    stray(tmp_path)
    capture = open_capture(tmp_path)
    assert capture.kind == "stray" and capture.fps == pytest.approx(60)
    frame = capture.read(2)
    # The video is 1920 pixels wide, depth 64 here: a thirtieth.
    np.testing.assert_allclose(frame.camera.focal, (1602 / 30, 1600 / 30), rtol=1e-6)
    np.testing.assert_allclose(frame.camera.center, (960.5 / 30 - 0.5, 720.5 / 30 - 0.5), rtol=1e-6)
    assert not frame.depth[:, :8].any() and (frame.depth[:, 8:] > 0).all()
    assert any("low confidence" in note for note in frame.notes)


def test_stray_scanner_of_older_versions(tmp_path):
    stray(tmp_path)
    (tmp_path / "odometry.csv").write_text("timestamp, frame, x\n0, 0, 0\n")
    with pytest.raises(ValueError, match="no intrinsics in odometry"):
        open_capture(tmp_path)
    (tmp_path / "camera_matrix.csv").write_text("1600,0,960\n0,1600,720\n0,0,1\n")
    np.testing.assert_allclose(open_capture(tmp_path).read().camera.focal, 1600 / 30, rtol=1e-6)
    (tmp_path / "camera_matrix.csv").write_text("1600,0,400\n0,1600,720\n0,0,1\n")
    with pytest.raises(ValueError, match="cx = 400 is the middle of none"):
        open_capture(tmp_path).read()
    (tmp_path / "camera_matrix.csv").write_text("1600,0\n")
    with pytest.raises(ValueError, match="need the 3x3 matrix"):
        open_capture(tmp_path)


def test_record3d(tmp_path):
    (tmp_path / "depth").mkdir()
    for number in range(3):
        np.save(tmp_path / "depth" / f"{number}.npy", np.full((48, 64), 2.0, np.float32))
    # Column by column, of a video ten times as wide.
    record = {"K": [600, 0, 0, 0, 610, 0, 322, 241, 1], "w": 640, "h": 480, "fps": 60}
    metadata = tmp_path / "metadata.json"
    metadata.write_text(json.dumps(record))
    capture = open_capture(tmp_path)
    assert (capture.kind, len(capture), capture.fps) == ("record3d", 3, pytest.approx(60))
    camera = capture.read(1).camera
    np.testing.assert_allclose(camera.focal, (60, 61), rtol=1e-6)
    np.testing.assert_allclose(camera.center, (32.25 - 0.5, 24.15 - 0.5), rtol=1e-6)
    each = [[600.0 + 10 * i, 600.0, 322.0, 241.0] for i in range(3)]
    metadata.write_text(json.dumps({**record, "perFrameIntrinsicCoeffs": each}))
    assert float(open_capture(tmp_path).read(2).camera.focal[0]) == pytest.approx(62)
    metadata.write_text(json.dumps({**record, "w": 480, "h": 640}))
    with pytest.raises(ValueError, match="another shape"):
        open_capture(tmp_path).read()
    for damage in ({"h": 0}, {"w": -480}, {"w": 1e300}, {"h": 1e-9}):
        metadata.write_text(json.dumps({**record, **damage}))
        with pytest.raises(ValueError, match="size of the video|w: got"):
            open_capture(tmp_path)
    for k in ([1, 2], [10**400, *record["K"][1:]], [float("nan"), *record["K"][1:]]):
        metadata.write_text(json.dumps({**record, "K": k}))
        with pytest.raises(ValueError, match="K: got"):
            open_capture(tmp_path)
    # Some other metadata: a folder of depth maps.
    metadata.write_text("[]")
    assert open_capture(tmp_path).kind == "folder"


def test_folders_that_are_no_captures(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        open_capture(tmp_path / "none")
    with pytest.raises(ValueError, match="got 0 depth files"):
        open_capture(tmp_path)
    save(tmp_path / "a.png", 1000)
    np.save(tmp_path / "b.npy", np.ones((48, 64)))
    with pytest.raises(ValueError, match=r"several formats \(.npy, .png\)"):
        open_capture(tmp_path)


def test_distorted_frames_are_freed_of_it(tmp_path):
    rows, columns = np.mgrid[:48, :64]
    ramp = (1000 + 10 * columns + rows).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    record = {"K": [60, 0, 31.5, 0, 60, 23.5, 0, 0, 1], "width": 64, "height": 48}
    for d, same in (([0.0] * 5, True), ([-0.3, 0.1, 0, 0, 0], False)):
        (tmp_path / "camera.json").write_text(json.dumps({**record, "D": d}))
        frame = open_capture(tmp_path).read()
        assert np.array_equal(frame.depth, (ramp * 1e-3).astype(np.float32)) == same
        # The middle of the image stays where it is.
        assert abs(frame.depth[24, 32] - ramp[24, 32] * 1e-3) < 1e-6


def test_real_frames(shared_dir):
    capture = open_capture(shared_dir / "data/people_d435")
    assert len(capture) == 40 and [file.name for file in capture.files[:2]] == [
        "n40_00020_depth.png",
        "n40_00021_depth.png",
    ]
    frame = capture.read(39)
    assert frame.depth.shape == (480, 640) and 2 < np.median(frame.depth) < 3
