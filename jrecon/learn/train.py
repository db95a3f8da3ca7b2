"""Training: examples are made where they are learned from, one optimisation step after the other.

    state = start(regressor, config)
    step = make_step(source, regressor, config)
    state, metrics = step(state, key)

Step t learns from the examples t * batch ... (t + 1) * batch of a run, whatever the number of
devices: examples are split over the devices of a mesh, gradients averaged, weights kept on each.
`run` adds what a long run needs: checkpoints, resuming, metrics on disk, stopping in good order.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jrecon.learn.checkpoint import Checkpoints
from jrecon.learn.loss import LossConfig, loss, make_judge
from jrecon.learn.network import Weights
from jrecon.learn.regressor import Regressor, predict
from jrecon.synth.generate import Source, make_examples

Metrics = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run. Static."""

    steps: int = 20_000
    batch: int = 64
    """Examples in a step, over all devices."""
    accumulate: int = 1
    """Parts that a step's batch is worked off in, to save memory."""
    learning_rate: float = 1.5e-3
    warmup: int = 500
    """Steps over which the rate rises."""
    decay: int = 20_000
    """Steps at the end over which it falls, as a cosine, to 1 % of itself."""
    optimizer: str = "adamw"
    """`adamw`, or `lamb` for batches of many thousands."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of a gradient."""
    average: float = 0.999
    """Of the moving average of weights, which is what is kept in the end."""
    seed: int = 0
    vertices: int = 512
    """Of the surface that the loss looks at."""
    weights: LossConfig = dataclasses.field(default_factory=LossConfig, hash=False, compare=False)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TrainState:
    step: Int[Array, ""]
    weights: Weights
    average: Weights
    """Moving average of the weights."""
    optimizer: Any


def schedule(config: TrainConfig) -> Callable[[Any], Any]:
    """The learning rate at a step: a ramp, a plateau, a cosine."""
    decay = max(1, min(config.decay, config.steps - config.warmup))
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, config.learning_rate, max(1, config.warmup)),
            optax.constant_schedule(config.learning_rate),
            optax.cosine_decay_schedule(config.learning_rate, decay, alpha=0.01),
        ],
        [config.warmup, config.steps - decay],
    )


def _optimizer(config: TrainConfig) -> optax.GradientTransformation:
    makers = {"adamw": optax.adamw, "lamb": optax.lamb}
    if config.optimizer not in makers:
        raise ValueError(f"optimizer: got {config.optimizer!r}, need one of {list(makers)}.")
    # Biases and scales are not drawn towards zero.
    decayed = lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree)
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        makers[config.optimizer](schedule(config), weight_decay=config.weight_decay, mask=decayed),
    )


def start(function: Regressor, config: TrainConfig) -> TrainState:
    """The state before the first step."""
    # Copies: steps use up the state that they are given.
    weights, average = (jax.tree.map(jnp.array, function.weights) for _ in range(2))
    return TrainState(jnp.zeros((), jnp.int32), weights, average, _optimizer(config).init(weights))


def data_mesh(devices: int | None = None) -> Mesh:
    """A mesh of one axis, `data`, over so many devices (all by default), over all hosts."""
    count = devices or jax.device_count()
    return jax.make_mesh(
        (count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count]
    )


def make_step(
    source: Source, function: Regressor, config: TrainConfig, mesh: Mesh | None = None
) -> Callable[[TrainState, PRNGKeyArray], tuple[TrainState, Metrics]]:
    """One step, compiled: state and the run's key in, the next state and metrics out. The state
    that goes in is used up."""
    mesh = mesh or data_mesh(1)
    parts = mesh.size * config.accumulate
    if config.batch % parts:
        raise ValueError(
            f"batch: got {config.batch} examples for {mesh.size} devices x {config.accumulate} "
            f"parts, need a multiple of {parts}."
        )
    optimizer, judge = _optimizer(config), make_judge(function.model, config.vertices)

    def objective(
        weights: Weights, source: Source, key: PRNGKeyArray, numbers: Array
    ) -> tuple[Array, Metrics]:
        examples = make_examples(source, key, numbers)
        learner = dataclasses.replace(function, weights=weights)
        found = predict(learner, examples.depth, examples.camera, examples.mask)
        return loss(judge, found, examples, config.weights)

    def gradients(
        weights: Weights, source: Source, key: PRNGKeyArray, numbers: Array
    ) -> tuple[Weights, Metrics]:
        """Averaged over the parts of this device and over devices; numbers (part, example)."""
        slope = jax.value_and_grad(objective, has_aux=True)

        def add(total: Any, part: Array) -> tuple[Any, None]:
            (value, metrics), each = slope(weights, source, key, part)
            found = each, metrics | {"loss": value}
            return jax.tree.map(lambda a, b: a + b / len(numbers), total, found), None

        shapes = jax.eval_shape(lambda part: slope(weights, source, key, part), numbers[0])
        (value, metrics), each = shapes
        zero = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), (each, metrics | {"loss": value})
        )
        if config.accumulate == 1:
            total, _ = add(zero, numbers[0])
        else:
            total, _ = jax.lax.scan(add, zero, numbers)
        return jax.lax.pmean(total, "data")

    everywhere = PartitionSpec()
    spread = jax.shard_map(
        gradients,
        mesh=mesh,
        in_specs=(everywhere, everywhere, everywhere, PartitionSpec(None, "data")),
        out_specs=everywhere,
        check_vma=False,
    )

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, source: Source, key: PRNGKeyArray) -> tuple[TrainState, Metrics]:
        numbers = state.step * config.batch + jnp.arange(config.batch)
        slopes, metrics = spread(state.weights, source, key, numbers.reshape(config.accumulate, -1))
        change, memory = optimizer.update(slopes, state.optimizer, state.weights)
        weights: Any = optax.apply_updates(state.weights, change)
        # Young averages forget their start sooner.
        keep = jnp.minimum(config.average, (1.0 + state.step) / (10.0 + state.step))
        average = jax.tree.map(lambda a, b: keep * a + (1 - keep) * b, state.average, weights)
        metrics |= {"gradient": optax.tree.norm(slopes), "rate": schedule(config)(state.step)}
        return TrainState(state.step + 1, weights, average, memory), metrics

    # Put where steps leave it, or the second step would be compiled anew.
    source = jax.device_put(source, NamedSharding(mesh, everywhere))
    return lambda state, key: step(
        jax.device_put(state, NamedSharding(mesh, everywhere)), source, key
    )


@dataclasses.dataclass(frozen=True)
class Progress:
    """How a run is going, for the line that is shown."""

    step: int
    steps: int
    examples_per_s: float
    seconds_left: float
    metrics: dict[str, float]


def run(
    source: Source,
    function: Regressor,
    config: TrainConfig,
    folder: str | Path,
    *,
    mesh: Mesh | None = None,
    log_every: int = 50,
    save_every_s: float = 300.0,
    report: Callable[[Progress], None] | None = None,
    stop_after_s: float | None = None,
) -> tuple[Regressor, int]:
    """Train to `config.steps`, from the newest checkpoint in the folder if there is one.

    Metrics are appended to `metrics.jsonl` in the folder, one line for each `log_every` steps. The
    run ends early, with a checkpoint, on SIGTERM or Ctrl-C or after `stop_after_s`.

    Returns:
      The regressor with the averaged weights, and the step that was reached.

    Raises:
      FloatingPointError: the loss is not finite: at which step, and which checkpoint is sound.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(folder / "checkpoints")
    state = start(function, config)
    found = checkpoints.latest(dataclasses.asdict(state))
    if found is not None:
        state = TrainState(**_like(dataclasses.asdict(state), found[1]))
    done = int(state.step)
    step = make_step(source, function, config, mesh)
    key = jax.random.key(config.seed)
    began = saved = logged = time.monotonic()
    sums: list[Metrics] = []
    with _Stop() as stop, (folder / "metrics.jsonl").open("a") as log:
        while done < config.steps and not stop.asked:
            state, metrics = step(state, key)
            done += 1
            sums.append(metrics)
            if done % log_every == 0 or done == config.steps:
                means = {name: float(np.mean([m[name] for m in sums])) for name in metrics}
                now = time.monotonic()
                rate = len(sums) * config.batch / (now - logged)
                if not np.isfinite(means["loss"]):
                    checkpoints.close()
                    raise FloatingPointError(_explain(done, sums, saved_step(checkpoints)))
                left = (config.steps - done) * config.batch / rate
                line = {"step": done, "examples": done * config.batch, "examples_per_s": rate}
                log.write(json.dumps(line | means) + "\n")
                log.flush()
                if report:
                    report(Progress(done, config.steps, rate, left, means))
                sums, logged = [], now
                if now - saved > save_every_s:
                    checkpoints.save(done, dataclasses.asdict(state), {"config": repr(config)})
                    saved = now
                if stop_after_s is not None and now - began > stop_after_s:
                    break
        jax.block_until_ready(state)
        checkpoints.save(done, dataclasses.asdict(state), {"config": repr(config)}, wait=True)
    checkpoints.close()
    return dataclasses.replace(function, weights=state.average), done


def saved_step(checkpoints: Checkpoints) -> int | None:
    steps = checkpoints._manager.all_steps()
    return max(steps) if steps else None


def _explain(step: int, sums: list[Metrics], sound: int | None) -> str:
    first = next(i for i, m in enumerate(sums) if not np.isfinite(float(m["loss"])))
    norms = [float(m["gradient"]) for m in sums[: first + 1]]
    return (
        f"the loss is not finite at step {step - len(sums) + first + 1} (norms of the gradients "
        f"before: {[f'{norm:.3g}' for norm in norms[-4:]]}). The last sound checkpoint is that of "
        f"step {sound}; go on from it with a lower learning rate or a smaller clip."
    )


def _like(state: Any, found: Any) -> Any:
    """What was read, in the containers of the state that it was written from."""
    return jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(found))


class _Stop:
    """Set when the process is asked to end; a second request ends it at once."""

    asked = False

    def __enter__(self) -> _Stop:
        self._before = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._ask)
            except ValueError:
                # Not the main thread: whoever owns that takes care of signals.
                break
        return self

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True
        signal.signal(number, self._before.get(number, signal.SIG_DFL))

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def mean_error_mm(
    source: Source, function: Regressor, key: PRNGKeyArray, numbers: Array
) -> dict[str, Float[Array, ""]]:
    """Mean errors on examples of a run, for a quick look; `jrecon.metrics` has the full ones."""
    examples = make_examples(source, key, numbers)
    found = predict(function, examples.depth, examples.camera, examples.mask)
    _, metrics = loss(make_judge(function.model), found, examples, LossConfig())
    return metrics
