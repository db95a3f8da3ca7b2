"""Import of Anny: the linear model of a sample, and the package itself where it is installed."""

import dataclasses
import importlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.model.anny import AnnySample, linear_model, read_anny, y_up
from jrecon.model.parametric import Params, pose, zeros
from tests.quick import quick_jit

fast_pose = quick_jit(pose)


@pytest.fixture
def linear_people(rng):
    """People whose vertices and joints really are linear in three numbers, two groups apart."""
    count, v, j, s = 60, 30, 5, 3
    mean, basis = rng.normal(size=(v, 3)), 0.1 * rng.normal(size=(v, 3, s))
    heads, moves = rng.normal(size=(j, 3)), 0.1 * rng.normal(size=(j, 3, s))
    female = np.arange(count) % 2 == 0
    numbers = rng.normal(size=(count, s)) + np.where(female, -1.0, 1.0)[:, None] * [1.0, 0.0, 0.0]
    weights = rng.uniform(size=(v, 2))
    return AnnySample(
        vertices=mean + np.einsum("vas,ns->nva", basis, numbers),
        joints=heads + np.einsum("jas,ns->nja", moves, numbers),
        female=female,
        faces=rng.integers(0, v, size=(20, 3)),
        weights=weights / weights.sum(1, keepdims=True),
        weight_joints=rng.integers(0, j, size=(v, 2)),
        parents=(-1, 0, 1, 1, 3),
        joint_names=("root", "a", "b", "c", "d"),
    )


def coefficients(model, vertices):
    basis = np.asarray(model.shape_basis, np.float64).reshape(-1, model.num_shape)
    offsets = (vertices - np.asarray(model.vertices)).reshape(len(vertices), -1)
    return np.linalg.lstsq(basis, offsets.T, rcond=None)[0].T


def test_linear_people_are_reproduced_with_their_joints(linear_people):
    model = linear_model(linear_people, 3)
    shape = jnp.asarray(coefficients(model, linear_people.vertices), jnp.float32)
    posed = fast_pose(model, dataclasses.replace(zeros(model), shape=shape))
    np.testing.assert_allclose(posed.vertices, linear_people.vertices, atol=1e-5)
    np.testing.assert_allclose(posed.joints, linear_people.joints, atol=1e-5)
    assert (np.abs(shape) <= np.asarray(model.shape_limits[1]) + 1e-4).all()


def test_priors_are_those_of_the_people(linear_people):
    model = linear_model(linear_people, 3)
    shape = coefficients(model, linear_people.vertices)
    groups = dict(zip(model.prior_names, range(3), strict=True))
    np.testing.assert_allclose(model.prior_mean[groups["pooled"]], np.zeros(3), atol=1e-5)
    np.testing.assert_allclose(model.prior_cov[groups["pooled"]], np.eye(3), atol=1e-4)
    for group, mask in (("female", linear_people.female), ("male", ~linear_people.female)):
        np.testing.assert_allclose(
            model.prior_mean[groups[group]], shape[mask].mean(0), rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(model.prior_cov[groups[group]], np.cov(shape[mask].T), atol=1e-3)


def test_more_components_than_the_people_have_are_refused(linear_people):
    with pytest.raises(ValueError, match="got 4, these people vary in 3 directions"):
        linear_model(linear_people, 4)
    with pytest.raises(ValueError, match="num_shape: got 9, need 1..4"):
        read_anny(9, people=5)


def test_frames_keep_left_and_right():
    np.testing.assert_array_equal(y_up(np.eye(3)), [[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    assert np.linalg.det(y_up(np.eye(3))) == 1


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "anny", None)
    with pytest.raises(ImportError, match="pip install 'anny>=0.6'"):
        read_anny()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_anny_itself_agrees(rng):
    """New people in random poses, against Anny's own forward pass, in millimetres."""
    for name in ("torch", "anny"):
        pytest.importorskip(name, reason=f"optional package {name} is not installed")
    model = read_anny(32, people=300)
    anny, torch = importlib.import_module("anny"), importlib.import_module("torch")
    roma = importlib.import_module("roma")
    body = anny.Anny(skinning_method="lbs")
    find = model.joint_names.index
    joints = np.asarray(model.joints)
    assert joints[find("foot.L"), 0] > 0.05 and joints[find("head"), 1] > 0.4
    assert joints[find("toe1-1.L"), 2] > joints[find("foot.L"), 2] + 0.05

    count, number = 6, lambda value: torch.tensor(value, dtype=body.dtype)
    years, sexes = torch.distributions.Uniform, torch.distributions.Bernoulli
    torch.manual_seed(7)
    distribution = importlib.import_module("anny.shape_distribution").SimpleShapeDistribution
    adults = distribution(body, years(number(18.0), number(80.0)), sexes(number(0.5)))
    _, phenotypes = adults.sample(count)
    angles = 0.25 * rng.normal(size=(count, model.num_joints, 3))
    deltas = torch.eye(4, dtype=body.dtype).repeat(count, model.num_joints, 1, 1)
    deltas[..., :3, :3] = roma.rotvec_to_rotmat(torch.tensor(angles))
    deltas[:, 0, :3, 3] = torch.tensor(rng.normal(size=(count, 3)))
    with torch.no_grad():
        rest = body(phenotype_kwargs=phenotypes)["vertices"].numpy()
        moved = body(pose_parameters=deltas, phenotype_kwargs=phenotypes)["vertices"].numpy()
    parameters = (
        coefficients(model, y_up(rest)),
        y_up(angles),
        y_up(deltas[:, 0, :3, 3].numpy()),
    )
    params = Params(*(jnp.asarray(value, jnp.float32) for value in parameters))
    straight = fast_pose(model, dataclasses.replace(params, pose=0 * params.pose)).vertices
    straight = np.asarray(straight) - np.asarray(params.translation)[:, None]
    error = 1e3 * np.linalg.norm(straight - y_up(rest), axis=-1)
    assert error.mean() < 0.15
    posed = np.asarray(fast_pose(model, params).vertices)
    error = 1e3 * np.linalg.norm(posed - y_up(moved), axis=-1)
    assert error.mean() < 0.5 and np.percentile(error, 99) < 5
