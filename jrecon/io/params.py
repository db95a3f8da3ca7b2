"""Parameters of a pose or a motion as `.npz`, and back.

`shape` (s), `pose` (j, 3) and `translation` (3) are as in `Params`, with an axis (t) before them
for a motion; `shape_names` and `joint_names` say whose they are; `model`, `frame` (`camera` or
`model`), `fps` (0 for a single pose), `format` (`jrecon-params`) and `version` (1) are scalars.

Models of the SMPL family get the names of AMASS besides (`poses`, `betas`, `trans`,
`mocap_framerate`), so that tools which know those read the file as it is.
"""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path
from typing import Any, cast, get_args

import jax.numpy as jnp
import numpy as np

from jrecon.io.files import write_whole
from jrecon.io.glb import Frame
from jrecon.io.rig import check_params
from jrecon.model.formats import read_npz
from jrecon.model.parametric import ParametricModel, Params

FORMAT, VERSION = "jrecon-params", 1


@dataclasses.dataclass(frozen=True, eq=False)
class Motion:
    """Parameters as a file holds them."""

    params: Params
    """Batch shape () for a single pose, (t,) for a motion."""
    frame: Frame
    fps: float
    """0 for a single pose."""
    joint_names: tuple[str, ...]
    shape_names: tuple[str, ...]
    model: str


def save_params(
    path: str | os.PathLike[str],
    model: ParametricModel,
    params: Params,
    *,
    frame: Frame = "camera",
    fps: float = 0.0,
    overwrite: bool = False,
) -> None:
    """Write parameters as `.npz`; the file appears whole or not at all.

    Raises:
      ValueError: the parameters do not fit the model, are not finite or change shape over time, or
        the path has another suffix.
      OSError: the file exists and `overwrite` is false, or it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".npz":
        raise ValueError(f"{path}: got the suffix {path.suffix!r}, need '.npz'; rename it.")
    params = check_params(model, params)
    arrays: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "model": model.name,
        "frame": frame,
        "fps": np.float64(fps),
        "shape": np.asarray(params.shape),
        "pose": np.asarray(params.pose),
        "translation": np.asarray(params.translation),
        "joint_names": np.array(model.joint_names),
        "shape_names": np.array(model.shape_names),
    }
    if model.provenance.startswith("imported from a SMPL"):
        arrays |= _amass(model, params, fps)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_whole(path, buffer.getvalue(), overwrite=overwrite)


def _amass(model: ParametricModel, params: Params, fps: float) -> dict[str, Any]:
    poses = np.asarray(params.pose).reshape(-1, 3 * model.num_joints)
    shape = np.asarray(params.shape).reshape(-1, model.num_shape)[0]
    return {
        "poses": poses,
        "betas": shape,
        "trans": np.asarray(params.translation).reshape(-1, 3),
        "mocap_framerate": np.float64(fps),
    }


def load_params(path: str | os.PathLike[str], model: ParametricModel | None = None) -> Motion:
    """Read what `save_params` wrote.

    Args:
      model: that the parameters are for: its joints and shape coefficients must have the names
        that the file has.

    Raises:
      ValueError: not such a file, damaged, or of another model.
      OSError: it cannot be opened.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{os.fspath(path)}: no such file.")
    arrays = read_npz(path)
    if str(arrays.get("format")) != FORMAT:
        raise ValueError(
            f"{os.fspath(path)}: not parameters; `jrecon reconstruct --params` writes."
        )
    if int(arrays.get("version", 0)) > VERSION:
        raise ValueError(f"{os.fspath(path)}: of a newer version than {VERSION}; upgrade jrecon.")
    needed = ("shape", "pose", "translation", "joint_names", "shape_names", "frame", "fps", "model")
    missing = [name for name in needed if name not in arrays]
    if missing or str(arrays["frame"]) not in get_args(Frame):
        lacks = ", ".join(missing) or "a frame that is camera or model"
        raise ValueError(f"{os.fspath(path)}: it lacks {lacks}; write it again.")
    names = {key: tuple(map(str, arrays[key])) for key in ("joint_names", "shape_names")}
    for key, found in names.items():
        if model is not None and found != getattr(model, key):
            raise ValueError(
                f"{os.fspath(path)}: its {key} are those of the model {str(arrays['model'])!r}, "
                f"not of {model.name!r}; load that model."
            )
    params = Params(*(jnp.asarray(arrays[key]) for key in ("shape", "pose", "translation")))
    return Motion(
        params=params,
        frame=cast(Frame, str(arrays["frame"])),
        fps=float(arrays["fps"]),
        model=str(arrays["model"]),
        **names,
    )
