"""Rotations against SciPy in float64, and their derivatives at the singular points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jrecon.geometry import rotation
from tests.derivatives import check_derivatives

BATCHES = [(), (2,), (1, 2)]
ANGLES = [0.0, 1e-7, 1e-4, 0.1, 0.3161, 0.3163, 1.0, 3.0, np.pi - 1e-4, np.pi]


def random_vectors(rng, batch, length=2.0):
    direction = rng.normal(size=(*batch, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    return (direction * rng.uniform(0, length, size=(*batch, 1))).astype(np.float32)


def of_angle(angle):
    return np.array([0.36, -0.48, 0.8]) * angle


@pytest.mark.parametrize("batch", BATCHES)
def test_exp_and_log_equal_scipy(rng, batch):
    vectors = random_vectors(rng, batch)
    truth = Rotation.from_rotvec(vectors.reshape(-1, 3))
    matrices = rotation.exp(vectors)
    assert matrices.shape == (*batch, 3, 3)
    np.testing.assert_allclose(matrices.reshape(-1, 3, 3), truth.as_matrix(), atol=1e-6)
    np.testing.assert_allclose(rotation.log(matrices), vectors, atol=2e-6)


@pytest.mark.parametrize("angle", ANGLES)
def test_exp_is_accurate_at_every_angle(angle):
    vector = of_angle(angle).astype(np.float32)
    truth = Rotation.from_rotvec(vector.astype(np.float64)).as_matrix()
    np.testing.assert_allclose(rotation.exp(vector), truth, atol=3e-7)
    back = np.asarray(rotation.log(rotation.exp(vector)))
    # Half a turn has two axes; any other angle has one.
    error = min(np.abs(back - vector).max(), np.abs(back + vector).max() if angle > 3.14 else 9)
    assert error < 3e-6 if angle < 3.1 else error < 1e-3


@pytest.mark.parametrize("batch", BATCHES)
def test_quaternions_equal_scipy(rng, batch):
    vectors = random_vectors(rng, batch, 3.1)
    truth = Rotation.from_rotvec(vectors.reshape(-1, 3)).as_quat(canonical=True)
    wxyz = np.roll(truth, 1, axis=-1).reshape(*batch, 4)
    matrices = rotation.exp(vectors)
    np.testing.assert_allclose(rotation.to_quaternion(matrices), wxyz, atol=2e-6)
    np.testing.assert_allclose(rotation.quaternion_from_axis_angle(vectors), wxyz, atol=1e-6)
    np.testing.assert_allclose(rotation.from_quaternion(wxyz), matrices, atol=2e-6)
    np.testing.assert_allclose(rotation.from_quaternion(-3 * wxyz), matrices, atol=2e-6)
    np.testing.assert_allclose(rotation.axis_angle_from_quaternion(-wxyz), vectors, atol=4e-6)


def test_every_branch_of_the_matrix_to_quaternion_formula():
    for axis in np.eye(3):
        for angle in (0.0, 1.0, 3.0, np.pi):
            matrix = Rotation.from_rotvec(axis * angle).as_matrix()
            got = rotation.from_quaternion(rotation.to_quaternion(jnp.asarray(matrix)))
            np.testing.assert_allclose(got, matrix, atol=1e-6)


@pytest.mark.parametrize("batch", BATCHES)
def test_six_numbers_round_trip(rng, batch):
    matrices = rotation.exp(random_vectors(rng, batch, 3.0))
    np.testing.assert_allclose(rotation.from_6d(rotation.to_6d(matrices)), matrices, atol=1e-6)


def test_six_arbitrary_numbers_give_a_rotation(rng):
    matrices = np.asarray(rotation.from_6d(rng.normal(size=(50, 6)).astype(np.float32)))
    product = matrices @ np.swapaxes(matrices, -1, -2)
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(3), product.shape), atol=2e-6)
    np.testing.assert_allclose(np.linalg.det(matrices), 1.0, atol=1e-5)


def test_angle_between_is_the_angle(rng):
    base = rotation.exp(random_vectors(rng, (5,)))
    angles = np.array([0.0, 1e-3, 1.0, 3.0, np.pi], np.float32)
    turn = rotation.exp(jnp.asarray(angles[:, None] * np.array([[0.6, 0.0, 0.8]])))
    got = rotation.angle_between(base, jnp.matmul(base, turn))
    np.testing.assert_allclose(got, angles, atol=1e-3)


@pytest.mark.parametrize("angle", ANGLES)
def test_left_jacobian_is_the_derivative_of_exp(angle):
    vector = jnp.asarray(of_angle(angle), jnp.float32)
    slope = jax.jacfwd(rotation.exp)(vector)
    tangent = rotation.left_jacobian(vector)
    want = jnp.einsum("abk,bc->ack", jax.vmap(rotation.hat, 1, 2)(tangent), rotation.exp(vector))
    np.testing.assert_allclose(slope, want, atol=2e-6)


@pytest.mark.parametrize("angle", ANGLES)
def test_derivatives_of_exp_and_quaternion(angle):
    check_derivatives(rotation.exp, of_angle(angle))
    check_derivatives(rotation.left_jacobian, of_angle(angle))
    check_derivatives(rotation.quaternion_from_axis_angle, of_angle(angle))


@pytest.mark.parametrize("angle", ANGLES)
def test_derivatives_of_log_are_finite_everywhere_and_right_below_half_a_turn(angle):
    matrix = Rotation.from_rotvec(of_angle(angle)).as_matrix()
    check_derivatives(rotation.log, matrix, numerical=False)
    round_trip = lambda vector: rotation.log(rotation.exp(vector))  # noqa: E731
    if angle < 3.1:
        slope = jax.jacfwd(round_trip)(jnp.asarray(of_angle(angle), jnp.float32))
        np.testing.assert_allclose(slope, np.eye(3), atol=2e-3 if angle > 2 else 1e-4)


@pytest.mark.parametrize("degenerate", [np.zeros(6), np.ones(6)])
def test_degenerate_six_numbers_stay_finite(degenerate):
    columns = jnp.asarray(degenerate, jnp.float32)
    assert np.isfinite(rotation.from_6d(columns)).all()
    assert np.isfinite(jax.jacfwd(rotation.from_6d)(columns)).all()
    assert np.isfinite(jax.jacrev(rotation.from_6d)(columns)).all()


def test_second_derivatives_are_finite_at_zero():
    for function in (rotation.exp, rotation.quaternion_from_axis_angle):
        curve = jax.jit(jax.hessian(lambda v, f=function: jnp.sum(f(v))))(jnp.zeros(3))
        assert np.isfinite(curve).all()
    equal = jax.grad(lambda v: rotation.angle_between(rotation.exp(v), jnp.eye(3)))(jnp.zeros(3))
    assert np.isfinite(equal).all()
