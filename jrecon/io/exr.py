"""One channel of depth from an OpenEXR image (extra `io`)."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from jaxtyping import Float

from jrecon.images import MAX_PIXELS

# Names of depth channels, the first that is there is taken; by their last part (Layer.Depth.Z).
_CHANNELS = ("Z", "depth", "D", "Y", "V", "R")
# Renderers write what is infinitely far as 1e10, or as the largest half float.
_NOTHING = 6e4


def read_exr(path: str | os.PathLike[str]) -> Float[np.ndarray, "h w"]:
    """The numbers of the depth channel, 0 where there is nothing; float32.

    Raises:
      ImportError: the reader is not installed.
      ValueError: not such a file, damaged, too large, or without a channel of depth.
      OSError: the file cannot be opened.
    """
    try:
        import OpenEXR
    except ImportError as error:
        raise ImportError(
            f"{os.fspath(path)}: reading EXR needs: pip install 'jrecon[io]'"
        ) from error
    # The library's own message for a file that is not there names a line of its source.
    open(path, "rb").close()
    try:
        header: Any = OpenEXR.File(os.fspath(path), header_only=True).header()
        low, high = (np.asarray(corner, np.int64) for corner in header["dataWindow"])
        width, height = (high - low + 1).tolist()
        if not (width > 0 and height > 0 and width * height <= MAX_PIXELS):
            raise ValueError(f"got {width} x {height} pixels, need 1 to {MAX_PIXELS}")
        channels: Any = OpenEXR.File(os.fspath(path), separate_channels=True).channels()
        last = {name.rsplit(".", 1)[-1]: name for name in sorted(channels, reverse=True)}
        name = next((last[name] for name in _CHANNELS if name in last), None)
        if name is None:
            raise ValueError(f"got the channels {sorted(channels)[:8]}, need one of {_CHANNELS}")
        values = np.asarray(channels[name].pixels, np.float32)
    except Exception as error:  # The library raises whatever it stumbles over.
        reason = str(error).rstrip(".") or type(error).__name__
        raise ValueError(f"{os.fspath(path)}: not a readable EXR file: {reason}.") from error
    return np.where(np.isfinite(values) & (values < _NOTHING), values, np.float32(0))
