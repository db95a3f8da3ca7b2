"""Trained functions as single files: a model of the class, a network, and what is known of both.

The file (`.recon`) is a NumPy zip without pickles. `model/...` holds the class in the native format
of models, `weights/...` the network in half precision, and `card` a JSON text: the sizes of the
network, how it was trained, what it was measured at, and a SHA-256 of every array.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import tempfile
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jrecon.geometry.arrays import place
from jrecon.learn.network import NetworkConfig, Weights, network_shapes
from jrecon.learn.regressor import Regressor, output_size, with_weights
from jrecon.model.formats import load_model, read_npz, save_model

FORMAT, VERSION = "jrecon-function", 1
SHIPPED = ("body",)
Card = dict[str, Any]


def save_regressor(
    path: str | os.PathLike[str],
    function: Regressor,
    card: Card | None = None,
    *,
    model: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a trained function to one file, or not at all.

    Args:
      card: plain JSON about data, training and errors.
      model: the name of a model that ships with jrecon (`body`), to be loaded with it instead of
        being stored.

    Raises:
      FileExistsError: the file exists and `overwrite` is false.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; pass overwrite=True (--overwrite) to replace it.")
    arrays = {
        f"weights/{name}": np.asarray(leaf, np.float16) for name, leaf in _flatten(function.weights)
    }
    if model is None:
        with tempfile.TemporaryDirectory() as folder:
            save_model(Path(folder) / "model.npz", function.model)
            stored = read_npz(Path(folder) / "model.npz")
        arrays |= {f"model/{name}": value for name, value in stored.items()}
    head = {
        "format": FORMAT,
        "version": VERSION,
        "model": model,
        "network": dataclasses.asdict(function.network),
        "sha256": {name: _digest(value) for name, value in arrays.items()},
        "about": card or {},
    }
    buffer = io.BytesIO()
    entries: dict[str, Any] = {**arrays, "card": np.array(json.dumps(head))}
    np.savez_compressed(buffer, **entries)
    part = path.with_name(path.name + ".part")
    part.write_bytes(buffer.getvalue())
    part.replace(path)


def load_regressor(
    source: str | os.PathLike[str], level: str | None = None
) -> tuple[Regressor, Card]:
    """A trained function and its card, from the package (`body`) or from a file.

    Args:
      level: of detail of the model.

    Raises:
      FileNotFoundError: no such file or shipped function.
      ValueError: the file is damaged, of another format, or does not fit together.
    """
    if isinstance(source, str) and source in SHIPPED:
        asset = resources.files("jrecon.learn") / "assets" / f"{source}.recon"
        with resources.as_file(asset) as path:
            return _read(path, level)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f"function {str(source)!r}: no such file, and not one of the shipped functions "
            f"({', '.join(SHIPPED)}); check the path."
        )
    return _read(path, level)


def _read(path: Path, level: str | None) -> tuple[Regressor, Card]:
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path}: not a trained function (.recon), or cut off; `jrecon train` writes them, or "
            "copy it again."
        )
    arrays = read_npz(path)
    try:
        head = json.loads(str(arrays.pop("card")))
        known = head["format"] == FORMAT
    except (KeyError, TypeError, ValueError):
        known = False
        head = {}
    if not known:
        raise ValueError(f"{path}: not a trained function; `jrecon train` writes them.")
    if head["version"] > VERSION:
        raise ValueError(
            f"{path}: of version {head['version']}, this jrecon reads up to {VERSION}; upgrade it."
        )
    if set(head["sha256"]) != set(arrays):
        raise ValueError(f"{path}: arrays are missing or foreign; copy or download it again.")
    for name, digest in head["sha256"].items():
        if _digest(arrays[name]) != digest:
            raise ValueError(f"{path}: {name} is damaged; copy or download the file again.")
    if head["model"]:
        model = load_model(head["model"], level)
    else:
        stored: dict[str, Any] = _under(arrays, "model")
        with tempfile.TemporaryDirectory() as folder:
            np.savez(Path(folder) / "model.npz", **stored)
            model = load_model(Path(folder) / "model.npz", level)
    sizes: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in head["network"].items()}
    network = NetworkConfig(**sizes)
    like = network_shapes(network, output_size(model))
    weights = _unflatten(path, like, _under(arrays, "weights"))
    return with_weights(model, weights, network), head["about"]


def _under(arrays: dict[str, np.ndarray], top: str) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(f"{top}/"): value
        for name, value in arrays.items()
        if name.startswith(f"{top}/")
    }


def _flatten(weights: Weights) -> list[tuple[str, Any]]:
    return [
        ("/".join(str(key.key) for key in path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(weights)
    ]


def _unflatten(path: Path, like: Any, arrays: dict[str, np.ndarray]) -> Weights:
    names = [name for name, _ in _flatten(like)]
    shapes = [leaf.shape for leaf in jax.tree.leaves(like)]
    found = [arrays[name].shape if name in arrays else None for name in names]
    if found != shapes or len(arrays) != len(names):
        raise ValueError(
            f"{path}: the weights do not fit the network or the model that the file names; it was "
            "written for another version of the model."
        )
    leaves = place([arrays[name].astype(np.float32) for name in names])
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _digest(array: np.ndarray) -> str:
    head = f"{array.shape}{array.dtype}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()
