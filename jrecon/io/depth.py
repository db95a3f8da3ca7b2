"""One depth map from a file, in metres, and masks.

| file | what it holds | unit unless told |
|---|---|---|
| .png, .pgm | 16-bit grey counts | millimetres |
| .tif, .tiff | 16- or 32-bit counts, or 32-bit floats | counts: millimetres; floats: metres |
| .npy, .npz (array "depth", or the only one) | counts (integers) or floats | the same |
| .exr (channel Z, or the like; extra `io`) | floats | metres |

No file says its unit, so what comes out is checked: a depth map whose median is outside 0.1 to 20 m
is refused, with the units that would make sense. What is not a measurement (0, NaN, infinity,
the largest count) becomes 0.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Bool, Float

from jrecon.images import MAX_PIXELS, read_grey
from jrecon.io.exr import read_exr

# Metres per count of a file.
UNITS = {"m": 1.0, "mm": 1e-3, "cm": 1e-2, "tum": 1 / 5000, "sr305": 1.25e-4}
# Depth sensors measure, and people are seen, between these medians.
PLAUSIBLE_M = (0.1, 20.0)
SUFFIXES = (".png", ".pgm", ".tif", ".tiff", ".npy", ".npz", ".exr")


@dataclasses.dataclass(frozen=True)
class DepthImage:
    """A depth map, and how it was read."""

    depth: Float[np.ndarray, "h w"]
    """float32, metres along the optical axis; 0 = no return."""
    unit_m: float
    """Metres per count of the file."""
    path: str
    notes: tuple[str, ...]
    """What was found, in sentences for people."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.depth.shape[1], self.depth.shape[0]


def read_depth(path: str | os.PathLike[str], *, unit: float | str | None = None) -> DepthImage:
    """Reads one depth map; the suffix says the format, the table above the units.

    Args:
      unit: metres per count, or one of `UNITS`; None: by format.

    Raises:
      ValueError: not such a file, damaged, too large, without any depth, or depth that makes no
        sense in this unit; the message says what would.
      OSError: the file cannot be opened.
    """
    counts = read_counts(path)
    try:
        return scale_counts(counts, unit, os.fspath(path))
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error


def read_counts(path: str | os.PathLike[str]) -> np.ndarray:
    """The numbers of a depth map (h, w) as the file holds them; errors as `read_depth`."""
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix == ".png":
        return read_grey(file, kind="counts")
    if suffix == ".pgm":
        return read_grey(file, kind="counts", format="PPM")
    if suffix in (".tif", ".tiff"):
        return read_grey(file, kind="numbers", format="TIFF")
    if suffix in (".npy", ".npz"):
        return _read_numpy(file)
    if suffix == ".exr":
        return read_exr(file)
    raise ValueError(
        f"{file}: got the suffix {file.suffix!r}, need one of {', '.join(SUFFIXES)}, or a "
        "point cloud (.ply, .pcd)."
    )


def parse_unit(unit: float | str) -> float:
    """Metres per count.

    Raises:
      ValueError: not a positive number, nor one of `UNITS`.
    """
    if isinstance(unit, str) and unit.lower() in UNITS:
        return UNITS[unit.lower()]
    try:
        metres = float(unit)
    except (TypeError, ValueError):
        metres = float("nan")
    if not 1e-7 < metres < 1e3:
        raise ValueError(
            f"depth unit: got {unit!r}, need metres per count (0.001 for millimetres) or one of "
            f"{', '.join(UNITS)}."
        )
    return metres


def scale_counts(counts: np.ndarray, unit: float | str | None, path: str = "") -> DepthImage:
    """Numbers of a depth map as metres, checked; arguments and errors as `read_depth`."""
    if counts.dtype.itemsize < 2:
        raise ValueError(
            f"got numbers of type {counts.dtype}, too coarse for depth; need 16-bit counts or "
            "floats. Is this a mask, or a picture of depth?"
        )
    whole = counts.dtype.kind in "ui"
    metres = (UNITS["mm"] if whole else UNITS["m"]) if unit is None else parse_unit(unit)
    known = np.isfinite(counts) & (counts > 0)
    notes = [f"{counts.shape[1]} x {counts.shape[0]} pixels of {counts.dtype.name}"]
    if whole:
        top = np.iinfo(counts.dtype).max
        saturated = int(np.count_nonzero(counts == top))
        known &= counts != top
        if saturated:
            notes.append(f"{saturated} pixels at the largest count, {top}, taken as no return")
    negative = int(np.count_nonzero(counts < 0))
    if not known.any():
        flipped = " Depth is negative throughout: negate it (OpenGL looks along -z)."
        raise ValueError(
            f"no depth: none of {counts.size} pixels is a positive finite number; is it the right "
            "file?" + (flipped if negative else "")
        )
    if negative:
        notes.append(f"{negative} negative pixels taken as no return")
    # Scaled in float64: a float32 count of micrometres would lose digits first.
    depth = np.where(known, np.where(known, counts, 0) * np.float64(metres), 0.0)
    middle = float(np.median(depth[known]))
    share = f"{np.count_nonzero(known) / known.size:.1%} of the pixels have depth"
    notes += [f"{share}, median {middle:.3g} m at {metres:g} m per count"]
    if not PLAUSIBLE_M[0] <= middle <= PLAUSIBLE_M[1]:
        raise ValueError(_explain(middle, metres, stated=unit is not None))
    notes += _doubts(depth[known], metres, whole, stated=unit is not None)
    return DepthImage(depth.astype(np.float32), metres, path, tuple(notes))


def likely_units(counts: np.ndarray) -> dict[str, float]:
    """Units in which the median of a depth map makes sense for people, and that median, metres."""
    top = np.iinfo(counts.dtype).max if counts.dtype.kind in "ui" else np.inf
    known = counts[np.isfinite(counts) & (counts > 0) & (counts < top)]
    if not known.size:
        return {}
    middle = float(np.median(known))
    return {name: middle * unit for name, unit in UNITS.items() if 0.3 <= middle * unit <= 8}


def _explain(middle: float, metres: float, stated: bool) -> str:
    counts = middle / metres
    fits = {name: unit for name, unit in UNITS.items() if 0.3 <= counts * unit <= 8}
    could = ", ".join(f"{name} ({counts * unit:.3g} m)" for name, unit in fits.items())
    advice = (
        f"pass one of these as the depth unit: {could}"
        if could
        else ("pass the metres per count as the depth unit, if this is depth at all")
    )
    return (
        f"got a median depth of {middle:.3g} m with {metres:g} m per count"
        f"{'' if stated else ' (not stated, taken by format)'}, need "
        f"{PLAUSIBLE_M[0]:g} to {PLAUSIBLE_M[1]:g} m; {advice}."
    )


def _doubts(depth: np.ndarray, metres: float, whole: bool, stated: bool) -> list[str]:
    """Signs that a unit which nobody stated, and which passed, is not the right one after all."""
    near, far = np.percentile(depth, (1, 95))
    if not whole or stated:
        return []
    if far > 10:
        unit, why = "tum", f"one pixel in twenty is beyond {far:.3g} m, further than sensors see"
    elif near > 3.5:
        unit, why = "sr305", f"nothing is nearer than {near:.3g} m"
    else:
        return []
    range_ = f"{near / metres * UNITS[unit]:.3g} to {far / metres * UNITS[unit]:.3g} m"
    return [f"doubtful unit: {why}; in the unit {unit} ({UNITS[unit]:g} m) it is {range_}"]


def read_mask(path: str | os.PathLike[str], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Where the object is: an 8-bit or 1-bit grey PNG (not 0), or a .npy of booleans or numbers.

    Args:
      size: (width, height) of the depth map that it belongs to.

    Raises:
      ValueError: not such a file, another size, or nothing in it.
      OSError: the file cannot be opened.
    """
    file = Path(path)
    npy = file.suffix.lower() == ".npy"
    values = _read_numpy(file) if npy else read_grey(file, kind="mask")
    if values.shape != (size[1], size[0]):
        raise ValueError(
            f"{file}: got {values.shape[1]} x {values.shape[0]} pixels, but the depth map has "
            f"{size[0]} x {size[1]}; resize the mask without interpolation."
        )
    mask = np.isfinite(values) & (values != 0)
    if not mask.any():
        raise ValueError(f"{file}: the mask is empty: every pixel is 0; need the object's above 0.")
    return mask


def _read_numpy(file: Path) -> np.ndarray:
    with open(file, "rb") as stream, _explained(file, "NumPy file"):
        if file.suffix.lower() == ".npy":
            size = os.fstat(stream.fileno()).st_size
            return _read_array(stream, size)
        with zipfile.ZipFile(stream) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            chosen = ["depth.npy"] if "depth.npy" in names else names
            if len(chosen) != 1:
                raise ValueError(
                    f"got the arrays {[name[:-4] for name in names[:10]]}, need one named 'depth'"
                )
            entry = archive.getinfo(chosen[0])
            with archive.open(entry) as member:
                return _read_array(member, entry.file_size)


def _read_array(stream: Any, size: int) -> np.ndarray:
    """An array in NumPy's format; the header is checked against `size`, the bytes that follow."""
    shape, column_major, dtype = _read_header(stream)
    if dtype.kind not in "uifb" or dtype.itemsize > 8:
        raise ValueError(f"got numbers of type {dtype}, need integers or floats")
    if len(shape) == 3 and 1 in (shape[0], shape[2]):
        shape = shape[1:] if shape[0] == 1 else shape[:2]
    if len(shape) != 2:
        raise ValueError(f"got an array of shape {shape}, need one depth map (height, width)")
    count = shape[0] * shape[1]
    if not 0 < count <= MAX_PIXELS:
        raise ValueError(f"got {shape[1]} x {shape[0]} pixels, need 1 to {MAX_PIXELS}")
    if count * dtype.itemsize > size:
        raise ValueError(f"it ends after {size} bytes; {count * dtype.itemsize} are needed")
    data = stream.read(count * dtype.itemsize)
    if len(data) != count * dtype.itemsize:
        raise ValueError("it ends early")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if column_major else "C")


def _read_header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    # Later versions are for records with many fields; their headers may claim gigabytes.
    if version != (1, 0):
        raise ValueError(f"got version {version} of the format, need (1, 0)")
    return np.lib.format.read_array_header_1_0(stream)


@contextlib.contextmanager
def _explained(file: Path, kind: str) -> Iterator[None]:
    """Whatever a decoder raises as a ValueError that names the file."""
    try:
        yield
    except Exception as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise ValueError(f"{file}: not a readable {kind}: {reason}.") from error
