"""The reconstruction functions: frames, batches, bad input, and the baselines."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.learn import baselines
from jrecon.learn.network import SIZES, NetworkConfig, init_network
from jrecon.learn.regressor import make_regressor, predict, predict_views, split_outputs
from jrecon.learn.view import view_object
from jrecon.metrics import measure
from jrecon.model.parametric import pose
from tests.learn.small_class import NETWORK


@pytest.fixture(scope="module")
def model(source):
    return source.model


@pytest.fixture(scope="module")
def examples(make):
    return make(5, 96)


def some(examples, count):
    return jax.tree.map(lambda x: x[:count], examples)


def test_an_untrained_function_answers_with_the_mean_at_the_middle(model, examples):
    function = make_regressor(model, jax.random.key(0), NETWORK)
    found = predict(function, examples.depth, examples.camera, examples.mask)
    posed = pose(model, found.params)
    joints = posed.joints
    middle = baselines._views(examples.depth, examples.camera, examples.mask).middle
    np.testing.assert_allclose(joints[:, 0], middle, atol=1e-5)
    np.testing.assert_array_equal(found.params.shape, 0)
    np.testing.assert_allclose(found.params.pose[:, 1:], 0, atol=1e-6)
    # Upright and facing the camera: up is -y of the camera, the front is towards it.
    up = posed.transforms[:, 0, :3, :3] @ jnp.array([0.0, 1.0, 0.0])
    assert (np.asarray(up)[:, 1] < -0.8).all()


def test_perfect_outputs_give_the_truth(model, examples):
    """The way into the frame of the virtual camera and back is exact."""
    targets = baselines._Targets.of(model, examples)
    views = baselines._views(examples.depth, examples.camera, examples.mask)
    errors = measure(model, targets.prediction(model, views).params, examples.params)
    assert np.max(errors.vertices) < 0.01


def test_batch_equals_loop_equals_jit(model, examples):
    function = make_regressor(model, jax.random.key(0), NETWORK)
    weights = jax.tree.map(lambda x: x + 0.02, function.weights)
    function = dataclasses.replace(function, weights=weights)
    few = some(examples, 3)
    together = predict(function, few.depth, few.camera, few.mask)
    for i, one_of in enumerate((inspect.unwrap(predict), predict, predict)):
        one = jax.tree.map(lambda x, i=i: x[i], few)
        alone = one_of(function, one.depth, one.camera, one.mask)
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(a, b[i], atol=2e-4)


def test_mirror_images_are_answered_with_mirror_images(model, examples, rng):
    """Exactly, whatever the network has learned; and contrary answers are not averaged."""
    function = make_regressor(model, jax.random.key(0), NETWORK)
    assert function.opposite == (), "the vertices of the rod are not those of its mirror image"
    function = dataclasses.replace(function, opposite=(0, 1))
    for size in (0.02, 0.3):
        weights = jax.tree.map(
            lambda x, size=size: x + size * jnp.asarray(rng.normal(size=x.shape), jnp.float32),
            function.weights,
        )
        learned = dataclasses.replace(function, weights=weights)
        camera = examples.camera
        across = camera.width - 1 - camera.center[..., :1]
        center = jnp.concatenate([across, camera.center[..., 1:]], axis=-1)
        found = predict(learned, examples.depth, examples.camera, examples.mask)
        other = predict(
            learned,
            examples.depth[..., ::-1],
            dataclasses.replace(camera, center=center),
            examples.mask[..., ::-1],
        )
        expected = np.asarray(pose(model, found.params).joints) * [-1, 1, 1]
        same = np.abs(expected - pose(model, other.params).joints).max(axis=(1, 2)) < 1e-3
        # Half a pixel, which nearest sampling rounds up, is not the same from the other side.
        assert same.mean() > 0.9
        alone = dataclasses.replace(learned, opposite=())
        one = predict(alone, examples.depth, examples.camera, examples.mask)
        moved = np.abs(one.params.translation - found.params.translation).max(axis=1)
        assert (moved > 1e-4).any()


def test_nothing_to_see_is_no_error(model, examples):
    function = make_regressor(model, jax.random.key(0), NETWORK)
    camera = jax.tree.map(lambda x: x[0], examples).camera
    for depth in (jnp.zeros((24, 24)), jnp.full((24, 24), jnp.nan)):
        found = predict(function, depth, camera, jnp.ones((24, 24), bool))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_outputs_are_rotations_and_positive(model, rng):
    outputs = jnp.asarray(rng.normal(size=(5, 3 + 12 + 2 + 2)) * 10, jnp.float32)
    rotations, _, _, spread = split_outputs(model, outputs)
    product = np.asarray(rotations @ jnp.swapaxes(rotations, -1, -2))
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(3), product.shape), atol=1e-5)
    assert (np.asarray(spread) > 0).all()


@pytest.mark.parametrize(("name", "millions"), [("base", 6.6), ("large", 52)])
def test_named_sizes_fit_together(model, name, millions):
    """Shapes alone: nothing is computed."""
    network = SIZES[name]
    function = jax.eval_shape(lambda key: make_regressor(model, key, network), jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(function.weights))
    assert count / 1e6 == pytest.approx(millions, rel=0.1)


def test_networks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="need a multiple of 16 pixels"):
        init_network(NetworkConfig(image=60), 5, jax.random.key(0))
    with pytest.raises(ValueError, match="a count for each stage"):
        init_network(NetworkConfig(blocks=(1,)), 5, jax.random.key(0))


def test_the_nearest_neighbor_of_an_example_is_itself(model, examples):
    found = baselines.nearest_neighbor(model, examples)(
        examples.depth, examples.camera, examples.mask
    )
    errors = measure(model, found.params, examples.params)
    assert np.median(errors.vertices) < 0.01


def test_linear_beats_the_mean(model, examples, make):
    fresh = make(6, 96)
    makers = {"mean": baselines.mean_predictor, "linear": baselines.linear}
    errors = {}
    for name, maker in makers.items():
        found = maker(model, examples)(fresh.depth, fresh.camera, fresh.mask)
        errors[name] = np.mean(measure(model, found.params, fresh.params).vertices)
    assert errors["linear"] < 0.8 * errors["mean"]


def test_predictions_do_not_depend_on_the_window(model, examples):
    """The same object in a larger image, off its middle, is placed the same."""
    function = make_regressor(model, jax.random.key(0), NETWORK)
    function = dataclasses.replace(
        function, weights=jax.tree.map(lambda x: x + 0.02, function.weights)
    )
    one = jax.tree.map(lambda x: x[0], examples)
    camera = dataclasses.replace(
        one.camera, center=one.camera.center + jnp.array([7.0, 3.0]), width=40, height=30
    )
    wide = jnp.zeros((30, 40)).at[3:27, 7:31].set(one.depth)
    mask = jnp.zeros((30, 40), bool).at[3:27, 7:31].set(one.mask)
    a = predict(function, one.depth, one.camera, one.mask)
    b = predict(function, wide, camera, mask)
    errors = measure(model, *(jax.tree.map(lambda x: x[None], x.params) for x in (a, b)))
    assert float(errors.vertices[0]) < 0.1
    view = jax.tree.map(lambda x: x[None], view_object(one.depth, one.camera, one.mask, 16))
    again = jax.jit(predict_views)(function, view)
    np.testing.assert_allclose(again.joint_std[0], a.joint_std, rtol=1e-4)
