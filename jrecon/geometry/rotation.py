"""Rotations in three dimensions: axis-angle, matrix, quaternion, 6D, and the ways between.

Matrices act on column vectors and come last, `*batch 3 3`; axis-angle vectors are in radians;
quaternions are (w, x, y, z); the 6D form (Zhou et al. 2019, "On the Continuity of Rotation
Representations in Neural Networks") is the first two columns of the matrix, one after the other.

Every function is finite with finite derivatives everywhere, at no rotation and at half a turn too:
where a formula divides by zero, its argument is replaced *before* the division (a `where` around
the result alone would still give a NaN gradient) and a Taylor series takes over.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jrecon.geometry.vector import norm, normalize

HIGHEST = jax.lax.Precision.HIGHEST

# Below this squared angle the Taylor series below are exact to float32 rounding.
_SMALL = 0.1


def hat(vector: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3 3"]:
    """The skew-symmetric matrix of the cross product: hat(a) b = a x b."""
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    zero = jnp.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return jnp.stack(rows, axis=-1).reshape(*vector.shape[:-1], 3, 3)


def _coefficients(squared: Array) -> tuple[Array, Array, Array]:
    """sin(t)/t, (1 - cos t)/t^2 and (t - sin t)/t^3 as functions of t^2."""
    small = squared < _SMALL
    safe = jnp.where(small, 1.0, squared)
    angle = jnp.sqrt(safe)
    sine, half_sine = jnp.sin(angle), jnp.sin(angle / 2)
    s = squared
    a = jnp.where(small, 1 - s / 6 * (1 - s / 20 * (1 - s / 42)), sine / angle)
    b = jnp.where(small, 0.5 - s / 24 * (1 - s / 30 * (1 - s / 56)), 2 * half_sine**2 / safe)
    c = jnp.where(
        small, 1 / 6 - s / 120 * (1 - s / 42 * (1 - s / 72)), (angle - sine) / (safe * angle)
    )
    return a, b, c


def _series(first: Array, second: Array, axis_angle: Array) -> Float[Array, "*batch 3 3"]:
    """I + first hat(w) + second hat(w)^2."""
    skew = hat(axis_angle)
    identity = jnp.broadcast_to(jnp.eye(3, dtype=skew.dtype), skew.shape)
    square = jnp.matmul(skew, skew, precision=HIGHEST)
    return identity + first[..., None, None] * skew + second[..., None, None] * square


def exp(axis_angle: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3 3"]:
    """The rotation matrix of an axis-angle vector (Rodrigues' formula)."""
    a, b, _ = _coefficients(jnp.sum(axis_angle**2, axis=-1))
    return _series(a, b, axis_angle)


def left_jacobian(axis_angle: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3 3"]:
    """Jl with exp(w + d) = exp(Jl d) exp(w) to first order in d.

    Source: Barfoot 2017, "State Estimation for Robotics", equation 7.77.
    """
    _, b, c = _coefficients(jnp.sum(axis_angle**2, axis=-1))
    return _series(b, c, axis_angle)


def log(matrix: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch 3"]:
    """The axis-angle vector of a rotation matrix, of length 0 to pi.

    At exactly half a turn both axes are right and the derivative is that of one branch: the
    function jumps there, from w to -w, and no choice avoids it.
    """
    return axis_angle_from_quaternion(to_quaternion(matrix))


def axis_angle_from_quaternion(quaternion: Float[Array, "*batch 4"]) -> Float[Array, "*batch 3"]:
    """The axis-angle vector, of length 0 to pi, of a unit quaternion (or its negative)."""
    w, xyz = quaternion[..., :1], quaternion[..., 1:]
    flip = jnp.where(w < 0, -1.0, 1.0)
    w, xyz = w * flip, xyz * flip
    squared = jnp.sum(xyz**2, axis=-1, keepdims=True)
    small = squared < _SMALL
    sine = jnp.sqrt(jnp.where(small, 1.0, squared))
    # 2 asin(s)/s for small s: free of the derivative of atan2 at the origin.
    s = squared
    series = 2 * (1 + s * (1 / 6 + s * (3 / 40 + s * (15 / 336 + s * 105 / 3456))))
    factor = jnp.where(small, series, 2 * jnp.arctan2(sine, jnp.where(small, 1.0, w)) / sine)
    return factor * xyz


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
