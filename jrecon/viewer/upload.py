"""Files that arrive from a page: nobody vouches for them.

The name decides the format alone: the content goes to a file of our own name in a folder of our
own, which is gone afterwards, and is read by the same guarded readers as any other file.
"""

from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath

from jrecon.io import depth as depth_files, point_cloud
from jrecon.io.intrinsics import NAMED
from jrecon.io.sequence import Frame, open_capture

MAX_BYTES = 64 * 2**20
SUFFIXES = (*depth_files.SUFFIXES, *point_cloud.SUFFIXES)
# Longer names say nothing more.
_LONGEST = 80


def read_upload(
    name: str, content: bytes, *, camera: str | None, unit: str | None, folder: Path | None = None
) -> Frame:
    """The one depth map of an uploaded file, under a name that is safe to show.

    Args:
      name: as the page says; not trusted.
      camera, unit: as `jrecon.io.sequence.open_capture` takes them; what a page says of the camera
        goes through `check_camera` first.
      folder: where a private folder is made; the system's for temporary files if None.

    Raises:
      ValueError: too large, of another format, damaged, or not a depth map; the message speaks of
        the file by its safe name.
    """
    shown = safe_name(name)
    suffix = PurePosixPath(shown).suffix.lower()
    check_size(shown, len(content))
    if suffix not in SUFFIXES:
        raise ValueError(f"{shown}: need a depth map: {', '.join(SUFFIXES)}.")
    if not content:
        raise ValueError(f"{shown}: the file is empty.")
    with tempfile.TemporaryDirectory(prefix="jrecon-", dir=folder) as private:
        path = Path(private) / f"upload{suffix}"
        path.write_bytes(content)
        try:
            frame = open_capture(path, camera=camera, unit=unit).read(0)
        except (ValueError, OSError) as error:
            raise ValueError(str(error).replace(str(path), shown)) from error
    return Frame(frame.depth, frame.camera, shown, None, frame.notes)


def check_size(name: str, size: int) -> None:
    """Raises ValueError for a file that is larger than any depth map."""
    if not 0 <= size <= MAX_BYTES:
        raise ValueError(
            f"{safe_name(name)}: got {size / 2**20:,.0f} MB, at most {MAX_BYTES // 2**20} MB are "
            "taken; start `jrecon view FILE` with a larger one."
        )


def check_camera(camera: str) -> None:
    """Raises ValueError for a camera that would be read from a file."""
    try:
        figures = len([float(word) for word in camera.split(",")]) == 4
    except ValueError:
        figures = False
    if not figures and camera.lower() not in NAMED:
        raise ValueError(
            f"camera: got {safe_name(camera)!r}, need fx,fy,cx,cy or one of {', '.join(NAMED)}; a "
            "file is given where the page is started: jrecon view --camera FILE."
        )


def safe_name(name: str) -> str:
    """The last part of a path of any system, of printable characters, not too long."""
    last = PureWindowsPath(PurePosixPath(name).name).name
    plain = "".join(c if unicodedata.category(c)[0] not in "CZ" else " " for c in last)
    plain = " ".join(plain.split()).lstrip(".") or "unnamed"
    if len(plain) <= _LONGEST:
        return plain
    suffix = PurePosixPath(plain).suffix[:8]
    return plain[: _LONGEST - len(suffix)] + suffix
