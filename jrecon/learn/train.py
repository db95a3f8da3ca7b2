"""One step of training: examples in, better weights out.

    mesh = data_mesh()
    supply = synthesis(source, config.batch, seed=config.seed, mesh=mesh)
    state = start(function, config, mesh)
    step = make_step(function, config, mesh)
    for examples in supply.batches(0):
        state, metrics = step(state, examples)

A batch is split over the devices of a mesh, gradients are averaged, weights kept on each device;
neither the number of devices nor the parts that a batch is worked off in changes what is learned,
but for rounding. `jrecon.learn.run` adds what a long run needs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from jrecon.learn.loss import Judge, LossConfig, loss, make_judge
from jrecon.learn.mesh import AXIS, EVERYWHERE, SPLIT, data_mesh, replicate
from jrecon.learn.muon import muon
from jrecon.learn.network import NetworkConfig, Weights, to_bf16
from jrecon.learn.regressor import Regressor, predict
from jrecon.model.parametric import ParametricModel
from jrecon.synth.example import Example

Metrics = dict[str, Any]
OPTIMIZERS = ("adamw", "lamb", "muon")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run. Static, but for the weights of the loss."""

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
    """`adamw`; `lamb` for batches of many thousands; `muon`, which learns more from each example
    and takes longer for it."""
    bf16: bool = False
    """The network works in bfloat16, forward and backward; its weights, their gradients, the model
    and the loss are float32. Faster on GPUs and TPUs, not on CPUs."""
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


Step = Callable[[TrainState, Example], tuple[TrainState, Metrics]]


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


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """What turns gradients into changes of weights.

    Raises:
      ValueError: an optimizer that does not exist.
    """
    # Biases and scales are not drawn towards zero.
    decayed = lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree)
    rate, decay = schedule(config), config.weight_decay
    if config.optimizer == "adamw":
        change = optax.adamw(rate, weight_decay=decay, mask=decayed)
    elif config.optimizer == "lamb":
        change = optax.lamb(rate, weight_decay=decay, mask=decayed)
    elif config.optimizer == "muon":
        change = muon(rate, decay=decay, decayed=decayed)
    else:
        raise ValueError(f"optimizer: got {config.optimizer!r}, need one of {OPTIMIZERS}.")
    return optax.chain(optax.clip_by_global_norm(config.clip), change)


def start(function: Regressor, config: TrainConfig, mesh: Mesh | None = None) -> TrainState:
    """The state before the first step, on every device of the mesh."""
    # Copies: steps use up the state that they are given.
    weights, average = (jax.tree.map(jnp.array, function.weights) for _ in range(2))
    memory = make_optimizer(config).init(weights)
    state = TrainState(jnp.zeros((), jnp.int32), weights, average, memory)
    return replicate(state, mesh or data_mesh(1))


def make_step(function: Regressor, config: TrainConfig, mesh: Mesh | None = None) -> Step:
    """One step, compiled at its first call: state and examples in, the next state and metrics out.
    The state that goes in is used up.

    Raises:
      ValueError: the batch cannot be divided by devices and parts.
    """
    mesh = mesh or data_mesh(1)
    parts = mesh.size * config.accumulate
    if config.batch % parts:
        raise ValueError(
            f"batch: got {config.batch} examples for {mesh.size} devices x {config.accumulate} "
            f"parts, need a multiple of {parts}."
        )
    judge = make_judge(function.model, config.vertices)
    model, judge, weighting = replicate((function.model, judge, config.weights), mesh)
    return functools.partial(
        train_step, model=model, judge=judge, weighting=weighting,
        network=function.network, config=config, mesh=mesh,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("network", "config", "mesh"), donate_argnames="state")
def train_step(
    state: TrainState,
    examples: Example,
    *,
    model: ParametricModel,
    judge: Judge,
    weighting: LossConfig,
    network: NetworkConfig,
    config: TrainConfig,
    mesh: Mesh,
) -> tuple[TrainState, Metrics]:
    """What `make_step` prepares: compiled once for all runs of a process with one config."""

    def objective(
        weights: Weights, model: ParametricModel, judge: Judge, weighting: LossConfig, part: Example
    ) -> tuple[Array, Metrics]:
        function = Regressor(model, to_bf16(weights) if config.bf16 else weights, network)
        found = predict(function, part.depth, part.camera, part.mask)
        value, metrics = loss(judge, found, part, weighting)
        return value, metrics | {"loss": value}

    def gradients(*inputs: Any) -> tuple[Weights, Metrics]:
        """Averaged over the parts of this device's examples, and over devices."""
        *constants, examples = inputs
        slope = jax.grad(objective, has_aux=True)
        each = lambda part: slope(*constants, part)
        if config.accumulate == 1:
            return jax.lax.pmean(each(examples), AXIS)
        parts = jax.tree.map(lambda x: x.reshape(config.accumulate, -1, *x.shape[1:]), examples)
        shapes = jax.eval_shape(each, jax.tree.map(lambda x: x[0], parts))
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        add = lambda total, part: (jax.tree.map(jnp.add, total, each(part)), None)
        total, _ = jax.lax.scan(add, zero, parts)
        return jax.lax.pmean(jax.tree.map(lambda x: x / config.accumulate, total), AXIS)

    slopes, metrics = jax.shard_map(
        gradients, mesh=mesh, in_specs=(*[EVERYWHERE] * 4, SPLIT), out_specs=EVERYWHERE,
        check_vma=False,
    )(state.weights, model, judge, weighting, examples)  # fmt: skip
    change, memory = make_optimizer(config).update(slopes, state.optimizer, state.weights)
    weights: Any = optax.apply_updates(state.weights, change)
    # Young averages forget their start sooner.
    keep = jnp.minimum(config.average, (1.0 + state.step) / (10.0 + state.step))
    average = jax.tree.map(lambda a, b: keep * a + (1 - keep) * b, state.average, weights)
    metrics |= {"gradient": optax.tree.norm(slopes), "rate": schedule(config)(state.step)}
    return TrainState(state.step + 1, weights, average, memory), metrics
