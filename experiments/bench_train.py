"""How fast the body's function learns, and where the time of a step goes.

    python experiments/bench_train.py [--batch 64] [--network base] [--repeats 5]
        [--out experiments/results/bench_train.json]

A step is timed with each optimiser, and so are its parts by themselves: making the examples, the
change of weights; what is left of the step is forward and backward through network, model and loss.
Every number is the least of some repeats, as whatever else the machine does can only add: the wall
time, and the CPU time of all threads, which is the one to go by where the load average, told before
and after, says that the cores were shared.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from experiments.provenance import provenance
from jrecon.learn.network import SIZES
from jrecon.learn.regressor import Regressor, make_regressor
from jrecon.learn.supply import synthesis
from jrecon.learn.train import TrainConfig, make_optimizer, make_step, start
from jrecon.model.formats import load_model
from jrecon.synth.example import Example
from jrecon.synth.generate import SynthConfig, make_source

Times = Float[np.ndarray, " 2"]
OPTIMIZERS = {
    "adamw": TrainConfig(optimizer="adamw"),
    "lamb": TrainConfig(optimizer="lamb"),
    "muon": TrainConfig(optimizer="muon"),
    "muon, bfloat16 network": TrainConfig(optimizer="muon", bf16=True),
}


def least(call: Callable[[], Any], repeats: int) -> Times:
    """Of a call that has been compiled: wall and CPU time, milliseconds."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        begin = np.array([time.perf_counter(), time.process_time()])
        jax.block_until_ready(call())
        times.append(np.array([time.perf_counter(), time.process_time()]) - begin)
    return 1e3 * np.min(times, axis=0)


def change_times(function: Regressor, config: TrainConfig, repeats: int) -> Times:
    """Of one change of weights, without what it is made of."""
    optimizer = make_optimizer(config)

    @jax.jit
    def change(weights: Any, memory: Any) -> Any:
        slopes = jax.tree.map(jnp.ones_like, weights)
        found, memory = optimizer.update(slopes, memory, weights)
        return optax.apply_updates(weights, found), memory

    memory = optimizer.init(function.weights)
    return least(lambda: change(function.weights, memory), repeats)


def step_times(function: Regressor, config: TrainConfig, examples: Example, repeats: int) -> Times:
    """Of a whole step on examples that are there."""
    step, state = make_step(function, config), start(function, config)

    def call() -> Any:
        nonlocal state
        # The state that goes in is used up.
        state, metrics = step(state, examples)
        return metrics, state

    return least(call, repeats)


def row(times: Times) -> dict[str, float]:
    return {"wall_ms": round(float(times[0]), 1), "cpu_ms": round(float(times[1]), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--network", default="base", choices=list(SIZES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    network = SIZES[args.network]
    side = 9 * network.image // 8
    source = make_source(load_model("body", level="2k"), SynthConfig(height=side, width=side))
    function = make_regressor(source.model, jax.random.key(0), network)
    report: dict[str, Any] = provenance("experiments/bench_train.py")
    report |= {"batch": args.batch, "network": dataclasses.asdict(network)}
    report["weights"] = int(sum(np.size(leaf) for leaf in jax.tree.leaves(function.weights)))
    report["load_before"] = os.getloadavg()
    stream = synthesis(source, args.batch).batches(0)
    examples = next(stream)
    made = least(lambda: next(stream), args.repeats)
    report["examples"] = row(made)
    for name, config in OPTIMIZERS.items():
        config = dataclasses.replace(config, batch=args.batch)
        change = change_times(function, config, args.repeats)
        step = step_times(function, config, examples, args.repeats)
        report[name] = {
            "forward_backward": row(step - change),
            "change": row(change),
            "step": row(step),
            "examples_per_s": round(1e3 * args.batch / float((made + step)[0]), 1),
        }
        print(name, report[name], flush=True)
    report["load_after"] = os.getloadavg()
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
