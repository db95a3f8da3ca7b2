"""From the host to the device."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import numpy as np

Tree = TypeVar("Tree")


def place(tree: Tree) -> Tree:
    """A pytree with its NumPy arrays on the default device, as float32, int32 or bool; other leaves
    as they are.

    `jnp.asarray` makes a program for every shape that it has not met: for the body and what is
    needed to fit it some 70, which take a second.
    """
    return jax.tree.map(_place, tree)


def _place(leaf: Any) -> Any:
    if not isinstance(leaf, np.ndarray):
        return leaf
    kind = {"i": np.int32, "u": np.int32, "b": np.bool_}.get(leaf.dtype.kind, np.float32)
    return jax.device_put(leaf.astype(kind))
