"""Files of trained functions: they come back as they were, or not at all."""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import pytest

from jrecon.learn.regressor import make_regressor, predict
from jrecon.learn.weights import load_regressor, save_regressor
from jrecon.metrics import measure
from jrecon.synth.generate import make_batch, make_source
from tests.learn.small_class import EASY, NETWORK, rod

CLEAN = dataclasses.replace(EASY, sensors=("ideal",), height=64, width=64)


@pytest.fixture
def saved(tmp_path):
    function = make_regressor(rod(), jax.random.key(3), NETWORK)
    save_regressor(tmp_path / "rod.recon", function, {"steps": 12})
    return function, tmp_path / "rod.recon"


def test_round_trip(saved):
    function, path = saved
    loaded, card = load_regressor(path)
    assert card == {"steps": 12}
    assert loaded.network == function.network
    assert loaded.model.joint_names == function.model.joint_names
    np.testing.assert_allclose(loaded.model.vertices, function.model.vertices, atol=1e-6)
    assert jax.tree.structure(loaded.weights) == jax.tree.structure(function.weights)
    for a, b in zip(
        jax.tree.leaves(loaded.weights), jax.tree.leaves(function.weights), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
    assert list(path.parent.iterdir()) == [path]


def test_nothing_is_overwritten_unasked(saved):
    function, path = saved
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="--overwrite"):
        save_regressor(path, function)
    assert path.read_bytes() == before
    save_regressor(path, function, overwrite=True)
    assert load_regressor(path)[1] == {}


def test_damage_is_found(saved, tmp_path):
    _, path = saved
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    name = next(name for name in arrays if name.startswith("weights/out"))
    flipped = arrays[name].view(np.uint8).copy()
    flipped.reshape(-1)[0] ^= 1
    changed = {**arrays, name: flipped.view(arrays[name].dtype).reshape(arrays[name].shape)}
    np.savez(tmp_path / "flipped.npz", **changed)
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        load_regressor(tmp_path / "flipped.npz")
    del changed[name]
    np.savez(tmp_path / "missing.npz", **changed)
    with pytest.raises(ValueError, match="missing or foreign"):
        load_regressor(tmp_path / "missing.npz")
    (tmp_path / "short.recon").write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="truncated or damaged"):
        load_regressor(tmp_path / "short.recon")


def test_other_files_are_told_apart(saved, tmp_path):
    _, path = saved
    np.savez(tmp_path / "other.npz", depth=np.zeros(3))
    with pytest.raises(ValueError, match="not a trained function"):
        load_regressor(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_regressor(tmp_path / "absent.recon")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    head = json.loads(str(arrays["card"])) | {"version": 99}
    newer: dict[str, Any] = {**arrays, "card": np.array(json.dumps(head))}
    np.savez(tmp_path / "newer.npz", **newer)
    with pytest.raises(ValueError, match="upgrade"):
        load_regressor(tmp_path / "newer.npz")


def test_the_shipped_function_finds_a_person():
    """Trained for minutes, not hours: that it beats the mean of the class is all that is asked."""
    function, card = load_regressor("body", level="2k")
    assert card["examples"] > 0
    examples = make_batch(make_source(function.model, CLEAN), jax.random.key(11), 0, 16)
    found = jax.jit(predict)(function, examples.depth, examples.camera, examples.mask)
    mean = dataclasses.replace(found.params, pose=found.params.pose.at[:, 1:].set(0.0))
    error, of_mean = (
        np.mean(measure(function.model, params, examples.params).vertices)
        for params in (found.params, mean)
    )
    assert error < 130
    assert error < of_mean
