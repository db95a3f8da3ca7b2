"""Write the trained function of the body that ships with jrecon: weights and model card.

    python experiments/ship_body.py RUN [--out jrecon/learn/assets/body.recon]
    python experiments/bench_body.py --motion DIR --function FILE --out BENCH.json
    python experiments/ship_body.py RUN --bench BENCH.json [--out jrecon/learn/assets/body.recon]

RUN is the folder of a training run: the newest sound checkpoint in it gives the averaged weights,
its log the last run's steps and time. `experiments/body_card.json` tells what no folder knows, and
the benchmark gives the card its errors: it has to be of the same number of examples, so that no
card tells the errors of other weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jrecon import __version__
from jrecon.learn.checkpoint import Checkpoints
from jrecon.learn.regressor import Regressor, make_regressor
from jrecon.learn.run import CHECKPOINTS, LOG
from jrecon.learn.train import TrainConfig, start
from jrecon.learn.weights import save_regressor
from jrecon.model.formats import load_model

HERE = Path(__file__).parent
ASSET = HERE.parent / "jrecon" / "learn" / "assets" / "body.recon"
MEASURES = ("vertices_mm", "vertices_aligned_mm", "joints_mm", "joints_aligned_mm")


def averaged(folder: Path, function: Regressor, optimizer: str) -> tuple[int, Regressor]:
    """The step of the newest sound checkpoint and the function with its averaged weights."""
    like = vars(start(function, TrainConfig(optimizer=optimizer)))
    with tempfile.TemporaryDirectory() as copy:
        # Opening a folder of checkpoints tidies it, and the run may still be writing there.
        for path in (folder / CHECKPOINTS).iterdir():
            if path.name.isdigit():
                shutil.copytree(path, Path(copy) / path.name)
        found = Checkpoints(copy).latest(like)
    if found is None:
        raise SystemExit(f"{folder / CHECKPOINTS}: no checkpoint")
    step, state, _ = found
    return step, dataclasses.replace(function, weights=state["average"])


def minutes(folder: Path, step: int) -> int:
    """Of training up to a step: what lies between two lines of the log is told by its rate."""
    seconds, seen = 0.0, 0
    for text in (folder / LOG).read_text().splitlines():
        line = json.loads(text)
        if line["step"] <= step:
            seconds += (line["examples"] - seen) / line["examples_per_s"]
            seen = line["examples"]
    return round(seconds / 60)


def card(facts: Mapping[str, Any], folder: Path, step: int) -> dict[str, Any]:
    """The facts, with what the last of the runs came to."""
    *before, last = facts["runs"]
    runs = [*before, last | {"steps": step, "minutes": minutes(folder, step)}]
    return dict(facts) | {
        "runs": runs,
        "examples": sum(run["steps"] * run["batch"] for run in runs),
        "date": datetime.date.today().isoformat(),
        "jrecon": __version__,
    }


def errors(bench: Mapping[str, Any], examples: int) -> dict[str, Any]:
    """The network's errors by condition, as `experiments/bench_body.py` found them."""
    measured = bench["function"].get("examples")
    if measured != examples:
        raise SystemExit(
            f"--bench: it measured a function of {measured:,} examples, the checkpoint has "
            f"{examples:,}; measure the new one, then pass its results."
        )
    by_condition = {
        name: {measure: found["network"][measure] for measure in MEASURES}
        for name, found in bench["conditions"].items()
    }
    return {
        "errors_of": f"{bench['count']} examples of each condition of experiments/bench_body.py, "
        "mean and 95 % interval",
        "bench_body": by_condition,
        "milliseconds": bench["milliseconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--facts", type=Path, default=HERE / "body_card.json")
    parser.add_argument("--bench", type=Path)
    parser.add_argument("--optimizer", default="muon", help="of the run")
    parser.add_argument("--out", type=Path, default=ASSET)
    args = parser.parse_args()
    blank = make_regressor(load_model("body", level="2k"), jax.random.key(0))
    step, function = averaged(args.run, blank, args.optimizer)
    found = card(json.loads(args.facts.read_text()), args.run, step)
    if args.bench:
        found["errors"] = errors(json.loads(args.bench.read_text()), found["examples"])
    save_regressor(args.out, function, found, model="body", overwrite=True)
    print(f"{args.out}: {found['examples']:,} examples, step {step}, {found['runs'][-1]}")


if __name__ == "__main__":
    main()
