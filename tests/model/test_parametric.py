"""The parametric model against an independent float64 formula, and its own invariances."""

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.geometry import rotation
from jrecon.model.jacobian import jacobian, step_jacobian
from jrecon.model.parametric import (
    Params,
    at_level,
    from_vector,
    make_model,
    pose,
    select_vertices,
    sparse_weights,
    to_vector,
    zeros,
)
from tests.model.small_models import random_model, random_params, reference_pose
from tests.quick import quick_jit

# Compiled once per structure: op-by-op dispatch would compile every primitive on its own.
fast_pose = quick_jit(pose)
fast_jacobian = quick_jit(jacobian)

CORRECTIVES = ["none", "rotation", "quaternion"]


def params_of(model, seed=1, batch=()):
    return Params(*map(jnp.asarray, random_params(model, seed, batch)))


@pytest.mark.parametrize("corrective", CORRECTIVES)
def test_pose_equals_the_published_formula(corrective):
    model = random_model(corrective=corrective)
    shape, angles, translation = random_params(model)
    # Beyond half a turn, where q and -q part: the published feature keeps the sign of cos(angle/2).
    angles[3] *= 3.5 / np.linalg.norm(angles[3])
    posed = fast_pose(
        model, Params(jnp.asarray(shape), jnp.asarray(angles), jnp.asarray(translation))
    )
    vertices, joints = reference_pose(model, shape, angles, translation)
    np.testing.assert_allclose(posed.vertices, vertices, atol=2e-6)
    np.testing.assert_allclose(posed.joints, joints, atol=2e-6)
    np.testing.assert_allclose(posed.transforms[:, :3, 3], joints, atol=2e-6)


@pytest.mark.parametrize("batch", [(2,), (1, 2)])
def test_batch_equals_loop(batch):
    model = random_model()
    params = params_of(model, batch=batch)
    together = fast_pose(model, params)
    for index in np.ndindex(*batch):
        one = fast_pose(
            model, Params(params.shape[index], params.pose[index], params.translation[index])
        )
        for got, want in zip(jax.tree.leaves(together), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(got[index], want, atol=2e-6)


@pytest.mark.slow
def test_jit_equals_no_jit():
    """Operation by operation, each compiled by itself, against optimised code."""
    model = random_model()
    params = params_of(model)
    plain = inspect.unwrap(pose)(model, params)
    for got, want in zip(jax.tree.leaves(pose(model, params)), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-6)


def test_one_shape_serves_many_poses():
    model = random_model()
    many = params_of(model, batch=(3,))
    shared = dataclasses.replace(many, shape=many.shape[0])
    repeated = dataclasses.replace(many, shape=jnp.broadcast_to(many.shape[0], many.shape.shape))
    got, want = fast_pose(model, shared), fast_pose(model, repeated)
    np.testing.assert_allclose(got.vertices, want.vertices, atol=2e-6)


def test_orientation_turns_about_the_root_joint():
    model = random_model(corrective="none")
    params = params_of(model)
    turned = dataclasses.replace(params, pose=params.pose.at[0].set(jnp.array([0.0, 0.0, jnp.pi])))
    straight = dataclasses.replace(params, pose=params.pose.at[0].set(0.0))
    root = fast_pose(model, straight).joints[0]
    want = (fast_pose(model, straight).vertices - root[None]) * jnp.array([[-1.0, -1.0, 1.0]])
    np.testing.assert_allclose(fast_pose(model, turned).vertices, want + root[None], atol=3e-6)


def test_vector_round_trip():
    model = random_model()
    params = params_of(model, batch=(2,))
    back = from_vector(model, to_vector(params))
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert to_vector(params).shape[-1] == len(model.parameter_names)


@pytest.mark.parametrize("corrective", CORRECTIVES)
@pytest.mark.parametrize("at_rest", [False, True])
def test_analytic_jacobian_equals_forward_mode(corrective, at_rest):
    model = random_model(corrective=corrective)
    params = zeros(model) if at_rest else params_of(model)
    by_vector = lambda vector: pose(model, from_vector(model, vector)).vertices
    want = quick_jit(jax.jacfwd(by_vector))(to_vector(params))
    got = fast_jacobian(model, params)
    assert np.isfinite(want).all()
    np.testing.assert_allclose(got, want, atol=5e-6)


@pytest.mark.parametrize("corrective", CORRECTIVES)
def test_the_jacobian_of_a_step_equals_forward_mode(corrective):
    """Of some joints, not in order, and of some coefficients."""
    model = random_model(corrective=corrective)
    joints, shapes, params = (3, 0, 1), 2, params_of(model)

    def stepped(step):
        turns = step[shapes:-3].reshape(-1, 3)
        turned = rotation.compose(turns, params.pose[np.array(joints)])
        moved = Params(
            params.shape.at[:shapes].add(step[:shapes]),
            params.pose.at[np.array(joints)].set(turned),
            params.translation + step[-3:],
        )
        return pose(model, moved).vertices

    want = quick_jit(jax.jacfwd(stepped))(jnp.zeros(shapes + 3 * len(joints) + 3))
    got = quick_jit(step_jacobian, static_argnames=("joints", "shapes"))(
        model, params, joints=joints, shapes=shapes
    )
    np.testing.assert_allclose(got, want, atol=5e-6)


def test_jacobian_equals_central_differences_of_the_reference():
    model = random_model(num_vertices=9)
    shape, angles, translation = random_params(model)
    got = fast_jacobian(model, Params(*map(jnp.asarray, (shape, angles, translation))))
    vector = np.concatenate([shape, angles.ravel(), translation]).astype(np.float64)
    s, step = model.num_shape, 1e-5
    for column in range(len(vector)):
        ends = []
        for sign in (1, -1):
            moved = vector.copy()
            moved[column] += sign * step
            parts = moved[:s], moved[s:-3].reshape(-1, 3), moved[-3:]
            ends.append(reference_pose(model, *parts)[0])
        slope = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(got[:, :, column], slope, atol=1e-5)


def test_reverse_mode_equals_forward_mode():
    model = random_model()
    params = params_of(model)
    pull = jnp.asarray(np.random.default_rng(2).normal(size=model.vertices.shape), jnp.float32)
    loss = lambda one: jnp.vdot(pose(model, one).vertices, pull)
    slope = quick_jit(jax.grad(loss))(params)
    # Constants have none, and the result is a point of the same space.
    assert isinstance(slope, Params)
    reverse = to_vector(slope)
    forward = jnp.einsum("va,vaq->q", pull, fast_jacobian(model, params))
    np.testing.assert_allclose(reverse, forward, rtol=1e-4, atol=1e-4)


def test_derivatives_are_finite_at_the_singular_rotations():
    model = random_model()
    half_turn = jnp.zeros((model.num_joints, 3)).at[:, 0].set(jnp.pi)
    first = quick_jit(jax.jacfwd(lambda one: pose(model, one).vertices))
    second = quick_jit(jax.grad(lambda one: jnp.sum(jacobian(model, one) ** 2)))
    for angles in (jnp.zeros_like(half_turn), half_turn, 2 * half_turn):
        params = dataclasses.replace(params_of(model), pose=angles)
        for slope in (first(params), second(params)):
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_jacobian_of_chosen_vertices_and_of_a_batch():
    model = random_model()
    params = params_of(model, batch=(2,))
    chosen = jnp.array([5, 0, 5])
    full = fast_jacobian(model, params)
    np.testing.assert_allclose(fast_jacobian(model, params, chosen), full[:, chosen], atol=1e-6)
    one = fast_jacobian(model, jax.tree.map(lambda leaf: leaf[1], params))
    np.testing.assert_allclose(full[1], one, atol=1e-6)


def test_levels_share_parameters():
    model = random_model()
    coarse = at_level(model, "coarse")
    params = params_of(model)
    n = len(coarse.vertices)
    got, want = fast_pose(coarse, params).vertices, fast_pose(model, params).vertices[:n]
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert coarse.levels == (("coarse", n),) and int(coarse.faces.max()) < n
    with pytest.raises(ValueError, match="need one of full, coarse"):
        at_level(model, "middle")


def test_selected_vertices_follow_the_full_model():
    model = random_model()
    params = params_of(model)
    chosen = np.array([3, 1])
    got = fast_pose(select_vertices(model, chosen), params).vertices
    np.testing.assert_allclose(got, fast_pose(model, params).vertices[chosen], atol=1e-6)


def test_a_rigid_class_without_skin_or_shape():
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    model = make_model(corners, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]))
    assert model.num_joints == 1 and model.num_shape == 0
    quarter = dataclasses.replace(
        zeros(model), pose=jnp.array([[0.0, 0.0, jnp.pi / 2]]), translation=jnp.ones(3)
    )
    want = np.stack([1 - corners[:, 1], 1 + corners[:, 0], 1 + corners[:, 2]], axis=1)
    np.testing.assert_allclose(fast_pose(model, quarter).vertices, want, atol=1e-6)
    assert fast_jacobian(model, quarter).shape == (4, 3, 6)


def test_sparse_weights_keep_their_sum_and_order():
    dense = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]])
    weights, joints = sparse_weights(dense, limit=2)
    np.testing.assert_allclose(weights, [[0.625, 0.375], [1.0, 0.0]], atol=1e-6)
    np.testing.assert_array_equal(joints, [[0, 1], [1, 0]])


GOOD: dict[str, Any] = dict(
    vertices=np.eye(4, 3),
    faces=np.array([[0, 1, 2]]),
    parents=(-1, 0),
    weights=np.full((4, 2), 0.5),
)

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "flat vertices": (dict(vertices=np.zeros(12)), r"got shape \(12,\), need \(v, 3\)"),
    "NaN vertices": (dict(vertices=np.full((4, 3), np.nan)), "12 of 12 values are NaN"),
    "faces outside": (dict(faces=np.array([[0, 1, 4]])), "indices 0..4, need 0..3"),
    "float faces": (dict(faces=np.zeros((1, 3))), "need \\(f, 3\\) integers"),
    "quads": (dict(faces=np.zeros((1, 4), int)), "triangulate"),
    "no root": (dict(parents=(0, 0)), "joint 0 is the root"),
    "two roots": (dict(parents=(-1, -1)), "second root"),
    "cycle": (
        dict(parents=(-1, 2, 1), weights=np.full((4, 3), 1 / 3)),
        "break any cycle",
    ),
    "weight sum": (dict(weights=np.full((4, 2), 0.4)), "sums to 0.8, need 1"),
    "negative weight": (dict(weights=np.tile([1.5, -0.5], (4, 1))), "need weights >= 0"),
    "NaN weight": (dict(weights=np.full((4, 2), np.nan)), "NaN or infinite"),
    "weights of another mesh": (dict(weights=np.full((5, 2), 0.5)), r"weights: got shape \(5"),
    "weights of another rig": (
        dict(weights=np.ones((4, 1)), weight_joints=np.full((4, 1), 7)),
        "got joint 7, need 0..1",
    ),
    "joint count": (dict(joints=np.zeros((3, 3))), "joints: got shape"),
    "basis of another mesh": (dict(shape_basis=np.zeros((9, 3, 2))), "shape_basis: got shape"),
    "names": (dict(joint_names=("a", "a")), "occur twice"),
    "name count": (dict(joint_names=("a",)), "got 1 names, need 2"),
    "limits": (dict(pose_limits=np.ones((2, 2, 3)) * [[[1]], [[-1]]]), "swap them"),
    "corrective kind": (dict(corrective="cubic"), "need one of none, rotation"),
    "corrective width": (
        dict(corrective="rotation", corrective_joints=(1,)),
        "got 0 features, need 9",
    ),
    "levels": (dict(levels=[("full", 4), ("big", 9)], level_faces={}), "one face array"),
    "prior": (
        dict(shape_basis=np.zeros((4, 3, 1)), prior_cov=-np.ones((1, 1, 1))),
        "negative eigenvalue",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_explained(case):
    changes, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        make_model(**{**GOOD, **changes})


def test_good_input_passes():
    assert make_model(**GOOD).num_joints == 2
