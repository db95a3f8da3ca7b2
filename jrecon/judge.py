"""Is it what was looked for? A verdict on a reconstruction, from how well it agrees.

A learned function answers whatever it is shown, and a fit makes the best of it: a hand before the
camera comes back as a crouching person. What tells is how much of the object the model explains,
how well their outlines agree, how much of the model is seen at all, how far from sure function and
fit are, and how unusual a shape the fit had to take. `docs/reconstruct.md` has the measurements
behind the figures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from jrecon.fit.solve import DIVERGED, STATUS, TOO_FEW
from jrecon.reconstructor import Reconstruction

Word = Literal["good", "doubtful", "refused"]
# More doubts than so many refuse a result.
_DOUBTS = 2


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a result must reach: past the second figure it is refused, in between doubtful."""

    agreement: tuple[float, float] = (0.45, 0.37)
    """Share of the object's pixels that the model meets to 50 mm, times the overlap of the
    outlines (intersection over union)."""
    visible: tuple[float, float] = (0.60, 0.40)
    """Share of the model's pixels that show the object: the rest is hidden or out of the image."""
    residual_mm: tuple[float, float] = (30.0, 45.0)
    """Median distance in depth."""
    predicted_std_mm: tuple[float, float] = (300.0, 350.0)
    """What the learned function thought that its joints are off by, before refinement."""
    shape_deviation: tuple[float, float] = (0.85, 1.2)
    """Of the fitted shape in its class, in standard deviations (`FitResult.shape_deviation`)."""
    vertex_std_mm: tuple[float, float] = (70.0, 150.0)
    """Standard deviation of the surface after the fit, mean over the vertices."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What to think of a reconstruction."""

    word: Word
    reasons: tuple[str, ...]
    """Why it is not good, in sentences for people."""
    merit: float
    """What candidates of one image are ranked by: about 1 for a full agreement."""


def doubt(verdict: Verdict, reasons: Sequence[str]) -> Verdict:
    """The verdict where there are doubts about what the result was made from, one step lower."""
    lower: dict[Word, Word] = {"good": "doubtful", "doubtful": "refused", "refused": "refused"}
    if not reasons:
        return verdict
    return Verdict(lower[verdict.word], (*reasons, *verdict.reasons), verdict.merit)


def judge(result: Reconstruction, limits: Limits = Limits()) -> Verdict:
    """The verdict on one reconstruction (no batch axes)."""
    fit, agreement = result.fit, result.fit.agreement
    merit = float(agreement.merit)
    expected_mm = 1e3 * float(np.mean(result.prediction.joint_std))
    figures = {
        "agreement": (merit, ".0%", "agreement (pixels explained, times overlap of the outlines)"),
        "visible": (float(agreement.visible_share), ".0%", "of the model shows the object"),
        "residual_mm": (float(agreement.residual_mm), ".0f", "mm apart in depth, in the middle"),
        "predicted_std_mm": (
            expected_mm, ".0f", "mm is what the learned function expects its joints to be off by",
        ),
        "shape_deviation": (
            float(fit.shape_deviation), ".2f", "standard deviations is how unusual the shape is",
        ),
        "vertex_std_mm": (
            1e3 * float(np.mean(fit.vertex_std)), ".0f", "mm is how unsure the fit is, in the mean",
        ),
    }  # fmt: skip
    reasons, refused = [], int(fit.status) in (DIVERGED, TOO_FEW)
    if refused:
        reasons.append(f"the fit ended with: {STATUS[int(fit.status)]}")
    for name, (value, form, text) in figures.items():
        fine, least = getattr(limits, name)
        sign = 1 if fine > least else -1
        if sign * (value - fine) >= 0:
            continue
        refused |= sign * (value - least) < 0
        wanted = f"at {'least' if sign > 0 else 'most'} {fine:{form}}"
        reasons.append(f"{value:{form}} {text} ({wanted} for a good result)")
    refused |= len(reasons) > _DOUBTS
    word: Word = "refused" if refused else "doubtful" if reasons else "good"
    return Verdict(word, tuple(reasons), merit)
