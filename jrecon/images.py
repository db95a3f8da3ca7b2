"""Grey images from files that nobody vouches for: depth in counts, masks, confidences.

The header is checked before anything is decoded, so a file of a few bytes that claims a huge image
is refused, not unpacked.
"""

from __future__ import annotations

import os
import warnings
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image

# 8192 x 4096; the depth map of this many pixels takes 128 MiB. No depth sensor has a tenth of it.
MAX_PIXELS = 2**25


# What an image may hold: Pillow's modes, and what that is in words.
_KINDS = {
    "counts": (("I;16", "I;16B", "I;16L", "I"), "16-bit grey, depth in counts"),
    "numbers": (("I;16", "I;16B", "I;16L", "I", "F"), "one channel of 16-bit counts or floats"),
    "mask": (("1", "L"), "8-bit grey, 0 = not the object"),
}


def read_grey(
    path: str | os.PathLike[str],
    *,
    kind: Literal["counts", "numbers", "mask"],
    size: tuple[int, int] | None = None,
    said_by: str = "",
    format: Literal["PNG", "PPM", "TIFF"] = "PNG",
) -> np.ndarray:
    """One channel of numbers (h, w), as the file holds them.

    Args:
      kind: what the image must hold.
      size: (width, height) that it must have, and who says so, for messages.

    Raises:
      ValueError: not such an image, of another size, too large, or damaged.
      OSError: the file cannot be opened.
    """
    with open(path, "rb") as file:
        try:
            return decode_grey(file, kind=kind, size=size, said_by=said_by, format=format)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}.") from error


def decode_grey(
    file: BinaryIO,
    *,
    kind: Literal["counts", "numbers", "mask"],
    size: tuple[int, int] | None = None,
    said_by: str = "",
    format: Literal["PNG", "PPM", "TIFF"] = "PNG",
) -> np.ndarray:
    """As `read_grey`, of an open file; the message has no name and no full stop."""
    with warnings.catch_warnings():
        # Pillow warns of large images, and of damaged ones that it then reads in part.
        warnings.simplefilter("error")
        try:
            with Image.open(file, formats=[format]) as image:
                _check_header(image, kind, size, said_by)
                return np.array(image)
        except Exception as error:  # Decoders raise whatever they stumble over.
            raise ValueError(_reason(error, format)) from error


def _check_header(
    image: Image.Image, kind: str, size: tuple[int, int] | None, said_by: str
) -> None:
    modes, needed = _KINDS[kind]
    width, height = image.size
    if size is not None and (width, height) != size:
        raise ValueError(
            f"got {width} x {height} pixels, but {said_by} says {size[0]} x {size[1]}; correct "
            "width and height, and scale fx, fy, cx, cy with them"
        )
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"got {width} x {height} pixels, at most {MAX_PIXELS} are read; crop the image"
        )
    if image.mode not in modes:
        color = image.mode in ("RGB", "RGBA", "P", "LA")
        hint = "; this is a picture in colour, not the sensor's numbers" if color else ""
        raise ValueError(f"got an image of mode {image.mode}, need {needed}{hint}")


def _reason(error: Exception, format: str) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"cannot identify it as {format}: it has another format, or a damaged start"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"{str(error).rstrip('.')}; at most {MAX_PIXELS} pixels are read; crop the image"
    return str(error).rstrip(".") or type(error).__name__
