"""Checkpoints: damage is found and passed over; any number of devices reads them."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.learn.checkpoint import Checkpoints, checksums
from jrecon.learn.mesh import data_mesh
from jrecon.learn.train import start
from tests.learn.small_class import CONFIG


# Orbax leaves coroutines of a failed read behind, which complain when they are collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damage_is_found_and_passed_over(tmp_path):
    checkpoints = Checkpoints(tmp_path / "a")
    state = {"w": jnp.arange(300.0), "deep": {"b": jnp.ones((3, 4))}}
    for step in (1, 2):
        checkpoints.save(
            step, jax.tree.map(lambda x, s=step: x + s, state), {"at": step}, wait=True
        )
    assert checkpoints.newest() == 2
    checkpoints.close()
    damaged = 0
    for path in (tmp_path / "a" / "2").rglob("*"):
        # The largest file of arrays: the one that holds the data.
        if path.is_file() and "d/" in str(path.relative_to(tmp_path)) and path.stat().st_size > 200:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(bytes(data))
            damaged += 1
    assert damaged
    again = Checkpoints(tmp_path / "a")
    with pytest.warns(UserWarning, match="passed over damaged checkpoints"):
        found = again.latest(state)
    gc.collect()
    assert found is not None
    step, restored, note = found
    assert (step, note) == (1, {"at": 1})
    assert checksums(restored) == checksums(jax.tree.map(lambda x: x + 1, state))
    # The run goes on from there: the damaged one is neither the newest nor in the way, nor lost.
    assert again.newest() == 1 and (tmp_path / "a.damaged" / "2").is_dir()
    again.save(2, state, {"at": 2}, wait=True)
    again.close()
    fresh = Checkpoints(tmp_path / "a").latest(state)
    assert fresh is not None and fresh[0] == 2


def test_another_structure_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path / "a")
    checkpoints.save(1, {"w": jnp.arange(3.0)}, {}, wait=True)
    with pytest.raises(ValueError, match="no checkpoint can be used"):
        checkpoints.latest({"w": jnp.arange(4.0), "v": jnp.zeros(2)})
    empty = Checkpoints(tmp_path / "empty")
    assert empty.latest({"w": jnp.zeros(2)}) is None
    assert empty.newest() is None


@pytest.mark.parametrize("devices", (1, 2))
def test_a_state_of_eight_devices_is_restored_on_fewer(function, tmp_path, devices):
    state = start(function, CONFIG, data_mesh(8))
    Checkpoints(tmp_path / "a").save(3, vars(state), {}, wait=True)
    like = vars(start(function, CONFIG, data_mesh(devices)))
    found = Checkpoints(tmp_path / "a").latest(like)
    assert found is not None
    assert checksums(found[1]) == checksums(vars(state))
    for leaf in jax.tree.leaves(found[1]):
        assert len(leaf.devices()) == devices
    np.testing.assert_array_equal(found[1]["weights"]["out"]["bias"], state.weights["out"]["bias"])
