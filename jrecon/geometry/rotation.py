"""Rotations in three dimensions: axis-angle, matrix, quaternion, 6D, and the ways between.

Matrices act on column vectors and come last, `*batch 3 3`; axis-angle vectors are in radians;
quaternions are (w, x, y, z); the 6D form (Zhou et al. 2019, "On the Continuity of Rotation
Representations in Neural Networks") is the first two columns of the matrix, one after the other.

Every function is finite with finite derivatives everywhere, at no rotation and at half a turn too
(`left_jacobian_inverse` alone has a pole, at a full turn): where a formula divides by zero, its
argument is replaced *before* the division (a `where` around the result alone would still give a
NaN gradient) and a Taylor series takes over.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jrecon.geometry.vector import norm, normalize

HIGHEST = jax.lax.Precision.HIGHEST

# Below this squared angle the Taylor series below are exact to float32 rounding, and the closed
# forms would lose digits to cancellation, their derivatives most of all.
_SMALL = 1.0


def hat(vector: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3 3"]:
    """The skew-symmetric matrix of the cross product: hat(a) b = a x b."""
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    zero = jnp.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return jnp.stack(rows, axis=-1).reshape(*vector.shape[:-1], 3, 3)


def exp(axis_angle: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3 3"]:
    """The rotation matrix of an axis-angle vector of any length (Rodrigues' formula)."""
    a, b, _ = _coefficients(jnp.sum(axis_angle**2, axis=-1))
    return _series(a, b, axis_angle)


def left_jacobian(axis_angle: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3 3"]:
    """Jl with exp(w + d) = exp(Jl d) exp(w) to first order in d.

    So the derivative of the matrix itself is d exp(w) / d w_k = hat(Jl[:, k]) exp(w).

    Source: Barfoot 2017, "State Estimation for Robotics", equation 7.77.
    """
    _, b, c = _coefficients(jnp.sum(axis_angle**2, axis=-1))
    return _series(b, c, axis_angle)


def left_jacobian_inverse(axis_angle: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3 3"]:
    """The inverse of `left_jacobian`: a small turn in the tangent space as a change of the vector.

    compose(d, w) = w + Jl^-1 d to first order in d. At a full turn the inverse does not exist:
    every d but those along w would need an infinite change.
    """
    s = jnp.sum(axis_angle**2, axis=-1)
    small = s < _SMALL
    safe = jnp.where(small, 1.0, s)
    half = jnp.sqrt(safe) / 2
    # (1 - (t/2) cot(t/2)) / t^2; the series is that of the Bernoulli numbers.
    closed = (1 - half * jnp.cos(half) / jnp.sin(half)) / safe
    series = 1 / 12 + s * (1 / 720 + s * (1 / 30240 + s * (1 / 1209600 + s / 47900160)))
    return _series(jnp.full_like(s, -0.5), jnp.where(small, series, closed), axis_angle)


def _coefficients(s: Array) -> tuple[Array, Array, Array]:
    """sin(t)/t, (1 - cos t)/t^2 and (t - sin t)/t^3 as functions of s = t^2."""
    small = s < _SMALL
    safe = jnp.where(small, 1.0, s)
    angle = jnp.sqrt(safe)
    sine, half_sine = jnp.sin(angle), jnp.sin(angle / 2)
    a = 1 - s / 6 * (1 - s / 20 * (1 - s / 42 * (1 - s / 72 * (1 - s / 110))))
    b = 0.5 - s / 24 * (1 - s / 30 * (1 - s / 56 * (1 - s / 90 * (1 - s / 132))))
    c = 1 / 6 - s / 120 * (1 - s / 42 * (1 - s / 72 * (1 - s / 110 * (1 - s / 156))))
    return (
        jnp.where(small, a, sine / angle),
        jnp.where(small, b, 2 * half_sine**2 / safe),
        jnp.where(small, c, (angle - sine) / (safe * angle)),
    )


def _series(first: Array, second: Array, axis_angle: Array) -> Float[Array, "*batch 3 3"]:
    """I + first hat(w) + second hat(w)^2, with hat(w)^2 = w w^T - |w|^2 I."""
    identity = jnp.eye(3, dtype=axis_angle.dtype).reshape((1,) * (axis_angle.ndim - 1) + (3, 3))
    outer = axis_angle[..., :, None] * axis_angle[..., None, :]
    squared = jnp.sum(axis_angle**2, axis=-1)[..., None, None]
    first, second = first[..., None, None], second[..., None, None]
    return identity + first * hat(axis_angle) + second * (outer - squared * identity)


def log(matrix: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch 3"]:
    """The axis-angle vector of a rotation matrix, of length 0 to pi.

    At half a turn the function jumps from w to -w, which are the same rotation, and no choice of
    formula avoids it. Exactly there (a symmetric matrix) the result is the w whose component of
    largest magnitude is positive. The derivative is that of the smooth branch the result is on: it
    stays finite on both sides and at the jump, and says nothing about the jump itself.
    """
    return axis_angle_from_quaternion(to_quaternion(matrix))


def compose(
    outer: Float[Array, "*batch 3"], inner: Float[Array, "*batch 3"]
) -> Float[Array, "*batch 3"]:
    """The axis-angle vector of `inner` followed by `outer`: exp(outer) exp(inner), length <= pi.

    Through quaternions, which keep more digits near half a turn than the product of matrices.
    """
    return axis_angle_from_quaternion(
        multiply(quaternion_from_axis_angle(outer), quaternion_from_axis_angle(inner))
    )


def multiply(
    outer: Float[Array, "*batch 4"], inner: Float[Array, "*batch 4"]
) -> Float[Array, "*batch 4"]:
    """The product of quaternions (w, x, y, z): the rotation `inner` followed by `outer`."""
    w, xyz = outer[..., :1], outer[..., 1:]
    v, abc = inner[..., :1], inner[..., 1:]
    real = w * v - jnp.sum(xyz * abc, axis=-1, keepdims=True)
    return jnp.concatenate([real, w * abc + v * xyz + jnp.cross(xyz, abc)], axis=-1)


def axis_angle_from_quaternion(quaternion: Float[Array, "*batch 4"]) -> Float[Array, "*batch 3"]:
    """The axis-angle vector, of length 0 to pi, of a quaternion of any length and sign but zero."""
    quaternion = jnp.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    w, xyz = quaternion[..., :1], quaternion[..., 1:]
    squared = jnp.sum(xyz**2, axis=-1, keepdims=True)
    # The series of 2 atan(r) / r for small r = |xyz| / w: atan2 has no derivative at the origin.
    small = squared <= 0.1 * w**2
    safe_w = jnp.where(small & (w > 0), w, 1.0)
    u = jnp.where(small, squared, 0.0) / safe_w**2
    series = 1 - u * (1 / 3 - u * (1 / 5 - u * (1 / 7 - u * (1 / 9 - u * (1 / 11 - u / 13)))))
    sine = jnp.sqrt(jnp.where(small, 1.0, squared))
    closed = jnp.arctan2(sine, jnp.where(small, 1.0, w)) / sine
    return 2 * jnp.where(small, series / safe_w, closed) * xyz


def quaternion_from_axis_angle(axis_angle: Float[Array, "*batch 3"]) -> Float[Array, "*batch 4"]:
    """(cos(t/2), sin(t/2) axis): continuous in the vector, so w < 0 beyond half a turn."""
    quarter = jnp.sum(axis_angle**2, axis=-1, keepdims=True) / 4
    sinc, versine, _ = _coefficients(quarter)
    return jnp.concatenate([1 - quarter * versine, sinc / 2 * axis_angle], axis=-1)


def from_quaternion(quaternion: Float[Array, "*batch 4"]) -> Float[Array, "*batch 3 3"]:
    """The rotation matrix of a quaternion (w, x, y, z) of any length but zero."""
    unit = normalize(quaternion)
    w, x, y, z = (unit[..., i] for i in range(4))
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return jnp.stack(rows, axis=-1).reshape(*quaternion.shape[:-1], 3, 3)


def to_quaternion(matrix: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch 4"]:
    """The unit quaternion of a rotation matrix, with w >= 0.

    The four columns of 4 q q^T are linear in the matrix; the one with the largest diagonal is at
    least 1 long and is normalised (Shepperd 1978, "Quaternion from Rotation Matrix"), so no square
    root comes near zero.
    """
    m = [[matrix[..., i, j] for j in range(3)] for i in range(3)]
    x, y, z = m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]
    xy, xz, yz = m[0][1] + m[1][0], m[0][2] + m[2][0], m[1][2] + m[2][1]
    trace = m[0][0] + m[1][1] + m[2][2]
    diagonal = [1 + trace, *(1 + 2 * m[i][i] - trace for i in range(3))]
    columns = jnp.stack(
        [
            jnp.stack([diagonal[0], x, y, z], axis=-1),
            jnp.stack([x, diagonal[1], xy, xz], axis=-1),
            jnp.stack([y, xy, diagonal[2], yz], axis=-1),
            jnp.stack([z, xz, yz, diagonal[3]], axis=-1),
        ],
        axis=-2,
    )
    best = jnp.argmax(jnp.stack(diagonal, axis=-1), axis=-1)
    chosen = jnp.take_along_axis(columns, best[..., None, None], axis=-2)[..., 0, :]
    unit = normalize(chosen)
    return jnp.where(unit[..., :1] < 0, -unit, unit)


def from_6d(columns: Float[Array, "*batch 6"]) -> Float[Array, "*batch 3 3"]:
    """The rotation whose first two columns are nearest by Gram-Schmidt to the six numbers.

    Zero or parallel columns have no nearest rotation: the result is then finite, with finite
    derivatives, but no rotation.
    """
    first = normalize(columns[..., :3])
    second = columns[..., 3:] - jnp.sum(first * columns[..., 3:], axis=-1, keepdims=True) * first
    second = normalize(second)
    return jnp.stack([first, second, jnp.cross(first, second)], axis=-1)


def to_6d(matrix: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch 6"]:
    """The first two columns of the matrix, one after the other."""
    return jnp.concatenate([matrix[..., :, 0], matrix[..., :, 1]], axis=-1)


def angle_between(
    first: Float[Array, "*batch 3 3"], second: Float[Array, "*batch 3 3"]
) -> Float[Array, "*batch"]:
    """The angle of the rotation from one to the other, 0 to pi radians.

    The derivative is zero, not NaN, where the two are equal.
    """
    relative = jnp.matmul(jnp.swapaxes(first, -1, -2), second, precision=HIGHEST)
    return norm(log(relative))[..., 0]
