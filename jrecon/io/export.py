"""Posed models for other programs: rigged GLB, and the surface alone as PLY or OBJ.

Files are y up, in metres. Parameters from a reconstruction place the model in the camera frame
(x right, y down, z forward): say `frame="camera"`, and the file is turned upright, (x, -y, -z).
With `frame="model"` coordinates are written as they are.

A file appears whole or not at all, and never in place of another one unless `overwrite` is true.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
from trimesh import Trimesh

from jrecon.io.files import write_whole
from jrecon.io.glb import Frame, encode_glb
from jrecon.io.rig import check_params, make_rig, posed_vertices
from jrecon.model.parametric import ParametricModel, Params

PathLike = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class GlbReport:
    """What a GLB file holds, and what glTF could not hold of the model."""

    frames: int
    """Key frames; 1 for a single pose."""
    targets: int
    """Morph targets that carry pose correctives."""
    lost_weight: float
    """Largest share of a vertex's skinning weight beyond its four strongest joints, 0..1."""
    error_mm: float
    """Largest distance from a vertex of the file to where `pose` puts it, in millimetres; for a
    motion, in at most 16 frames spread evenly."""
    rms_error_mm: float
    """Root mean square of the same distances."""


def export_glb(
    path: PathLike,
    model: ParametricModel,
    params: Params,
    *,
    frame: Frame = "model",
    fps: float = 30.0,
    corrective_targets: int = 8,
    overwrite: bool = False,
) -> GlbReport:
    """Write a rigged GLB: skeleton, skin and mesh, in the given pose or with the given motion.

    The mesh is stored in its rest pose, the joints carry the pose, so the file can be posed on.

    Args:
      path: file to write, `.glb`.
      model: any parametric model.
      params: a single pose, or a motion with one leading axis over frames and one shape.
      frame: the frame that `params` place the model in, `model` (y up) or `camera` (y down).
      fps: frames per second of a motion.
      corrective_targets: most morph targets that carry a motion's pose correctives; 0 bakes their
        mean into the mesh. A single pose has its own correctives baked in.
      overwrite: replace an existing file.

    Returns:
      What the file holds and how far it is from the model.

    Raises:
      ValueError: the parameters do not fit the model or are not finite, the shape changes over
        time, an option is out of range, or the path has another suffix.
      OSError: the file exists and `overwrite` is false, or it cannot be written.
    """
    path = _checked(path, ".glb", frame, overwrite)
    if not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"fps: got {fps}, need a number > 0.")
    if corrective_targets < 0:
        raise ValueError(f"corrective_targets: got {corrective_targets}, need 0 or more.")
    rig = make_rig(model, params, corrective_targets=corrective_targets)
    write_whole(path, encode_glb(rig, frame=frame, fps=fps))
    frames = len(rig.params.pose) if rig.params.pose.ndim == 3 else 1
    return GlbReport(
        frames=frames,
        targets=rig.model.num_shape,
        lost_weight=rig.lost_weight,
        error_mm=1e3 * float(rig.errors.max()),
        rms_error_mm=1e3 * float(np.sqrt((rig.errors**2).mean())),
    )


def export_ply(
    path: PathLike,
    model: ParametricModel,
    params: Params,
    *,
    frame: Frame = "model",
    overwrite: bool = False,
) -> None:
    """Write the posed surface as binary PLY. Arguments and errors as for `export_glb`."""
    _export_surface(_checked(path, ".ply", frame, overwrite), model, params, frame)


def export_obj(
    path: PathLike,
    model: ParametricModel,
    params: Params,
    *,
    frame: Frame = "model",
    overwrite: bool = False,
) -> None:
    """Write the posed surface as OBJ. Arguments and errors as for `export_glb`."""
    _export_surface(_checked(path, ".obj", frame, overwrite), model, params, frame)


def _export_surface(path: Path, model: ParametricModel, params: Params, frame: Frame) -> None:
    params = check_params(model, params)
    if params.pose.ndim != 2:
        raise ValueError(
            f"params: got {len(params.pose)} frames, a {path.suffix} file holds one; write one "
            "file for each frame, or a .glb."
        )
    vertices = np.asarray(posed_vertices(model, params))
    if frame == "camera":
        vertices = vertices * np.array([1, -1, -1], vertices.dtype)
    # process=False: the order of vertices is the model's, so that files can be compared.
    mesh = Trimesh(vertices, np.asarray(model.faces), process=False)
    # Text for OBJ, bytes for PLY; trimesh's annotation has more kinds.
    data: Any = mesh.export(file_type=path.suffix[1:].lower())
    write_whole(path, data.encode() if isinstance(data, str) else data)


def _checked(path: PathLike, suffix: str, frame: Frame, overwrite: bool) -> Path:
    """The path, if a file of this kind may be written there: before the work starts."""
    path = Path(path)
    if frame not in ("model", "camera"):
        raise ValueError(f"frame: got {frame!r}, need 'model' or 'camera'.")
    if path.suffix.lower() != suffix:
        raise ValueError(f"{path}: got the suffix {path.suffix!r}, need {suffix!r}; rename it.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; pass overwrite=True (--overwrite) to replace it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder; create it first.")
    return path
