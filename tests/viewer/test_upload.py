"""Uploads: what is a depth map is read, everything else is refused politely, nothing escapes."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jrecon.viewer.upload import MAX_BYTES, check_camera, check_size, read_upload, safe_name

CAMERA = "300,300,19.5,14.5"


def png(depth=1500, mode: Any = np.uint16, size=(30, 40)):
    buffer = io.BytesIO()
    Image.fromarray(np.full(size, depth, mode)).save(buffer, "PNG")
    return buffer.getvalue()


def npy_header(shape):
    """A file of a few bytes that claims to hold gigabytes."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def read(name, content, tmp_path, camera: str | None = CAMERA):
    try:
        return read_upload(name, content, camera=camera, unit=None, folder=tmp_path)
    finally:
        assert list(tmp_path.iterdir()) == [], "nothing stays behind"


@pytest.mark.parametrize(
    "name",
    (
        "depth.png",
        "../../etc/depth.png",
        r"C:\windows\depth.png",
        "/etc/ssh/depth.PNG",
        "a\0.png",
    ),
)
def test_a_depth_map_is_read_whatever_its_name(name, tmp_path):
    frame = read(name, png(), tmp_path)
    assert (frame.depth == np.float32(1.5)).all()
    assert "/" not in frame.name
    assert "\\" not in frame.name
    assert "\0" not in frame.name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    (
        ("evil.exe", b"MZ", "need a depth map"),
        ("depth", b"x", "need a depth map"),
        ("depth.png", b"", "is empty"),
        ("depth.png", b"\x89PNG not really", "cannot identify it as PNG"),
        ("depth.png", png()[:60], "depth.png"),
        ("photo.png", png(100, np.uint8), "got an image of mode L"),
        ("depth.npy", npy_header((32768, 16384)), "pixels, need 1 to"),
        ("depth.npy", npy_header((4096, 4096)), "it ends after"),
        ("depth.npz", b"PK\x03\x04", "not a readable NumPy file"),
        (
            "cloud.ply",
            b"ply\nformat ascii 1.0\nelement vertex 999999999\nend_header\n",
            "cloud.ply",
        ),
        ("depth.png", png(3), "got a median depth"),
    ),
)
def test_refused_with_a_reason(name, content, message, tmp_path):
    with pytest.raises(ValueError, match=message) as failure:
        read(name, content, tmp_path)
    assert str(tmp_path) not in str(failure.value), "where it was written is nobody's business"
    assert str(failure.value).startswith(name)


def test_sizes():
    check_size("depth.png", MAX_BYTES)
    for size in (MAX_BYTES + 1, 2 * 2**30, -1):
        with pytest.raises(ValueError, match="at most 64 MB"):
            check_size("../depth.png", size)


def test_no_camera_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"depth\.png: no camera"):
        read("depth.png", png(), tmp_path, camera=None)


@pytest.mark.parametrize("camera", ("/etc/passwd", "../camera.json", "K.txt", "1,2,3,x", "d43"))
def test_a_page_names_no_files(camera):
    with pytest.raises(ValueError, match="need fx,fy,cx,cy or one of"):
        check_camera(camera)


@pytest.mark.parametrize("camera", ("d435", "Kinect2", "300, 300, 19.5, 14.5"))
def test_cameras_that_are_taken(camera):
    check_camera(camera)


@pytest.mark.parametrize(
    ("name", "safe"),
    (
        ("../../etc/passwd", "passwd"),
        (r"..\..\boot.ini", "boot.ini"),
        ("..", "unnamed"),
        ("", "unnamed"),
        (".png", "png"),
        ("a\nb\x1b[31m.png", "a b [31m.png"),
        ("x" * 300 + ".png", "x" * 76 + ".png"),
        ("\u202egnp.exe", "gnp.exe"),
    ),
)
def test_safe_names(name, safe):
    assert safe_name(name) == safe
