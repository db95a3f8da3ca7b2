"""The devices that training is split over: one axis, `data`, over all hosts.

Examples are split along it, weights are kept on each device. On several hosts every process runs
the same program (`jax.distributed`): it brings its own part of the examples and holds all weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")

AXIS = "data"
EVERYWHERE = PartitionSpec()
SPLIT = PartitionSpec(AXIS)


def data_mesh(devices: int | None = None) -> Mesh:
    """A mesh of so many devices; all of all hosts by default."""
    return _mesh(jax.devices()[: devices or jax.device_count()])


def own_mesh() -> Mesh:
    """A mesh of one device of this host: for what it does alone."""
    return _mesh(jax.local_devices()[:1])


def _mesh(devices: Sequence[Any]) -> Mesh:
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """The same values on every device. Each process has to give the same."""
    return _put(tree, NamedSharding(mesh, EVERYWHERE))


def split_local(tree: Tree, mesh: Mesh) -> Tree:
    """Arrays (n, ...) of this process, split over its devices, as part of those of all."""
    return _put(tree, NamedSharding(mesh, SPLIT))


def _put(tree: Tree, sharding: NamedSharding) -> Tree:
    # By way of JAX arrays, which have no float64.
    local = lambda leaf: np.asarray(jnp.asarray(leaf))
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, local(leaf)), tree
    )
