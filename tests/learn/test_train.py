"""Steps of training: devices and parts do not change what is learned; other accelerators."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.learn.mesh import data_mesh, split_local
from jrecon.learn.supply import make_split, require_class, stored, synthesis
from jrecon.learn.train import OPTIMIZERS, TrainConfig, make_optimizer, make_step, schedule, start
from jrecon.synth.generate import make_batch
from tests.learn.small_class import BATCH, CONFIG, rod

DEVICES = 8


def losses(function, config, batches, mesh):
    step, state = make_step(function, config, mesh), start(function, config, mesh)
    found = []
    for examples in batches:
        state, metrics = step(state, split_local(examples, mesh))
        found.append(float(metrics["loss"]))
    return found


@pytest.fixture(scope="module")
def batches(make):
    made = make(0, 4 * BATCH)
    return [jax.tree.map(lambda x, i=i: x[i::4], made) for i in range(4)]


@pytest.fixture(scope="module")
def alone(function, batches):
    """Losses of one device."""
    return losses(function, CONFIG, batches, data_mesh(1))


@pytest.mark.parametrize(("devices", "parts"), [(DEVICES, 1), (2, 2)])
def test_devices_and_parts_learn_the_same(function, batches, alone, devices, parts):
    config = dataclasses.replace(CONFIG, accumulate=parts)
    together = losses(function, config, batches, data_mesh(devices))
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_devices_make_the_same_examples(source, make):
    supply = synthesis(source, BATCH, seed=2, mesh=data_mesh(DEVICES))
    found = next(supply.batches(2))
    assert len(found.depth.sharding.device_set) == DEVICES
    truth = jax.tree.map(lambda x: x[2 * BATCH : 3 * BATCH], make(2, 3 * BATCH))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_what_is_learned_from_is_never_what_is_measured_on(source, make):
    """Databases and evaluation have examples 0, 1, ... of a seed, which may be the run's."""
    learned = make(0, BATCH).params.translation
    measured = jax.jit(make_batch, static_argnums=3)(source, jax.random.key(0), 0, BATCH)
    apart = jnp.linalg.norm(learned[:, None] - measured.params.translation[None], axis=-1)
    assert apart.min() > 1e-4


def test_stored_examples_go_on_at_any_step(database):
    supply = stored(database, BATCH, seed=4)
    stream = supply.batches(0)
    whole = [next(stream) for _ in range(4)]
    stream.close()
    later = supply.batches(3)
    for a, b in zip(jax.tree.leaves(whole[3]), jax.tree.leaves(next(later)), strict=True):
        np.testing.assert_array_equal(a, b)
    later.close()
    assert sorted(np.concatenate([each.visible for each in whole[:3]])) == sorted(
        np.asarray([database[i].visible for i in range(len(database))])
    )


def test_a_database_of_another_class_is_refused(database):
    require_class(database, rod())
    other = dataclasses.replace(rod(), name="bar", vertices=rod().vertices * 2)
    with pytest.raises(ValueError, match="model 'rod' .* the function is for 'bar'"):
        require_class(database, other)


def test_batches_that_do_not_divide_are_refused(source, function, database):
    with pytest.raises(ValueError, match="need a multiple of 6"):
        make_step(function, dataclasses.replace(CONFIG, accumulate=3), data_mesh(2))
    for make_supply, where in ((synthesis, source), (stored, database)):
        with pytest.raises(ValueError, match="need a multiple of 4"):
            make_supply(where, 6, mesh=data_mesh(4))


def test_the_rate_rises_stays_and_falls():
    rate = schedule(TrainConfig(steps=100, warmup=10, decay=20, learning_rate=1.0))
    values = [float(rate(step)) for step in (0, 5, 10, 50, 79, 90, 100)]
    np.testing.assert_allclose(values, [0, 0.5, 1, 1, 1, 0.505, 0.01], atol=1e-3)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_go_downhill(name, rng):
    config = TrainConfig(optimizer=name, learning_rate=0.1, warmup=0, weight_decay=0.0)
    optimizer = make_optimizer(config)
    goal = {
        "kernel": jnp.asarray(rng.normal(size=(2, 2, 3, 4)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=4), jnp.float32),
    }
    distance = lambda x: norm(jax.tree.map(jnp.subtract, x, goal))
    weights = jax.tree.map(jnp.ones_like, goal)
    memory, first = optimizer.init(weights), float(distance(weights))
    update = jax.jit(lambda w, m: optimizer.update(jax.grad(distance)(w), m, w))
    for _ in range(100):
        change, memory = update(weights, memory)
        weights = jax.tree.map(jnp.add, weights, change)
    assert float(distance(weights)) < 0.3 * first
    with pytest.raises(ValueError, match="optimizer: got 'sgd'"):
        make_optimizer(dataclasses.replace(config, optimizer="sgd"))


def norm(tree):
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


def test_steps_and_synthesis_lower_for_tpu_and_gpu(source, function, make):
    mesh, platforms = data_mesh(1), ("tpu", "cuda")
    step = make_step(function, CONFIG, mesh)
    made = jax.export.export(make_split, platforms=platforms)(
        source, np.int32(0), np.int32(0), count=BATCH, mesh=mesh
    )
    learned = jax.export.export(step.func, platforms=platforms)(
        start(function, CONFIG, mesh), make(0, BATCH), **step.keywords
    )
    assert made.platforms == learned.platforms == platforms
