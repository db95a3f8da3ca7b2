"""Files of trained functions: they come back as they were, or not at all."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.geometry.camera import make_camera
from jrecon.learn.regressor import make_regressor, predict
from jrecon.learn.weights import load_regressor, save_regressor
from jrecon.metrics import measure
from jrecon.model.parametric import Params, pose
from jrecon.render import render
from jrecon.synth.pose_prior import pose_prior
from tests.learn.small_class import NETWORK, rod


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
    with pytest.raises(ValueError, match="not a trained function .* cut off"):
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
    """In poses as people move, facing the camera at 3 m."""
    function, card = load_regressor("body", level="2k")
    assert function.opposite, "people are symmetric"
    model = function.model
    assert card["examples"] > 0
    prior = pose_prior(model)
    poses = np.zeros((8, model.num_joints, 3), np.float32)
    poses[:, np.array(prior.joints)] = prior.means[:8].reshape(8, -1, 3)
    poses[:, 0] = np.pi, 0, 0
    away = np.broadcast_to(np.array([0.0, 0.3, 3.0], np.float32), (8, 3))
    truth = Params(jnp.zeros((8, model.num_shape)), jnp.asarray(poses), jnp.asarray(away))
    camera = make_camera(90.0, 90.0, 47.5, 47.5, 96, 96)
    draw = lambda vertices: render(vertices, model.faces, camera)
    view = jax.lax.map(draw, pose(model, truth).vertices)
    found = predict(function, view.depth, camera, view.mask).params
    mean = dataclasses.replace(found, pose=found.pose.at[:, 1:].set(0.0))
    error, of_mean = (
        np.mean(measure(model, params, truth).vertices) for params in (found, mean)
    )  # fmt: skip
    assert error < 130
    assert error < of_mean
