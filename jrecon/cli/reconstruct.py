"""`jrecon reconstruct`: depth maps to rigged, posed models."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from jrecon.cli.command import (
    Command,
    NothingFound,
    Report,
    Unfinished,
    format_error,
    require_free,
    require_suffix,
)
from jrecon.cli.progress import doing, say
from jrecon.cli.stopwatch import Stopwatch

if TYPE_CHECKING:
    from jrecon.candidates import Candidate
    from jrecon.io.segment import Segmentation
    from jrecon.io.sequence import Frame
    from jrecon.measure import Tape
    from jrecon.model.parametric import ParametricModel
    from jrecon.reconstructor import Reconstructor

# Segments of an image that are tried until one is a person.
_TRIED, _TRIED_ALL = 3, 8
# Where the large program is.
_PROGRAM = "jrecon.reconstructor", "reconstruct_views"
# What is printed of a result for people.
_BRIEF = (
    "file", "verdict", "why", "written", "object", "distance_m", "residual_mm", "overlap",
    "visible", "vertex_std_mm", "height_m", "measures_m", "notes", "seconds",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Setup:
    """What all files of a run share."""

    recon: Reconstructor
    full: ParametricModel
    """At its finest level of detail, for files."""
    tape: Tape | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruct(Command):
    """Turn depth maps into rigged, posed, animatable models.

    The object is found in the image, unless a mask or a box says where it is; its shape and pose
    are predicted by a learned function, and refined until the rendered model agrees with the depth.
    What does not agree is not written: see --keep. With several files, or --all, the names of
    outputs are extended by the names of the files, and by 1, 2, ...

    Example: jrecon reconstruct depth.png --camera d435 --out person.glb --preview person.png
    """

    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE...")]
    """Depth maps: 16-bit PNG, NPY, NPZ, TIFF, or point clouds; see docs/inputs.md."""
    camera: Annotated[str | None, arg(metavar="CAMERA")] = None
    """File with intrinsics, `fx,fy,cx,cy`, or the name of a sensor (d435, kinect2, ...)."""
    unit: Annotated[str | None, arg(metavar="UNIT")] = None
    """Of depth: m, mm, tum, or metres for one count; by the format if left out."""
    mask: Annotated[Path | None, arg(metavar="FILE")] = None
    """Where the object is: a grey PNG of the same size, not 0."""
    box: Annotated[tuple[int, int, int, int] | None, arg(metavar="U0 V0 U1 V1")] = None
    """Look only at columns U0 <= u < U1 and rows V0 <= v < V1."""
    all: bool = False
    """Everybody in the image, not the best one alone."""
    function: str = "body"
    """What to look for: `body`, or a file that `jrecon train` wrote."""
    out: Annotated[Path, arg(metavar="FILE")] = Path("person.glb")
    """The rigged model, .glb, in front of the camera and facing as it was seen."""
    params: Annotated[Path | None, arg(metavar="FILE")] = None
    """Shape, pose and translation, .npz; see docs/export.md."""
    report: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write what is printed to one file, .json, with all parameters."""
    preview: Annotated[Path | None, arg(metavar="FILE")] = None
    """Draw the depth map, the model over it, their difference, two other views: .png, .jpg."""
    html: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write a page to turn the result around, with pictures and figures; one file, .html."""
    debug_dir: Annotated[Path | None, arg(metavar="DIR")] = None
    """Draw there what the search for the object removed, and why; created if missing."""
    keep: bool = False
    """Write what was refused, too."""
    overwrite: bool = False
    """Replace existing files."""

    def run(self) -> Report:
        self._check()
        from jrecon.programs import keep_compiled, read_ahead

        keep_compiled()
        known = read_ahead(*_PROGRAM)
        watch = Stopwatch()
        # Not before there is something to reconstruct.
        setup = functools.cache(lambda: self._load(known))
        results: list[dict[str, Any]] = []
        bad = 0
        for file in self.files:
            try:
                results += self._one_file(file, setup, watch)
            except (ValueError, OSError) as error:
                if len(self.files) == 1:
                    raise
                # One bad file of many does not lose the others.
                nothing = isinstance(error, NothingFound)
                bad += not nothing
                told = {"verdict": "refused" if nothing else "bad input", "written": []}
                results.append({"file": str(file), **told, "why": [format_error(error)]})
        return self._report(results, bad)

    def _report(self, results: list[dict[str, Any]], bad: int) -> Report:
        """Written, if asked for; of several files, errors after everything else is done."""
        from jrecon.report import versions

        several = len(self.files) > 1 or self.all
        joined = lambda records: {"results": records} if several else records[0]
        made = {"function": self.function, "versions": versions()}
        if self.report is not None:
            from jrecon.io.files import write_whole

            text = json.dumps({**joined(results), **made}, indent=2, allow_nan=False) + "\n"
            write_whole(self.report, text.encode())
        for one in results:
            if one["why"]:
                name = " ".join(one["written"][:1]) or one["file"]
                say(f"{name}: {one['verdict']}: {'; '.join(x.rstrip('.') for x in one['why'])}.")
        if self.json:
            wanted = [{k: one[k] for k in one if k != "parameters"} for one in results]
            shown = {**joined(wanted), **made}
        else:
            shown = joined([{key: one[key] for key in _BRIEF if key in one} for one in results])
        if bad:
            raise Unfinished(f"{bad} of {len(self.files)} files could not be read.", shown)
        if all(one["verdict"] == "refused" for one in results) and not self.keep:
            raise NothingFound(
                "nothing that was found agrees with the model, so no model was written; look at "
                "--preview, say where it is with --mask or --box, or pass --keep.",
                shown,
            )
        return shown

    def _check(self) -> None:
        """Everything that can be refused before the work begins."""
        if not self.files:
            raise ValueError("files: got none, need one or more: jrecon reconstruct depth.png")
        if self.mask is not None and (self.all or len(self.files) > 1 or self.box is not None):
            raise ValueError("--mask is of one object in one file; leave out --all, --box.")
        stems = [file.stem for file in self.files]
        if len(set(stems)) < len(stems):
            raise ValueError("files: several have the same name, so would their results; rename.")
        outputs = [
            (self.out, (".glb",)),
            (self.params, (".npz",)),
            (self.preview, (".png", ".jpg")),
            (self.html, (".html",)),
        ]
        for path, suffixes in outputs:
            if path is not None:
                require_suffix(path, suffixes)
                for file in self.files:
                    require_free(self._named(path, file, None), self.overwrite)
        if self.report is not None:
            require_suffix(self.report, (".json",))
            require_free(self.report, self.overwrite)
        if self.debug_dir is not None and self.debug_dir.exists() and not self.debug_dir.is_dir():
            raise NotADirectoryError(f"{self.debug_dir} is a file, need a folder.")
        for file in self.files:
            if not file.exists():
                raise FileNotFoundError(f"{file}: no such file or folder.")

    def _named(self, path: Path, file: Path, number: int | None) -> Path:
        """Where a result of a file goes."""
        parts = [path.stem]
        parts += [file.stem] if len(self.files) > 1 else []
        parts += [str(number)] if number is not None else []
        return path.with_name("_".join(parts) + path.suffix)

    def _load(self, known: bool) -> Setup:
        if not known:
            say("compiling; the first time on a machine this takes a minute")
        from jrecon.learn.weights import load_regressor
        from jrecon.measure import make_tape
        from jrecon.reconstructor import make_reconstructor

        function, _ = load_regressor(self.function)
        recon = make_reconstructor(function)
        return Setup(recon, function.model, make_tape(recon.model))

    def _one_file(
        self, file: Path, load: Callable[[], Setup], watch: Stopwatch
    ) -> list[dict[str, Any]]:
        """Read, find, reconstruct, write; a record of each result."""
        began, compiled = time.perf_counter(), watch.seconds
        # Before the engine is imported: what is wrong with a file is said sooner.
        frame = read_one(file, self.camera, self.unit)
        doubts = [note for note in frame.notes if note.startswith("doubtful")]
        from jrecon.candidates import choose
        from jrecon.judge import doubt
        from jrecon.report import camera_record, parameters, summary

        kept = choose(self._candidates(frame, load), every=self.all)
        kept = [dataclasses.replace(one, verdict=doubt(one.verdict, doubts)) for one in kept]
        setup = load()
        records = []
        for number, one in enumerate(kept, 1):
            record = {
                "file": str(file),
                "written": self._write(file, number if self.all else None, one, frame, setup),
                **summary(setup.recon, one.result, one.verdict, setup.tape),
                "object": self._text(one),
                "pixels": int(one.mask.sum()),
                "notes": list(frame.notes),
                "camera": camera_record(frame.camera),
                "seconds": {
                    "all": round(time.perf_counter() - began, 2),
                    "of_that_compiling": round(watch.seconds - compiled, 2),
                },
                "parameters": parameters(setup.recon, one.result),
            }
            if self.html is not None:
                page = self._named(self.html, file, number if self.all else None)
                self._write_page(page, record, one, frame, setup.recon)
                record["written"].append(str(page))
            records.append(record)
        return records

    def _candidates(self, frame: Frame, load: Callable[[], Setup]) -> Iterator[Candidate]:
        """Objects of a frame, reconstructed one by one as they are asked for."""
        import numpy as np

        from jrecon.candidates import attempt, attempts
        from jrecon.io.depth import read_mask
        from jrecon.io.segment import find_objects

        depth, camera = frame.depth, frame.camera
        size = (camera.width, camera.height)
        if not np.any(depth > 0):
            raise ValueError(
                f"{frame.name}: no pixel has a depth; is it the right file, and the right unit?"
            )
        text = f"{frame.name}: reconstructing"
        if self.mask is not None:
            mask = read_mask(self.mask, size)
            with doing(text):
                yield attempt(load().recon, depth, camera, mask)
            return
        found = find_objects(depth, camera, box=self.box)
        if self.debug_dir is not None:
            self._draw_removed(frame, found)
        if not found.segments:
            raise NothingFound(
                f"{frame.name}: nothing of the size of a person stands out (0.5 to 2.3 m, at 0.3 "
                "to 6 m). Check --unit and --camera, say where it is with --mask, or see what was "
                "removed with --debug-dir."
            )
        segments = found.segments[: _TRIED_ALL if self.all else _TRIED]
        with doing(text):
            yield from attempts(load().recon, depth, camera, segments)

    def _text(self, one: Candidate) -> str:
        """How the object was come by."""
        if one.segment is None:
            return f"given by {self.mask}"
        return f"{one.segment.height_m:.2f} m high at {one.segment.median_depth_m:.2f} m"

    def _draw_removed(self, frame: Frame, found: Segmentation) -> None:
        from jrecon.io.files import encode_image, write_whole
        from jrecon.overlay import removed_sheet

        assert self.debug_dir is not None
        self.debug_dir.mkdir(parents=True, exist_ok=True)
        path = self.debug_dir / f"{Path(frame.name).stem}_segmentation.png"
        require_free(path, self.overwrite)
        write_whole(path, encode_image(removed_sheet(frame.depth, found), path.suffix))

    def _write(
        self, file: Path, number: int | None, one: Candidate, frame: Frame, setup: Setup
    ) -> list[str]:
        """Write one result; the files of the model."""
        from jrecon.io.export import export_glb
        from jrecon.io.files import encode_image, write_whole
        from jrecon.io.params import save_params
        from jrecon.overlay import preview

        written = []
        if one.verdict.word != "refused" or self.keep:
            out, given = self._named(self.out, file, number), one.result.params
            export_glb(out, setup.full, given, frame="camera", overwrite=self.overwrite)
            written.append(str(out))
            if self.params is not None:
                path = self._named(self.params, file, number)
                save_params(path, setup.full, given, overwrite=self.overwrite)
                written.append(str(path))
        if self.preview is not None:
            path = self._named(self.preview, file, number)
            name = os.fsencode(file.name).decode("utf-8", "replace")
            title = f"{name}: {one.verdict.word}"
            drawn = preview(setup.recon, one.result, frame.depth, frame.camera, one.mask, title)
            write_whole(path, encode_image(drawn, path.suffix), overwrite=self.overwrite)
            written.append(str(path))
        return written

    def _write_page(
        self,
        path: Path,
        record: dict[str, Any],
        one: Candidate,
        frame: Frame,
        recon: Reconstructor,
    ) -> None:
        from jrecon.io.files import write_whole
        from jrecon.report import versions
        from jrecon.viewer.html import html_report

        record = {**record, "function": self.function, "versions": versions()}
        title = Path(record["file"]).name
        seen = frame.depth, frame.camera, one.mask
        page = html_report(recon, one.result, *seen, record, title)
        write_whole(path, page.encode("utf-8", "replace"), overwrite=self.overwrite)


def read_one(file: Path, camera: str | None, unit: str | None) -> Frame:
    """The one depth map of a file.

    Raises:
      ValueError: unreadable, or a folder of several.
    """
    from jrecon.io.sequence import open_capture

    capture = open_capture(file, camera=camera, unit=unit)
    if len(capture) != 1:
        raise ValueError(
            f"{file}: got {len(capture)} frames, need one depth map; name files, or pass all "
            "of them to `jrecon track`."
        )
    return capture.read(0)
