"""How well reconstruction functions do on people that they have not seen: the benchmark set.

    python experiments/bench_body.py --motion DIR [--function body] [--count 1000]
        [--out experiments/results/bench_body.json] [--sheet docs/images/bench_body.png]

The set is this file and a seed, not data: poses of clips that nothing was learned from
(`experiments/clips.py`), shapes and viewpoints drawn anew, five conditions:

    clean         the ideal sensor, nobody else in the scene, an exact mask, all in the frame
    mixed         any sensor, with surroundings and imperfect masks, all in the frame
    occluded      the same, 20 to 40 % of the visible pixels hidden
    out of frame  the same, 10 to 50 % of the vertices out of the frame
    hard          as mixed, poses of dancing, fighting, jumping and getting up alone

Errors are millimetres over the surface of the 2k level, means with bootstrap intervals. The mean of
the training examples, their nearest neighbour and a linear regression are learned from
`--examples` of the training distribution, and judged alike.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.clips import HARD, HELD_OUT, read_clips
from experiments.provenance import provenance
from jrecon.learn import baselines
from jrecon.learn.evaluation import comparison_images, evaluate, predictor, summary
from jrecon.learn.weights import load_regressor
from jrecon.metrics import interval
from jrecon.model.parametric import ParametricModel
from jrecon.pictures import sheet, write_image
from jrecon.synth.example import Example
from jrecon.synth.generate import Source, SynthConfig, make_batch, make_source
from jrecon.synth.pose_prior import PoseConfig, limits_prior, tilt
from jrecon.synth.segmentation import RegionConfig, SegmentConfig
from jrecon.synth.surroundings import SurroundingsConfig
from jrecon.synth.viewpoint import ViewConfig

SEED, BATCH = 20261123, 50
# Examples of each condition on the sheet.
DRAWN = 8
NEAR_MIDDLE = (-0.08, 0.08)
# Nothing is out of the frame, or hardly.
WHOLE = ViewConfig(distance_m=(2.4, 4.5), aim=NEAR_MIDDLE)
ALONE = SurroundingsConfig(occluder_rate=0.0)


@dataclasses.dataclass(frozen=True)
class Condition:
    config: SynthConfig
    visible: tuple[float, float] = (0.0, 1.01)
    """Examples whose visible share is in this range are kept."""
    hard: bool = False


CONDITIONS = {
    "clean": Condition(
        SynthConfig(
            view=WHOLE,
            surroundings=SurroundingsConfig(nothing_rate=1.0),
            segmentation=SegmentConfig(exact_rate=1.0),
            regions=RegionConfig(rate=0.0),
            sensors=("ideal",),
        ),
        visible=(0.97, 1.01),
    ),
    "mixed": Condition(SynthConfig(view=WHOLE, surroundings=ALONE), visible=(0.9, 1.01)),
    "occluded": Condition(
        SynthConfig(view=WHOLE, surroundings=SurroundingsConfig(occluder_rate=0.7)),
        visible=(0.6, 0.8),
    ),
    "out of frame": Condition(
        SynthConfig(
            view=ViewConfig(distance_m=(1.2, 2.4), aim=(-0.4, 0.4)), surroundings=ALONE
        ),
        visible=(0.5, 0.9),
    ),
    "hard": Condition(
        SynthConfig(view=WHOLE, surroundings=ALONE), visible=(0.9, 1.01), hard=True
    ),
}  # fmt: skip


def bench_source(model: ParametricModel, clips: dict[str, np.ndarray], each: Condition) -> Source:
    """A source whose poses are those of the held-out clips, each as likely, mirrored or not."""
    names = HARD if each.hard else HELD_OUT
    poses = np.concatenate([clips[name] for name in sorted(names)])
    poses[:, 0] = tilt(jnp.asarray(poses[:, 0], jnp.float32))
    joints = range(model.num_joints)
    size = 3 * model.num_joints
    still = np.broadcast_to(1e-4 * np.eye(size, dtype=np.float32), (len(poses), size, size))
    shares = np.ones(len(poses))
    bank = limits_prior(model, joints, (shares, poses.reshape(-1, size), still))
    only = PoseConfig(motion=1.0, mixed=0.0, limits=0.0, hard=0.0, spread=0.0)
    config = dataclasses.replace(each.config, pose=only)
    return dataclasses.replace(make_source(model, config), pose=bank, config=config)


def bench_set(source: Source, each: Condition, count: int) -> Example:
    """The first examples of a run whose visible share fits the condition."""
    kept: list[Example] = []
    have, start = 0, 0
    while have < count:
        batch = jax.tree.map(np.asarray, make_batch(source, jax.random.key(SEED), start, BATCH))
        low, high = each.visible
        enough = (batch.visible >= low) & (batch.visible < high) & (batch.mask.sum((1, 2)) >= 40)
        kept.append(jax.tree.map(lambda x, fits=enough: x[fits], batch))
        have, start = have + int(enough.sum()), start + BATCH
    return jax.tree.map(lambda *parts: jnp.asarray(np.concatenate(parts)[:count]), *kept)


def mean(values: Any) -> str:
    return str(interval(np.asarray(values)))


def milliseconds(function: Callable[..., Any], examples: Example) -> dict[str, float]:
    """Of a prediction: least and median time at batch 1, and per image in a batch."""
    found = {}
    for name, count in (("batch_1", 1), (f"batch_{BATCH}", BATCH)):
        part = jax.tree.map(lambda x, n=count: x[:n], examples)
        arguments = part.depth, part.camera, part.mask
        jax.block_until_ready(function(*arguments).params)
        times = []
        for _ in range(30 if count == 1 else 5):
            begin = time.perf_counter()
            jax.block_until_ready(function(*arguments).params)
            times.append(1e3 * (time.perf_counter() - begin) / count)
        found[f"{name}_least"] = round(min(times), 2)
        found[f"{name}_median"] = round(float(np.median(times)), 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--motion", type=Path, required=True)
    parser.add_argument("--function", default="body")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--examples", type=int, default=20_000, help="that baselines learn from")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    function, card = load_regressor(args.function, level="2k")
    model = function.model
    clips = read_clips(args.motion, model)
    functions: dict[str, baselines.Predictor] = {"network": predictor(function)}
    if args.examples:
        source = make_source(model)
        parts = [
            make_batch(source, jax.random.key(1), start, 200)
            for start in range(0, args.examples, 200)
        ]
        seen = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
        functions["nearest neighbour"] = baselines.nearest_neighbor(model, seen)
        functions["linear"] = baselines.linear(model, seen)
        functions["mean"] = baselines.mean_predictor(model, seen)
    report: dict[str, Any] = provenance("experiments/bench_body.py --motion DIR")
    report |= {"seed": SEED, "count": args.count, "examples": args.examples, "function": card}
    pictures: list[Any] = []
    for name, each in CONDITIONS.items():
        examples = bench_set(bench_source(model, clips, each), each, args.count)
        for which, one in functions.items():
            errors, found = evaluate(model, one, examples, BATCH)
            report.setdefault("conditions", {}).setdefault(name, {})[which] = summary(errors)
            print(f"{name:13} {which:18} vertices {mean(errors.vertices)} mm, aligned "
                  f"{mean(errors.vertices_aligned)}", flush=True)  # fmt: skip
            if which == "network":
                few, guess = jax.tree.map(lambda x: x[:DRAWN], (examples, found.params))
                pictures += comparison_images(model, few, guess)
        if name == "mixed":
            report["milliseconds"] = milliseconds(functions["network"], examples)
            print(report["milliseconds"], flush=True)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    if args.sheet:
        captions = [
            c for name in CONDITIONS for _ in range(DRAWN) for c in (name, "truth", "found")
        ]
        write_image(args.sheet, sheet(pictures, columns=12, captions=captions), overwrite=True)


if __name__ == "__main__":
    main()
