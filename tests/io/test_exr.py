"""Depth in OpenEXR images, where the reader is installed."""

import builtins

import numpy as np
import pytest

from jrecon.io.depth import read_depth


@pytest.fixture
def write(tmp_path):
    library = pytest.importorskip("OpenEXR", reason="needs the extra io")

    def write(**channels):
        header = {"compression": library.ZIP_COMPRESSION, "type": library.scanlineimage}
        path = tmp_path / "d.exr"
        named = {name.replace("__", "."): values for name, values in channels.items()}
        library.File(header, named).write(str(path))
        return path

    return write


@pytest.mark.parametrize("name", ("Z", "ViewLayer__Depth__Z", "Y"))
def test_depth_is_read_whatever_its_channel_is_called(write, rng, name):
    depth = rng.uniform(1, 4, (20, 30)).astype(np.float32)
    depth[3, 4], depth[5, 6] = 1e10, np.inf
    found = read_depth(write(**{name: depth}))
    expected = np.where(depth < 100, depth, 0)
    np.testing.assert_array_equal(found.depth, expected)
    assert found.unit_m == 1 and found.size == (30, 20)


def test_what_is_no_depth_is_refused(write, tmp_path):
    with pytest.raises(ValueError, match="A"):
        read_depth(write(A=np.ones((2, 2), np.float32)))
    path = write(Z=np.ones((8, 8), np.float32))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a readable EXR"):
        read_depth(path)
    with pytest.raises(FileNotFoundError):
        read_depth(tmp_path / "none.exr")


def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "OpenEXR":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'jrecon\[io\]'"):
        read_depth(tmp_path / "d.exr")
