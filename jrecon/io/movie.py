"""Moving pictures: GIF, and MP4 (extra `video`)."""

from __future__ import annotations

import fractions
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

SUFFIXES = (".gif", ".mp4")
# Constant quality of H.264: no difference is seen in shaded surfaces.
_QUALITY = "20"

Picture = UInt8[np.ndarray, "h w 3"]


def require_encoder(suffix: str) -> None:
    """Raises ImportError where a format cannot be written: before there is something to write."""
    if suffix == ".mp4":
        try:
            import av  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "writing MP4 needs: pip install 'jrecon[video]'; or name the file .gif."
            ) from error


def encode_movie(images: Sequence[Picture], fps: float, suffix: str) -> bytes:
    """Pictures of one size as a file of the format that the suffix says.

    Raises:
      ImportError: see `require_encoder`.
    """
    return encode_mp4(images, fps) if suffix.lower() == ".mp4" else encode_gif(images, fps)


def encode_gif(images: Sequence[Picture], fps: float) -> bytes:
    """An endless GIF; its frames last 1/100 s or a multiple."""
    frames = [Image.fromarray(image).quantize(128) for image in images]
    buffer = io.BytesIO()
    # Viewers slow down what is faster than 50 frames a second.
    duration = max(20, 10 * round(100 / fps))
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=duration, loop=0
    )
    return buffer.getvalue()


def encode_mp4(images: Sequence[Picture], fps: float) -> bytes:
    """H.264 in colours that every player knows; sides of odd length are made even."""
    require_encoder(".mp4")
    import av

    height, width = images[0].shape[:2]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        rate = fractions.Fraction(fps).limit_denominator(1001)
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": _QUALITY})
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        for image in images:
            even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()
