"""Files that appear whole or not at all."""

from __future__ import annotations

import io
import os
import secrets
from pathlib import Path
from typing import Any

from PIL import Image as pil


def write_whole(path: str | os.PathLike[str], data: bytes, *, overwrite: bool = True) -> None:
    """Write beside the target, then move into place: a reader never sees half a file, and a full
    disk or an interruption leaves what was there before.

    Raises:
      FileExistsError: the file exists and `overwrite` is false.
      OSError: it cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; pass overwrite=True (--overwrite) to replace it.")
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with scratch.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        # The name of the scratch file would tell nobody anything.
        raise OSError(error.errno, f"not written: {error.strerror}", os.fspath(path)) from error
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def encode_image(image: Any, suffix: str) -> bytes:
    """The bytes of a picture file: `image` is uint8 (h, w, 3), or uint16 (h, w) for depth in PNG;
    the suffix (.png, .jpg) chooses the format."""
    buffer = io.BytesIO()
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}[suffix.lower()]
    pil.fromarray(image).save(buffer, kind, **({"quality": 92} if kind == "JPEG" else {}))
    return buffer.getvalue()
