"""Body measures of a shape, in the rest pose, with the uncertainty that a fit leaves.

Measures are named and defined as in the ANSUR II survey: a girth is the perimeter of the convex
hull of a level section, because a tape does not follow hollows. Landmarks (navel, nipples, crotch)
are vertices, found on the mean body at the heights that the survey gives, and move with the shape.

Gordon et al. 2014, "2012 Anthropometric Survey of U.S. Army Personnel", Natick/TR-15/007.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import ConvexHull

from jrecon.model.parametric import ParametricModel, dense_weights

STATURE = "stature"
GIRTHS = ("chest", "waist", "hip", "thigh", "calf")

# Heights on the mean body as shares of its stature, both sexes.
_NAVEL, _NIPPLES = 0.604, 0.717
# Vertices this near to the plane of symmetry are on it, metres.
_MIDDLE_M = 0.002
_ARMS = ("shoulder", "elbow", "wrist", "index", "middle", "pinky", "ring", "thumb")
_NEEDED = ("left_shoulder", "left_elbow", "left_wrist", "left_hip", "left_knee", "left_ankle")


@dataclasses.dataclass(frozen=True, eq=False)
class Tape:
    """Where a model's bodies are measured. Build with `make_tape`."""

    model: ParametricModel
    torso: Int[np.ndarray, "e 2"]
    """Edges outside the arms."""
    leg: Int[np.ndarray, "e 2"]
    """Of these, the ones of the left half."""
    navel: int
    crotch: int
    nipples: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Measure:
    """A length and its standard deviation, metres."""

    value_m: float
    std_m: float


def make_tape(model: ParametricModel) -> Tape | None:
    """A tape for a human body; None for a model of something else, by its joints.

    Args:
      model: at any level of detail; sections of fine meshes are rounder (1 mm at 2,000 vertices).
    """
    if not set(_NEEDED) <= set(model.joint_names):
        return None
    vertices = np.asarray(model.vertices, np.float64)
    height = vertices[:, 1] - vertices[:, 1].min()
    tall = height.max()
    left, middle = vertices[:, 0] > 0, np.abs(vertices[:, 0]) < _MIDDLE_M
    front = vertices[:, 2] > 0.05
    beside = np.abs(np.abs(vertices[:, 0]) - 0.09) < 0.03

    def nearest(share: float, allowed: np.ndarray) -> int:
        return int(np.argmin(np.where(allowed, np.abs(height - share * tall), np.inf)))

    arms = [any(part in name for part in _ARMS) for name in model.joint_names]
    torso = np.asarray(dense_weights(model))[:, arms].sum(axis=1) < 0.5
    faces = np.asarray(model.faces)
    edges = np.unique(np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1), axis=0)
    return Tape(
        model=model,
        torso=edges[torso[edges].all(axis=1)],
        leg=edges[(torso & left)[edges].all(axis=1)],
        navel=nearest(_NAVEL, middle & front),
        crotch=int(np.argmin(np.where(middle & (height > 0.3 * tall), height, np.inf))),
        nipples=(
            nearest(_NIPPLES, front & beside & left),
            nearest(_NIPPLES, front & beside & ~left),
        ),
    )


def measure(tape: Tape, shape: Any) -> dict[str, float]:
    """Stature and girths of a shape (s,), metres."""
    model = tape.model
    shape = np.asarray(shape, np.float64)
    v = np.asarray(model.vertices, np.float64) + np.asarray(model.shape_basis) @ shape
    joints = np.asarray(model.joints, np.float64) + np.asarray(model.joint_basis) @ shape
    level = dict(zip(model.joint_names, joints[:, 1], strict=True))
    stature = float(np.ptp(v[:, 1]))
    scale, crotch = stature / 1.7, float(v[tape.crotch, 1])
    hips = np.linspace(crotch + 0.02, crotch + 0.2 * scale, 8)
    knee, ankle = level["left_knee"], level["left_ankle"]
    calves = ankle + np.linspace(0.45, 0.85, 5) * (knee - ankle)
    return {
        STATURE: stature,
        "chest": _girth(v, tape.torso, float(v[list(tape.nipples), 1].mean())),
        "waist": _girth(v, tape.torso, float(v[tape.navel, 1])),
        "hip": max(_girth(v, tape.torso, height) for height in hips),
        "thigh": _girth(v, tape.leg, crotch - 0.025 * scale),
        "calf": max(_girth(v, tape.leg, height) for height in calves),
    }


def measure_fit(tape: Tape, shape: Any, covariance: Any) -> dict[str, Measure]:
    """Measures of a fitted shape (s,) with the standard deviations that follow from a covariance
    (k, k) of its first k coefficients, to first order.

    What the coefficients do not know of (clothes, the error of the sensor) is not in it.
    """
    shape, covariance = np.asarray(shape, np.float64), np.asarray(covariance, np.float64)
    count = len(covariance)
    spread = np.sqrt(np.maximum(np.diagonal(covariance), 0))
    # Steps of a tenth of the deviation see the slope over the range that matters.
    steps = np.where(spread > 0, 0.1 * spread, 1e-3)
    slopes = {name: np.zeros(count) for name in measure(tape, shape)}
    for i, step in enumerate(steps):
        offset = np.zeros_like(shape)
        offset[i] = step
        more, less = measure(tape, shape + offset), measure(tape, shape - offset)
        for name, row in slopes.items():
            row[i] = (more[name] - less[name]) / (2 * step)
    return {
        name: Measure(value, float(np.sqrt(max(slopes[name] @ covariance @ slopes[name], 0.0))))
        for name, value in measure(tape, shape).items()
    }


def _girth(v: Float[np.ndarray, "v 3"], edges: Int[np.ndarray, "e 2"], height: float) -> float:
    """Perimeter of the convex hull of a level section; 0 where there is none."""
    above = v[edges, 1] > height
    a, b = edges[above[:, 0] != above[:, 1]].T
    if len(a) < 3:
        return 0.0
    share = ((height - v[a, 1]) / (v[b, 1] - v[a, 1]))[:, None]
    points = (v[a] + share * (v[b] - v[a]))[:, [0, 2]]
    # Of a plane hull, `area` is the perimeter.
    return float(ConvexHull(points).area)
