"""Rotations against SciPy in float64, and their derivatives at the singular points."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.spatial.transform import Rotation

from jrecon.geometry import rotation
from tests.derivatives import check_derivatives

# One compilation for each function and batch shape, instead of one for each operation.
compiled = types.SimpleNamespace(
    **{name: jax.jit(f) for name, f in vars(rotation).items() if isinstance(f, types.FunctionType)}
)
BATCHES = [(), (2,), (1, 2)]
# With both sides of every switch from series to closed form.
ANGLES = [0.0, 1e-7, 1e-4, 0.1, 0.61, 0.63, 0.9999, 1.0001, 3.0, np.pi - 1e-4, np.pi]


def random_vectors(rng, batch, length=2.0):
    direction = rng.normal(size=(*batch, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    return (direction * rng.uniform(0, length, size=(*batch, 1))).astype(np.float32)


def of_angle(angle):
    return np.array([0.36, -0.48, 0.8]) * angle


def round_trip(vector):
    return rotation.log(rotation.exp(vector))


SLOPE_OF_EXP = jax.jit(jax.jacfwd(rotation.exp))
SLOPE_OF_LOG_EXP = jax.jit(jax.jacfwd(round_trip))
SLOPE_OF_STEP = jax.jit(lambda vector: jax.jacfwd(rotation.compose)(jnp.zeros(3), vector))


@pytest.mark.parametrize("batch", BATCHES)
def test_exp_and_log_equal_scipy(rng, batch):
    vectors = random_vectors(rng, batch)
    truth = Rotation.from_rotvec(vectors.reshape(-1, 3))
    matrices = compiled.exp(vectors)
    assert matrices.shape == (*batch, 3, 3)
    np.testing.assert_allclose(matrices.reshape(-1, 3, 3), truth.as_matrix(), atol=1e-6)
    np.testing.assert_allclose(compiled.log(matrices), vectors, atol=2e-6)


@pytest.mark.parametrize("angle", ANGLES)
def test_exp_is_accurate_at_every_angle(angle):
    vector = of_angle(angle).astype(np.float32)
    truth = Rotation.from_rotvec(vector.astype(np.float64)).as_matrix()
    np.testing.assert_allclose(compiled.exp(vector), truth, atol=3e-7)
    back = np.asarray(compiled.log(compiled.exp(vector)))
    # Half a turn has two axes; any other angle has one.
    error = min(np.abs(back - vector).max(), np.abs(back + vector).max() if angle > 3.14 else 9)
    assert error < 3e-6 if angle < 3.1 else error < 1e-3


@pytest.mark.parametrize("batch", BATCHES)
def test_quaternions_equal_scipy(rng, batch):
    vectors = random_vectors(rng, batch, 3.1)
    truth = Rotation.from_rotvec(vectors.reshape(-1, 3)).as_quat(canonical=True)
    wxyz = np.roll(truth, 1, axis=-1).reshape(*batch, 4)
    matrices = compiled.exp(vectors)
    np.testing.assert_allclose(compiled.to_quaternion(matrices), wxyz, atol=2e-6)
    np.testing.assert_allclose(compiled.quaternion_from_axis_angle(vectors), wxyz, atol=1e-6)
    np.testing.assert_allclose(compiled.from_quaternion(wxyz), matrices, atol=2e-6)
    np.testing.assert_allclose(compiled.from_quaternion(-3 * wxyz), matrices, atol=2e-6)
    np.testing.assert_allclose(compiled.axis_angle_from_quaternion(-wxyz), vectors, atol=4e-6)


def test_every_branch_of_the_matrix_to_quaternion_formula():
    for axis in np.eye(3):
        for angle in (0.0, 1.0, 3.0, np.pi):
            matrix = Rotation.from_rotvec(axis * angle).as_matrix()
            got = compiled.from_quaternion(compiled.to_quaternion(jnp.asarray(matrix)))
            np.testing.assert_allclose(got, matrix, atol=1e-6)


@pytest.mark.parametrize("batch", BATCHES)
def test_six_numbers_round_trip(rng, batch):
    matrices = compiled.exp(random_vectors(rng, batch, 3.0))
    np.testing.assert_allclose(compiled.from_6d(compiled.to_6d(matrices)), matrices, atol=1e-6)


def test_six_arbitrary_numbers_give_a_rotation(rng):
    matrices = np.asarray(compiled.from_6d(rng.normal(size=(50, 6)).astype(np.float32)))
    product = matrices @ np.swapaxes(matrices, -1, -2)
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(3), product.shape), atol=2e-6)
    np.testing.assert_allclose(np.linalg.det(matrices), 1.0, atol=1e-5)


def test_angle_between_is_the_angle(rng):
    base = compiled.exp(random_vectors(rng, (5,)))
    angles = np.array([0.0, 1e-3, 1.0, 3.0, np.pi], np.float32)
    turn = compiled.exp(jnp.asarray(angles[:, None] * np.array([[0.6, 0.0, 0.8]], np.float32)))
    got = compiled.angle_between(base, jnp.matmul(base, turn))
    np.testing.assert_allclose(got, angles, atol=2e-6)


@pytest.mark.parametrize("batch", BATCHES)
def test_compose_and_multiply_equal_scipy(rng, batch):
    outer, inner = random_vectors(rng, batch, 3.1), random_vectors(rng, batch, 6.0)
    first, second = (Rotation.from_rotvec(v.reshape(-1, 3)) for v in (outer, inner))
    got = compiled.compose(outer, inner)
    assert got.shape == (*batch, 3)
    truth = (first * second).as_rotvec()
    np.testing.assert_allclose(got, truth.reshape(*batch, 3), atol=5e-6)
    quaternions = (compiled.quaternion_from_axis_angle(v) for v in (outer, inner))
    matrices = compiled.from_quaternion(compiled.multiply(*quaternions))
    truth = (first * second).as_matrix()
    np.testing.assert_allclose(matrices, truth.reshape(*batch, 3, 3), atol=2e-6)


def test_a_quaternion_of_any_length_and_sign_is_a_rotation(rng):
    vectors = random_vectors(rng, (20,), 3.1)
    quaternions = compiled.quaternion_from_axis_angle(vectors)
    for length in (-1e3, 1e-3):
        got = compiled.axis_angle_from_quaternion(length * quaternions)
        np.testing.assert_allclose(got, vectors, atol=5e-6)


@given(st.tuples(*3 * [st.floats(-1, 1, width=32)]), st.floats(-7, 0.79))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_exp_and_log_are_exact_to_rounding_at_any_scale(direction, exponent):
    length = np.linalg.norm(direction)
    vector = np.float32(np.array(direction) / (length or 1.0) * 10**exponent)
    truth = Rotation.from_rotvec(vector.astype(np.float64))
    np.testing.assert_allclose(compiled.exp(vector), truth.as_matrix(), rtol=2e-7, atol=5e-7)
    if truth.magnitude() < 3.1:
        # Relative to the size of the vector: tiny rotations keep all their digits.
        np.testing.assert_allclose(
            compiled.log(compiled.exp(vector)),
            truth.as_rotvec(),
            rtol=0,
            atol=2e-6 * truth.magnitude() + 1e-30,
        )


@pytest.mark.parametrize("axis", [*np.eye(3), [0.36, 0.48, 0.8], [0.36, 0.48, -0.8]])
def test_log_at_half_a_turn_takes_the_documented_branch(axis):
    axis = np.asarray(axis)
    matrix = np.asarray(2 * np.outer(axis, axis) - np.eye(3), np.float32)
    axis = axis * np.sign(axis[np.abs(axis).argmax()])
    np.testing.assert_allclose(compiled.log(matrix), np.pi * axis, atol=2e-6)


@pytest.mark.parametrize("angle", ANGLES)
def test_left_jacobian_is_the_derivative_of_exp(angle):
    vector = jnp.asarray(of_angle(angle), jnp.float32)
    slope = SLOPE_OF_EXP(vector)
    tangent = compiled.left_jacobian(vector)
    want = jnp.einsum("kab,bc->ack", compiled.hat(tangent.T), compiled.exp(vector))
    np.testing.assert_allclose(slope, want, atol=1e-6)
    inverse = compiled.left_jacobian_inverse(vector)
    np.testing.assert_allclose(inverse, np.linalg.inv(tangent), atol=2e-6)


@pytest.mark.parametrize("angle", ANGLES[:-2])
def test_the_inverse_jacobian_is_the_derivative_of_a_step(angle):
    vector = jnp.asarray(of_angle(angle), jnp.float32)
    slope = SLOPE_OF_STEP(vector)
    np.testing.assert_allclose(slope, compiled.left_jacobian_inverse(vector), atol=1e-5)


@pytest.mark.parametrize("angle", ANGLES)
def test_derivatives_are_right_at_every_angle(angle):
    for function in (
        rotation.exp,
        rotation.left_jacobian,
        rotation.left_jacobian_inverse,
        rotation.quaternion_from_axis_angle,
    ):
        check_derivatives(function, of_angle(angle))
    quaternion = np.array([np.cos(angle / 2), *(of_angle(np.sin(angle / 2)))])
    # At half a turn w changes sign, and the vector jumps.
    check_derivatives(rotation.axis_angle_from_quaternion, quaternion, numerical=angle < 3.1)
    check_derivatives(rotation.from_quaternion, quaternion)


@pytest.mark.parametrize("angle", ANGLES)
def test_derivatives_of_log_are_right_below_half_a_turn_and_finite_at_it(angle):
    matrix = Rotation.from_rotvec(of_angle(angle)).as_matrix()
    check_derivatives(rotation.log, matrix, numerical=angle < 3.1)
    # The directions that keep the matrix a rotation.
    slope = SLOPE_OF_LOG_EXP(jnp.asarray(of_angle(angle), jnp.float32))
    np.testing.assert_allclose(slope, np.eye(3), atol=1e-5 if angle < 3.1 else 7)


@pytest.mark.parametrize("first, second", [(0.0, 0.0), (0.4, 0.9), (1.5, 1.5), (2.0, -2.0)])
def test_derivatives_of_compose(first, second):
    point = {"outer": of_angle(first), "inner": of_angle(second)}
    check_derivatives(compose_both, point)


def compose_both(both):
    return rotation.compose(both["outer"], both["inner"])


def test_derivatives_of_six_numbers(rng):
    check_derivatives(rotation.from_6d, rng.normal(size=6))
    for degenerate in (np.zeros(6), np.ones(6), np.eye(6)[0]):
        assert np.isfinite(compiled.from_6d(jnp.asarray(degenerate, jnp.float32))).all()
        check_derivatives(rotation.from_6d, degenerate, numerical=False)


def test_derivatives_of_the_angle_between():
    check_derivatives(angle_to_identity, of_angle(1.3))
    check_derivatives(angle_to_identity, of_angle(0.0), numerical=False)
    check_derivatives(angle_to_identity, of_angle(np.pi), numerical=False)


def angle_to_identity(vector):
    return rotation.angle_between(rotation.exp(vector), jnp.eye(3))


def test_second_derivatives_are_right_at_zero():
    """Newton steps and curvature need them; a Taylor series cut too early would show here."""
    check_derivatives(jax.grad(sum_of_exp), np.zeros(3))


def sum_of_exp(vector):
    return jnp.sum(rotation.exp(vector))


def test_jit_equals_no_jit(rng):
    vectors = random_vectors(rng, (1, 2), 3.0)
    np.testing.assert_allclose(rotation.exp(vectors), compiled.exp(vectors), atol=1e-6)
