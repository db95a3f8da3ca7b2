"""Reconstructions for a page: found in a frame, refined again, and as files to download."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jrecon.candidates import attempts, choose
from jrecon.fit.observation import View, observe
from jrecon.fit.solve import anchor_of, fit
from jrecon.geometry.camera import Camera
from jrecon.io.export import export_glb
from jrecon.io.params import save_params
from jrecon.io.segment import find_objects
from jrecon.io.sequence import Frame
from jrecon.judge import Verdict, judge
from jrecon.measure import Tape, make_tape
from jrecon.model.parametric import ParametricModel, Params, pose
from jrecon.reconstructor import Reconstruction, Reconstructor
from jrecon.report import Record, camera_record, parameters, summary, versions
from jrecon.video import motion
from jrecon.viewer.arrays import gaps
from jrecon.viewer.html import html_report

# Segments of an image that are tried until one is good.
_TRIED = 3
# Frames a second of a motion whose capture does not say.
_FPS = 30.0


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """What is looked for: a class of objects, ready to be found, written and measured."""

    recon: Reconstructor
    full: ParametricModel
    """At its finest level of detail, for files."""
    tape: Tape | None


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """An object in a frame."""

    frame: Frame
    mask: Bool[np.ndarray, "h w"]
    result: Reconstruction
    verdict: Verdict
    lost: bool = False
    """Of a frame of a recording: nothing goes on from the frames before."""


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """The model as it is drawn, in the frame of the camera."""

    vertices: Float[np.ndarray, "v 3"]
    joints: Float[np.ndarray, "j 3"]
    gap: Float[np.ndarray, " v"]
    """See `jrecon.viewer.arrays.gaps`."""


def load_subject(function: str = "body") -> Subject:
    """Errors as `jrecon.reconstructor.load`."""
    from jrecon.learn.weights import load_regressor
    from jrecon.reconstructor import make_reconstructor

    loaded, _ = load_regressor(function)
    recon = make_reconstructor(loaded)
    return Subject(recon, loaded.model, make_tape(recon.model))


def find(subject: Subject, frame: Frame) -> Found:
    """The object of a frame, see `jrecon.candidates.choose`.

    Raises:
      ValueError: nothing stands out.
    """
    segments = find_objects(frame.depth, frame.camera).segments[:_TRIED]
    if not segments:
        raise ValueError(
            f"{frame.name}: nothing of the size of a person stands out (0.5 to 2.3 m, at 0.3 to 6 "
            "m). Is the unit right, and the camera?"
        )
    tried = attempts(subject.recon, frame.depth, frame.camera, segments)
    best = choose(tried)[0]
    return Found(frame, best.mask, best.result, best.verdict)


def refine(subject: Subject, found: Found, params: Params) -> Found:
    """Fitted again, from other parameters: those of before, or what somebody made of them."""
    start = jax.tree.map(jnp.asarray, params)
    view = observe(found.frame.depth, found.frame.camera, found.mask)
    result = _refine(subject.recon, found.result, start, view)
    result = jax.tree.map(np.asarray, result)
    return Found(found.frame, found.mask, result, judge(result))


@jax.jit
def _refine(
    recon: Reconstructor, before: Reconstruction, start: Params, view: View
) -> Reconstruction:
    anchor = anchor_of(recon.fitter, start, before.prediction.joint_std)
    result = fit(recon.fitter, anchor, (view,), recon.config)
    posed = pose(recon.model, result.params)
    return Reconstruction(result.params, posed.vertices, posed.joints, before.prediction, result)


def draw(subject: Subject, params: Params, seen: tuple[Any, Camera, Any]) -> Drawn:
    """The model of some parameters over a depth map; `seen`: depth, camera, mask."""
    model = subject.recon.model
    posed = pose(model, jax.tree.map(jnp.asarray, params))
    made = posed.vertices, posed.joints, _gaps(posed.vertices, model.faces, *seen)
    return Drawn(*(np.asarray(x) for x in made))


_gaps = jax.jit(gaps)


def record(subject: Subject, found: Found) -> Record:
    """Everything that is known of a result: JSON values."""
    return {
        "file": found.frame.name,
        **summary(subject.recon, found.result, found.verdict, subject.tape),
        "pixels": int(found.mask.sum()),
        "notes": list(found.frame.notes),
        "camera": camera_record(found.frame.camera),
        "versions": versions(),
        "parameters": parameters(subject.recon, found.result),
    }


def files(subject: Subject, found: Found, params: Params) -> dict[str, bytes]:
    """What can be downloaded, by name: rigged model, parameters, figures, page.

    Args:
      params: of the model and the parameters file; figures and page tell of `found`.
    """
    told = record(subject, found)
    seen = found.frame.depth, found.frame.camera, found.mask
    page = html_report(subject.recon, found.result, *seen, told, found.frame.name)
    with tempfile.TemporaryDirectory(prefix="jrecon-") as folder:
        glb, npz = Path(folder) / "person.glb", Path(folder) / "person.npz"
        export_glb(glb, subject.full, params, frame="camera")
        save_params(npz, subject.full, params)
        return {
            "person.glb": glb.read_bytes(),
            "person.npz": npz.read_bytes(),
            "report.json": (json.dumps(told, indent=2, allow_nan=False) + "\n").encode(),
            "report.html": page.encode("utf-8", "replace"),
        }


def motion_file(subject: Subject, found: Mapping[int, Params], fps: float | None) -> bytes:
    """The animated model of frames that were followed, GLB; from the first of them to the last."""
    params = motion(subject.full, found, range(min(found), max(found) + 1))
    with tempfile.TemporaryDirectory(prefix="jrecon-") as folder:
        path = Path(folder) / "motion.glb"
        export_glb(path, subject.full, params, frame="camera", fps=fps or _FPS)
        return path.read_bytes()
