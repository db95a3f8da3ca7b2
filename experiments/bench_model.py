"""How long posing, its gradient and its analytic Jacobian take, per level of detail and batch.

    python experiments/bench_model.py [--model body] [--out experiments/results/bench_model.json]

Every number is the best of repeated calls of a compiled function (what else the machine does can
only add), in milliseconds for the whole batch, with all inputs on the device. `jacfwd` stands
beside the analytic Jacobian as the peer.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jrecon
from experiments.provenance import provenance
from jrecon.model.parametric import Params, from_vector, to_vector

# jacfwd of a batch needs gigabytes at the fine levels; one instance is enough to compare.
BATCHES = (1, 64)


def best_ms(function: Callable[..., Any], *args: Any, seconds: float = 1.0) -> float:
    """Least wall time of a call, after compiling, over about `seconds` of calls."""
    jax.block_until_ready(function(*args))
    times: list[float] = []
    while sum(times) < seconds or len(times) < 5:
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def random_params(model: jrecon.ParametricModel, batch: int, seed: int = 0) -> Params:
    shape_key, pose_key = jax.random.split(jax.random.key(seed))
    lead = () if batch == 1 else (batch,)
    return Params(
        shape=jax.random.normal(shape_key, (*lead, model.num_shape)),
        pose=0.2 * jax.random.normal(pose_key, (*lead, model.num_joints, 3)),
        translation=jnp.zeros((*lead, 3)),
    )


def time_level(model: jrecon.ParametricModel) -> dict[str, float]:
    """Times of one level of detail."""

    def energy(params: Params) -> jax.Array:
        return jnp.sum(jrecon.pose(model, params).vertices ** 2)

    def by_vector(vector: jax.Array) -> jax.Array:
        return jrecon.pose(model, from_vector(model, vector)).vertices

    row: dict[str, float] = {}
    # The model is an argument, not a closure: constants folded at compile time would flatter.
    forward = jax.jit(lambda m, p: jrecon.pose(m, p).vertices)
    slope = jax.jit(jrecon.jacobian)
    for batch in BATCHES:
        params = random_params(model, batch)
        row[f"forward_b{batch}_ms"] = best_ms(forward, model, params)
        row[f"gradient_b{batch}_ms"] = best_ms(jax.jit(jax.grad(energy)), params)
        row[f"jacobian_b{batch}_ms"] = best_ms(slope, model, params)
    vector = to_vector(random_params(model, 1))
    row["jacfwd_b1_ms"] = best_ms(jax.jit(jax.jacfwd(by_vector)), vector)
    return {key: round(value, 3) for key, value in row.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="body")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    full = jrecon.load_model(args.model)
    results = {}
    for name, count in reversed(full.levels):
        results[name] = {"vertices": count} | time_level(jrecon.at_level(full, name))
        print(name, results[name], flush=True)
    report = provenance("experiments/bench_model.py") | {"model": args.model, "levels": results}
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
