"""From the host to the device."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def place(tree: Any) -> Any:
    """NumPy arrays, or those in dicts and lists, on the default device, as float32, int32 or bool;
    what else there is stays as it is.

    `jnp.asarray` makes a program for every shape that it has not met: for the body and what is
    needed to fit it some 70, which take a second.
    """
    # Not `jax.tree.map`, which sorts the keys of dicts.
    if isinstance(tree, dict):
        return {key: place(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [place(value) for value in tree]
    if not isinstance(tree, np.ndarray):
        return tree
    kind = {"i": np.int32, "u": np.int32, "b": np.bool_}.get(tree.dtype.kind, np.float32)
    return jax.device_put(tree.astype(kind))
