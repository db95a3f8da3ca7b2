"""Single examples as files for people: a 16-bit PNG of depth, a PNG of the mask, and JSON.

`NAME.json` says everything: the camera (fx fy cx cy, width, height), what one step of the depth
image is (`depth_unit_mm`), the parameters and joints, and the names of the images. Labelled
captures written in this form can be imported and stored as a database beside synthetic ones.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from PIL import Image

from jrecon.geometry.camera import Camera, make_camera
from jrecon.images import read_grey
from jrecon.model.parametric import ParametricModel, Params, pose
from jrecon.synth.database import write_database
from jrecon.synth.example import Example
from jrecon.synth.manifest import SHARD_SIZE, make_manifest, model_entry
from jrecon.synth.records import quantize

FORMAT = "jrecon-example"
VERSION = 1


def export_example(
    path: str | os.PathLike[str],
    example: Example,
    *,
    unit_mm: float = 1.0,
    joint_names: Sequence[str] = (),
    overwrite: bool = False,
) -> list[Path]:
    """Writes one example (no batch axis) as NAME.png, NAME_mask.png and NAME.json.

    Args:
      path: NAME.json, or NAME alone; its folder must exist.
      unit_mm: one step of the depth image.
      joint_names: of the model, for the reader.

    Returns:
      The files, in the order in which they were written.

    Raises:
      FileExistsError: one of the files exists, and not `overwrite`.
      FileNotFoundError: no such folder.
      ValueError: a batch of examples, or depth that 16 bits of `unit_mm` cannot hold.
    """
    stem = Path(path)
    stem = stem.with_suffix("") if stem.suffix == ".json" else stem
    files = [stem.parent / f"{stem.name}{end}" for end in (".png", "_mask.png", ".json")]
    existing = [str(file) for file in files if file.exists()]
    if existing and not overwrite:
        raise FileExistsError(f"{', '.join(existing)}: exists; pass overwrite=True to replace it.")
    if not stem.parent.is_dir():
        raise FileNotFoundError(f"{stem.parent}: no such folder; create it first.")
    example = jax.tree.map(np.asarray, example)
    if example.depth.ndim != 2:
        raise ValueError(
            f"depth: got shape {example.depth.shape}, need one image (h, w); export the examples "
            "of a batch one by one."
        )
    depth = quantize(np.asarray(example.depth)[None], unit_mm, 0)[0]
    record = {
        "format": FORMAT,
        "version": VERSION,
        "depth": files[0].name,
        "mask": files[1].name,
        "depth_unit_mm": unit_mm,
        **_camera_record(example),
        "shape": _listed(example.params.shape),
        "pose": _listed(example.params.pose),
        "translation": _listed(example.params.translation),
        "joints": _listed(example.joints),
        "joint_names": list(joint_names),
        "sensor": int(example.sensor),
        "visible": _listed(example.visible),
    }
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    Image.fromarray(depth).save(files[0])
    Image.fromarray(np.where(example.mask, np.uint8(255), np.uint8(0))).save(files[1])
    files[2].write_text(text)
    return files


def _camera_record(example: Example) -> dict[str, Any]:
    (fx, fy), (cx, cy) = _listed(example.camera.focal), _listed(example.camera.center)
    size = {"width": example.camera.width, "height": example.camera.height}
    return {"fx": fx, "fy": fy, "cx": cx, "cy": cy, **size}


def _listed(values: Any) -> Any:
    """Numbers as short as float32 allows: they read back as the same float32."""
    array = np.asarray(values, np.float32)
    return np.vectorize(lambda value: float(str(value)), otypes=[float])(array).tolist()


def list_examples(folder: str | os.PathLike[str]) -> list[Path]:
    """The JSON files of a folder, by name.

    Raises:
      ValueError: not a folder, or none in it.
    """
    root = Path(folder)
    paths = sorted(root.glob("*.json")) if root.is_dir() else []
    if not paths:
        raise ValueError(
            f"{root}: no .json files; need a folder of pairs NAME.json and NAME.png, as written by "
            "export_example (docs/database.md lists the keys)."
        )
    return paths


class _Label(NamedTuple):
    """One JSON file, checked."""

    path: Path
    camera: Camera
    params: Params
    joints: np.ndarray | None
    depth: Path
    mask: Path | None
    unit_mm: float
    sensor: int
    visible: float

    @property
    def size(self) -> tuple[int, int, int, int]:
        """Width, height, shape coefficients, joints."""
        shape, joints = self.params.shape.size, len(self.params.pose)
        return self.camera.width, self.camera.height, shape, joints


def import_examples(paths: Sequence[Path], model: ParametricModel | None = None) -> Example:
    """Reads labelled depth images as one batch, in NumPy arrays.

    Required in each JSON: `depth_unit_mm`, `width`, `height`, `fx`, `fy`, `cx`, `cy`, `shape`,
    `pose`, `translation`. The rest has defaults: `depth` is NAME.png; without `mask` all depth is
    the object's; without `joints` the model says where they are; `sensor` is -1, `visible` 1.

    Args:
      model: checks the number of parameters, and gives the joints where a file has none.

    Raises:
      ValueError: a file is missing, damaged, or contradicts itself, the model or the other files;
        the message names it.
    """
    labels = [_read_label(Path(path), model) for path in paths]
    _require_alike(labels)
    examples = [_load(label, model) for label in labels]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)


def import_database(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    model: ParametricModel | None = None,
    unit_mm: float | None = None,
    shard_size: int = SHARD_SIZE,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Stores a folder of labelled depth images as a database; resumes like `write_database`.

    Args:
      unit_mm: one step of stored depth; by default that of the first image.

    Returns:
      The number of examples written now.

    Raises:
      ValueError: as `import_examples` and `write_database`; also if `out` was imported from other
        files.
    """
    paths = list_examples(folder)
    labels = [_read_label(path, model) for path in paths]
    _require_alike(labels)
    width, height, shape, joints = labels[0].size
    unknown = {"name": "unknown", "digest": None, "joints": joints, "shape": shape}
    digest = hashlib.sha256()
    for path in paths:
        digest.update(json.dumps([path.name, path.read_text()]).encode())
    manifest = make_manifest(
        model=unknown if model is None else model_entry(model),
        config={"imported": len(paths), "sha256": digest.hexdigest()},
        generator=f"{FORMAT} {VERSION}",
        width=width,
        height=height,
        unit_mm=labels[0].unit_mm if unit_mm is None else unit_mm,
        shard_size=shard_size,
    )

    def make_batch(start: int, count: int) -> Example:
        example = import_examples(paths[start : start + count], model)
        rows = np.minimum(np.arange(count), len(example.depth) - 1)
        return jax.tree.map(lambda leaf: leaf[rows], example)

    return write_database(out, make_batch, manifest, len(paths), progress=progress)


def _require_alike(labels: Sequence[_Label]) -> None:
    if not labels:
        raise ValueError("paths: got none, need at least one .json file.")
    describe = "{} x {} pixels, {} shape coefficients, {} joints".format
    first = labels[0]
    for label in labels:
        if label.size != first.size:
            raise ValueError(
                f"{label.path}: {describe(*label.size)}; {first.path}: {describe(*first.size)}. "
                "One batch has one size: resize the images with their cameras, or import them "
                "from separate folders."
            )


def _read_label(path: Path, model: ParametricModel | None) -> _Label:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable JSON file ({error}).") from error
    if not isinstance(record, dict) or record.get("format", FORMAT) != FORMAT:
        raise ValueError(f"{path}: not a {FORMAT}; need the keys that docs/database.md lists.")
    if record.get("version", VERSION) != VERSION:
        raise ValueError(
            f"{path}: got version {record['version']}, this jrecon reads version {VERSION}."
        )
    axis_angle = _numbers(path, record, "pose", (None, 3))
    joints = None
    if "joints" in record:
        joints = _numbers(path, record, "joints", (len(axis_angle), 3)).astype(np.float32)
    elif model is None:
        raise ValueError(f"{path}: no 'joints'; add them, or pass the model to compute them.")
    params: dict[str, Any] = {
        "shape": _numbers(path, record, "shape", (None,)).astype(np.float32),
        "pose": axis_angle.astype(np.float32),
        "translation": _numbers(path, record, "translation", (3,)).astype(np.float32),
    }
    label = _Label(
        path=path,
        camera=_camera(path, record),
        params=Params(**params),
        joints=joints,
        depth=_beside(path, record.get("depth", f"{path.stem}.png")),
        mask=_beside(path, record["mask"]) if "mask" in record else None,
        unit_mm=float(_numbers(path, record, "depth_unit_mm", ())),
        sensor=int(_numbers(path, {"sensor": -1, **record}, "sensor", ())),
        visible=float(_numbers(path, {"visible": 1.0, **record}, "visible", ())),
    )
    if not label.unit_mm > 0:
        raise ValueError(f"{path}: depth_unit_mm: got {label.unit_mm}, need mm per step, > 0.")
    if model is not None and label.size[2:] != (model.num_shape, model.num_joints):
        raise ValueError(
            f"{path}: {label.size[2]} shape coefficients and {label.size[3]} joints; the model "
            f"{model.name!r} has {model.num_shape} and {model.num_joints}; use the model that the "
            "labels are of."
        )
    return label


def _numbers(
    path: Path, record: Mapping[str, Any], key: str, shape: tuple[int | None, ...]
) -> np.ndarray:
    needed = f"need {_spoken(shape)}"
    if key not in record:
        raise ValueError(f"{path}: no {key!r}; {needed} (docs/database.md lists the keys).")
    try:
        array = np.asarray(record[key], np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{path}: {key}: got {str(record[key])[:60]!r}, {needed}.") from None
    if len(array.shape) != len(shape) or any(
        want is not None and got != want for got, want in zip(array.shape, shape, strict=True)
    ):
        raise ValueError(f"{path}: {key}: got shape {array.shape}, {needed}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: {key}: holds NaN or infinity, {needed}.")
    return array


def _spoken(shape: tuple[int | None, ...]) -> str:
    if not shape:
        return "a number"
    sizes = ", ".join("n" if size is None else str(size) for size in shape)
    return f"numbers of shape ({sizes}{',' if len(shape) == 1 else ''})"


def _camera(path: Path, record: Mapping[str, Any]) -> Camera:
    keys = ("fx", "fy", "cx", "cy", "width", "height")
    fx, fy, cx, cy, width, height = (float(_numbers(path, record, key, ())) for key in keys)
    if width % 1 or height % 1:
        raise ValueError(f"{path}: image size: got {width} x {height}, need whole pixels.")
    try:
        # Windows of larger images have their principal point anywhere.
        camera = make_camera(fx, fy, cx, cy, int(width), int(height), far_center=True)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return jax.tree.map(np.asarray, camera)


def _beside(path: Path, name: Any) -> Path:
    if not isinstance(name, str) or Path(name).name != name:
        raise ValueError(f"{path}: got the image {name!r}, need the name of a file beside it.")
    return path.parent / name


def _load(label: _Label, model: ParametricModel | None) -> Example:
    depth = _image(label.depth, label, "counts")
    mask = depth > 0
    if label.mask is not None:
        mask = _image(label.mask, label, "mask") > 0
    joints = label.joints
    if joints is None and model is not None:
        joints = np.asarray(pose(model, label.params).joints)
    truth: dict[str, Any] = {
        "depth": depth.astype(np.float32) * np.float32(label.unit_mm / 1000),
        "mask": mask,
        "joints": joints,
        "sensor": np.asarray(label.sensor, np.int32),
        "visible": np.asarray(label.visible, np.float32),
    }
    return Example(camera=label.camera, params=label.params, **truth)


def _image(path: Path, label: _Label, kind: Literal["counts", "mask"]) -> np.ndarray:
    size = label.camera.width, label.camera.height
    try:
        return read_grey(path, kind=kind, size=size, said_by=label.path.name)
    except OSError as error:
        raise ValueError(f"{path}: {error}.") from error
