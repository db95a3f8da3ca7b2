"""The network: an image of points in, a vector out. It knows nothing of what is in the image."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from jrecon.learn.view import CHANNELS, SCALARS

Weights = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The size of a network. Static: another config is another compiled program."""

    image: int = 64
    """Pixels along each side of what it sees."""
    patch: int = 4
    """The first layer takes patches of so many pixels along each side."""
    channels: tuple[int, ...] = (48, 96, 256)
    """Of each stage; a stage has half the resolution of the one before."""
    blocks: tuple[int, ...] = (1, 2, 3)
    """Residual blocks in each stage."""
    hidden: int = 512
    """Width of the two layers after the last stage, which keeps its resolution: pooling would
    lose where things are."""


# What sizes are called. The large one has 52 M weights and 2.8 GFLOP an image, the base 6.6 M and
# 0.15.
SIZES = {
    "base": NetworkConfig(),
    "large": NetworkConfig(image=96, channels=(96, 192, 512), blocks=(2, 4, 6), hidden=1024),
}


class Block(nnx.Module):
    """Two convolutions beside the identity, normalised before."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs) -> None:
        self.norm = nnx.LayerNorm(channels, rngs=rngs)
        self.first = nnx.Conv(channels, channels, (3, 3), rngs=rngs)
        self.second = nnx.Conv(
            channels, channels, (3, 3), kernel_init=nnx.initializers.zeros, rngs=rngs
        )

    def __call__(self, x: Array) -> Array:
        return x + self.second(nnx.gelu(self.first(self.norm(x))))


class Network(nnx.Module):
    """Convolutions in stages, then a perceptron over all places of the last one."""

    def __init__(self, config: NetworkConfig, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.config = config
        size = (config.patch, config.patch)
        self.stem = nnx.Conv(
            CHANNELS, config.channels[0], size, strides=size, padding="VALID", rngs=rngs
        )
        stages, narrow = [], []
        for index, (channels, count) in enumerate(zip(config.channels, config.blocks, strict=True)):
            stages.append(nnx.List([Block(channels, rngs=rngs) for _ in range(count)]))
            if index + 1 < len(config.channels):
                following = config.channels[index + 1]
                narrow.append(
                    nnx.Conv(
                        channels, following, (2, 2), strides=(2, 2), padding="VALID", rngs=rngs
                    )
                )
        self.stages, self.narrow = nnx.List(stages), nnx.List(narrow)
        side = config.image // config.patch // 2 ** (len(config.channels) - 1)
        self.norm = nnx.LayerNorm(config.channels[-1], rngs=rngs)
        features = side * side * config.channels[-1] + SCALARS
        self.first = nnx.Linear(features, config.hidden, rngs=rngs)
        self.second = nnx.Linear(config.hidden, config.hidden, rngs=rngs)
        # Starts at the mean of the outputs.
        self.out = nnx.Linear(config.hidden, outputs, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, image: Array, scalars: Array) -> Array:
        x = self.stem(image)
        for index, stage in enumerate(self.stages):
            for block in stage:
                x = block(x)
            if index < len(self.narrow):
                x = self.narrow[index](x)
        x = nnx.gelu(self.norm(x)).reshape(x.shape[0], -1)
        x = nnx.gelu(self.first(jnp.concatenate([x, scalars], axis=-1)))
        return self.out(x + nnx.gelu(self.second(x)))


def init_network(config: NetworkConfig, outputs: int, key: PRNGKeyArray) -> Weights:
    """Weights of a new network: a plain nested dict of float32 arrays."""
    _check(config)
    network = Network(config, outputs, rngs=nnx.Rngs(params=key))
    return _plain(nnx.to_pure_dict(nnx.state(network, nnx.Param)))


def network_shapes(config: NetworkConfig, outputs: int) -> Weights:
    """The same with shapes and types in place of arrays; what `init_network` refuses is refused."""
    _check(config)
    return _plain(nnx.to_pure_dict(_graph(config, outputs)[1]))


def _check(config: NetworkConfig) -> None:
    side = config.patch * 2 ** (len(config.channels) - 1)
    if config.image % side or len(config.blocks) != len(config.channels):
        raise ValueError(
            f"network: got an image of {config.image} pixels, patches of {config.patch} and "
            f"{len(config.channels)} stages with {len(config.blocks)} counts of blocks; need a "
            f"multiple of {side} pixels, and a count for each stage."
        )


def apply_network(
    config: NetworkConfig,
    outputs: int,
    weights: Weights,
    image: Float[Array, "b n n 6"],
    scalars: Float[Array, "b 4"],
) -> Float[Array, "b o"]:
    """What the network makes of a batch; it works in the type of its first weights."""
    dtype = weights["stem"]["kernel"].dtype
    graph, empty = _graph(config, outputs)
    state = jax.tree.map(lambda x: x, empty)
    nnx.replace_by_pure_dict(state, _restore_lists(weights))
    return nnx.merge(graph, state)(image.astype(dtype), scalars.astype(dtype))


def to_bf16(weights: Weights) -> Weights:
    """For work in bfloat16; the last layer stays in float32, as its outputs are not rounded."""
    last = {"out": weights["out"]}
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), weights) | last


@functools.lru_cache(maxsize=8)
def _graph(config: NetworkConfig, outputs: int) -> tuple[Any, Any]:
    network = nnx.eval_shape(lambda: Network(config, outputs, rngs=nnx.Rngs(0)))
    return nnx.split(network)


def _plain(tree: Any) -> Any:
    """Keys as strings: numbers would come back from a file as strings, too."""
    if isinstance(tree, dict):
        return {str(key): _plain(value) for key, value in tree.items()}
    return tree


def _restore_lists(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {
            int(key) if key.isdigit() else key: _restore_lists(value) for key, value in tree.items()
        }
    return tree
