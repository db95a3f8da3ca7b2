"""What to tell of a reconstruction: for people in a few lines, for programs as JSON."""

from __future__ import annotations

import platform
from typing import Any

import jax
import numpy as np

from jrecon import __version__
from jrecon.fit.solve import STATUS
from jrecon.geometry.camera import Camera
from jrecon.judge import Verdict
from jrecon.measure import Tape, measure_fit
from jrecon.reconstructor import Reconstruction, Reconstructor, stature

Record = dict[str, Any]
"""JSON values; keys in snake case, with their unit if any."""


def summary(
    recon: Reconstructor, result: Reconstruction, verdict: Verdict, tape: Tape | None
) -> Record:
    """Figures of one reconstruction.

    Args:
      tape: measures of a body, in metres, with standard deviations that follow from the fit;
        None: the height alone.
    """
    fit, agreement = result.fit, result.fit.agreement
    millimetres = lambda metres: round(1e3 * float(np.mean(metres)), 1)
    record: Record = {
        "verdict": verdict.word,
        "why": list(verdict.reasons),
        "status": STATUS[int(fit.status)],
        "residual_mm": round(float(agreement.residual_mm), 1),
        "explained": round(float(agreement.inlier_share), 3),
        "overlap": round(float(agreement.overlap), 3),
        "visible": round(float(agreement.visible_share), 3),
        "vertex_std_mm": millimetres(fit.vertex_std),
        "joint_std_mm": millimetres(fit.joint_std),
        "predicted_joint_std_mm": millimetres(result.prediction.joint_std),
        "shape_deviation": round(float(fit.shape_deviation), 2),
        "distance_m": round(float(np.linalg.norm(np.asarray(result.joints)[0])), 3),
    }
    if tape is None:
        record["height_m"] = round(float(stature(recon.model, result.params.shape)), 3)
    else:
        fitted = np.asarray(fit.covariance)[: recon.fitter.shapes, : recon.fitter.shapes]
        measures = measure_fit(tape, result.params.shape, fitted)
        record["measures_m"] = {name: round(one.value_m, 3) for name, one in measures.items()}
        record["measures_std_m"] = {name: round(one.std_m, 3) for name, one in measures.items()}
    return record


def parameters(recon: Reconstructor, result: Reconstruction) -> Record:
    """All of them, by name, in the frame of the camera."""
    model = recon.model
    shape, pose = np.asarray(result.params.shape), np.asarray(result.params.pose)
    return {
        "shape": dict(zip(model.shape_names, map(float, shape), strict=True)),
        "pose": {name: row.tolist() for name, row in zip(model.joint_names, pose, strict=True)},
        "translation": np.asarray(result.params.translation).tolist(),
    }


def camera_record(camera: Camera) -> Record:
    """In the names that `jrecon.io.intrinsics` reads."""
    (fx, fy), (cx, cy) = np.asarray(camera.focal).tolist(), np.asarray(camera.center).tolist()
    figures = {"fx": fx, "fy": fy, "cx": cx, "cy": cy}
    return {name: round(value, 4) for name, value in figures.items()} | {
        "width": camera.width,
        "height": camera.height,
    }


def versions() -> Record:
    """Of what made the result."""
    device = jax.devices()[0]
    return {
        "jrecon": __version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": " ".join(dict.fromkeys((device.platform, device.device_kind))),
    }
