"""How much refinement gains: predictions and fits on the benchmark set of `bench_body.py`.

    python experiments/bench_fit.py --motion DIR [--count 200]
        [--out experiments/results/bench_fit.json]

For each condition: errors over the surface before and after, over all vertices and over those that
the depth map shows, how many vertices are within one standard deviation, residuals, and time. Then
fits from the truth, disturbed by 15 degrees in every joint, 5 cm and 0.7 standard deviations of
shape: whether they find back.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import spearmanr

from experiments.bench_body import CONDITIONS, SEED, bench_set, bench_source
from experiments.clips import read_clips
from experiments.provenance import provenance
from jrecon.fit.observation import observe
from jrecon.fit.solve import STATUS, anchor_of, fit as fit_
from jrecon.geometry import rotation
from jrecon.geometry.camera import project
from jrecon.learn.regressor import Prediction
from jrecon.metrics import interval
from jrecon.model.parametric import ParametricModel, Params, pose
from jrecon.reconstructor import Reconstructor, load, reconstruct
from jrecon.render import rasterize
from jrecon.synth.example import Example

# A vertex is shown where the depth map has it within this.
_SEEN_M = 0.03


@jax.jit
def shown(model: ParametricModel, examples: Example) -> jax.Array:
    """(n, v) which vertices of the truth the object's pixels show."""

    def one(example: Example) -> jax.Array:
        points = pose(model, example.params).vertices
        camera = example.camera
        pixel = jnp.round(project(camera, points))
        size = jnp.array([camera.width, camera.height])
        inside = jnp.all((pixel >= 0) & (pixel < size[None]), axis=1)
        u, v = jnp.clip(jnp.nan_to_num(pixel), 0, size[None] - 1).astype(jnp.int32).T
        seen = rasterize(points, model.faces, camera)
        near = jnp.abs(seen.depth[v, u] - points[:, 2]) < _SEEN_M
        return inside & near & example.mask[v, u]

    return jax.lax.map(one, examples)


def disturbed(params: Params, key: jax.Array) -> Params:
    """15 degrees about a random axis in every joint, 5 cm, 0.7 in every shape coefficient (rms)."""
    keys = jax.random.split(key, 3)
    turns = jax.random.normal(keys[0], params.pose.shape)
    turns *= np.deg2rad(15) / jnp.linalg.norm(turns, axis=-1, keepdims=True)
    shift = jax.random.normal(keys[1], params.translation.shape)
    shift *= 0.05 / jnp.linalg.norm(shift, axis=-1, keepdims=True)
    shape = params.shape + 0.7 * jax.random.normal(keys[2], params.shape.shape)
    return Params(shape, rotation.compose(turns, params.pose), params.translation + shift)


@jax.jit
def refine(recon: Reconstructor, examples: Example, start: Params) -> Any:
    views = jax.lax.map(lambda e: observe(e.depth, e.camera, e.mask), examples)
    std = jnp.full(examples.joints.shape[:-1], 0.1)
    return fit_(recon.fitter, anchor_of(recon.fitter, start, std), (views,), recon.config)


def errors_mm(model: ParametricModel, found: Params, truth: Params) -> np.ndarray:
    """(n, v)"""
    apart = pose(model, found).vertices - pose(model, truth).vertices
    return 1e3 * np.linalg.norm(np.asarray(apart), axis=-1)


def of_parts(errors: np.ndarray, seen: np.ndarray) -> dict[str, Any]:
    """Means of examples, and their median, over all vertices and over those shown."""
    whole = errors.mean(axis=1)
    part = np.array([e[s].mean() for e, s in zip(errors, seen, strict=True) if s.any()])
    return {
        "all_mm": str(interval(whole)),
        "all_median_mm": round(float(np.median(whole)), 1),
        "visible_mm": str(interval(part)),
        "visible_median_mm": round(float(np.median(part)), 1),
    }


def rank_correlation(errors: Any, deviations: Any) -> float:
    """Spearman's, of means of examples: whether deviations tell bad results from good ones."""
    found: Any = spearmanr(errors, deviations)
    return round(float(found.statistic), 3)


def condition(recon: Reconstructor, examples: Example) -> tuple[dict[str, Any], np.ndarray]:
    """Figures, and of each example the mean error and the mean deviation (2, n), millimetres."""
    model = recon.model
    arguments = examples.depth, examples.camera, examples.mask
    out = jax.block_until_ready(reconstruct(recon, *arguments))
    begin = time.perf_counter()
    jax.block_until_ready(reconstruct(recon, *arguments))
    elapsed = 1e3 * (time.perf_counter() - begin) / len(examples.depth)
    seen = np.asarray(shown(model, examples))
    guess: Prediction = out.prediction
    before = errors_mm(model, guess.params, examples.params)
    after = errors_mm(model, out.params, examples.params)
    inside = after < 1e3 * np.asarray(out.fit.vertex_std)
    deviation = 1e3 * np.asarray(out.fit.vertex_std)
    means = np.stack([after.mean(axis=1), deviation.mean(axis=1)])
    figures = {
        "before": of_parts(before, seen),
        "after": of_parts(after, seen),
        "within_one_sigma": round(float(inside.mean()), 3),
        "within_one_sigma_visible": round(float(inside[seen].mean()), 3),
        "sigma_visible_mm": round(float(deviation[seen].mean()), 1),
        "sigma_hidden_mm": round(float(deviation[~seen].mean()), 1),
        "residual_median_mm": round(float(np.median(out.fit.agreement.residual_mm)), 1),
        "overlap_mean": round(float(np.mean(out.fit.agreement.overlap)), 3),
        "status": dict(zip(STATUS, np.bincount(out.fit.status, minlength=4).tolist(), strict=True)),
        "shape_deviation_99_percent": round(float(np.quantile(out.fit.shape_deviation, 0.99)), 2),
        "rank_correlation_of_deviation_and_error": rank_correlation(*means),
        "other_start": int(np.sum(np.asarray(out.fit.start) > 0)),
        "ms_per_image": round(elapsed, 1),
    }
    return figures, means


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--motion", type=Path, required=True)
    parser.add_argument("--function", default="body")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    recon = load(args.function)
    model = recon.model
    clips = read_clips(args.motion, model)
    report: dict[str, Any] = provenance("experiments/bench_fit.py --motion DIR")
    report |= {"seed": SEED, "count": args.count, "conditions": {}}
    means: list[np.ndarray] = []
    for name, each in CONDITIONS.items():
        examples = bench_set(bench_source(model, clips, each), each, args.count)
        report["conditions"][name], of_each = condition(recon, examples)
        means.append(of_each)
        correlation = rank_correlation(*np.concatenate(means, axis=1))
        report["rank_correlation_of_deviation_and_error"] = correlation
        print(name, json.dumps(report["conditions"][name], indent=1), flush=True)
        if name in ("clean", "mixed"):
            start = disturbed(examples.params, jax.random.key(SEED))
            found = refine(recon, examples, start).params
            seen = np.asarray(shown(model, examples))
            after = errors_mm(model, found, examples.params)
            part = np.array([e[s].mean() for e, s in zip(after, seen, strict=True) if s.any()])
            report.setdefault("disturbed", {})[name] = {
                "before": of_parts(errors_mm(model, start, examples.params), seen),
                "after": of_parts(after, seen),
                "below_15_mm_visible": round(float(np.mean(part < 15)), 3),
                "below_30_mm_visible": round(float(np.mean(part < 30)), 3),
            }
            print("disturbed", name, report["disturbed"][name], flush=True)
        if args.out:
            args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
