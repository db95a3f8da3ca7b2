"""Moving pictures hold the frames that were given, at their rate."""

import builtins
import io

import numpy as np
import pytest
from PIL import Image

from jrecon.io.movie import encode_movie, require_encoder

SHADES = (40, 120, 200)
IMAGES = [np.full((33, 51, 3), shade, np.uint8) for shade in SHADES]


def test_gif():
    with Image.open(io.BytesIO(encode_movie(IMAGES, 25, ".gif"))) as movie:
        assert (getattr(movie, "n_frames", 0), movie.size) == (3, (51, 33))
        assert movie.info["duration"] == 40 and movie.info["loop"] == 0


def test_mp4():
    av = pytest.importorskip("av", reason="needs the extra video")
    with av.open(io.BytesIO(encode_movie(IMAGES, 29.97, ".mp4"))) as movie:
        stream = movie.streams.video[0]
        assert float(stream.average_rate) == pytest.approx(29.97, rel=1e-3)
        frames = [frame.to_ndarray(format="rgb24") for frame in movie.decode(stream)]
    assert [frame.shape for frame in frames] == [(34, 52, 3)] * 3
    np.testing.assert_allclose([frame.mean() for frame in frames], SHADES, atol=3)


def test_without_the_library_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "av":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'jrecon\[video\]'; or name the file .gif"):
        require_encoder(".mp4")
    require_encoder(".gif")
