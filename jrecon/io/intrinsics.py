"""Cameras from files, by name, or in figures; lens distortion ends here.

`read_camera` takes one of

- a named sensor: `kinect1`, `kinect2`, `azure_nfov`, `azure_wfov`, `d435`, `d435_aligned` (depth
  brought into the colour image), `phone_lidar`: nominal figures, good to a few per cent;
- four figures: "fx,fy,cx,cy", in pixels;
- a text or CSV file with four figures or the 3x3 matrix K;
- JSON: {fx, fy, cx, cy, width, height}, Open3D's (intrinsic_matrix, column-major), or ROS's;
- `cameras.txt` of COLMAP: SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL, RADIAL, OPENCV, FULL_OPENCV;
- ROS CameraInfo as YAML or JSON (plumb_bob or rational_polynomial).

The rest of the project knows pinholes only. `read_lens` also gives the distortion, and
`undistort` resamples a depth map to what the pinhole would have seen.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jrecon.geometry.camera import Camera, from_matrix, make_camera
from jrecon.io.lens import COEFFICIENTS, Lens, largest_shift
from jrecon.synth import devices

Size = tuple[int, int]
"""Width and height, pixels."""

# Cameras in words take a few hundred bytes; what is larger is something else.
MAX_BYTES = 2**18


def _focal(sensor: Callable[[], Any]) -> Callable[[], float]:
    return lambda: float(sensor().native_focal_px)


# Size of the depth image, and the focal length there. Sizes of one sensor are not all crops or
# scalings of each other, so a sensor may have several. Focal lengths that the sensor models do not
# know: Azure Kinect and the colour camera of the D435, by the manufacturers' fields of view.
NAMED: dict[str, tuple[tuple[Size, Callable[[], float]], ...]] = {
    "kinect1": (((640, 480), _focal(devices.kinect_v1_axial)),),
    "kinect2": (((512, 424), _focal(devices.time_of_flight)),),
    "azure_nfov": (((640, 576), lambda: 504.0), ((320, 288), lambda: 252.0)),
    "azure_wfov": (((512, 512), lambda: 252.0), ((1024, 1024), lambda: 504.0)),
    "d435": (
        ((848, 480), _focal(devices.stereo_raw)),
        ((640, 480), _focal(devices.stereo)),
    ),
    "d435_aligned": (((640, 480), lambda: 616.0), ((1920, 1080), lambda: 1386.0)),
    "phone_lidar": (((256, 192), _focal(devices.phone_lidar)),),
}


def read_camera(source: str | os.PathLike[str], size: Size | None = None) -> Camera:
    """The pinhole camera that `source` says, for a depth map of `size`.

    Args:
      source: a file, the name of a sensor, or "fx,fy,cx,cy".
      size: (width, height) of the depth map; needed where the source does not say it. A named
        sensor is scaled to it, a file's camera must match it.

    Raises:
      ValueError: not a camera, of another size, or with a lens that bends light by more than half
        a pixel: depth must then be undistorted too (`read_lens`, `undistort`).
      OSError: the file cannot be opened.
    """
    lens = read_lens(source, size)
    bend = largest_shift(lens)
    if bend > 0.5:
        raise ValueError(
            f"{os.fspath(source)}: the lens shifts pixels by up to {bend:.1f}; a pinhole alone "
            "does not describe it: use read_lens and undistort the depth map."
        )
    return lens.camera


def read_lens(source: str | os.PathLike[str], size: Size | None = None) -> Lens:
    """As `read_camera`, with the distortion of the lens."""
    text = os.fspath(source)
    if text.lower() in NAMED:
        return _named(text.lower(), size)
    figures = _figures(text)
    path = Path(source)
    try:
        if figures is not None and not path.exists():
            return _checked(figures, None, size, note="as stated")
        if not text or not path.exists():
            near = difflib.get_close_matches(text.lower(), NAMED, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            need = f"need a file, fx,fy,cx,cy, or one of {', '.join(NAMED)}.{hint}"
            if path.suffix or path.name != text:
                raise FileNotFoundError(f"camera {text!r}: no such file; {need}")
            raise ValueError(f"no such sensor or file; {need}")
        return _read_file(path, size)
    except ValueError as error:
        raise ValueError(f"camera {text!r}: {error}") from error


def lens_of_record(record: Mapping[str, Any], size: Size | None = None) -> Lens:
    """As `read_lens`, of what a JSON file or a ROS message holds by name.

    Raises:
      ValueError: not a camera, or of another size.
    """
    try:
        return _from_record(record, size)
    except ValueError as error:
        raise ValueError(f"camera: {error}") from error


def _named(name: str, size: Size | None) -> Lens:
    modes = NAMED[name]
    (width, height), focal = modes[0]
    if size is not None:
        same = [mode for mode in modes if mode[0] == tuple(size)]
        alike = [mode for mode in modes if _similar(mode[0], size)]
        if not same and not alike:
            sizes = " or ".join(f"{w} x {h}" for (w, h), _ in modes)
            raise ValueError(
                f"camera {name!r}: its depth images are {sizes} pixels (or scaled evenly), but the "
                f"depth map is {size[0]} x {size[1]}; give the figures as fx,fy,cx,cy."
            )
        (width, height), focal = (same or alike)[0]
    scale_x, scale_y = (1.0, 1.0) if size is None else (size[0] / width, size[1] / height)
    width, height = size or (width, height)
    center = (width - 1) / 2, (height - 1) / 2
    camera = make_camera(focal() * scale_x, focal() * scale_y, *center, width, height)
    aligned = f"{name}_aligned"
    other = f"; if depth was brought into the colour image, {aligned}" if aligned in NAMED else ""
    return Lens(camera, note=f"nominal figures of {name}, good to a few per cent{other}")


def _similar(a: Size, b: Size) -> bool:
    """Whether one is the other scaled, to a pixel."""
    return abs(a[0] * b[1] - a[1] * b[0]) <= max(a[0], b[0])


def _figures(text: str) -> list[float] | None:
    """The numbers of a line, if it holds nothing else."""
    parts = re.split(r"[\s,;]+", text.strip().strip(",;"))
    try:
        return [float(part) for part in parts]
    except ValueError:
        return None


def _read_file(path: Path, size: Size | None) -> Lens:
    with open(path, "rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes: not the description of a camera.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("not a text file; need JSON, YAML, CSV or plain text.") from None
    suffix = path.suffix.lower()
    if suffix == ".json" or text.lstrip().startswith("{"):
        return _from_record(_parse(text, json.loads, "JSON"), size)
    if suffix in (".yaml", ".yml"):
        import yaml

        return _from_record(_parse(text, yaml.safe_load, "YAML"), size)
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if lines and re.match(r"\d+\s+[A-Z][A-Z_0-9]+\s", lines[0]):
        return _from_colmap(lines, size)
    rows = [_figures(line) for line in lines]
    if rows and rows[0] is None:
        rows = rows[1:]  # The header of a CSV file.
    numbers = [number for row in rows if row is not None for number in row]
    if not rows or any(row is None for row in rows) or len(numbers) not in (4, 6, 9):
        raise ValueError(
            "need fx fy cx cy (then perhaps width height), or the 3x3 matrix K, as numbers; or "
            "JSON, YAML of ROS, cameras.txt of COLMAP with their usual names."
        )
    if len(numbers) == 9:
        return _checked(_from_k(np.reshape(numbers, (3, 3))), None, size, note="matrix K")
    stated = _whole(numbers[4:]) if len(numbers) == 6 else None
    return _checked(numbers[:4], stated, size, note="figures")


def _parse(text: str, decode: Callable[[str], Any], kind: str) -> Mapping[str, Any]:
    try:
        record = decode(text)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"not {kind}: {_first_line(error)}") from None
    except Exception as error:  # PyYAML has its own.
        raise ValueError(f"not {kind}: {_first_line(error)}") from None
    if not isinstance(record, Mapping):
        raise ValueError(f"got {kind} that is not an object with names and values.")
    return record


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _from_record(record: Mapping[str, Any], size: Size | None) -> Lens:
    """The names that Open3D, ROS, BOP and plain JSON use."""
    if isinstance(record.get("intrinsic"), Mapping):
        record = record["intrinsic"]
    names = ("width", "height") if "width" in record else ("image_width", "image_height")
    stated = None
    if names[0] in record or names[1] in record:
        stated = _whole([_numbers(record, name, 1)[0] for name in names])
    if "intrinsic_matrix" in record:
        matrix = np.reshape(_numbers(record, "intrinsic_matrix", 9), (3, 3))
        # Open3D writes it column by column; some write rows, which cannot be mistaken.
        rows = matrix[0, 2] != 0 or matrix[1, 2] != 0
        return _checked(_from_k(matrix if rows else matrix.T), stated, size, note="Open3D")
    for key in ("camera_matrix", "K", "k", "cam_K"):
        if key in record:
            figures = _from_k(np.reshape(_numbers(record, key, 9), (3, 3)))
            return _checked(figures, stated, size, _distortion(record), note=f"matrix {key}")
    figures = [_numbers(record, name, 1)[0] for name in ("fx", "fy", "cx", "cy")]
    return _checked(figures, stated, size, note="fx fy cx cy")


def _distortion(record: Mapping[str, Any]) -> tuple[float, ...]:
    model = record.get("distortion_model") or "plumb_bob"
    key = next((name for name in ("distortion_coefficients", "D", "d") if name in record), None)
    if key is None:
        return ()
    values = _numbers(record, key, None)
    if any(values) and model not in ("plumb_bob", "rational_polynomial"):
        raise ValueError(
            f"distortion_model: got {str(model)[:40]!r}, need plumb_bob or rational_polynomial; "
            "rectify the images first."
        )
    if len(values) > COEFFICIENTS and any(values[COEFFICIENTS:]):
        raise ValueError(f"{key}: got {len(values)} coefficients, at most 8 (k1 .. k6) are read.")
    return tuple(values[:COEFFICIENTS])


def _numbers(record: Mapping[str, Any], key: str, count: int | None) -> list[float]:
    """The value of a key as finite numbers; nested lists are flattened, as is ROS' {data: []}."""
    if key not in record:
        raise ValueError(f"no {key!r}; got the names {[str(name)[:20] for name in record][:12]}.")
    value = record[key]
    value = value.get("data") if isinstance(value, Mapping) else value
    rows = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    flat: list[Any] = []
    for row in rows[:64]:
        flat += row[:64] if isinstance(row, list | tuple) else [row]
    numbers = [float(item) for item in flat if type(item) in (int, float) and abs(item) < 1e9]
    if len(numbers) != len(flat) or (count is not None and len(numbers) != count):
        needed = "numbers" if count is None else "a number" if count == 1 else f"{count} numbers"
        raise ValueError(f"{key}: got {str(value)[:60]}, need {needed}.")
    return numbers


def _from_k(matrix: Float[np.ndarray, "3 3"]) -> list[float]:
    """fx fy cx cy of K, row-major."""
    # The size is not known yet; it is checked with the figures.
    camera = from_matrix(matrix, 1, 1, far_center=True)
    return [*np.asarray(camera.focal).tolist(), *np.asarray(camera.center).tolist()]


def _whole(values: Sequence[float]) -> Size:
    if any(not math.isfinite(value) or value % 1 or not 1 <= value < 2**16 for value in values):
        raise ValueError(f"width, height: got {list(values)}, need whole pixels, 1 to 65535.")
    return int(values[0]), int(values[1])


# Of each model of COLMAP: where fx fy cx cy stand, and how many coefficients follow.
_COLMAP = {
    "SIMPLE_PINHOLE": ((0, 0, 1, 2), 0),
    "PINHOLE": ((0, 1, 2, 3), 0),
    "SIMPLE_RADIAL": ((0, 0, 1, 2), 1),
    "RADIAL": ((0, 0, 1, 2), 2),
    "OPENCV": ((0, 1, 2, 3), 4),
    "FULL_OPENCV": ((0, 1, 2, 3), 8),
}


def _from_colmap(lines: Sequence[str], size: Size | None) -> Lens:
    """cameras.txt: CAMERA_ID MODEL WIDTH HEIGHT PARAMS; COLMAP's pixel centres are at halves."""
    cameras = {}
    for line in lines:
        name, model, *rest = line.split()
        values = _figures(" ".join(rest)) or []
        if model not in _COLMAP:
            raise ValueError(f"camera {name}: got the model {model}, need one of {list(_COLMAP)}.")
        order, count = _COLMAP[model]
        if len(values) != 2 + max(order) + 1 + count:
            raise ValueError(
                f"camera {name}: got {len(values)} figures for {model}, need width, height and "
                f"{max(order) + 1 + count} parameters."
            )
        cameras[name] = (_whole(values[:2]), values[2:], order)
    fitting = {n: c for n, c in cameras.items() if size is None or c[0] == tuple(size)} or cameras
    if len({str(camera) for camera in fitting.values()}) != 1:
        raise ValueError(
            f"got {len(fitting)} different cameras ({', '.join(list(fitting)[:8])}); keep the "
            "line of the depth camera."
        )
    stated, values, order = next(iter(fitting.values()))
    fx, fy, cx, cy = (values[index] for index in order)
    rest = values[max(order) + 1 :]
    return _checked([fx, fy, cx - 0.5, cy - 0.5], stated, size, tuple(rest), note="COLMAP")


def _checked(
    figures: Sequence[float],
    stated: Size | None,
    size: Size | None,
    distortion: tuple[float, ...] = (),
    *,
    note: str,
) -> Lens:
    """A lens whose figures are those of an image of `size`."""
    if len(figures) != 4:
        raise ValueError(f"got {len(figures)} figures, need fx, fy, cx, cy.")
    if stated is not None and size is not None and stated != tuple(size):
        raise ValueError(_mismatch(figures, stated, size))
    if (extent := stated or size) is None:
        raise ValueError("it does not say the image's width and height; add them.")
    fx, fy, cx, cy = figures
    camera = make_camera(fx, fy, cx, cy, *extent)
    _check_plausible(figures, extent, stated is not None)
    padded = (*distortion, *(0.0,) * (COEFFICIENTS - len(distortion))) if any(distortion) else ()
    return Lens(camera, padded, note)


def _mismatch(figures: Sequence[float], stated: Size, size: Size) -> str:
    text = (
        f"it is for {stated[0]} x {stated[1]} pixels, but the depth map has {size[0]} x {size[1]}; "
    )
    if _similar(stated, (size[1], size[0])) and not _similar(stated, size):
        return text + "the depth map is transposed: rotate it, or exchange the camera's axes."
    if not _similar(stated, size):
        return text + "need the camera of the depth image, not of the colour image."
    factor = size[0] / stated[0]
    fx, fy, cx, cy = figures
    scaled = fx * factor, fy * factor, (cx + 0.5) * factor - 0.5, (cy + 0.5) * factor - 0.5
    return text + (
        "if it is the same view scaled, the camera is "
        + ",".join(f"{value:.6g}" for value in scaled)
    )


def _check_plausible(figures: Sequence[float], size: Size, stated: bool) -> None:
    """Figures of another resolution show in the field of view and in the principal point."""
    for focal, center, extent, axis in zip(figures[:2], figures[2:], size, "xy", strict=True):
        angle = 2 * math.degrees(math.atan2(extent / 2, focal))
        share = (center + 0.5) / extent
        # A window of an image may have its centre anywhere; then the size is stated beside it.
        low, high = (0.0, 1.0) if stated else (0.2, 0.8)
        if not (5 <= angle <= 150 and low <= share <= high):
            raise ValueError(
                f"f{axis} = {focal:g} and c{axis} = {center:g} for {extent} pixels: a field of "
                f"view of {angle:.0f} degrees, centred at {share:.0%} of the image; are they of "
                "another resolution? State fx,fy,cx,cy of the depth image, with its width and "
                "height."
            )
