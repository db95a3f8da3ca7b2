"""Captures: one file or a folder of depth, with its camera, as frames ready to be used.

`open_capture` looks at names only, and recognises

- a file: a depth image (`jrecon.io.depth`) or a point cloud (`jrecon.io.point_cloud`);
- a folder of numbered depth files, whose camera may lie beside them (`intrinsics.json`, ...);
- TUM: a folder with `depth.txt` (time, file), 5000 counts per metre;
- Stray Scanner: a folder with `depth/`, `confidence/` and `odometry.csv` or `camera_matrix.csv`;
- Record3D: a folder with `depth/` (EXR) and `metadata.json`;
- ROS bags, RealSense's among them: a file, or a folder of the files of ROS 2 (`jrecon.io.bag`).

Frames are read one by one, as they are asked for.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jrecon.geometry.camera import Camera, resize
from jrecon.images import read_grey
from jrecon.io import bag as bags, depth as depth_files, point_cloud
from jrecon.io.intrinsics import NAMED, lens_of_record, read_lens
from jrecon.io.lens import Lens, undistort
from jrecon.io.record3d import Recording, read_metadata

# Half an hour at 30 frames a second, and the text files that go with them.
MAX_FRAMES, _MAX_BYTES = 2**16, 2**24
# Cameras that may lie in a folder of depth files, the first of them is taken.
CAMERA_FILES = (
    "intrinsics.json", "camera.json", "camera_intrinsic.json", "intrinsics.txt", "camera.txt",
    "K.txt", "camera_info.yaml", "cameras.txt",
)  # fmt: skip
# Images that lie beside depth images and are none.
_BESIDE = re.compile(
    r"(mask|conf|confidence|colou?r|rgb|ir|infrared|normal|preview|overlay)$", re.I
)
# How far nominal figures of a sensor may be off.
_NOMINAL = 0.05
# Widths of the video that Stray Scanner's intrinsics are for; its height is 3/4 of that.
_STRAY_WIDTHS = (1920, 1440, 1280, 640, 256)

CameraSource = str | os.PathLike[str] | Camera | None


@dataclasses.dataclass(frozen=True)
class Frame:
    """One depth map and the pinhole camera that saw it."""

    depth: Float[np.ndarray, "h w"]
    """float32, metres along the optical axis; 0 = no return."""
    camera: Camera
    name: str
    """Of the file."""
    time_s: float | None
    """Since an arbitrary moment; None if the capture does not say."""
    notes: tuple[str, ...]
    """What was found, in sentences for people."""


@dataclasses.dataclass(frozen=True)
class Capture:
    """Frames that have been found but not read. Iterate over it, or call `read`."""

    kind: str
    """file, folder, tum, stray, record3d or bag."""
    path: Path
    files: tuple[Path, ...]
    """One for each frame; of a bag none."""
    times_s: tuple[float, ...] | None
    unit: float | str | None
    camera: CameraSource
    intrinsics: tuple[tuple[float, ...], ...] | None = None
    """fx fy cx cy of each frame, at the size of the colour video (Stray Scanner, Record3D)."""
    video: tuple[int, int] | None = None
    """That size; None: by the principal point."""
    bag: bags.Bag | None = None

    def __len__(self) -> int:
        return len(self.files) if self.bag is None else len(self.bag)

    def __iter__(self) -> Iterator[Frame]:
        return (self.read(index) for index in range(len(self)))

    @property
    def fps(self) -> float | None:
        """Frames per second, by the median step in time; None if the capture does not say."""
        if self.times_s is None or len(self.times_s) < 2:
            return None
        step = float(np.median(np.diff(self.times_s)))
        return 1 / step if step > 0 else None

    def name(self, index: int) -> str:
        """Of a frame: the name of its file, or a number in its bag."""
        return self.files[index].name if self.bag is None else self.bag.name(index)

    def counts(self, index: int = 0) -> np.ndarray | None:
        """The numbers of a frame (h, w) as the file holds them; None of a point cloud. Errors as
        `read`."""
        if self.bag is not None:
            return self.bag.counts(index)
        file = self.files[index]
        cloud = file.suffix.lower() in point_cloud.SUFFIXES
        return None if cloud else depth_files.read_counts(file)

    def read(self, index: int = 0) -> Frame:
        """One frame.

        Raises:
          ValueError: a damaged file, a unit that makes no sense, no camera or the camera of
            another size; the message names the file.
          OSError: the file cannot be opened.
        """
        time = None if self.times_s is None else self.times_s[index]
        if self.bag is not None:
            return _read_bag(self, self.bag, index, time)
        file = self.files[index]
        if file.suffix.lower() in point_cloud.SUFFIXES:
            return _read_cloud(file, time, self.unit, self.camera)
        image = depth_files.read_depth(file, unit=self.unit)
        values, notes = image.depth, image.notes
        if self.intrinsics is not None:
            figures = self.intrinsics[min(index, len(self.intrinsics) - 1)]
            lens = _video_lens(figures, image.size, self.video)
        else:
            lens = _lens(self.camera, image.size, file)
        if self.kind == "stray":
            values, extra = _drop_unsure(values, file)
            notes += extra
        values = undistort(values, lens)
        notes += (f"camera: {lens.note}",) if lens.note else ()
        notes += _contradiction(self.camera, lens, file)
        return Frame(values, lens.camera, file.name, time, notes)


def open_capture(
    path: str | os.PathLike[str],
    *,
    camera: CameraSource = None,
    unit: float | str | None = None,
) -> Capture:
    """Finds the frames of a file or folder.

    Args:
      camera: as `jrecon.io.intrinsics.read_camera` takes it, or a camera; None: the one in the
        folder, or beside the file, or that of the organised point cloud.
      unit: of depth, as `jrecon.io.depth.read_depth` takes it; None: by format.

    Raises:
      ValueError: no depth in the folder, or a listing that is damaged.
      OSError: no such file or folder.
    """
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such file or folder.")
    if bags.bag_files(root):
        bag = bags.open_bag(root)
        unit = bag.unit if unit is None else unit
        return Capture("bag", root, (), bag.times_s, unit, camera, bag=bag)
    if not root.is_dir():
        if camera is None and root.suffix.lower() not in point_cloud.SUFFIXES:
            camera = _camera_beside(root.parent)
        return Capture("file", root, (root,), None, unit, camera)
    if (root / "depth.txt").is_file():
        return _open_tum(root, camera, unit)
    if (root / "depth").is_dir() and any(
        (root / name).is_file() for name in ("odometry.csv", "camera_matrix.csv")
    ):
        return _open_stray(root, camera, unit)
    if (root / "depth").is_dir() and (recording := read_metadata(root)) is not None:
        return _open_record3d(root, recording, camera, unit)
    folder = root / "depth" if (root / "depth").is_dir() else root
    files = _numbered(folder)
    if camera is None:
        camera = _camera_beside(folder, root)
    return Capture("folder", root, files, None, unit, camera)


def _camera_beside(*folders: Path) -> Path | None:
    files = [folder / name for folder in folders for name in CAMERA_FILES]
    return next((file for file in files if file.is_file()), None)


def _numbered(folder: Path) -> tuple[Path, ...]:
    """The depth files of a folder, in the order of the numbers in their names."""
    suffixes = {*depth_files.SUFFIXES, *point_cloud.SUFFIXES}
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in suffixes and not _BESIDE.search(file.stem) and file.is_file()
    ]
    if not files or len(files) > MAX_FRAMES:
        raise ValueError(
            f"{folder}: got {len(files)} depth files, need 1 to {MAX_FRAMES} with the suffixes "
            f"{', '.join(sorted(suffixes))}."
        )
    if len({file.suffix.lower() for file in files}) > 1:
        kinds = ", ".join(sorted({file.suffix.lower() for file in files}))
        raise ValueError(f"{folder}: got files of several formats ({kinds}); keep those of depth.")
    return tuple(sorted(files, key=_natural))


def _natural(file: Path) -> list[tuple[int, str]]:
    """A key by which frame_2 comes before frame_10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part)
        for part in re.split(r"(\d{1,18})", file.name)
    ]


def _read_lines(file: Path) -> list[str]:
    with open(file, "rb") as stream:
        raw = stream.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise ValueError(f"{file}: larger than {_MAX_BYTES} bytes.")
    try:
        lines = raw.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{file}: not a text file.") from None
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _open_tum(root: Path, camera: CameraSource, unit: float | str | None) -> Capture:
    files, times = [], []
    listing = root / "depth.txt"
    for number, line in enumerate(_read_lines(listing), 1):
        words = line.split()
        time = _number(words[0]) if len(words) == 2 else math.nan
        if not math.isfinite(time):
            raise ValueError(f"{listing}: entry {number}: got {line[:60]!r}, need TIME FILE.")
        file = Path(words[1])
        if file.is_absolute() or ".." in file.parts:
            raise ValueError(
                f"{listing}: entry {number}: got {words[1][:60]!r}, outside the folder."
            )
        times.append(time)
        files.append(root / file)
    if not files or len(files) > MAX_FRAMES:
        raise ValueError(f"{listing}: got {len(files)} frames, need 1 to {MAX_FRAMES}.")
    unit = "tum" if unit is None else unit
    camera = _camera_beside(root) if camera is None else camera
    return Capture("tum", root, tuple(files), tuple(times), unit, camera)


def _open_stray(root: Path, camera: CameraSource, unit: float | str | None) -> Capture:
    files = _numbered(root / "depth")
    times, rows = None, None
    if (root / "odometry.csv").is_file():
        times, rows = _read_odometry(root / "odometry.csv", len(files))
    if camera is None and rows is None:
        matrix = root / "camera_matrix.csv"
        if not matrix.is_file():
            raise ValueError(f"{root}: no intrinsics in odometry.csv, and no camera_matrix.csv.")
        values = [_number(word) for line in _read_lines(matrix) for word in line.split(",")]
        if len(values) != 9:
            raise ValueError(f"{matrix}: got {len(values)} numbers, need the 3x3 matrix K.")
        rows = ((values[0], values[4], values[2], values[5]),)
    return Capture("stray", root, files, times, unit, camera, None if camera else rows)


def _open_record3d(
    root: Path, recording: Recording, camera: CameraSource, unit: float | str | None
) -> Capture:
    files = _numbered(root / "depth")
    fps = recording.fps
    times = None if fps is None else tuple(index / fps for index in range(len(files)))
    rows = None if camera else recording.intrinsics
    return Capture("record3d", root, files, times, unit, camera, rows, recording.video)


def _read_odometry(
    file: Path, count: int
) -> tuple[tuple[float, ...] | None, tuple[tuple[float, ...], ...] | None]:
    """Times and, where this version of the app wrote them, fx fy cx cy of `count` frames."""
    table = list(csv.DictReader(_read_lines(file), skipinitialspace=True))
    if len(table) < count:
        return None, None
    names = ("timestamp", "fx", "fy", "cx", "cy")
    columns = [[_number(row.get(name)) for name in names] for row in table[:count]]
    values = np.array(columns).reshape(count, len(names))
    times = tuple(values[:, 0].tolist()) if np.isfinite(values[:, 0]).all() else None
    rows = tuple(map(tuple, values[:, 1:].tolist())) if np.isfinite(values[:, 1:]).all() else None
    return times, rows


def _number(word: str | None) -> float:
    """NaN for what is no number."""
    try:
        return float(word) if word is not None else math.nan
    except ValueError:
        return math.nan


def _video_lens(
    figures: tuple[float, ...], size: tuple[int, int], video: tuple[int, int] | None
) -> Lens:
    """Phones write the intrinsics of the video; depth is a smaller picture of the same."""
    if video is None:
        fits = [width for width in _STRAY_WIDTHS if abs(figures[2] / width - 0.5) < 0.1]
        if not fits:
            raise ValueError(
                f"camera: cx = {figures[2]:g} is the middle of none of the video sizes known "
                f"({', '.join(map(str, _STRAY_WIDTHS))} pixels wide); give the camera of the depth."
            )
        video = fits[0], fits[0] * 3 // 4
    if not 0.98 < video[0] * size[1] / (video[1] * size[0]) < 1.02:
        raise ValueError(
            f"camera: it is for a video of {video[0]} x {video[1]} pixels, but the depth maps have "
            f"{size[0]} x {size[1]}, another shape; give the camera of the depth."
        )
    lens = read_lens(",".join(map(str, figures)), video)
    note = f"of the video, {video[0]} pixels wide, scaled to the depth map"
    return Lens(resize(lens.camera, *size), note=note)


def _drop_unsure(
    values: Float[np.ndarray, "h w"], file: Path
) -> tuple[Float[np.ndarray, "h w"], tuple[str, ...]]:
    """Without the measurements in which the phone itself has low confidence (0 of 0, 1, 2)."""
    beside = file.parent.parent / "confidence" / f"{file.stem}.png"
    if not beside.is_file():
        return values, ()
    unsure = read_grey(beside, kind="mask", size=(values.shape[1], values.shape[0])) == 0
    count = int(np.count_nonzero(unsure & (values > 0)))
    return np.where(unsure, np.float32(0), values), (f"{count} pixels of low confidence dropped",)


def _lens(camera: CameraSource, size: tuple[int, int], file: Path) -> Lens:
    if camera is None:
        raise ValueError(
            f"{file}: no camera; give a file, fx,fy,cx,cy, or the name of a sensor, or put "
            f"{CAMERA_FILES[0]} beside the depth map."
        )
    if not isinstance(camera, Camera):
        return read_lens(camera, size)
    if (camera.width, camera.height) != size:
        raise ValueError(
            f"{file}: got {size[0]} x {size[1]} pixels, but the camera has {camera.width} x "
            f"{camera.height}; resize the camera or transpose the depth map."
        )
    return Lens(camera)


def _contradiction(camera: CameraSource, lens: Lens, file: Path) -> tuple[str, ...]:
    """Where a sensor was named, but a file beside the depth map has other figures: depth that was
    brought into the colour image has the camera of that."""
    if not isinstance(camera, str) or camera.lower() not in NAMED:
        return ()
    beside = _camera_beside(file.parent, file.parent.parent)
    size = lens.camera.width, lens.camera.height
    try:
        other = None if beside is None else read_lens(beside, size).camera
    except (ValueError, OSError):
        return ()
    if other is None:
        return ()
    named, found = (float(one.focal[0]) for one in (lens.camera, other))
    if abs(found / named - 1) < _NOMINAL:
        return ()
    return (
        f"doubtful camera: {camera} has fx = {named:.0f} pixels, but {beside} says {found:.0f}; if "
        "that is of this depth, leave out the camera",
    )


def _read_bag(capture: Capture, bag: bags.Bag, index: int, time: float | None) -> Frame:
    name = bag.name(index)
    counts = bag.counts(index)
    try:
        image = depth_files.scale_counts(counts, capture.unit)
        if capture.camera is None and bag.camera is not None:
            lens = lens_of_record(bag.camera, image.size)
        else:
            lens = _lens(capture.camera, image.size, capture.path)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    notes = (*bag.notes, *image.notes, f"camera: {lens.note or 'as stated'}")
    return Frame(undistort(image.depth, lens), lens.camera, name, time, notes)


def _read_cloud(
    file: Path, time: float | None, unit: float | str | None, camera: CameraSource
) -> Frame:
    cloud = point_cloud.read_point_cloud(file, unit=unit)
    if camera is None:
        pinhole = point_cloud.camera_of(cloud)
    elif isinstance(camera, Camera):
        pinhole = camera
    else:
        pinhole = read_lens(camera, cloud.size).camera
    image = point_cloud.project_cloud(cloud, pinhole)
    return Frame(image.depth, pinhole, file.name, time, image.notes)
