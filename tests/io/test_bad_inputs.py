"""Bad inputs of `jrecon reconstruct`: each is refused in one line that says what to do, at once,
and nothing that was there is lost or half written."""

import errno
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jrecon.cli import main
from jrecon.cli.reconstruct import Reconstruct
from jrecon.model.formats import save_model
from tests.model.small_models import random_model

WIDTH, HEIGHT = 64, 48
CAMERA = "60,60,31.5,23.5"
BEFORE = b"what was there before"


def depth_mm(value=2500):
    return np.full((HEIGHT, WIDTH), value, np.uint16)


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def bomb():
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind, data):
        code = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", code)

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 16, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000))


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def huge():
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": (200000, 200000)}
    )
    return buffer.getvalue()


def ply(points):
    names = "".join(f"property float {axis}\n" for axis in "xyz")
    return f"ply\nformat ascii 1.0\nelement vertex {points}\n{names}end_header\n".encode()


METRES = np.full((HEIGHT, WIDTH), 2.5, np.float32)
# Name: file, its bytes, further arguments, exit code, what the message must say.
CASES = {
    "missing file": ("missing.png", None, [], 3, ["missing.png", "no such file"]),
    "8-bit PNG": ("d.png", png(depth_mm().astype(np.uint8)), [], 3, ["mode L", "16-bit"]),
    "RGB PNG": ("d.png", png(np.zeros((48, 64, 3), np.uint8)), [], 3, ["mode RGB", "colour"]),
    "metres read as millimetres": ("d.npy", npy(METRES), ["--unit", "mm"], 3,
                                   ["0.0025 m", "m (2.5 m)"]),
    "millimetres read as metres": ("d.png", png(depth_mm()), ["--unit", "m"], 3,
                                   ["2.5e+03 m", "mm (2.5 m)"]),
    "all zeros": ("d.png", png(depth_mm(0)), [], 3, ["no depth", "3072 pixels"]),
    "all NaN": ("d.npy", npy(METRES * np.nan), [], 3, ["no depth"]),
    "a wall": ("d.png", png(depth_mm()), [], 4, ["nothing of the size of a person", "--mask"]),
    "a huge image": ("d.npy", huge(), [], 3, ["200000 x 200000", "33554432"]),
    "truncated PNG": ("d.png", png(depth_mm())[:90], [], 3, ["d.png", "runcated"]),
    "PNG bomb": ("d.png", bomb(), [], 3, ["d.png", "33554432"]),
    "PLY with no points": ("d.ply", ply(0), [], 3, ["no vertices"]),
    "unknown format": ("d.fbx", b"Kaydara FBX", [], 3, [".fbx", ".png"]),
    "empty file": ("d.png", b"", [], 3, ["d.png", "PNG"]),
    "unit that is none": ("d.png", png(depth_mm()), ["--unit", "furlong"], 3, ["furlong", "tum"]),
    "camera with zero focal length": ("d.png", png(depth_mm()), ["--camera", "0,60,31.5,23.5"], 3,
                                      ["0,60", "focal"]),
    "a camera without a name": ("d.png", png(depth_mm()), ["--camera", ""], 3, ["kinect2"]),
    "unknown sensor": ("d.png", png(depth_mm()), ["--camera", "kinekt2"], 3,
                       ["kinekt2", "Did you mean 'kinect2'"]),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "person.glb").write_bytes(BEFORE)
    return tmp_path


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refuse(capsys, folder, *arguments, code=3):
    """Runs the command, which must refuse; its message. Nothing in the folder may change."""
    before = tree(folder)
    command = ["reconstruct", *arguments, "--out", folder / "person.glb", "--overwrite"]
    if "--camera" not in arguments:
        command += ["--camera", CAMERA]
    with pytest.raises(SystemExit) as stop:
        main([os.fspath(one) for one in command])
    printed = capsys.readouterr()
    assert (stop.value.code, printed.out) == (code, "")
    assert printed.err.startswith("jrecon: ") and printed.err.count("\n") == 1, printed.err
    assert tree(folder) == before
    return printed.err


@pytest.mark.parametrize("name", CASES)
def test_bad_files_are_refused_in_one_line(capsys, folder, name):
    file, content, more, code, said = CASES[name]
    if content is not None:
        (folder / file).write_bytes(content)
    error = refuse(capsys, folder, folder / file, *more, code=code)
    for words in said:
        assert words in error, error


@pytest.fixture
def good(folder):
    """A file that can be read."""
    (folder / "d.png").write_bytes(png(depth_mm()))
    return folder / "d.png"


def test_depth_of_another_size_than_the_camera(capsys, folder, good):
    (folder / "camera.json").write_text(
        '{"fx": 600, "fy": 600, "cx": 319.5, "cy": 239.5, "width": 640, "height": 480}'
    )
    error = refuse(capsys, folder, good, "--camera", folder / "camera.json")
    assert "640 x 480" in error and "64 x 48" in error
    # The camera of the same view, scaled: what the user can pass instead.
    assert "60,60,31.5,23.5" in error


def test_mask_of_another_size(capsys, folder, good):
    (folder / "mask.png").write_bytes(png(np.full((10, 20), 255, np.uint8)))
    error = refuse(capsys, folder, good, "--mask", folder / "mask.png")
    assert "20 x 10" in error and "64 x 48" in error


def test_empty_mask(capsys, folder, good):
    (folder / "mask.png").write_bytes(png(np.zeros((HEIGHT, WIDTH), np.uint8)))
    assert "empty" in refuse(capsys, folder, good, "--mask", folder / "mask.png")


def test_a_directory(capsys, folder, good):
    (folder / "frames").mkdir()
    assert "0 depth files" in refuse(capsys, folder, folder / "frames")
    for i in range(2):
        (folder / "frames" / f"{i}.png").write_bytes(good.read_bytes())
    error = refuse(capsys, folder, folder / "frames")
    assert "2 frames" in error and "jrecon track" in error


def test_a_name_that_is_not_text(capsys, folder, good):
    name = folder / os.fsdecode(b"d\xe9pth.png")
    try:
        name.write_bytes(good.read_bytes())
    except OSError:
        pytest.skip("this file system has names in UTF-8 alone")
    assert "nothing of the size" in refuse(capsys, folder, name, code=4)
    main(["describe", os.fspath(name), "--camera", CAMERA])
    assert "d\\udce9pth.png" in capsys.readouterr().out


def test_read_only_folder(capsys, folder, good, monkeypatch):
    # Those who run as root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert "read-only" in refuse(capsys, folder, good)


def test_outputs_are_checked_before_the_work(capsys, folder, good):
    assert ".jpeg" in refuse(capsys, folder, good, "--preview", folder / "p.jpeg")
    assert "no such folder" in refuse(capsys, folder, good, "--params", folder / "no" / "p.npz")
    with pytest.raises(SystemExit) as stop:
        main(["reconstruct", str(good), "--camera", CAMERA, "--out", str(folder / "person.glb")])
    assert stop.value.code == 3 and "--overwrite" in capsys.readouterr().err
    assert (folder / "person.glb").read_bytes() == BEFORE


def test_interrupted(capsys, folder, good, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Reconstruct, "_candidates", interrupt)
    before = tree(folder)
    with pytest.raises(SystemExit) as stop:
        main(["reconstruct", str(good), "--camera", CAMERA, "--overwrite",
              "--out", str(folder / "person.glb")])  # fmt: skip
    assert stop.value.code == 130
    assert capsys.readouterr().err == "jrecon: interrupted; files that are there are whole.\n"
    assert tree(folder) == before


@pytest.mark.parametrize("failure", (OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()))
def test_a_full_disk_and_ctrl_c_while_writing(capsys, folder, monkeypatch, failure):
    """By `jrecon export`, which writes by the same functions and has nothing to compile."""
    save_model(folder / "model.npz", random_model())
    before = tree(folder)

    def fail(_):
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SystemExit) as stop:
        main(["export", str(folder / "model.npz"), "--out", str(folder / "person.glb"),
              "--overwrite"])  # fmt: skip
    full = isinstance(failure, OSError)
    assert stop.value.code == (3 if full else 130)
    error = capsys.readouterr().err
    assert ("person.glb: not written: No space left" if full else "interrupted") in error
    assert tree(folder) == before
