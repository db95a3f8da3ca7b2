"""What a prediction is judged by: nothing at the truth, and each part taught by what it is for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.learn.loss import LossConfig, loss, make_judge
from jrecon.learn.regressor import Prediction
from jrecon.model.parametric import Params, pose
from tests.learn.small_class import BATCH

SURFACE = LossConfig(joints=0.0, rotations=0.0, shape=0.0, deviation=0.0)
SHAPE = LossConfig(vertices=0.0, joints=0.0, rotations=0.0, deviation=0.0)


@pytest.fixture(scope="module")
def truth(make):
    return make(0, BATCH)


@pytest.fixture(scope="module")
def judge(source):
    return make_judge(source.model)


def away(truth, rng):
    """A prediction that is wrong in everything."""
    off = lambda x, by: x + by * jnp.asarray(rng.standard_normal(x.shape), jnp.float32)
    params = truth.params
    found = Params(off(params.shape, 0.8), off(params.pose, 0.3), off(params.translation, 0.1))
    return Prediction(found, jnp.full(params.pose.shape[:2], 0.2))


def test_the_truth_costs_nothing(judge, truth):
    config = dataclasses.replace(LossConfig(), deviation=0.0)
    value, metrics = loss(judge, Prediction(truth.params, jnp.ones((BATCH, 2))), truth, config)
    assert value < 1e-3
    assert metrics["vertices_mm"] < 0.2
    assert metrics["joints_mm"] < 0.2


def test_errors_are_distances_over_the_surface_in_millimetres(source, judge, truth, rng):
    found = away(truth, rng)
    value, metrics = loss(judge, found, truth, SURFACE)
    apart = pose(source.model, found.params).vertices - pose(source.model, truth.params).vertices
    expected = np.linalg.norm(apart, axis=-1) @ np.asarray(judge.vertices)
    np.testing.assert_allclose(value, expected.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["vertices_mm"], 1e3 * expected.mean(), rtol=1e-4)


def test_the_shape_is_judged_unposed(source, judge, truth, rng):
    found = away(truth, rng)
    value, _ = loss(judge, found, truth, SHAPE)
    rest = lambda params: (
        pose(source.model, Params(params.shape, 0 * params.pose, 0 * params.translation)).vertices
    )
    apart = np.linalg.norm(rest(found.params) - rest(truth.params), axis=-1)
    # Near zero distances are rounded up by 0.1 mm.
    np.testing.assert_allclose(value, (apart @ np.asarray(judge.vertices)).mean(), rtol=1e-2)


def test_poses_do_not_teach_shapes(source, judge, truth, rng):
    """A shape would make good for a pose that is wrong."""
    found = away(truth, rng)

    def value(shape, root):
        # As a regressor does: it says where the root joint is, not the translation.
        start = source.model.joints[:1] + shape @ source.model.joint_basis[0].T
        params = Params(shape, found.params.pose, root - start)
        return loss(judge, Prediction(params, found.joint_std), truth, SURFACE)[0]

    root = found.params.translation
    shapes, roots = jax.grad(value, (0, 1))(found.params.shape, root)
    np.testing.assert_allclose(shapes, 0.0, atol=1e-7)
    step = 0.5e-3 * jnp.sign(roots)
    change = value(found.params.shape, root + step) - value(found.params.shape, root - step)
    np.testing.assert_allclose(change, 2 * jnp.sum(roots * step), rtol=0.02)
    assert change > 0


def test_deviations_learn_the_mean_error(judge, truth, rng):
    """The likelihood of Laplace is greatest where the deviation is the mean absolute one."""
    found = away(truth, rng)
    only = LossConfig(vertices=0.0, joints=0.0, rotations=0.0, shape=0.0)
    apart = pose(judge.model, found.params).joints - pose(judge.model, truth.params).joints
    right = jnp.linalg.norm(apart, axis=-1)
    slope = jax.grad(lambda std: loss(judge, Prediction(found.params, std), truth, only)[0])
    np.testing.assert_allclose(slope(right), 0.0, atol=1e-5)
    assert np.all(slope(0.5 * right) < 0)
    assert np.all(slope(2 * right) > 0)
