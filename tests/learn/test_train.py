"""Training: it learns; devices, parts, kills and damage do not change what is learned."""

import dataclasses
import gc
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.learn.checkpoint import Checkpoints, checksums
from jrecon.learn.regressor import make_regressor
from jrecon.learn.train import (
    TrainConfig,
    data_mesh,
    make_step,
    mean_error_mm,
    run,
    schedule,
    start,
)
from jrecon.synth.generate import make_source
from tests.learn.small_class import EASY, NETWORK, rod

CONFIG = TrainConfig(steps=12, batch=8, warmup=2, decay=4, learning_rate=3e-3, vertices=40)


@pytest.fixture(scope="module")
def source():
    return make_source(rod(), EASY)


@pytest.fixture(scope="module")
def function(source):
    return make_regressor(source.model, jax.random.key(0), NETWORK)


def losses(source, function, config, steps, mesh=None):
    step, state = make_step(source, function, config, mesh), start(function, config)
    found = []
    for _ in range(steps):
        state, metrics = step(state, jax.random.key(config.seed))
        found.append(float(metrics["loss"]))
    return found


@pytest.fixture(scope="module")
def reference(source, function):
    return losses(source, function, CONFIG, 4)


def test_any_number_of_devices_learns_the_same(source, function, reference):
    for count in (2, 4):
        found = losses(source, function, CONFIG, 4, data_mesh(count))
        np.testing.assert_allclose(found, reference, rtol=2e-4)


def test_parts_of_a_batch_learn_the_same(source, function, reference):
    found = losses(source, function, dataclasses.replace(CONFIG, accumulate=2), 4)
    np.testing.assert_allclose(found, reference, rtol=2e-4)


def test_batches_that_do_not_divide_are_refused(source, function):
    with pytest.raises(ValueError, match="need a multiple of 6"):
        make_step(source, function, dataclasses.replace(CONFIG, accumulate=3), data_mesh(2))
    with pytest.raises(ValueError, match="optimizer"):
        start(function, dataclasses.replace(CONFIG, optimizer="sgd"))


@pytest.mark.slow
def test_it_learns(source, function, tmp_path):
    config = dataclasses.replace(CONFIG, steps=150, batch=32, warmup=10, decay=100)
    numbers = jnp.arange(64) + 10**6
    key = jax.random.key(config.seed)
    before = mean_error_mm(source, function, key, numbers)
    learned, done = run(source, function, config, tmp_path, log_every=50)
    after = mean_error_mm(source, learned, key, numbers)
    assert done == 150
    assert after["vertices_mm"] < 0.6 * before["vertices_mm"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 100, 150]
    assert lines[-1]["examples"] == 150 * 32


def test_a_run_goes_on_where_it_was_stopped(source, function, tmp_path):
    whole, _ = run(source, function, CONFIG, tmp_path / "whole", log_every=2)
    _, first = run(source, function, CONFIG, tmp_path / "parts", log_every=2, stop_after_s=0.0)
    assert first == 2
    parts, last = run(source, function, CONFIG, tmp_path / "parts", log_every=2)
    assert last == CONFIG.steps
    for a, b in zip(jax.tree.leaves(whole.weights), jax.tree.leaves(parts.weights), strict=True):
        np.testing.assert_array_equal(a, b)
    read = lambda name: [
        json.loads(line)["loss"]
        for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
    ]
    assert read("whole") == read("parts")


def test_a_request_to_stop_saves_and_leaves(source, function, tmp_path):
    config = dataclasses.replace(CONFIG, steps=100_000)

    def stop_soon(progress):
        if progress.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    assert threading.current_thread() is threading.main_thread()
    _, done = run(source, function, config, tmp_path, log_every=2, report=stop_soon)
    assert done == 4
    assert signal.getsignal(signal.SIGTERM) == handler
    like = dataclasses.asdict(start(function, config))
    found = Checkpoints(tmp_path / "checkpoints").latest(like)
    assert found is not None and found[0] == 4


def test_a_loss_that_is_not_finite_stops_the_run(source, function, tmp_path):
    run(source, function, dataclasses.replace(CONFIG, steps=2), tmp_path, log_every=2)
    config = dataclasses.replace(CONFIG, learning_rate=jnp.inf, warmup=0)
    with pytest.raises(
        FloatingPointError, match="not finite at step .* checkpoint is that of step 2"
    ):
        run(source, function, config, tmp_path, log_every=2)


# Orbax leaves coroutines of a failed read behind, which complain when they are collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_checkpoints_find_damage_and_fall_back(tmp_path):
    checkpoints = Checkpoints(tmp_path / "a")
    state = {"w": jnp.arange(300.0), "deep": {"b": jnp.ones((3, 4))}}
    for step in (1, 2):
        checkpoints.save(
            step, jax.tree.map(lambda x, s=step: x + s, state), {"at": step}, wait=True
        )
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
    with pytest.warns(UserWarning, match="passed over damaged checkpoints"):
        found = Checkpoints(tmp_path / "a").latest(state)
    gc.collect()
    assert found is not None
    step, restored, note = found
    assert (step, note) == (1, {"at": 1})
    assert checksums(restored) == checksums(jax.tree.map(lambda x: x + 1, state))


def test_checkpoints_of_another_structure_are_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path / "a")
    checkpoints.save(1, {"w": jnp.arange(3.0)}, {}, wait=True)
    with pytest.raises(ValueError, match="no checkpoint can be used"):
        checkpoints.latest({"w": jnp.arange(4.0), "v": jnp.zeros(2)})
    assert Checkpoints(tmp_path / "empty").latest({"w": jnp.zeros(2)}) is None


def test_a_checkpoint_of_several_devices_is_restored_on_one(function, tmp_path):
    from jax.sharding import NamedSharding, PartitionSpec

    spread = NamedSharding(data_mesh(4), PartitionSpec())
    state = {"w": jax.device_put(jnp.arange(8.0), spread)}
    Checkpoints(tmp_path / "a").save(3, state, {}, wait=True)
    found = Checkpoints(tmp_path / "a").latest({"w": jnp.zeros(8)})
    assert found is not None
    np.testing.assert_array_equal(found[1]["w"], np.arange(8.0))
    assert len(found[1]["w"].devices()) == 1


def test_the_rate_rises_stays_and_falls():
    rate = schedule(TrainConfig(steps=100, warmup=10, decay=20, learning_rate=1.0))
    values = [float(rate(step)) for step in (0, 5, 10, 50, 79, 90, 100)]
    np.testing.assert_allclose(values, [0, 0.5, 1, 1, 1, 0.505, 0.01], atol=1e-3)


def test_a_step_lowers_for_tpu_and_gpu(source, function):
    from jrecon.learn.loss import LossConfig, loss, make_judge
    from jrecon.learn.regressor import predict
    from jrecon.synth.generate import make_examples

    judge = make_judge(source.model, 40)

    def objective(weights, key):
        examples = make_examples(source, key, jnp.arange(2))
        learner = dataclasses.replace(function, weights=weights)
        found = predict(learner, examples.depth, examples.camera, examples.mask)
        return loss(judge, found, examples, LossConfig())[0]

    exported = jax.export.export(jax.jit(jax.grad(objective)), platforms=("tpu", "cuda"))(
        function.weights, jax.random.key(0)
    )
    assert exported.platforms == ("tpu", "cuda")


KILLED = """
import jax, sys
jax.config.update("jax_numpy_rank_promotion", "raise")
from tests.learn.test_train import *
source = make_source(rod(), EASY)
function = make_regressor(source.model, jax.random.key(0), NETWORK)
config = dataclasses.replace(CONFIG, steps=int(sys.argv[2]))
run(source, function, config, sys.argv[1], log_every=1, save_every_s=0.0)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_losses(source, function, tmp_path):
    root = pathlib.Path(__file__).parents[2]
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), "1000"]
    environment = os.environ | {
        "PYTHONPATH": str(root),
        "JAX_COMPILATION_CACHE_DIR": str(root / ".cache/jax"),
    }
    log = tmp_path / "killed" / "metrics.jsonl"
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (
        log.exists() and len(log.read_text().splitlines()) > 5
    ):
        time.sleep(0.05)
    process.kill()
    process.wait()
    reached = len(log.read_text().splitlines())
    assert reached > 5
    config = dataclasses.replace(CONFIG, steps=reached + 4)
    kept = log.read_text()
    run(
        source,
        function,
        dataclasses.replace(CONFIG, steps=1000),
        tmp_path / "killed",
        log_every=1,
        stop_after_s=0.0,
    )
    lines = [json.loads(line) for line in log.read_text()[len(kept) :].splitlines()]
    assert lines and lines[0]["step"] <= reached + 1
    step, state = (
        make_step(source, function, dataclasses.replace(CONFIG, steps=1000)),
        start(function, config),
    )
    for _ in range(lines[0]["step"]):
        state, metrics = step(state, jax.random.key(0))
    assert float(metrics["loss"]) == pytest.approx(lines[0]["loss"], rel=1e-4)
