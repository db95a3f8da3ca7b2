"""The shape prior against SciPy and brute force."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jrecon.model.formats import load_model
from jrecon.model.parametric import ParametricModel, make_model
from jrecon.synth.prior import sample_shape, shape_log_prob, shape_prior, shape_residuals
from tests.derivatives import check_derivatives
from tests.quick import quick_jit

COVARIANCE = np.array([[1.0, 0.6, 0.2], [0.6, 1.5, -0.3], [0.2, -0.3, 0.8]])
MEAN = np.array([[0.5, 0.0, -0.2], [-0.5, 0.3, 0.0]])
# Its type stubs take a covariance for an int.
gaussian: Any = stats.multivariate_normal
draw_many = quick_jit(jax.vmap(sample_shape, (None, 0)))
density = quick_jit(shape_log_prob)
residuals = quick_jit(shape_residuals)


@pytest.fixture(scope="module")
def model() -> ParametricModel:
    """Three coefficients that hang together, in two groups."""
    return make_model(
        np.eye(3), [[0, 1, 2]], shape_basis=np.zeros((3, 3, 3)),
        shape_names=["tall", "wide", "old"], shape_limits=[[-2.0, -2.0, -1.0], [2.0, 2.5, 1.5]],
        prior_names=["a", "b"], prior_mean=MEAN, prior_cov=np.stack([COVARIANCE, 0.5 * COVARIANCE]),
    )  # fmt: skip


@pytest.mark.parametrize(
    "ranges", [{}, {"wide": (0.5, 0.9)}, {"old": (-1.0, -0.6), "tall": (1.0, 1.2)}]
)
def test_draws_are_the_truncated_gaussian(model, rng, key, ranges) -> None:
    prior = shape_prior(model, groups=["a"], ranges=ranges)
    drawn = np.asarray(draw_many(prior, jax.random.split(key, 20_000)))
    low, high = (np.array(bound) for bound in model.shape_limits)
    for name, (least, most) in ranges.items():
        index = model.shape_names.index(name)
        low[index], high[index] = least, most
    assert ((drawn >= low) & (drawn <= high)).all()
    brute = rng.multivariate_normal(MEAN[0], COVARIANCE, size=600_000)
    brute = brute[((brute >= low) & (brute <= high)).all(1)]
    for column in range(3):
        distance = stats.ks_2samp(drawn[:, column], brute[:, column])[0]
        # The 99.9 % point of the statistic of two samples.
        assert distance < 1.95 * np.sqrt(1 / len(drawn) + 1 / len(brute))
    np.testing.assert_allclose(np.corrcoef(drawn.T), np.corrcoef(brute.T), atol=0.04)


def test_nothing_piles_up_at_the_limits(model, key) -> None:
    drawn = np.asarray(draw_many(shape_prior(model), jax.random.split(key, 5_000)))
    assert (drawn == np.array(model.shape_limits[0])).mean() < 1e-3
    assert (drawn == np.array(model.shape_limits[1])).mean() < 1e-3


def test_groups_come_in_their_shares(model, key) -> None:
    prior = shape_prior(model, shares=[3.0, 1.0], ranges={"tall": (-1.0, 1.0)})
    one, other = (shape_prior(model, groups=[g], ranges={"tall": (-1.0, 1.0)}) for g in "ab")
    keys = jax.random.split(key, 20_000)
    mixed, a, b = (np.asarray(draw_many(p, keys)).mean(0) for p in (prior, one, other))
    np.testing.assert_allclose(mixed, 0.75 * a + 0.25 * b, atol=0.03)


def test_log_prob_is_that_of_scipy(model, rng) -> None:
    shape = rng.normal(size=(5, 3)) * 2
    got = density(shape_prior(model, shares=[1.0, 3.0]), jnp.asarray(shape, jnp.float32))
    one = gaussian.logpdf(shape, MEAN[0], COVARIANCE)
    other = gaussian.logpdf(shape, MEAN[1], 0.5 * COVARIANCE)
    expected = np.log(0.25 * np.exp(one) + 0.75 * np.exp(other))
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_residuals_are_the_density_of_one_group(model, rng) -> None:
    prior = shape_prior(model, groups=["b"])
    shape = jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32)
    half = 0.5 * np.sum(np.asarray(residuals(prior, shape)) ** 2, axis=-1)
    total = half + np.asarray(density(prior, shape))
    np.testing.assert_allclose(total, total[0, 0], rtol=1e-4)


def test_derivatives(model) -> None:
    prior = shape_prior(model)
    function = lambda x: shape_log_prob(prior, x)
    for point in (np.zeros(3), np.array([1.0, -8.0, 5.0])):
        check_derivatives(function, point)


def test_a_class_without_shape(key) -> None:
    prior = shape_prior(make_model(np.eye(3), [[0, 1, 2]]))
    assert sample_shape(prior, key).shape == (0,)
    assert residuals(prior, jnp.zeros((2, 0))).shape == (2, 0)
    np.testing.assert_allclose(density(prior, jnp.zeros(0)), 0.0, atol=1e-6)


def test_the_body_is_drawn_within_its_limits_with_the_prior_s_moments(key) -> None:
    body = load_model("body", level="2k")
    drawn = np.asarray(draw_many(shape_prior(body, groups=["female"]), jax.random.split(key, 4000)))
    low, high = (np.asarray(bound) for bound in body.shape_limits)
    assert ((drawn >= low) & (drawn <= high)).all()
    group = body.prior_names.index("female")
    mean, scale = np.asarray(body.prior_mean[group]), np.sqrt(np.diagonal(body.prior_cov[group]))
    assert np.abs((drawn.mean(0) - mean) / scale).max() < 0.3
    assert np.abs(drawn.std(0) / scale - 1).max() < 0.3


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(groups=["c"]), "groups: got"),
        (dict(shares=[1.0]), "shares: got"),
        (dict(ranges={"thin": (0, 1)}), "need one of"),
        (dict(ranges={"tall": (1, 0)}), "low < high"),
        (dict(ranges={"tall": (0, 9)}), "within the limits"),
    ],
)
def test_what_is_refused(model, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        shape_prior(model, **arguments)
