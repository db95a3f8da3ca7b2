"""Commands about parametric models: convert a file, write posed instances."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from jrecon.cli.command import Command, Report, require_free, require_suffix

if TYPE_CHECKING:
    from jrecon.model.parametric import ParametricModel, Params

ModelSource = Annotated[Positional[str], arg(metavar="MODEL")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convert(Command):
    """Read a model file of any known format and write it in the native one.

    Pickles are read without running anything in them; nothing but arrays is accepted.

    Example: jrecon convert SMPL_NEUTRAL.pkl smpl_neutral.npz
    """

    source: Annotated[Positional[Path], arg(metavar="SOURCE")]
    """Model file: SMPL, SMPL-H, SMPL-X, MANO, FLAME, STAR or SMAL (.npz, .pkl), .glb, .gltf."""
    target: Annotated[Positional[Path], arg(metavar="TARGET")]
    """File to write, .npz."""
    overwrite: bool = False
    """Replace an existing file."""

    def run(self) -> Report:
        from jrecon.model.formats import load_model, save_model

        require_suffix(self.target, (".npz",))
        require_free(self.target, self.overwrite)
        model = load_model(str(self.source))
        save_model(self.target, model, overwrite=self.overwrite)
        return {"written": [str(self.target)], **_summary(model)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Write a posed instance of a model: rigged GLB, or the surface alone as PLY or OBJ.

    Example: jrecon export body --out person.glb --shape stature 1.5 --pose stand
    """

    model: ModelSource
    """`body`, or a model file: .npz, .pkl, .glb, .gltf."""
    out: Path
    """File to write; the suffix chooses the format: .glb, .ply, .obj."""
    shape: Annotated[dict[str, float], arg(metavar="NAME VALUE ...")] = dataclasses.field(
        default_factory=dict
    )
    """Shape coefficients as name value pairs; `jrecon describe MODEL` lists the names."""
    pose: Annotated[str | None, arg(metavar="NAME")] = None
    """One of the model's named poses; the rest pose if left out."""
    level: Annotated[str | None, arg(metavar="NAME")] = None
    """Level of detail; the finest if left out."""
    overwrite: bool = False
    """Replace an existing file."""

    def run(self) -> Report:
        from jrecon.io import export
        from jrecon.model.formats import load_model

        writers = {
            ".glb": export.export_glb,
            ".ply": export.export_ply,
            ".obj": export.export_obj,
        }
        require_suffix(self.out, tuple(writers))
        require_free(self.out, self.overwrite)
        model = load_model(self.model, level=self.level)
        params = make_params(model, shape=self.shape, pose=self.pose)
        write = writers[self.out.suffix.lower()]
        losses = write(self.out, model, params, overwrite=self.overwrite)
        return {
            "written": [str(self.out)],
            **_summary(model),
            **(dataclasses.asdict(losses) if losses else {}),
        }


def make_params(model: ParametricModel, *, shape: dict[str, float], pose: str | None) -> Params:
    """Parameters from named shape coefficients and a named pose.

    Raises:
      ValueError: the model has no shape coefficient or pose of that name.
    """
    import jax.numpy as jnp

    from jrecon.model.parametric import zeros

    unknown = sorted(set(shape) - set(model.shape_names))
    if unknown:
        known = ", ".join(model.shape_names) or "none"
        raise ValueError(f"shape: got {', '.join(unknown)}; the model has: {known}.")
    if pose is not None and pose not in model.named_poses:
        known = ", ".join(model.named_poses) or "none"
        raise ValueError(f"pose: got {pose!r}; the model has: {known}.")
    params = zeros(model)
    coefficients = [shape.get(name, 0.0) for name in model.shape_names]
    return dataclasses.replace(
        params,
        shape=jnp.asarray(coefficients, params.shape.dtype),
        pose=params.pose if pose is None else model.named_poses[pose],
    )


def describe_model(model: ParametricModel) -> Report:
    """What a person wants to know about a model before using it."""
    import numpy as np

    size = np.ptp(np.asarray(model.vertices), axis=0)
    parents = [None if parent < 0 else model.joint_names[parent] for parent in model.parents]
    return {
        **_summary(model),
        "size_m": [round(float(length), 3) for length in size],
        "levels": dict(model.levels),
        "pose_correctives": model.corrective,
        "shape_names": list(model.shape_names),
        "priors": list(model.prior_names),
        "named_poses": list(model.named_poses),
        "parents": dict(zip(model.joint_names, parents, strict=True)),
        "provenance": model.provenance,
    }


def _summary(model: ParametricModel) -> Report:
    return {
        "model": model.name,
        "license": model.license,
        "vertices": len(model.vertices),
        "faces": len(model.faces),
        "joints": model.num_joints,
        "shape": model.num_shape,
    }
