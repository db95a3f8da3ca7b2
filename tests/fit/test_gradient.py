"""The gradient route: through the renderer, with losses of one's own, and when they go wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jrecon.fit.fitter import make_fitter
from jrecon.fit.gradient import DepthLoss, Units, depth_loss, minimize
from jrecon.fit.observation import observe
from jrecon.geometry.camera import make_camera
from jrecon.model.parametric import Params, pose
from jrecon.render import render
from tests.fit.test_solve import disturbed, placed
from tests.learn.small_class import rod
from tests.quick import quick_jit

CAMERA = make_camera(40.0, 40.0, 17.5, 17.5, 36, 36)


@pytest.fixture(scope="module")
def fitter():
    return make_fitter(rod())


@pytest.fixture(scope="module")
def view(fitter):
    """A rod before a wall, with noise of a centimetre."""
    seen = render(pose(fitter.model, placed()).vertices, fitter.model.faces, CAMERA)
    depth = jnp.where(seen.mask, seen.depth, 3.5)
    depth += 0.01 * jax.random.normal(jax.random.key(0), depth.shape)
    return observe(depth, CAMERA, seen.mask, size=36, samples=100)


def distance(fitter, one, other):
    apart = pose(fitter.model, one).vertices - pose(fitter.model, other).vertices
    return float(jnp.linalg.norm(apart, axis=-1).mean())


def test_depth_alone_brings_it_back(fitter, view):
    """Through silhouettes, too: the rod is narrower than what it is off."""
    loss = lambda params: depth_loss(fitter, (view,), params)
    start = disturbed()
    found, history = quick_jit(lambda start: minimize(loss, start, steps=120))(start)
    before, after = (distance(fitter, each, placed()) for each in (start, found))
    assert before > 0.15
    assert after < 0.015
    assert float(loss(found)) < 1.1 * float(loss(placed()))
    assert history.shape == (120,)
    assert float(loss(found)) <= float(history.min()) + 1e-3


def test_several_views_add_up(fitter, view):
    bare = DepthLoss(pose=0.0, shape=0.0, limits=0.0)
    value = quick_jit(lambda views: depth_loss(fitter, views, disturbed(), bare))
    one, two = value((view,)), value((view, view))
    np.testing.assert_allclose(two, 2 * one, rtol=1e-5)


def test_a_loss_of_ones_own_and_another_optimiser(fitter):
    """The largest distance of a joint, which is no sum of squares."""
    goal = pose(fitter.model, placed()).joints
    far = lambda params: jnp.max(jnp.abs(pose(fitter.model, params).joints - goal))
    run = lambda start: minimize(
        far, start, optax.sgd(0.1, momentum=0.5), steps=150, units=Units(shape=0.5)
    )
    found, history = quick_jit(run)(disturbed())
    assert float(far(found)) < 0.3 * float(history[0])


def test_a_batch_is_a_loop(fitter):
    goal = jnp.array([0.1, 0.6, 2.1])
    loss = lambda params: jnp.sum((params.translation - goal) ** 2) + jnp.sum(params.pose**2)
    run = quick_jit(lambda start: minimize(loss, start, steps=20))
    starts = [disturbed(), placed(bend=0.4)]
    together = quick_jit(jax.vmap(lambda start: minimize(loss, start, steps=20)))(
        jax.tree.map(lambda *x: jnp.stack(x), *starts)
    )
    for index, start in enumerate(starts):
        for a, b in zip(jax.tree.leaves(run(start)), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(a, b[index], atol=1e-5)


def test_nothing_that_is_not_finite_comes_back(fitter):
    """A loss that breaks on the way leaves the best of what was before it; one that is broken from
    the beginning, the start."""
    start = disturbed()
    cliff = lambda params: jnp.log(params.translation[2] - 1.9)
    found, _ = quick_jit(lambda start: minimize(cliff, start, steps=60))(start)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert 1.9 < float(found.translation[2]) < float(start.translation[2])
    broken = lambda params: jnp.sum(params.translation) * jnp.nan
    found, _ = quick_jit(lambda start: minimize(broken, start, steps=5))(start)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(start), strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_to_see_leaves_the_priors_alone(fitter):
    empty = observe(jnp.zeros((36, 36)), CAMERA, jnp.zeros((36, 36), bool), size=36, samples=100)
    params = Params(jnp.zeros(2), jnp.zeros((2, 3)), jnp.array([0.0, 0.0, 2.0]))
    value, slope = quick_jit(jax.value_and_grad(lambda p: depth_loss(fitter, (empty,), p)))(params)
    assert float(value) < 1e-6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
