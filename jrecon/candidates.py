"""From what stands out in a depth map to who is there: the model says which segment is a person.

Segments are found by depth alone (`jrecon.io.segment`), and come best first; some may have a part
of a chair to them, and say what they may be instead. Each is reconstructed, and judged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
from jaxtyping import Bool, Float

from jrecon.geometry.camera import Camera
from jrecon.io.segment import Segment
from jrecon.judge import Verdict, judge
from jrecon.reconstructor import Reconstruction, Reconstructor, reconstruct

# Agreement at which no other mask of a segment is tried.
_ENOUGH = 0.65
# Share of a good candidate's agreement that a doubtful one needs to be preferred.
_NEARLY = 0.8


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """Something in a depth map that may be the object, and what came of it."""

    mask: Bool[np.ndarray, "h w"]
    result: Reconstruction
    """NumPy arrays."""
    verdict: Verdict
    segment: Segment | None = None
    """What it was found as; None if the mask was given."""


def attempt(
    recon: Reconstructor,
    depth: Float[np.ndarray, "h w"],
    camera: Camera,
    mask: Bool[np.ndarray, "h w"],
) -> Candidate:
    """The object of a mask, judged; arguments as of `jrecon.reconstruct`."""
    result = jax.tree.map(np.asarray, reconstruct(recon, depth, camera, mask))
    return Candidate(mask, result, judge(result))


Attempt = Callable[[Reconstructor, np.ndarray, Camera, np.ndarray], Candidate]


def attempts(
    recon: Reconstructor,
    depth: Float[np.ndarray, "h w"],
    camera: Camera,
    segments: Iterable[Segment],
    attempt: Attempt = attempt,
) -> Iterator[Candidate]:
    """A candidate for each segment, as it is asked for: of its masks the one that agrees best."""
    for segment in segments:
        best = attempt(recon, depth, camera, segment.mask)
        for mask in segment.others:
            if best.verdict.merit >= _ENOUGH:
                break
            other = attempt(recon, depth, camera, mask)
            best = max(best, other, key=lambda one: one.verdict.merit)
        yield dataclasses.replace(best, segment=segment)


def choose(candidates: Iterable[Candidate], *, every: bool = False) -> list[Candidate]:
    """The first good candidate, or a doubtful one before it that agrees nearly as well and stands
    out more; with `every`, all that are not refused. If none is good, the best that was seen;
    nothing of nothing."""
    seen: list[Candidate] = []
    for one in candidates:
        seen.append(one)
        if one.verdict.word == "good" and not every:
            least = _NEARLY * one.verdict.merit
            return _best([x for x in _passed(seen) if x.verdict.merit >= least])
    passed = _passed(seen)
    return passed if every and passed else _best(passed or seen)


def _passed(candidates: list[Candidate]) -> list[Candidate]:
    return [one for one in candidates if one.verdict.word != "refused"]


def _best(candidates: list[Candidate]) -> list[Candidate]:
    """The one that agrees best, heeding how much it looks like an object of its class by its size
    and place: two people may be in one image, and the one in front is meant."""

    def rank(one: Candidate) -> float:
        return one.verdict.merit * (1.0 if one.segment is None else one.segment.score**0.5)

    return [max(candidates, key=rank)] if candidates else []
