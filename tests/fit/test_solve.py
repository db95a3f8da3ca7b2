"""Fits of a small class: derivatives, recovery, statuses, batches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.fit.energy import (
    EnergyConfig,
    all_pulls,
    linearise,
    move_freely,
    parameter_residuals,
    sphere_pulls,
    surface_pulls,
)
from jrecon.fit.fitter import make_fitter, move, point_jacobian, posed_points, sphere_points
from jrecon.fit.observation import observe
from jrecon.fit.solve import (
    STATUS,
    TOO_FEW,
    FitConfig,
    anchor_of,
    fit,
    fit_one,
    schedule_of,
)
from jrecon.geometry import rotation
from jrecon.geometry.camera import make_camera
from jrecon.model.parametric import Params, pose
from jrecon.render import render
from jrecon.synth.viewpoint import FLIP
from tests.learn.small_class import rod

CAMERA = make_camera(70.0, 70.0, 31.5, 31.5, 64, 64)
run = jax.jit(fit)
CONFIG = FitConfig(coarse=(3.0,) * 2, fine=(2.0,) * 3 + (1.0,) * 5)


@pytest.fixture(scope="module")
def fitter():
    return make_fitter(rod(0.1))


def placed(bend=0.5, lean=0.2, shape=(0.5, -0.3), x=0.05):
    first = rotation.log(jnp.asarray(FLIP) @ rotation.exp(jnp.array([lean, 0.4, 0.1])))
    turns = jnp.stack([first, jnp.array([bend, 0.05, -0.1])])
    return Params(jnp.array(shape), turns, jnp.array([x, 0.62, 2.0]))


@pytest.fixture(scope="module")
def seen(fitter):
    """The depth map of a rod before a wall, its mask, and its parameters."""
    truth = placed()
    view = render(pose(fitter.model, truth).vertices, fitter.model.faces, CAMERA)
    return jnp.where(view.mask, view.depth, 3.5), view.mask, truth


def disturbed():
    return placed(bend=0.2, lean=0.05, shape=(0.0, 0.0), x=0.1)


def anchor(fitter, params):
    batch = params.translation.shape[:-1]
    return anchor_of(fitter, params, jnp.full((*batch, 2), 0.1))


def test_the_jacobian_of_points_is_that_of_a_step(fitter):
    params = placed()
    slopes = jax.jit(point_jacobian)(fitter, params)
    step = lambda s: posed_points(fitter, move(fitter, params, s))
    np.testing.assert_allclose(slopes, jax.jit(jax.jacfwd(step))(jnp.zeros(fitter.size)), atol=2e-5)
    free = lambda s: posed_points(fitter, move_freely(fitter, params, s))
    np.testing.assert_allclose(slopes, jax.jit(jax.jacfwd(free))(jnp.zeros(fitter.size)), atol=2e-5)


def test_the_slope_is_that_of_the_energy(fitter, seen):
    depth, mask, _ = seen
    views = (observe(depth, CAMERA, mask, size=32, samples=100),)
    config, known = EnergyConfig(), anchor(fitter, disturbed())
    params = placed(bend=0.3, x=0.07)
    at = jax.jit(linearise)(fitter, config, views, known, params, jnp.asarray(2.0))
    pulls = jax.jit(all_pulls)(
        fitter, config, views, known, posed_points(fitter, params), jnp.asarray(2.0)
    )

    def energy(step):
        there = move_freely(fitter, params, step)
        points = posed_points(fitter, there)
        total = 0.5 * jnp.sum(
            parameter_residuals(fitter, config, known, there, jnp.asarray(2.0)) ** 2
        )
        for each in pulls:
            placed_at = jnp.einsum("mc,mca->ma", each.mix, points[each.corners])
            error = jnp.einsum("mab,mb->ma", each.metric, placed_at - each.target)
            squared = jnp.sum(error**2, axis=-1)
            total += 0.5 * jnp.sum(each.weight * squared / (1 + squared / each.width**2))
        return total

    value, exact = jax.jit(jax.value_and_grad(energy))(jnp.zeros(fitter.size))
    assert at.energy == pytest.approx(float(value), rel=1e-4)
    np.testing.assert_allclose(at.slope, exact, atol=2e-3 * float(jnp.abs(exact).max()))
    assert np.linalg.eigvalsh(np.asarray(at.curvature, np.float64)).min() > -1e-3


def test_contact_says_how_far_apart_and_not_where(fitter):
    """Two spheres in one another want to be apart by what is missing; any shift of both is free."""
    pair = dataclasses.replace(fitter, radii=jnp.array([0.1, 0.2]), apart=1.0 - jnp.eye(2))
    first = sphere_points(pair)[0]
    points = jnp.zeros((first + 2, 3)).at[first + 1].set(jnp.array([0.03, 0.0, 0.04]))
    config = EnergyConfig()
    pulls = sphere_pulls(pair, config, points)
    between = lambda points: jnp.einsum("mc,mca->ma", pulls.mix, points[pulls.corners])
    wanted = jnp.linalg.norm(pulls.target, axis=1)
    np.testing.assert_allclose(wanted, 0.3, rtol=1e-5)
    error = lambda points: jnp.einsum("mab,mb->ma", pulls.metric, between(points) - pulls.target)
    missing = (0.3 - 0.05) / config.sphere_sigma_m
    np.testing.assert_allclose(jnp.linalg.norm(error(points), axis=1), missing, rtol=1e-5)
    np.testing.assert_allclose(error(points + 0.7), error(points), atol=1e-4)
    across = points.at[first].add(jnp.array([0.0, 0.1, 0.0]))
    np.testing.assert_allclose(error(across), error(points), atol=1e-4)


def test_a_search_that_moves_nothing_changes_nothing(fitter, seen):
    """Above all not what rotations are held to."""
    depth, mask, _ = seen
    view, start = observe(depth, CAMERA, mask), anchor(fitter, disturbed())
    tight = dataclasses.replace(start, turn_sigma=jnp.asarray(0.1))
    searched = schedule_of(CONFIG, len(fitter.limbs))
    assert len(fitter.limbs) and searched.search.any()
    none = dataclasses.replace(searched, search=0 * searched.search)
    vain = dataclasses.replace(searched, margin=jnp.asarray(1e9))
    one = jax.jit(fit_one)
    results = [one(fitter, tight, (view,), CONFIG, plan).params for plan in (none, vain)]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_depth_that_is_not_trusted_pulls_across_its_ray_alone(fitter, seen):
    depth, mask, truth = seen
    view = observe(depth, CAMERA, mask, size=32, samples=100)
    points = posed_points(fitter, truth)[: len(fitter.model.vertices)]
    # As far off as blur puts a forearm.
    off = dataclasses.replace(view, points=1.2 * view.points)
    pulls = jax.jit(surface_pulls)

    def energy(view, shift):
        found = pulls(fitter, EnergyConfig(), view, points + shift[None], jnp.asarray(1.0))
        at = jnp.einsum("mc,mca->ma", found.mix, points[found.corners]) + shift[None]
        error = jnp.einsum("mab,mb->ma", found.metric, at - found.target)
        return float(jnp.sum(found.weight[:, None] * error**2))

    blind = dataclasses.replace(off, firm=jnp.zeros_like(view.firm))
    still, aside = jnp.zeros(3), jnp.array([0.15, 0.0, 0.0])
    assert energy(blind, still) < 0.02 * energy(off, still)
    # The model beside the object's pixels is pulled to them all the same.
    assert energy(blind, aside) > 10 * energy(blind, still)


@pytest.fixture(scope="module")
def lanes(fitter, seen):
    """Fits, side by side, of: the rod; nothing but NaN; an empty mask; half of the rod, the rest
    hidden behind something; of these in another order; and of the first order again, once with more
    and once with less trust in what was seen."""
    depth, mask, _ = seen
    half = mask & (jnp.arange(64)[:, None] < 30)
    covered = jnp.where(mask & ~half, 1.2, depth)
    depths = jnp.stack([depth, jnp.full_like(depth, jnp.nan), depth, covered])
    masks = jnp.stack([mask, mask, jnp.zeros_like(mask), half])
    views = jax.vmap(lambda d, m: observe(d, CAMERA, m))(depths, masks)
    starts = jax.tree.map(lambda x: jnp.stack([x] * 4), anchor(fitter, disturbed()))
    other = jax.tree.map(lambda x: x[::-1], views)
    change = lambda **fields: dataclasses.replace(CONFIG, **fields)
    rare = dataclasses.replace(CONFIG.belief, patch_m2=4 * CONFIG.belief.patch_m2)
    more, less = change(mistrust=0.0), change(belief=rare)
    cases = (views, CONFIG), (other, CONFIG), (views, more), (views, less)
    return [run(fitter, starts, (each,), config) for each, config in cases]


def lane(found, index):
    return jax.tree.map(lambda x: x[index], found)


def test_a_disturbed_rod_finds_back(fitter, seen, lanes):
    truth, found = seen[2], lane(lanes[0], 0)
    vertices = lambda p: pose(fitter.model, p).vertices
    error = lambda p: 1e3 * jnp.linalg.norm(vertices(p) - vertices(truth), axis=-1).mean()
    assert error(disturbed()) > 50
    assert error(found.params) < 0.25 * error(disturbed())
    assert found.agreement.residual_mm < 8
    assert found.agreement.overlap > 0.85
    assert STATUS[int(found.status)] in ("converged", "hit the limit")
    assert bool(jnp.all(found.vertex_std > 0)) and bool(jnp.all(found.vertex_std < 0.3))
    # Within a width of the robust functions no step is taken that does not help.
    fall = np.asarray(found.history)
    assert fall[1] <= fall[0] and (np.diff(fall[-5:]) <= 0).all()


def test_images_without_the_object_give_the_prediction_and_say_so(lanes):
    found = lanes[0]
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(found))
    assert found.status.tolist()[1:3] == [TOO_FEW, TOO_FEW]
    np.testing.assert_array_equal(found.params.pose[1], disturbed().pose)
    np.testing.assert_array_equal(found.params.pose[2], disturbed().pose)


def test_one_lane_does_not_touch_another(lanes):
    first, other, *_ = lanes
    for index in (0, 3):
        for a, b in zip(
            jax.tree.leaves(lane(first, index)),
            jax.tree.leaves(lane(other, 3 - index)),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)


def test_hidden_parts_are_less_certain(fitter, lanes):
    whole, part = lane(lanes[0], 0), lane(lanes[0], 3)
    low = np.argsort(np.asarray(pose(fitter.model, whole.params).vertices)[:, 1])[-10:]
    assert float(part.vertex_std[low].mean()) > 1.5 * float(whole.vertex_std[low].mean())


def test_what_views_say_counts_less_where_they_disagree(lanes):
    """Deviations grow, by no more than that; where views said nothing, they stay."""
    found, _, credulous, doubting = lanes
    agreed = np.asarray(found.agreement.merit)
    assert agreed[0] > 0.8 and agreed[2] == 0
    for less, more, most in (
        (found, doubting, 2.0),
        (credulous, found, agreed[[0, 3]] ** (-CONFIG.mistrust / 2)),
    ):
        ratio = np.asarray(more.vertex_std / less.vertex_std)
        assert (ratio[[0, 3]] > 1 - 1e-4).all() and (ratio[3] > 1.01).all()
        assert (ratio[[0, 3]].T < 1.001 * np.asarray(most)).all()
        # What views alone tell grows nearly as much as it may.
        assert (ratio[[0, 3]].max(axis=1) > 1 + 0.9 * (np.asarray(most) - 1)).all()
        np.testing.assert_allclose(ratio[2], 1.0, rtol=1e-3)
