"""Error against examples seen: the learning curve of the body's function, over its runs.

    python experiments/learning_curve.py RUN/metrics.jsonl [RUN/metrics.jsonl ...]
        [--out experiments/results/learning_curve.json] [--image docs/images/learning_curve.png]

The logs are those of runs that went on from each other's weights, in order. Their errors are those
of training: of the weights as they were, on examples as they came, each seen for the first time,
of all conditions at once. Averaged over equal steps of the logarithm of examples seen.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter

from experiments.provenance import provenance

# Points of the curve to a doubling of the examples.
_PER_DOUBLING = 4
# Before so many examples errors fall in leaps.
_SETTLED = 100_000


def read(paths: list[Path]) -> list[list[dict[str, float]]]:
    """Lines of each log; examples are counted from the start of the first."""
    runs, before = [], 0
    for path in paths:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        runs.append([line | {"examples": line["examples"] + before} for line in lines])
        before = int(runs[-1][-1]["examples"])
    return runs


def compact(lines: list[dict[str, float]]) -> dict[str, list[float]]:
    """Means over equal steps of the logarithm of examples seen, each weighed by its examples."""
    seen = np.array([line["examples"] for line in lines])
    bins = np.floor(_PER_DOUBLING * np.log2(seen)).astype(int)
    column = lambda name: np.array([line[name] for line in lines])
    groups = [bins == value for value in np.unique(bins)]
    mean = lambda values: [round(float(values[group].mean()), 2) for group in groups]
    return {
        "examples": [int(seen[group].max()) for group in groups],
        "vertices_mm": mean(column("vertices_mm")),
        "joints_mm": mean(column("joints_mm")),
        "examples_per_s": mean(column("examples_per_s")),
    }


def slope(curve: dict[str, list[float]]) -> float:
    """The factor of the error for each doubling of examples, by a line through the logarithms of
    what comes after the first 100,000."""
    late = np.array(curve["examples"]) > _SETTLED
    seen, error = (np.log2(np.array(curve[name])[late]) for name in ("examples", "vertices_mm"))
    fit = np.polyfit(seen, error, 1)
    return round(float(2 ** fit[0]), 3)


def draw(curves: list[dict[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 3.8), dpi=110)
    for color, curve in zip(("#0072b2", "#d55e00", "#009e73"), curves, strict=False):
        for name, style in (("vertices_mm", "o-"), ("joints_mm", "^:")):
            what = "surface" if name == "vertices_mm" else "joints"
            axes.plot(
                curve["examples"], curve[name], style, color=color, markersize=3.5, linewidth=1.2,
                label=f"{what}, {curve['what']}",
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("examples seen")
    axes.set_ylabel("error while learning, mm")
    ticks = [100, 150, 200, 300, 400]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_on()
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(which="major", color="0.88")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--names", nargs="+", default=["AdamW, batch 64", "Muon, batch 128"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--image", type=Path)
    args = parser.parse_args()
    curves: list[dict[str, Any]] = []
    for name, lines in zip(args.names, read(args.logs), strict=True):
        curve = compact(lines)
        curves.append({"what": name, "factor_per_doubling": slope(curve), **curve})
        print(name, curve["examples"][-1], "examples,", curve["vertices_mm"][-1], "mm,",
              curves[-1]["factor_per_doubling"], "for each doubling")  # fmt: skip
    command = "experiments/learning_curve.py FIRST/metrics.jsonl SECOND/metrics.jsonl"
    if args.out:
        report = provenance(command) | {"runs": curves}
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    if args.image:
        draw(curves, args.image)


if __name__ == "__main__":
    main()
