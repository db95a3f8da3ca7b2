"""`jrecon track`: a video of depth to one animated model."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from jrecon.cli.command import Command, NothingFound, Report, require_free, require_suffix
from jrecon.cli.progress import say
from jrecon.cli.stopwatch import Stopwatch

if TYPE_CHECKING:
    import numpy as np

    from jrecon.io.sequence import Capture
    from jrecon.model.parametric import ParametricModel, Params
    from jrecon.reconstructor import Reconstructor
    from jrecon.video import Step

# Frames a second where the capture does not say.
_FPS = 30.0
# Seconds between two lines of progress.
_LINE_S = 10.0
# A track of which less than this share of the frames was followed is not written.
_LEAST = 0.3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Track(Command):
    """Follow one person through a folder of depth maps; write one animated, rigged model.

    The person is found in some frames, and followed from the surest of them to the end and to the
    beginning: each frame starts where the last one led, and the shape is one for all.

    Example: jrecon track recording/ --camera d435 --out person.glb --preview person.gif
    """

    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """Depth maps in the order of their numbers, a recording or a ROS bag; see docs/inputs.md."""
    camera: Annotated[str | None, arg(metavar="CAMERA")] = None
    """File with intrinsics, `fx,fy,cx,cy`, or the name of a sensor; by default what is in the
    folder."""
    unit: Annotated[str | None, arg(metavar="UNIT")] = None
    """Of depth: m, mm, tum, or metres for one count; by the format if left out."""
    function: str = "body"
    """What to look for: `body`, or a file that `jrecon train` wrote."""
    start: int = 0
    """First frame to look at."""
    frames: Annotated[int | None, arg(metavar="INT")] = None
    """How many frames; all if left out."""
    fps: Annotated[float | None, arg(metavar="FLOAT")] = None
    """Frames per second; by the capture's times, else 30."""
    out: Annotated[Path, arg(metavar="FILE")] = Path("person.glb")
    """The rigged model with its motion, .glb."""
    bvh: Annotated[Path | None, arg(metavar="FILE")] = None
    """The motion of the skeleton alone, .bvh."""
    params: Annotated[Path | None, arg(metavar="FILE")] = None
    """Shape, poses and translations, .npz."""
    report: Annotated[Path | None, arg(metavar="FILE")] = None
    """Figures of every frame, .json."""
    preview: Annotated[Path | None, arg(metavar="FILE")] = None
    """A moving picture of the model over the depth map, and from its side: .gif, .mp4."""
    overwrite: bool = False
    """Replace existing files."""

    def run(self) -> Report:
        self._check()
        from jrecon.programs import keep_compiled

        keep_compiled()
        from jrecon.io.sequence import open_capture
        from jrecon.learn.weights import load_regressor
        from jrecon.reconstructor import make_reconstructor
        from jrecon.video import motion

        watch, began = Stopwatch(), time.perf_counter()
        capture = open_capture(self.folder, camera=self.camera, unit=self.unit)
        last = len(capture) if self.frames is None else min(self.start + self.frames, len(capture))
        if last - self.start < 1:
            raise ValueError(
                f"start, frames: {self.folder} has {len(capture)} frames, none from {self.start}."
            )
        function, _ = load_regressor(self.function)
        recon = make_reconstructor(function)
        records: dict[int, dict[str, Any]] = {}
        found: dict[int, Params] = {}
        images: dict[int, Any] = {}
        around: np.ndarray | None = None
        for number, step in _followed(recon, capture, range(self.start, last)):
            records[number] = _record(step)
            if not step.lost:
                found[number] = step.result.params
            if self.preview is not None:
                around = _widened(step.mask) if around is None else around
                images[number] = _image(recon, step, around)
        if len(found) < max(1, _LEAST * (last - self.start)):
            raise NothingFound(
                f"{self.folder}: a person was followed in {len(found)} of {last - self.start} "
                "frames; see what `jrecon reconstruct --preview` makes of one of them."
            )
        steps = [record for _, record in sorted(records.items())]
        fps = self.fps or capture.fps or _FPS
        pictures = [image for _, image in sorted(images.items())]
        written = self._write(
            function.model, motion(function.model, found, sorted(records)), pictures, fps
        )
        report = {
            "written": [str(path) for path in written],
            "frames": len(steps),
            "followed": len(found),
            "frames_per_second": round(fps, 3),
            **_medians(steps),
            "seconds": {
                "all": round(time.perf_counter() - began, 2),
                "of_that_compiling": round(watch.seconds, 2),
            },
        }
        if self.report is not None:
            from jrecon.io.files import write_whole

            text = json.dumps({**report, "each": steps}, indent=2, allow_nan=False) + "\n"
            write_whole(self.report, text.encode(), overwrite=self.overwrite)
        return report

    def _check(self) -> None:
        from jrecon.io.movie import SUFFIXES, require_encoder

        outputs = (
            (self.out, (".glb",)), (self.bvh, (".bvh",)), (self.params, (".npz",)),
            (self.report, (".json",)), (self.preview, SUFFIXES),
        )  # fmt: skip
        for path, suffixes in outputs:
            if path is not None:
                require_suffix(path, suffixes)
                require_free(path, self.overwrite)
        if self.preview is not None:
            require_encoder(self.preview.suffix.lower())
        if self.start < 0 or (self.frames is not None and self.frames < 1):
            raise ValueError(f"start, frames: got {self.start}, {self.frames}; need 0, 1 or more.")
        if self.fps is not None and not 0 < self.fps < 1e4:
            raise ValueError(f"fps: got {self.fps}, need a number > 0.")

    def _write(
        self, model: ParametricModel, motion: Params, images: list[Any], fps: float
    ) -> list[Path]:
        from jrecon.io.bvh import export_bvh
        from jrecon.io.export import export_glb
        from jrecon.io.files import write_whole
        from jrecon.io.movie import encode_movie
        from jrecon.io.params import save_params

        force = self.overwrite
        export_glb(self.out, model, motion, frame="camera", fps=fps, overwrite=force)
        written = [self.out]
        if self.bvh is not None:
            export_bvh(self.bvh, model, motion, frame="camera", fps=fps, overwrite=force)
            written.append(self.bvh)
        if self.params is not None:
            save_params(self.params, model, motion, fps=fps, overwrite=force)
            written.append(self.params)
        if self.preview is not None:
            movie = encode_movie(images, fps, self.preview.suffix)
            write_whole(self.preview, movie, overwrite=force)
            written.append(self.preview)
        return written


def _followed(recon: Reconstructor, capture: Capture, numbers: range) -> Iterator[tuple[int, Step]]:
    """See `jrecon.video.follow`; with a line now and then. Nothing if nothing was found."""
    from jrecon.video import find_surest, follow

    say("finding a person; the first time this compiles, for a minute")
    surest = find_surest(recon, capture, numbers)
    if surest is None:
        return
    last = time.monotonic()
    for done, step in enumerate(follow(recon, capture, numbers, surest), start=1):
        yield step
        if time.monotonic() - last > _LINE_S:
            last = time.monotonic()
            say(f"{done} of {len(numbers)} frames")


def _record(step: Step) -> dict[str, Any]:
    fit = step.result.fit
    return {
        "file": step.frame.name,
        "lost": step.lost,
        "residual_mm": round(float(fit.agreement.residual_mm), 1),
        "explained": round(float(fit.agreement.inlier_share), 3),
        "overlap": round(float(fit.agreement.overlap), 3),
        "root_m": [round(float(x), 4) for x in step.result.joints[0]],
    }


def _medians(steps: list[dict[str, Any]]) -> dict[str, float]:
    import numpy as np

    followed = [one for one in steps if not one["lost"]]
    return {
        f"median_{name}": round(float(np.median([one[name] for one in followed])), 3)
        for name in ("residual_mm", "explained", "overlap")
    }


def _widened(mask: np.ndarray) -> np.ndarray:
    """The box of a mask and half as much again on its sides: what a moving picture shows."""
    import numpy as np

    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    side = len(columns) // 2
    box = np.zeros_like(mask)
    box[rows[0] : rows[-1] + 1, max(columns[0] - side, 0) : columns[-1] + side] = True
    return box


def _image(recon: Reconstructor, step: Step, around: np.ndarray) -> np.ndarray:
    """The model over the depth map, and from its side; one small picture."""
    import numpy as np

    from jrecon.overlay import views

    seen = step.frame.depth, step.frame.camera, step.mask
    panels = views(recon, step.result, *seen, around=around)
    return np.concatenate([panels[1], panels[3]], axis=1)
