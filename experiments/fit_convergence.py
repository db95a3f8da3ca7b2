"""How a fit gets where it gets: iterations and time against error, and where the time goes.

    python experiments/fit_convergence.py --motion DIR [--count 24]
        [--out experiments/results/fit_convergence.json] [--plot docs/images/fit_convergence.png]

The benchmark set's mixed sensors, from the shipped prediction, by three roads: Levenberg-Marquardt
as shipped; without its search for limbs; and Adam on the depth that is rendered
(`jrecon.fit.gradient`), with cosine schedules of several lengths. Each point is a whole fit that
was given so many iterations. Times are CPU milliseconds of all threads for an image at batch 1, the
least of some repeats, as other work may share the cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench_body import CONDITIONS, SEED, bench_set, bench_source
from experiments.bench_fit import errors_mm, shown
from experiments.clips import read_clips
from experiments.provenance import provenance
from jrecon.fit.energy import Anchor, all_pulls, linearise
from jrecon.fit.fitter import Fitter, point_jacobian, posed_points
from jrecon.fit.gradient import depth_loss, minimize
from jrecon.fit.observation import View, observe
from jrecon.fit.report import agreement
from jrecon.fit.search import search_limbs
from jrecon.fit.solve import FitConfig, anchor_of, deviations, fit_one, schedule_of
from jrecon.learn.regressor import predict
from jrecon.model.parametric import Params
from jrecon.pictures import plot_lines, write_image
from jrecon.reconstructor import Reconstructor, load
from jrecon.synth.example import Example

ITERATIONS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 17)
ADAM_STEPS = (12, 25, 50, 100, 200, 400)


@jax.jit
def prepared(recon: Reconstructor, example: Example) -> tuple[Anchor, View]:
    found = predict(recon.function, example.depth, example.camera, example.mask)
    view = observe(example.depth, example.camera, example.mask)
    return anchor_of(recon.fitter, found.params, found.joint_std), view


@functools.partial(jax.jit, static_argnames="search")
def by_squares(fitter: Fitter, anchor: Anchor, view: View, count: Any, *, search: bool) -> Params:
    """So many iterations of the shipped schedule; the last one is for the deviations."""
    config = FitConfig(starts=1, sweeps=FitConfig().sweeps if search else ())
    schedule = schedule_of(config, len(fitter.limbs))
    last = jnp.arange(len(schedule.belief)) == count
    cut = dataclasses.replace(schedule, belief=last, fresh=schedule.fresh | last, count=count + 1)
    return fit_one(fitter, anchor, (view,), config, cut).params


@functools.partial(jax.jit, static_argnames="steps")
def by_gradient(fitter: Fitter, anchor: Anchor, view: View, *, steps: int) -> Params:
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, steps))
    loss = lambda params: depth_loss(fitter, (view,), params)
    return minimize(loss, anchor.params, optimizer, steps=steps)[0]


def cpu_ms(call: Callable[[], Any], repeats: int = 5) -> float:
    """CPU time of all threads, the least of some calls of a compiled function."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        jax.block_until_ready(call())
        times.append(1e3 * (time.process_time() - begin))
    return min(times)


def profile(fitter: Fitter, recon: Reconstructor, example: Example) -> dict[str, float]:
    """CPU milliseconds of the parts of a reconstruction: once each, or once an iteration."""
    anchor, view = prepared(recon, example)
    config, one = recon.config, jnp.asarray(1.0)
    params, points = anchor.params, jax.jit(posed_points)(fitter, anchor.params)
    seen = (example.depth, example.camera, example.mask)
    parts: dict[str, tuple[Any, ...]] = {
        "predict, once": (predict, recon.function, *seen),
        "observe, once": (observe, *seen),
        "search for limbs, once": (
            search_limbs, fitter, (view,), anchor, params, len(fitter.limbs), params.pose,
        ),
        "iteration": (linearise, fitter, config.energy, (view,), anchor, params, one),
        "  pose": (posed_points, fitter, params),
        "  derivatives of points": (point_jacobian, fitter, params),
        "  pulls, with rasterizing": (
            all_pulls, fitter, config.energy, (view,), anchor, points, one,
        ),
        "deviations, once": (deviations, fitter, params, jnp.eye(fitter.size)),
        "agreement, once": (agreement, fitter, (view,), params),
    }  # fmt: skip
    found = {}
    for name, (function, *arguments) in parts.items():
        compiled = jax.jit(function)
        found[name] = round(cpu_ms(functools.partial(compiled, *arguments), 20), 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--motion", type=Path, required=True)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    recon = load("body")
    fitter, model = recon.fitter, recon.model
    each = CONDITIONS["mixed"]
    clips = read_clips(args.motion, model)
    examples = bench_set(bench_source(model, clips, each), each, args.count)
    seen = np.asarray(shown(model, examples))
    cases = [jax.tree.map(lambda x, i=i: x[i], examples) for i in range(args.count)]
    starts = [prepared(recon, case) for case in cases]
    report: dict[str, Any] = provenance("experiments/fit_convergence.py --motion DIR")
    report |= {"seed": SEED, "count": args.count}

    def point(run: Callable[[Anchor, View], Params]) -> dict[str, float]:
        found = [run(*start) for start in starts]
        together = jax.tree.map(lambda *x: jnp.stack(x), *found)
        errors = errors_mm(model, together, examples.params)
        visible = np.array([e[s].mean() for e, s in zip(errors, seen, strict=True) if s.any()])
        return {
            "cpu_ms": round(cpu_ms(lambda: run(*starts[0]), 3), 1),
            "all_median_mm": round(float(np.median(errors.mean(axis=1))), 1),
            "all_mm": round(float(errors.mean()), 1),
            "visible_median_mm": round(float(np.median(visible)), 1),
        }

    report["prediction"] = point(lambda anchor, view: anchor.params)
    roads: dict[str, list[dict[str, float]]] = {}
    for name, search in (("LM", True), ("LM, no search", False)):
        for count in ITERATIONS:
            run = functools.partial(by_squares, fitter, count=jnp.asarray(count), search=search)
            roads.setdefault(name, []).append({"iterations": count} | point(run))
            print(name, roads[name][-1], flush=True)
    for steps in ADAM_STEPS:
        run = functools.partial(by_gradient, fitter, steps=steps)
        roads.setdefault("Adam", []).append({"iterations": steps} | point(run))
        print("Adam", roads["Adam"][-1], flush=True)
    report |= {"roads": roads, "profile_cpu_ms": profile(fitter, recon, cases[0])}
    print(json.dumps(report["profile_cpu_ms"], indent=1))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    if args.plot:
        series = {
            name: ([p["cpu_ms"] for p in points], [p["all_median_mm"] for p in points])
            for name, points in roads.items()
        }
        image = plot_lines(
            series, x_label="CPU ms an image", y_label="median error of all vertices (mm)"
        )
        write_image(args.plot, image, overwrite=True)


if __name__ == "__main__":
    main()
