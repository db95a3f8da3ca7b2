"""Runs: they learn, and go on after stops, kills and damage as if nothing had happened."""

import dataclasses
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

from jrecon.learn import run as running
from jrecon.learn.checkpoint import Checkpoints
from jrecon.learn.run import LOG, run
from jrecon.learn.supply import Supply, stored, synthesis
from jrecon.learn.train import start
from tests.learn.small_class import BATCH, CONFIG

ROOT = pathlib.Path(__file__).parents[2]


def lines(folder):
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def logged(folder):
    return [(line["step"], line["loss"]) for line in lines(folder)]


def equal(a, b):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def whole(source, function, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return run(synthesis(source, BATCH), function, CONFIG, folder, log_every=5), folder


def test_it_learns_and_tells(whole):
    trained, folder = whole
    assert (trained.step, trained.stopped) == (CONFIG.steps, "")
    found = lines(folder)
    assert [line["step"] for line in found] == list(range(5, 41, 5))
    assert found[-1]["examples"] == CONFIG.steps * BATCH
    assert found[-1]["loss"] < 0.75 * found[0]["loss"]
    assert trained.metrics["vertices_mm"] == found[-1]["vertices_mm"]


def test_it_goes_on_where_it_was_stopped(whole, source, function, tmp_path):
    supply = synthesis(source, BATCH)
    first = run(supply, function, CONFIG, tmp_path, log_every=5, stop_after_s=0.0)
    assert (first.step, first.stopped) == (5, "time")
    second = run(supply, function, CONFIG, tmp_path, log_every=5)
    assert second.step == CONFIG.steps and second.seconds > first.seconds
    equal(second.function.weights, whole[0].function.weights)
    assert logged(tmp_path) == logged(whole[1])
    again = run(supply, function, CONFIG, tmp_path, log_every=5)
    equal(again.function.weights, second.function.weights)
    assert logged(tmp_path) == logged(whole[1])


def watched(supply, at, then):
    """A supply that does something before the examples of a step."""

    def batches(step):
        for examples in supply.batches(step):
            yield then(examples) if step == at else examples
            step += 1

    return Supply(batches, supply.about)


def test_a_second_run_in_the_folder_is_refused(whole, source, function, tmp_path):
    supply = synthesis(source, BATCH)
    refused = []

    def meddle(examples):
        with pytest.raises(BlockingIOError, match="another run") as failure:
            run(supply, function, CONFIG, tmp_path, log_every=5)
        refused.append(str(failure.value))
        return examples

    first = run(watched(supply, 3, meddle), function, CONFIG, tmp_path, log_every=5)
    assert str(tmp_path) in refused[0] and first.step == CONFIG.steps
    equal(first.function.weights, whole[0].function.weights)


def test_a_request_to_stop_saves_and_leaves(source, function, tmp_path):
    def terminate(examples):
        os.kill(os.getpid(), signal.SIGTERM)
        return examples

    handler = signal.getsignal(signal.SIGTERM)
    assert threading.current_thread() is threading.main_thread()
    supply = watched(synthesis(source, BATCH), 3, terminate)
    found = run(supply, function, CONFIG, tmp_path, log_every=5)
    assert (found.step, found.stopped) == (4, "signal")
    assert signal.getsignal(signal.SIGTERM) == handler
    state = Checkpoints(tmp_path / "checkpoints").latest(vars(start(function, CONFIG)))
    assert state is not None and state[0] == 4
    assert [line["step"] for line in lines(tmp_path)] == [4]


def test_a_loss_that_is_not_finite_stops_the_run(source, function, tmp_path):
    supply = synthesis(source, BATCH)
    run(supply, function, CONFIG, tmp_path, log_every=2, stop_after_s=0.0)
    poison = lambda examples: dataclasses.replace(
        examples, params=jax.tree.map(lambda x: x * jnp.nan, examples.params)
    )
    with pytest.raises(FloatingPointError, match="at step 4 .* checkpoint is that of step 2"):
        run(watched(supply, 3, poison), function, CONFIG, tmp_path, log_every=2)
    assert [line["step"] for line in lines(tmp_path)] == [2]


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path):
    """Its loss is, and so would be the last one before the end: but the weights are spoilt."""
    meter = running._Meter(CONFIG)
    for gradient in (1.0, jnp.nan):
        meter.add({"loss": jnp.ones(()), "gradient": jnp.asarray(gradient)})
    with pytest.raises(FloatingPointError, match="at step 8 .* no checkpoint yet"):
        meter.close(8, Checkpoints(tmp_path))


def test_a_run_with_other_settings_is_refused(database, function, tmp_path):
    supply = stored(database, BATCH)
    run(supply, function, CONFIG, tmp_path, log_every=2, stop_after_s=0.0)
    other = dataclasses.replace(CONFIG, learning_rate=1.0)
    with pytest.raises(ValueError, match="learning_rate: 0.003 there, 1.0 here.*--amend"):
        run(supply, function, other, tmp_path)
    shuffled = stored(database, BATCH, seed=1)
    with pytest.raises(ValueError, match="data.order: 0 there, 1 here"):
        run(shuffled, function, CONFIG, tmp_path)
    found = run(shuffled, function, CONFIG, tmp_path, log_every=2, stop_after_s=0.0, amend=True)
    assert found.step == 4


PROGRAM = """
import sys, jax
jax.config.update("jax_numpy_rank_promotion", "raise")
folder, database, processes, number, port, save_every_s = sys.argv[1:]
if int(processes) > 1:
    jax.distributed.initialize("localhost:" + port, int(processes), int(number))
from jrecon.learn.mesh import data_mesh
from jrecon.learn.regressor import make_regressor
from jrecon.learn.run import run
from jrecon.learn.supply import stored
from jrecon.synth.reading import open_database
from tests.learn.small_class import BATCH, CONFIG, NETWORK, rod

function = make_regressor(rod(), jax.random.key(0), NETWORK)
mesh = data_mesh() if int(processes) > 1 else data_mesh(1)
supply = stored(open_database(database), BATCH, mesh=mesh)
run(supply, function, CONFIG, folder, mesh=mesh, log_every=1, save_every_s=float(save_every_s))
"""


def program(folder, database, processes=1, number=0, port=0, devices=8, save_every_s=0.0):
    values = folder, database.path, processes, number, port, save_every_s
    arguments = [str(value) for value in values]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": jax.config.values["jax_compilation_cache_dir"],
        # It reads compiled code, but writes none: killed while writing, it would spoil the folder.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9",
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**30),
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], env=environment, stderr=subprocess.PIPE
    )


def test_a_killed_run_goes_on_with_the_same_losses(database, tmp_path):
    """To the last bit, as the same process would: this one compiles a little otherwise."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed, process = program(whole, database), program(killed, database)
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if (killed / LOG).exists() and len((killed / LOG).read_text().splitlines()) > 5:
            break
        time.sleep(0.01)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    assert 5 < len(lines(killed)) < CONFIG.steps
    for one in (undisturbed, program(killed, database)):
        _, errors = one.communicate()
        assert one.returncode == 0, errors.decode()
    assert logged(killed) == logged(whole)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(database, function, tmp_path):
    run(stored(database, BATCH), function, CONFIG, tmp_path / "one", log_every=1)
    two = tmp_path / "two"
    started = [
        program(two, database, 2, number, 12389, devices=1, save_every_s=1e9) for number in (0, 1)
    ]
    errors = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    np.testing.assert_allclose(logged(two), logged(tmp_path / "one"), rtol=1e-4)
