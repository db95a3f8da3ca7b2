"""One object through a recording: found where it is surest, followed from there to both ends.

    first = find_surest(recon, capture, range(len(capture)))
    for number, step in follow(recon, capture, range(len(capture)), first):
        ...                                                  # first.number to the end, then back
    params = motion(model, {number: step.result.params for ...}, numbers)

Each frame starts where the last one led (`jrecon.reconstructor.track`), and the shape is one for
all. One depth map may be taken for its reverse; a recording is less often.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from jrecon.candidates import Candidate, attempts, choose
from jrecon.geometry import rotation
from jrecon.geometry.camera import Camera
from jrecon.io.segment import Segmentation, find_objects
from jrecon.io.sequence import Capture, Frame
from jrecon.judge import judge
from jrecon.model.parametric import ParametricModel, Params
from jrecon.reconstructor import Reconstruction, Reconstructor, start_track, track

# Frames of which the surest is begun with, and segments of each.
SAMPLES, _TRIED = 8, 2


@dataclasses.dataclass(frozen=True, eq=False)
class Surest:
    """The frame to begin with."""

    number: int
    mask: Bool[np.ndarray, "h w"]
    """The object in it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """What came of one frame."""

    frame: Frame
    mask: Bool[np.ndarray, "h w"]
    result: Reconstruction
    """NumPy arrays."""
    lost: bool
    """Nothing was found that goes on from the frames before."""


def find_surest(
    recon: Reconstructor,
    capture: Capture,
    numbers: range,
    told: Callable[[int, int], None] | None = None,
) -> Surest | None:
    """Of some frames the one where the model agrees well, and faces where other frames say.

    Args:
      numbers: of the frames that may be looked at; `SAMPLES` of them are.
      told: hears how many are done, and of how many, before each.

    Returns:
      None if there is an object in none of them.
    """

    def attempt(recon: Reconstructor, depth: Any, camera: Camera, mask: np.ndarray) -> Candidate:
        result = jax.tree.map(np.asarray, track(recon, start_track(recon), depth, camera, mask)[1])
        return Candidate(mask, result, judge(result))

    tried, facing = [], []
    looked = np.unique(np.linspace(numbers.start, numbers.stop - 1, SAMPLES).astype(int))
    for done, number in enumerate(looked):
        if told is not None:
            told(done, len(looked))
        frame = capture.read(int(number))
        segments = find_objects(frame.depth, frame.camera).segments[:_TRIED]
        best = choose(attempts(recon, frame.depth, frame.camera, segments, attempt))
        if best and best[0].verdict.word != "refused":
            tried.append((int(number), best[0]))
            turn = rotation.exp(best[0].result.params.pose[0])
            # Where the front of the model, its z axis, looks.
            facing.append(np.asarray(turn)[:, 2])
    if not tried:
        return None
    merit = np.array([one.verdict.merit for _, one in tried])
    sure = merit * np.maximum(np.stack(facing) @ (merit @ np.stack(facing)), 0)
    number, best = tried[int(np.argmax(sure))]
    return Surest(number, best.mask)


def follow(
    recon: Reconstructor, capture: Capture, numbers: range, surest: Surest
) -> Iterator[tuple[int, Step]]:
    """What comes of each frame: from the surest one to the end, then from it back to the start.

    Raises:
      ValueError, OSError: of a frame that cannot be read, when it is its turn.
    """
    begun = start_track(recon)
    for way in (
        range(surest.number, numbers.stop),
        range(surest.number - 1, numbers.start - 1, -1),
    ):
        state, mask = begun, surest.mask
        for number in way:
            frame = capture.read(number)
            if number != surest.number:
                mask = _same(find_objects(frame.depth, frame.camera), mask)
            state, result = track(recon, state, frame.depth, frame.camera, mask)
            # Both ways begin with what the surest frame says.
            begun = state if number == surest.number else begun
            yield number, Step(frame, mask, jax.tree.map(np.asarray, result), int(state.lost) != 0)


def _same(found: Segmentation, before: np.ndarray) -> np.ndarray:
    """Of all masks of a frame the one most like that of the frame before."""
    masks = [mask for one in found.segments for mask in (one.mask, *one.others)]
    alike = [(mask & before).sum() / (mask | before).sum() for mask in masks]
    return masks[max(range(len(masks)), key=lambda i: alike[i])] if masks else before


def motion(model: ParametricModel, found: Mapping[int, Params], numbers: Sequence[int]) -> Params:
    """A motion of one shape, the mean, whose root joint goes where it was found.

    Args:
      found: parameters of the frames that were followed, by number; at least one.
      numbers: of the frames of the motion; where nothing was found the model stays as it was in
        the nearest frame that was followed.

    Returns:
      (n,) frames.
    """
    known = np.array(sorted(found))
    nearest = [found[int(known[np.argmin(np.abs(known - number))])] for number in numbers]
    shapes = np.stack([np.asarray(one.shape, np.float64) for one in nearest])
    shape = np.mean([np.asarray(one.shape, np.float64) for one in found.values()], axis=0)
    shift = (shapes - shape) @ np.asarray(model.joint_basis[0], np.float64).T
    translation = np.stack([np.asarray(one.translation) for one in nearest]) + shift
    return Params(
        shape=np.tile(shape.astype(np.float32), (len(nearest), 1)),  # pyright: ignore
        pose=np.stack([np.asarray(one.pose) for one in nearest]),  # pyright: ignore
        translation=translation.astype(np.float32),  # pyright: ignore
    )
