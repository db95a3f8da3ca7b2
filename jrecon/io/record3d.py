"""What a Record3D recording says of itself: intrinsics, their image, frames per second.

The export "EXR + RGB" (and an unpacked .r3d) has a JSON file `metadata.json` or `metadata` with K,
column by column as Apple has it, of the colour image w x h, perhaps `perFrameIntrinsicCoeffs` (fx,
fy, cx, cy of each frame) and `fps`; `depth/` holds smaller images of the same view.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAMES = ("metadata.json", "metadata")
# JSON knows integers that no float can hold, and NaN.
_GREATEST = 1e9
# Pixels along each side of a video.
_LARGEST = 65_536
# Half an hour of intrinsics and poses.
_MAX_BYTES = 2**26


@dataclasses.dataclass(frozen=True)
class Recording:
    """What the metadata say."""

    intrinsics: tuple[tuple[float, ...], ...]
    """fx fy cx cy, of each frame or once for all."""
    video: tuple[int, int]
    """Width and height of the image that they are for."""
    fps: float | None


def read_metadata(root: Path) -> Recording | None:
    """None if the folder is no such recording.

    Raises:
      ValueError: it is, but the metadata are damaged.
    """
    file = next((root / name for name in NAMES if (root / name).is_file()), None)
    if file is None or file.stat().st_size > _MAX_BYTES:
        return None
    try:
        record = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, Mapping) or "K" not in record:
        return None
    k = _numbers(file, record, "K", 9)
    width, height = (_numbers(file, record, name, 1)[0] for name in ("w", "h"))
    if not all(1 <= side <= _LARGEST for side in (width, height)):
        raise ValueError(
            f"{file}: w, h: got {width:g} x {height:g}, need the size of the video, at least 1 and "
            f"at most {_LARGEST} pixels each."
        )
    each = record.get("perFrameIntrinsicCoeffs") or []
    rows = [_numbers(file, {"row": row}, "row", 4) for row in each if isinstance(row, list)]
    fps: Any = record.get("fps")
    known = isinstance(fps, int | float) and 0 < fps < 1e4
    return Recording(
        intrinsics=tuple(map(tuple, rows)) or ((k[0], k[4], k[6], k[7]),),
        video=(int(width), int(height)),
        fps=float(fps) if known else None,
    )


def _numbers(file: Path, record: Mapping[str, Any], name: str, count: int) -> list[float]:
    value: Any = record.get(name)
    values: list[Any] = value if isinstance(value, list) else [value]
    good = len(values) == count and all(
        isinstance(number, int | float) and abs(number) < _GREATEST for number in values
    )
    if not good:
        raise ValueError(f"{file}: {name}: got {str(value)[:60]}, need {count} numbers.")
    return [float(number) for number in values]
