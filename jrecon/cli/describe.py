"""`jrecon describe`: what a file or folder holds, and what would become of it."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from jrecon.cli.command import Command, Report
from jrecon.cli.models import describe_model

if TYPE_CHECKING:
    import numpy as np

    from jrecon.geometry.camera import Camera
    from jrecon.io.segment import Segmentation

_DEPTH = (".png", ".pgm", ".tif", ".tiff", ".npy", ".ply", ".pcd", ".exr")
_BAGS = (".bag", ".db3", ".mcap")
# Width of a bar of the histogram, characters; and its steps, metres.
_BAR, _STEPS = 40, (0.1, 0.25, 0.5, 1.0, 2.0)
# Where nobody says the camera, one that sees 60 degrees, as many depth cameras do.
_GUESSED_FOCAL = 0.87


@dataclasses.dataclass(frozen=True, kw_only=True)
class Describe(Command):
    """Say what a depth map, a capture, a model or a trained function holds, before it is used.

    Of depth: size, unit, share of valid pixels, a histogram, what stands out in it and how high
    that is, and what `jrecon reconstruct` would do.

    Examples: jrecon describe depth.png --camera d435; jrecon describe body
    """

    source: Annotated[Positional[str], arg(metavar="FILE")]
    """A depth map, a point cloud, a folder of them, a ROS bag; `body`, a model file (.npz, .pkl,
    .glb, .gltf); a function (.recon)."""
    camera: Annotated[str | None, arg(metavar="CAMERA")] = None
    """Of depth: file with intrinsics, `fx,fy,cx,cy`, or the name of a sensor."""
    unit: Annotated[str | None, arg(metavar="UNIT")] = None
    """Of depth: m, mm, tum, or metres for one count."""

    def run(self) -> Report:
        path = Path(self.source)
        if path.suffix.lower() == ".recon":
            from jrecon.learn.weights import load_regressor

            return load_regressor(path)[1]
        if path.is_dir() or path.suffix.lower() in (*_DEPTH, *_BAGS) or _holds_depth(path):
            return describe_capture(path, self.camera, self.unit)
        from jrecon.model.formats import load_model

        return describe_model(load_model(self.source))


def _holds_depth(path: Path) -> bool:
    """Whether an .npz file is a depth map, by the names in it; models have a dozen arrays."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return False
    return "depth.npy" in names or len(names) == 1


def describe_capture(path: Path, camera: str | None, unit: str | None) -> Report:
    """Of a depth map, a point cloud or a folder of them: the first frame stands for all.

    Raises:
      ValueError, OSError: it cannot be read; a unit that makes no sense is described, not refused.
    """
    from jrecon.io.depth import UNITS, likely_units, scale_counts
    from jrecon.io.sequence import open_capture

    capture = open_capture(path, camera=camera, unit=unit)
    report: dict[str, Any] = {"kind": capture.kind, "frames": len(capture)}
    report["first"] = capture.name(0)
    if capture.fps is not None:
        report["frames_per_second"] = round(capture.fps, 2)
    counts = capture.counts(0)
    if counts is None:
        frame = capture.read(0)
        return report | {"notes": list(frame.notes)} | _scene(frame.depth, frame.camera)
    report |= {"size": f"{counts.shape[1]} x {counts.shape[0]}", "numbers": counts.dtype.name}
    fits = {name: f"{middle:.3g} m" for name, middle in likely_units(counts).items()}
    report["median_in_units_that_make_sense"] = fits or "none: is this depth?"
    try:
        image = scale_counts(counts, capture.unit)
    except ValueError as error:
        return report | {"would": f"be refused: {error}"}
    name = next((name for name, one in UNITS.items() if one == image.unit_m), "")
    stated = "as stated" if capture.unit is not None else "by the format"
    report["unit"] = f"{image.unit_m:g} m per count {name and f'({name}) '}{stated}"
    report["notes"] = list(image.notes)
    try:
        frame = capture.read(0)
    except ValueError as error:
        report["camera"] = f"none that fits: {error}"
        return report | _scene(image.depth, _guess(image.depth.shape), guessed=True)
    return report | _scene(frame.depth, frame.camera)


def _guess(shape: tuple[int, ...]) -> Camera:
    from jrecon.geometry.camera import make_camera

    height, width = shape
    focal = _GUESSED_FOCAL * max(width, height)
    return make_camera(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)


def _scene(depth: np.ndarray, camera: Camera, guessed: bool = False) -> dict[str, Any]:
    """Figures of a depth map in metres, and what stands out in it."""
    import numpy as np

    from jrecon.io.segment import find_objects
    from jrecon.report import camera_record

    known = depth[depth > 0]
    if not known.size:
        return {"valid": 0.0, "would": "be refused: no pixel has a depth."}
    marks = np.percentile(known, [1, 25, 50, 75, 99])
    found = find_objects(depth, camera)
    report: dict[str, Any] = {
        "valid": round(known.size / depth.size, 4),
        "depth_m": dict(zip(("1%", "25%", "50%", "75%", "99%"), _rounded(marks), strict=True)),
        "histogram": histogram(known),
    }
    if guessed:
        report["camera_guessed"] = "sees 60 degrees; sizes below are as good as that"
    else:
        report["camera"] = camera_record(camera)
    if found.plane is not None:
        report["floor_m_below_the_camera"] = round(float(found.plane[3]), 2)
    shares = {name: np.count_nonzero(where) / depth.size for name, where in found.removed.items()}
    report["removed"] = {name: round(float(share), 3) for name, share in shares.items()}
    report["largest_height_m"] = (
        round(max(found.segments, key=lambda one: one.points).height_m, 2)
        if found.segments
        else None
    )
    report["objects"] = [
        f"{one.height_m:.2f} m high at {one.median_depth_m:.2f} m, {one.points} pixels"
        for one in found.segments
    ]
    return report | {"would": _would(found, guessed)}


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 3) for value in values]


def histogram(depth: np.ndarray) -> dict[str, str]:
    """A bar for each range of depth, in steps of a round length that make at most twenty."""
    import numpy as np

    low, high = np.percentile(depth, [0.5, 99.5])
    step = next((step for step in _STEPS if (high - low) / step <= 19), (high - low) / 19)
    edges = step * np.arange(np.floor(low / step), np.floor(high / step) + 2)
    counts, _ = np.histogram(depth, edges)
    shares = counts / depth.size
    bars = [round(_BAR * share / max(shares.max(), 1e-9)) for share in shares]
    return {
        f"{near:5.2f} m": f"{'#' * bar} {share:.1%}".strip()
        for near, bar, share in zip(edges[:-1], bars, shares, strict=True)
    }


def _would(found: Segmentation, guessed: bool) -> str:
    if guessed:
        return "be refused: give --camera."
    if not found.segments:
        return "be refused: nothing of the size of a person stands out; give --mask."
    best = found.segments[0]
    height, away = f"{best.height_m:.2f} m", f"{best.median_depth_m:.2f} m"
    more = min(len(found.segments), 3) - 1
    others = f", and {more} more if it is no person" if more else ""
    return f"reconstruct what is {height} high at {away}{others}"
