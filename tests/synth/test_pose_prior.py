"""The pose prior against SciPy, its limits, mirrors and kinds of draws, and motion it never saw."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.transform import Rotation
from scipy.special import logsumexp

from jrecon.geometry import rotation
from jrecon.model.formats import load_model
from jrecon.model.parametric import ParametricModel, make_model
from jrecon.model.symmetry import mirrored_pose
from jrecon.synth.pose_prior import (
    PoseConfig,
    limit_residuals,
    limits_prior,
    log_prob,
    pose_prior,
    residuals,
    sample_pose,
    tilt,
    without_orientation,
)
from tests.derivatives import check_derivatives
from tests.quick import quick_jit

SOME = 4000
UP = np.array([0.0, 1.0, 0.0], np.float32)
draw_many = quick_jit(jax.vmap(sample_pose, (None, None, 0)))
density = quick_jit(log_prob)
residual = quick_jit(residuals)


@pytest.fixture(scope="module")
def body() -> ParametricModel:
    return load_model("body", level="2k")


@pytest.fixture(scope="module")
def prior(body):
    return pose_prior(body)


@pytest.fixture(scope="module")
def drawn(prior):
    poses, kinds = draw_many(prior, PoseConfig(), jax.random.split(jax.random.key(0), SOME))
    return np.asarray(poses), np.asarray(kinds)


@pytest.fixture(scope="module")
def chain() -> ParametricModel:
    """A root and two more joints: the middle and one side of a class without motion."""
    limits = np.array([[[-3, -3, -3], [-1, 0, -0.2], [-0.5, -2, 0]],
                       [[3, 3, 3], [2, 0, 0.2], [0.5, 1, 0.1]]])  # fmt: skip
    return make_model(
        np.eye(3), [[0, 1, 2]], joints=np.zeros((3, 3)), parents=(-1, 0, 1),
        joint_names=["root", "neck", "left_ear"], pose_limits=limits, weights=np.ones((3, 1)),
        weight_joints=np.zeros((3, 1), int),
    )  # fmt: skip


def small_prior(model: ParametricModel, rng: np.random.Generator):
    """Two Gaussians over the root and the neck, and their moments."""
    means = rng.normal(scale=0.2, size=(2, 6))
    means[:, [1, 4]] = 0
    factors = np.tril(rng.normal(scale=0.03, size=(2, 6, 6)), -1) + 0.1 * np.eye(6)
    shares = np.array([0.3, 0.7])
    return limits_prior(model, [0, 1], (shares, means, factors)), shares, means, factors


def free_log_density(prior, pose) -> np.ndarray:
    mean, scale = np.asarray(prior.free_mean), np.asarray(prior.free_scale)
    return stats.norm.logpdf(pose, mean, scale)


def test_draws_are_finite_and_inside_the_limits(body, drawn) -> None:
    poses, _ = drawn
    low, high = (np.asarray(bound) for bound in body.pose_limits)
    assert np.isfinite(poses).all()
    assert ((poses >= low - 1e-5) & (poses <= high + 1e-5))[:, 1:].all()


def test_nothing_piles_up_at_the_limits(body, drawn) -> None:
    poses = drawn[0][:, 1:]
    low, high = (np.asarray(bound)[1:] for bound in body.pose_limits)
    width = 0.01 * (high - low)
    near = ((poses < low + width) | (poses > high - width)).mean(0)
    # A fiftieth would lie there if all components were uniform.
    assert near.max() < 0.12 and near.mean() < 0.02


def test_kinds_come_in_their_shares(drawn) -> None:
    config = PoseConfig()
    shares = np.array([config.motion, config.mixed, config.limits, config.hard])
    counts = np.bincount(drawn[1], minlength=4)
    assert stats.chisquare(counts, SOME * shares / shares.sum()).pvalue > 1e-3


def test_the_same_key_is_the_same_pose_in_any_batch(prior, drawn) -> None:
    backwards = jax.random.split(jax.random.key(0), SOME)[::-1]
    poses, kinds = draw_many(prior, PoseConfig(), backwards)
    np.testing.assert_allclose(poses[::-1], drawn[0], atol=1e-6)
    np.testing.assert_array_equal(kinds[::-1], drawn[1])


def test_left_and_right_are_alike(prior, drawn) -> None:
    other = np.asarray(mirrored_pose(prior.mirror, jnp.asarray(drawn[0])))
    np.testing.assert_array_equal(mirrored_pose(prior.mirror, jnp.asarray(other)), drawn[0])
    error = np.sqrt((drawn[0].var(0) + other.var(0)) / SOME) + 1e-6
    assert (np.abs(drawn[0].mean(0) - other.mean(0)) / error).max() < 5


def test_motion_has_the_moments_of_the_mixture(chain, rng) -> None:
    prior, shares, means, factors = small_prior(chain, rng)
    config = PoseConfig(motion=1, mixed=0, limits=0, hard=0, mirror_rate=0.0, spread=1.0)
    poses, _ = draw_many(prior, config, jax.random.split(jax.random.key(1), 20_000))
    got = np.asarray(poses)[:, :2].reshape(-1, 6)
    # The neck cannot turn about y, and its limits about z are close.
    free = [0, 1, 2, 3]
    mean = shares @ means
    spread = means - mean
    expected = np.einsum("k,kde,kfe->df", shares, factors, factors)
    expected += np.einsum("k,kd,ke->de", shares, spread, spread)
    np.testing.assert_allclose(got.mean(0)[free], mean[free], atol=0.01)
    np.testing.assert_allclose(np.cov(got.T)[np.ix_(free, free)], expected[np.ix_(free, free)],
                               atol=0.005)  # fmt: skip
    assert (got[:, 4] == 0).all() and np.abs(got[:, 5]).max() <= 0.2 + 1e-6


def test_log_prob_is_that_of_scipy(chain, rng) -> None:
    prior, shares, means, factors = small_prior(chain, rng)
    pose = rng.normal(scale=0.3, size=(4, 3, 3))
    # Already without heading, so that the mixture sees the numbers themselves.
    pose[:, 0, 1] = 0
    logs = [
        np.log(share) + stats.multivariate_normal(mean, factor @ factor.T).logpdf(
            pose[:, :2].reshape(4, 6))
        for share, mean, factor in zip(shares, means, factors, strict=True)
    ]  # fmt: skip
    ear = free_log_density(prior, pose[:, 2:])
    expected = logsumexp(logs, axis=0) + ear.sum((1, 2))
    np.testing.assert_allclose(density(prior, pose.astype(np.float32)), expected, rtol=1e-4)


def test_residuals_are_the_density_of_one_component(body, prior, drawn) -> None:
    one = limits_prior(
        body, prior.joints, (np.ones(1), np.asarray(prior.means[:1]), np.asarray(prior.factors[:1]))
    )
    poses = drawn[0][:6].reshape(2, 3, -1, 3)
    half = 0.5 * np.sum(np.asarray(residual(one, poses)) ** 2, axis=-1)
    total = half + np.asarray(density(one, poses))
    np.testing.assert_allclose(total, total[0, 0], rtol=1e-4, atol=0.02)
    # Of several components it is the likeliest one's.
    rest = 0.5 * np.sum(np.asarray(residual(prior, poses)) ** 2, axis=-1)
    bound = np.asarray(density(prior, poses)) + rest
    scales = np.log(np.diagonal(np.asarray(prior.whitening), axis1=1, axis2=2)).sum(1)
    assert np.ptp(bound) < np.ptp(scales + np.log(np.asarray(prior.shares))) + np.log(len(scales))


def test_heading_does_not_count_and_tilt_does(prior, drawn, rng) -> None:
    poses = drawn[0][:3]

    @jax.jit
    def moved(poses, turn):
        return poses.at[:, 0].set(rotation.compose(turn, poses[:, 0]))

    for up in (np.array([0.0, 1.0, 0.0]), np.array([0.6, 0.0, -0.8])):
        # Into a frame with another up, and about it.
        into = Rotation.from_rotvec(np.cross([0, 1, 0], up) * np.pi / 2)
        turn = (Rotation.from_rotvec(1.3 * up) * into).as_rotvec().astype(np.float32)
        got = density(prior, moved(poses, np.tile(turn, (3, 1))), up.astype(np.float32))
        np.testing.assert_allclose(got, density(prior, poses, UP), rtol=1e-4, atol=1e-3)
    leaning = poses.copy()
    leaning[:, 0] = [1.0, 0.0, 1.0]
    assert (density(prior, leaning, UP) < density(prior, poses, UP) - 1).any()


def test_tilt_is_the_least_turn_with_the_same_view_of_up() -> None:
    angles = np.array([0.0, 0.2, 0.3, 1.5, 2.9])[:, None]
    lean = (np.array([0.6, 0.0, -0.8]) * angles).astype(np.float32)
    heading = np.tile(np.array([0.0, 2.0, 0.0], np.float32), (5, 1))
    got = jax.jit(lambda a, b: tilt(rotation.compose(a, b)))(heading, lean)
    # Near half a turn it is blunted.
    np.testing.assert_allclose(got[:4], lean[:4], atol=1e-4)
    np.testing.assert_allclose(got[4], lean[4], atol=3e-3)


_tilt = lambda x: tilt(x)


@pytest.mark.parametrize("point", [[0, 0, 0], [0.1, 0.4, 0], [0.5, 1, 0.2], [2.5, 0, 1]])
def test_derivatives_of_tilt(point) -> None:
    check_derivatives(_tilt, np.array(point, float))


def test_tilt_has_finite_derivatives_upside_down() -> None:
    points = jnp.array([[np.pi, 0, 0], [0, 0, np.pi], [3.14, 0, 0]])
    slopes = jax.jit(jax.vmap(jax.jacfwd(tilt)))(points)
    assert np.abs(slopes).max() < 1e3


def test_derivatives_of_the_density(chain, rng) -> None:
    prior = small_prior(chain, rng)[0]
    function = functools.partial(log_prob, prior)
    for point in (np.zeros((3, 3)), rng.normal(scale=0.5, size=(3, 3))):
        check_derivatives(function, point, tolerance=1e-3)


def test_without_orientation_is_the_marginal(chain, rng) -> None:
    prior, shares, means, factors = small_prior(chain, rng)
    marginal = without_orientation(prior)
    assert marginal.joints == (1,)
    pose = rng.normal(scale=0.3, size=(3, 3))
    logs = [
        np.log(share) + stats.multivariate_normal(mean[3:], (factor @ factor.T)[3:, 3:]).logpdf(
            pose[1])
        for share, mean, factor in zip(shares, means, factors, strict=True)
    ]  # fmt: skip
    ear = free_log_density(prior, pose[2:])
    got = density(marginal, pose.astype(np.float32))
    np.testing.assert_allclose(got, logsumexp(logs) + ear.sum(), rtol=1e-4)
    # Any orientation is as good.
    turned = pose.astype(np.float32)
    turned[0] = [1, 2, 3]
    np.testing.assert_allclose(density(marginal, turned), got, rtol=1e-6)


def test_limits_hold_only_what_is_outside(chain) -> None:
    prior = pose_prior(chain)
    pose = jnp.zeros((3, 3)).at[1, 0].set(2.1).at[2, 1].set(-2.2).at[0, 0].set(9.0)
    got = np.asarray(limit_residuals(prior, pose, 0.1))
    expected = np.zeros((3, 3))
    expected[1, 0], expected[2, 1] = 1.0, -2.0
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_class_without_motion_is_drawn_from_its_limits(chain) -> None:
    prior = pose_prior(chain)
    config = dataclasses.replace(PoseConfig(), limits_reach=1.0)
    poses, kinds = draw_many(prior, config, jax.random.split(jax.random.key(0), 20_000))
    poses = np.asarray(poses)[:, 1:]
    assert (np.asarray(kinds) == 2).all()
    low, high = (np.asarray(bound)[1:] for bound in chain.pose_limits)
    assert ((poses >= low) & (poses <= high)).all()
    # What a fit takes them for has their moments; a locked axis keeps a little play.
    np.testing.assert_allclose(poses.mean(0), prior.free_mean, atol=0.02)
    locked = np.asarray(prior.free_scale) == np.float32(0.05)
    np.testing.assert_allclose(poses.std(0)[~locked], prior.free_scale[~locked], rtol=0.03)
    assert density(prior, jnp.zeros((2, 3, 3))).shape == (2,)
    assert residual(prior, jnp.zeros((2, 3, 3))).shape == (2, 6)


def test_a_rigid_class_has_nothing_to_pose(key) -> None:
    prior = pose_prior(make_model(np.eye(3), [[0, 1, 2]]))
    pose, _ = quick_jit(sample_pose)(prior, PoseConfig(), key)
    assert pose.shape == (1, 3)
    np.testing.assert_allclose(density(prior, pose), 0.0, atol=1e-6)


def test_another_skeleton_under_the_body_s_name_is_refused() -> None:
    with pytest.raises(ValueError, match="has no joints"):
        pose_prior(make_model(np.eye(3), [[0, 1, 2]], name="body"))


@pytest.mark.slow
def test_motion_it_never_saw_is_likelier_than_under_one_gaussian(shared_dir, body, prior) -> None:
    from experiments.build_pose_prior import body_vectors, fit, floors, thin, with_mirrored
    from experiments.clips import HELD_OUT, read_clips

    clips = read_clips(shared_dir / "data" / "motion", body)
    vectors = body_vectors(clips)
    known = np.concatenate([v for name, v in vectors.items() if name not in HELD_OUT])
    unseen = thin(np.concatenate([vectors[name] for name in sorted(HELD_OUT)]))
    known = with_mirrored(thin(known), body.joint_names)
    _, means, basis, diagonal = fit(known, floors(body.joint_names), 1, 65, 0.0)
    covariance = basis[0] @ basis[0].T + np.diag(diagonal[0] ** 2)
    single = stats.multivariate_normal(means[0], covariance).logpdf(unseen)
    pose = np.zeros((len(unseen), body.num_joints, 3), np.float32)
    pose[:, : len(prior.joints)] = unseen.reshape(len(unseen), -1, 3)
    # Joints that the mixture leaves out add the same to all.
    free = free_log_density(prior, 0.0).sum()
    ours = np.asarray(density(prior, pose)) - free
    assert ours.mean() > single.mean() + 2
