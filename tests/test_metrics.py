"""Errors against independent references, and intervals against what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jrecon import metrics
from jrecon.model.parametric import Params, zeros
from tests.learn.small_class import rod


@pytest.mark.parametrize("weighted", (False, True))
def test_align_equals_scipy(rng, weighted):
    points = rng.normal(size=(4, 12, 3))
    turned = points @ Rotation.random(rng=rng).as_matrix() + 0.3
    target = turned + 0.05 * rng.normal(size=points.shape)
    shares = rng.dirichlet(np.ones(12)) if weighted else np.full(12, 1 / 12)
    given = (shares,) if weighted else ()
    inputs = (jnp.asarray(x, jnp.float32) for x in (points, target, *given))
    found = np.asarray(metrics.align(*inputs))
    for a, b, moved in zip(points, target, found, strict=True):
        center, goal = shares @ a, shares @ b
        best = Rotation.align_vectors(b - goal, a - center, weights=shares)[0]
        np.testing.assert_allclose(moved, best.apply(a - center) + goal, atol=1e-5)


def test_align_never_mirrors(rng):
    points = jnp.asarray(rng.normal(size=(9, 3)), jnp.float32)
    mirrored = points * jnp.array([[-1.0, 1.0, 1.0]])
    assert float(jnp.abs(metrics.align(points, mirrored) - mirrored).max()) > 0.1


def test_a_shift_is_an_error_until_aligned():
    model = rod()
    truth = zeros(model, (2,))
    found = Params(truth.shape, truth.pose, truth.translation + jnp.array([[0.03, 0.0, 0.04]]))
    errors = jax.tree.map(np.asarray, metrics.measure(model, found, truth))
    np.testing.assert_allclose(errors.vertices, 50.0, rtol=1e-4)
    np.testing.assert_allclose(errors.joints, 50.0, rtol=1e-4)
    np.testing.assert_allclose(errors.vertices_aligned, 0.0, atol=1e-3)
    for part in errors.parts.values():
        np.testing.assert_allclose(part, 50.0, rtol=1e-4)


def test_surface_shares_are_areas():
    model = rod()
    shares = np.asarray(metrics.surface_shares(model))
    assert shares.sum() == pytest.approx(1, abs=1e-5)
    a, b, c = (np.asarray(model.vertices)[np.asarray(model.faces)[:, k]] for k in range(3))
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    expected = sum(areas[np.asarray(model.faces)[:, k] == 7].sum() for k in range(3)) / 3
    assert shares[7] == pytest.approx(expected / areas.sum(), rel=1e-4)


def test_intervals_hold_the_truth_as_often_as_they_say(rng):
    held = 0
    for seed in range(200):
        found = metrics.interval(rng.exponential(size=60), rounds=200, seed=seed)
        held += found.low < 1.0 < found.high
    assert 0.86 < held / 200 < 0.99


def test_groups_and_bins(rng):
    values = rng.normal(size=40)
    bins = metrics.in_bins(np.linspace(0, 3.9, 40), np.array([0.0, 1.0, 2.0, 4.0]), " m")
    groups = metrics.by_group(values, {"distance": bins})["distance"]
    assert set(groups) == {"0 to 1 m", "1 to 2 m", "2 to 4 m"}
    degrees = np.repeat(["90 to 135", "0 to 45", "135 to 180", "far"], 10)
    order = list(metrics.by_group(values, {"angle": degrees})["angle"])
    assert order == ["far", "0 to 45", "90 to 135", "135 to 180"]
    assert groups["0 to 1 m"].mean == pytest.approx(values[bins == "0 to 1 m"].mean())
    with pytest.raises(ValueError, match="finite numbers"):
        metrics.interval(np.array([1.0, np.nan]))
