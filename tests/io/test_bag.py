"""Depth in ROS bags, written by the library that reads them: exact numbers, times, camera, unit."""

import builtins
import io
import struct

import numpy as np
import pytest
from PIL import Image

from jrecon.io import bag as bags
from jrecon.io.sequence import open_capture

pytest.importorskip("rosbags", reason="needs the extra ros")
from tests.io.bags import Recorder  # noqa: E402

SIZE = WIDTH, HEIGHT = 24, 16
COUNTS = np.arange(WIDTH * HEIGHT, dtype=np.uint16).reshape(HEIGHT, WIDTH) + 1500


def png(counts):
    buffer = io.BytesIO()
    Image.fromarray(counts).save(buffer, "PNG")
    return buffer.getvalue()


def depth_of(frame):
    return np.round(frame.depth.astype(np.float64) * 1000).astype(int)


@pytest.mark.parametrize(
    "name, storage, chunks",
    (
        ("a.bag", "", None),
        ("a.bag", "", "lz4"),
        ("a.bag", "", "bz2"),
        ("a", "sqlite3", None),
        ("a", "mcap", None),
        ("a", "mcap", "zstd"),
    ),
)
def test_frames_of_every_storage_in_any_order(tmp_path, name, storage, chunks):
    with Recorder(tmp_path / name, storage, chunks) as recorder:
        recorder.camera("/camera/depth/camera_info", SIZE)
        for number in range(5):
            recorder.image("/camera/depth/image_rect_raw", 1 + number / 30, COUNTS + number)
            recorder.image("/camera/infra/image", 1 + number / 30, COUNTS, "mono16")
    capture = open_capture(tmp_path / name)
    assert (capture.kind, len(capture)) == ("bag", 5)
    assert capture.fps == pytest.approx(30, rel=1e-3)
    for index in (3, 0, 4, 1, 2):
        frame = capture.read(index)
        np.testing.assert_array_equal(depth_of(frame), COUNTS.astype(int) + index)
        assert frame.name == f"a_{index:06d}" and frame.time_s == pytest.approx(index / 30)
    np.testing.assert_allclose(capture.read().camera.focal, (60, 61))
    assert capture.read().notes[0] == "topic /camera/depth/image_rect_raw"
    files = [tmp_path / name] if name == "a.bag" else list((tmp_path / name).glob("a.*"))
    # Without its metadata a file of ROS 2 is read all the same.
    np.testing.assert_array_equal(depth_of(open_capture(files[0]).read(2)), COUNTS + 2)


def test_realsense(tmp_path):
    with Recorder(tmp_path / "r.bag") as recorder:
        sensor = "/device_0/sensor_0"
        recorder.camera(f"{sensor}/Depth_0/info/camera_info", SIZE, model="Brown Conrady")
        recorder.camera("/device_0/sensor_1/Color_0/info/camera_info", size=(1920, 1080))
        recorder.write(f"{sensor}/option/Depth_Units/value", "std_msgs/msg/Float32", 0, data=2.5e-4)
        recorder.image(f"{sensor}/Depth_0/image/data", 1, COUNTS * 4, "mono16")
        recorder.image(f"{sensor}/Infrared_1/image/data", 1, COUNTS, "mono16")
    capture = open_capture(tmp_path / "r.bag")
    frame = capture.read()
    np.testing.assert_array_equal(depth_of(frame), COUNTS)
    np.testing.assert_allclose(frame.camera.center, (11.5, 7.5))
    # What is stated wins over what the recording says.
    with pytest.raises(ValueError, match="got a median depth of"):
        open_capture(tmp_path / "r.bag", unit="m").read()
    stated = open_capture(tmp_path / "r.bag", camera="50,50,11.5,7.5").read()
    np.testing.assert_allclose(stated.camera.focal, 50)


def test_encodings(tmp_path):
    metres = COUNTS.astype(np.float32) / 1000
    a, b = 100.0, 0.5
    quantised = np.round(a / metres + b).astype(np.uint16)
    header = struct.pack("<iff", 0, a, b)
    images = {
        "padded": lambda r, t: r.image(t, 0, COUNTS, padding=6),
        "big": lambda r, t: r.image(t, 0, COUNTS, big=True),
        "floats": lambda r, t: r.image(t, 0, metres, "32FC1"),
        "png": lambda r, t: r.packed(t, 0, "16UC1; png compressed ", png(COUNTS)),
        "compressedDepth": lambda r, t: r.packed(
            t, 0, "16UC1; compressedDepth png", header + png(COUNTS)
        ),
        "inverse": lambda r, t: r.packed(
            t, 0, "32FC1; compressedDepth png", header + png(quantised)
        ),
    }
    for name, write in images.items():
        with Recorder(tmp_path / f"{name}.bag") as recorder:
            write(recorder, f"/depth/{name}")
        frame = open_capture(tmp_path / f"{name}.bag", camera="60,60,11.5,7.5").read()
        off = 0.03 if name == "inverse" else 1e-6
        np.testing.assert_allclose(frame.depth, metres, atol=off, err_msg=name)


def test_raw_depth_before_compressed_and_the_others_are_named(tmp_path):
    with Recorder(tmp_path / "a.bag") as recorder:
        for time in range(3):
            recorder.packed("/a/depth/compressed", time, "16UC1; png", png(COUNTS + 1))
        recorder.image("/aligned_depth/image", 0, COUNTS)
        recorder.image("/b/range", 0, COUNTS + 2)
        recorder.image("/rgb", 0, np.zeros((4, 4), np.uint8), "mono8")
    frame = open_capture(tmp_path / "a.bag", camera="60,60,11.5,7.5").read()
    assert frame.notes[0] == "topic /aligned_depth/image, not /a/depth/compressed, /b/range"


def test_what_is_no_depth_is_refused(tmp_path):
    path = tmp_path / "a.bag"
    with Recorder(path) as recorder:
        recorder.image("/depth/rgb", 0, np.zeros((4, 4), np.uint8), "mono8")
    with pytest.raises(ValueError, match=r"no topic has depth images; got the topics /depth/rgb"):
        open_capture(path)
    with Recorder(tmp_path / "b.bag") as recorder:
        recorder.image("/depth", 0, COUNTS)
        recorder.camera("/camera_info", size=(48, 32))
    with pytest.raises(ValueError, match="it is for 48 x 32 pixels, but the depth map has 24 x 16"):
        open_capture(tmp_path / "b.bag").read()
    with Recorder(tmp_path / "c.bag") as recorder:
        recorder.image("/depth", 0, COUNTS)
    with pytest.raises(ValueError, match="no camera; give a file"):
        open_capture(tmp_path / "c.bag").read()
    whole = (tmp_path / "c.bag").read_bytes()
    for data in (b"", b"#ROSBAG V2.0\n", whole[:-50], whole.replace(b"conn_count", b"xonn_count")):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="not a readable bag"):
            open_capture(path)
    for suffix in (".db3", ".mcap"):
        (tmp_path / f"d{suffix}").write_bytes(whole)
        with pytest.raises(ValueError, match="not a readable bag"):
            open_capture(tmp_path / f"d{suffix}")
    with pytest.raises(FileNotFoundError):
        open_capture(tmp_path / "none.bag")


def test_an_image_larger_than_its_message_or_than_any_sensor_is_refused(tmp_path):
    for number, size in enumerate(((2**16, 2**16), (WIDTH, HEIGHT + 1), (0, 0))):
        path = tmp_path / f"{number}.bag"
        with Recorder(path) as recorder:
            recorder.write(
                "/depth", "sensor_msgs/msg/Image", 0, height=size[1], width=size[0],
                encoding="16UC1", is_bigendian=0, step=2 * size[0],
                data=COUNTS.view(np.uint8).ravel(),
            )  # fmt: skip
        with pytest.raises(ValueError, match="pixels"):
            open_capture(path, camera="60,60,11.5,7.5").read()


@pytest.mark.parametrize("name, storage, chunks", (("a.bag", "", "bz2"), ("a", "mcap", "zstd")))
def test_chunks_that_unpack_to_too_much_are_refused(tmp_path, monkeypatch, name, storage, chunks):
    monkeypatch.setattr(bags, "_MAX_CHUNK", 2**16)
    with Recorder(tmp_path / name, storage, chunks) as recorder:
        recorder.image("/depth", 0, np.zeros((512, 512), np.uint16))
    with pytest.raises(ValueError, match="unpacks to more than 65536 bytes"):
        open_capture(tmp_path / name)


def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("rosbags"):
            raise ImportError(name)
        return real(name, *rest)

    (tmp_path / "a.bag").write_bytes(b"")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'jrecon\[ros\]'"):
        open_capture(tmp_path / "a.bag")
