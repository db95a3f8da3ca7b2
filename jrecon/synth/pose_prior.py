"""Distributions over poses: learned from motion where there is some, else within joint limits.

A pose is drawn in one of four ways, in shares that the caller sets:

    motion   a mixture of Gaussians over the rotation vectors of the joints, fitted to motion
    mixed    limbs of two such draws, mirrored at random, brought together
    limits   every component at random between its limits, more often near the rest pose
    hard     sitting, crouching, lying, kicking, arms crossed, ... with variations

Entry 0 of a pose tilts the body from upright; its heading is that of the viewpoint. Components
outside the limits are folded back at them. A class without motion has the third way alone.

The same object is the prior of a fit: `log_prob`, and `residuals`, whose squares it is made of,
with `limit_residuals` for the limits. Its density is that of the mixture, times broad Gaussians
over the joints that the mixture leaves out, with the moments of what is drawn for them.

The statistics of the body: the data used in this project was obtained from mocap.cs.cmu.edu. The
database was created with funding from NSF EIA-0196217. Hard clips: DeepMimic (MIT).
"""

from __future__ import annotations

import dataclasses
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jrecon.geometry import rotation
from jrecon.geometry.arrays import place
from jrecon.model.parametric import ParametricModel
from jrecon.model.symmetry import mirrored_pose, opposite_joints

ASSETS = {"body": "body_poses.npz"}
# No joint is held tighter than this, radians, not even a hinge about its locked axes.
_LEAST_SCALE = 0.05
# The tilt of a body that is upside down within so many radians has no certain axis.
_BLUNT = 0.01


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PosePrior:
    """A mixture of Gaussians over some joints, and limits for all. Build one with `pose_prior`."""

    shares: Float[Array, " k"]
    """Of the components of the mixture; they sum to one."""
    means: Float[Array, "k d"]
    """Rotation vectors of the joints in `joints`, one after the other, radians."""
    factors: Float[Array, "k d d"]
    """Lower triangular, covariance = factor factor^T."""
    whitening: Float[Array, "k d d"]
    """The inverses of the factors."""
    hard: Float[Array, "n d"]
    """Poses that motion rarely shows."""
    low: Float[Array, "j 3"]
    high: Float[Array, "j 3"]
    """Limits of every component, radians; the root's are not used."""
    fist: Float[Array, "j 3"]
    """Where joints go that the mixture leaves out, as fingers do; 0 for all others."""
    free_mean: Float[Array, "n 3"]
    free_scale: Float[Array, "n 3"]
    """Mean and standard deviation of the joints in `free`, each component for itself, radians."""
    joints: tuple[int, ...] = dataclasses.field(metadata=dict(static=True))
    """Of the model, that the mixture is about."""
    free: tuple[int, ...] = dataclasses.field(metadata=dict(static=True))
    """The other joints, without the root."""
    mirror: tuple[int, ...] = dataclasses.field(metadata=dict(static=True))
    """The joint on the other side, for every joint of the model."""
    limbs: tuple[int, ...] = dataclasses.field(metadata=dict(static=True))
    """Which part each joint belongs to: 0 trunk, 1 and 2 arms, 3 and 4 legs."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PoseConfig:
    """How poses are drawn. Shares are relative to each other; all are traced."""

    motion: float = 0.45
    mixed: float = 0.25
    limits: float = 0.1
    hard: float = 0.2
    mirror_rate: float = 0.5
    spread: float = 1.1
    """Of the Gaussians of the mixture, times their own."""
    limits_reach: float = 0.6
    """How far from rest towards the limits random components go, as a share."""
    tilt_rad: float = 0.25
    """Largest tilt of the body for random poses, about each horizontal axis."""
    hard_spread: float = 0.5
    """Share of a motion's deviation from its mean that varies a hard pose."""


def pose_prior(model: ParametricModel) -> PosePrior:
    """What is known about the poses of a class: the motion prior of the body, limits of others.

    Raises:
      ValueError: the model has the name of one with a motion prior, but not its joints.
    """
    if model.name not in ASSETS:
        return limits_prior(model)
    stored = resources.files("jrecon.synth") / "assets" / ASSETS[model.name]
    with resources.as_file(stored) as path, np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    needed = [str(name) for name in arrays["joint_names"]]
    missing = [name for name in needed if name not in model.joint_names]
    if missing:
        raise ValueError(
            f"model {model.name!r}: has no joints {missing}, which its motion prior is about; "
            "rename the model, or use limits_prior."
        )
    joints = [model.joint_names.index(name) for name in needed]
    return limits_prior(model, joints, unpack(arrays), arrays["hard"].astype(np.float32))


def limits_prior(
    model: ParametricModel,
    joints: Any = (),
    mixture: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    hard: Any = None,
) -> PosePrior:
    """A prior from the limits of a model and, if given, a mixture (shares, means, factors)."""
    names = list(model.joint_names)
    low, high = np.asarray(model.pose_limits)
    size = 3 * len(joints)
    shares, means, factors = mixture or (np.ones(1), np.zeros((1, size)), np.eye(size)[None])
    # Fingers close towards the wider of their two limits.
    fist = np.where(np.abs(low) > np.abs(high), low, high)
    free = [joint for joint in range(1, len(names)) if joint not in joints]
    left_out = [joint in free and bool(joints) for joint in range(len(names))]
    fist = np.where(np.array(left_out)[:, None], fist, 0.0)
    free_mean, free_scale = _free_moments(fist[free], low[free], high[free], bool(joints))
    arrays: dict[str, Any] = dict(
        shares=shares / np.sum(shares),
        means=means,
        factors=factors,
        whitening=np.linalg.inv(factors) if size else factors,
        hard=means if hard is None else hard,
        low=low,
        high=high,
        fist=fist,
        free_mean=free_mean,
        free_scale=free_scale,
    )
    return PosePrior(
        **place({key: np.asarray(value, np.float32) for key, value in arrays.items()}),
        joints=tuple(int(joint) for joint in joints),
        free=tuple(free),
        mirror=opposite_joints(model),
        limbs=tuple(_limb(model, i) for i in range(len(names))),
    )  # fmt: skip


def _free_moments(
    fist: np.ndarray, low: np.ndarray, high: np.ndarray, curled: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of `_fingers` if curled, else of a triangle between the limits
    with its top at rest."""
    if curled:
        mean, scale = fist / 3, np.abs(fist) * np.sqrt(4 / 45 + 0.3**2 / 12)
    else:
        mean = (low + high) / 6
        scale = np.sqrt(np.maximum((low**2 + high**2) / 12 - mean**2, 0.0))
    return mean, np.maximum(scale, _LEAST_SCALE)


def without_orientation(prior: PosePrior) -> PosePrior:
    """The prior of all joints but the root, for when it is not known which way is up."""
    if 0 not in prior.joints:
        return prior
    kept = [i for i, joint in enumerate(prior.joints) if joint != 0]
    columns = (3 * np.array(kept)[:, None] + np.arange(3)).ravel()
    rows = np.asarray(prior.factors, np.float64)[:, columns]
    factors = np.linalg.cholesky(rows @ np.swapaxes(rows, 1, 2)).astype(np.float32)
    changed: dict[str, Any] = dict(
        means=np.asarray(prior.means)[:, columns],
        factors=factors,
        whitening=np.linalg.inv(factors),
        hard=np.asarray(prior.hard)[:, columns],
    )
    return dataclasses.replace(prior, **place(changed), joints=tuple(prior.joints[i] for i in kept))


def _limb(model: ParametricModel, joint: int) -> int:
    """By the name of the joint or of the nearest ancestor that tells."""
    starts = {"shoulder": 1, "collar": 1, "hip": 3}
    while joint >= 0:
        name = model.joint_names[joint]
        for key, limb in starts.items():
            if key in name:
                return limb + name.startswith("right")
        joint = model.parents[joint]
    return 0


def unpack(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares, means and factors of a stored mixture: covariance = basis basis^T + diagonal^2."""
    basis, diagonal = (arrays[key].astype(np.float64) for key in ("basis", "diagonal"))
    covariance = np.einsum("kdr,ker->kde", basis, basis)
    covariance += np.einsum("kd,de->kde", diagonal**2, np.eye(diagonal.shape[1]))
    shares, means = arrays["shares"].astype(np.float64), arrays["means"].astype(np.float64)
    return shares, means, np.linalg.cholesky(covariance)


def sample_pose(
    prior: PosePrior, config: PoseConfig, key: PRNGKeyArray
) -> tuple[Float[Array, "j 3"], Int[Array, ""]]:
    """A pose, and how it was drawn: 0 motion, 1 mixed, 2 limits, 3 hard. One, for `vmap`."""
    keys = jax.random.split(key, 8)
    draws = jax.random.uniform(keys[0], (8,))
    first, second = (_motion(prior, config, one) for one in (keys[1], keys[2]))
    first = _maybe_mirrored(prior, first, draws[0] < config.mirror_rate)
    second = _maybe_mirrored(prior, second, draws[1] < config.mirror_rate)
    from_second = jnp.append(False, jax.random.bernoulli(keys[3], 0.5, (4,)))
    weight = jnp.where(from_second[np.array(prior.limbs)], 1.0, 0.0)
    # Two joined and two blended, at random.
    weight = jnp.where(draws[2] < 0.7, weight, draws[3])
    mixed = first + weight[:, None] * (second - first)
    free = _between_limits(prior, config, keys[4])
    varied = prior.hard[jax.random.randint(keys[5], (), 0, len(prior.hard))]
    varied = varied + config.hard_spread * _deviation(prior, keys[6])
    hard = _maybe_mirrored(prior, _to_all(prior, varied), draws[4] < 0.5)
    shares = jnp.array([config.motion, config.mixed, config.limits, config.hard])
    shares = shares if prior.joints else jnp.array([0.0, 0.0, 1.0, 0.0])
    kind = jnp.sum(draws[5] * shares.sum() >= jnp.cumsum(shares)[:3])
    pose = jnp.select([kind == 0, kind == 1, kind == 2], [first, mixed, free], hard)
    return _fold(prior, pose + _fingers(prior, keys[7])), kind


def _motion(prior: PosePrior, config: PoseConfig, key: PRNGKeyArray) -> Float[Array, "j 3"]:
    which, noise = jax.random.split(key)
    index = jnp.sum(jax.random.uniform(which) >= jnp.cumsum(prior.shares)[:-1])
    normal = config.spread * jax.random.normal(noise, prior.means.shape[1:])
    return _to_all(prior, prior.means[index] + prior.factors[index] @ normal)


def _deviation(prior: PosePrior, key: PRNGKeyArray) -> Float[Array, " d"]:
    """Of a draw of the mixture from the mean of its component."""
    which, noise = jax.random.split(key)
    index = jax.random.randint(which, (), 0, len(prior.shares))
    return prior.factors[index] @ jax.random.normal(noise, prior.means.shape[1:])


def _to_all(prior: PosePrior, vector: Float[Array, " d"]) -> Float[Array, "j 3"]:
    pose = jnp.zeros((len(prior.mirror), 3))
    return pose.at[np.array(prior.joints, int)].set(vector.reshape(-1, 3))


def _maybe_mirrored(prior: PosePrior, pose: Float[Array, "j 3"], yes: Array) -> Float[Array, "j 3"]:
    return jnp.where(yes, mirrored_pose(prior.mirror, pose), pose)


def _between_limits(prior: PosePrior, config: PoseConfig, key: PRNGKeyArray) -> Float[Array, "j 3"]:
    """Triangular around rest, between shares of the limits."""
    first, second = jax.random.uniform(key, (2, *prior.low.shape))
    signed = first + second - 1.0
    pose = config.limits_reach * jnp.where(signed < 0, -signed * prior.low, signed * prior.high)
    tilt = config.tilt_rad * jnp.array([1.0, 0.0, 1.0]) * signed[0]
    return jnp.where(prior.fist != 0, 0.0, pose).at[0].set(tilt)


def _fingers(prior: PosePrior, key: PRNGKeyArray) -> Float[Array, "j 3"]:
    """Each hand closed by a random amount, each joint by a little more or less."""
    amounts = jax.random.uniform(key, (2, *prior.fist.shape))
    side = jnp.array([1 if limb == 2 else 0 for limb in prior.limbs])
    hand = amounts[0, :2, 0][side] ** 2
    return prior.fist * jnp.clip(hand[:, None] + 0.3 * (amounts[1] - 0.5), 0.0, 0.9)


def _fold(prior: PosePrior, pose: Float[Array, "j 3"]) -> Float[Array, "j 3"]:
    """Components beyond a limit, reflected at it; the root is free."""
    span = prior.high - prior.low
    safe = jnp.where(span > 0, span, 1.0)
    phase = jnp.mod((pose - prior.low) / safe, 2.0)
    folded = prior.low + jnp.where(phase > 1, 2 - phase, phase) * span
    return folded.at[0].set(pose[0])


def log_prob(
    prior: PosePrior, pose: Float[Array, "*batch j 3"], up: Float[Array, " 3"] | None = None
) -> Float[Array, "*batch"]:
    """Log density of a pose, the heading left out; limits play no part in it.

    Smooth everywhere but for a body that is exactly upside down, and finite there.

    Args:
      up: the direction against gravity in the frame that entry 0 turns the model into; +y if None.
        Where it is unknown: `without_orientation(prior)`.
    """

    def one(pose: Array) -> Array:
        rest, logs, free = _standardised(prior, pose, up)
        others = jnp.log(prior.free_scale).sum() + 0.5 * free.size * jnp.log(2 * jnp.pi)
        learned = jax.nn.logsumexp(logs - 0.5 * jnp.sum(rest**2, axis=-1))
        return learned - 0.5 * jnp.sum(free**2) - others

    return jnp.vectorize(one, signature="(j,c)->()")(pose)


def residuals(
    prior: PosePrior, pose: Float[Array, "*batch j 3"], up: Float[Array, " 3"] | None = None
) -> Float[Array, "*batch r"]:
    """The residuals of the likeliest component: half the sum of their squares is its negative log
    density but for a constant. The choice has no derivative. Arguments as for `log_prob`.

    Three for each joint: those of the mixture, and then those that it leaves out.
    """

    def one(pose: Array) -> Array:
        rest, logs, free = _standardised(prior, pose, up)
        best = jnp.argmax(jax.lax.stop_gradient(logs - 0.5 * jnp.sum(rest**2, axis=-1)))
        return jnp.concatenate([rest[best], free])

    return jnp.vectorize(one, signature="(j,c)->(r)")(pose)


def limit_residuals(
    prior: PosePrior, pose: Float[Array, "*batch j 3"], softness_rad: float = 0.05
) -> Float[Array, "*batch j 3"]:
    """How far each component is outside its limits, over `softness_rad`; 0 inside, and for the
    root. Half the sum of squares has a continuous derivative."""
    low, high = (jnp.broadcast_to(bound, pose.shape) for bound in (prior.low, prior.high))
    outside = jnp.maximum(pose - high, 0.0) - jnp.maximum(low - pose, 0.0)
    return (outside / softness_rad).at[..., 0, :].set(0.0)


def _standardised(
    prior: PosePrior, pose: Float[Array, "j 3"], up: Array | None
) -> tuple[Float[Array, "k d"], Float[Array, " k"], Float[Array, " n"]]:
    """Standardised deviations from every component, the log of its share and scale, and the
    standardised deviations of the joints that the mixture leaves out."""
    if 0 in prior.joints:
        pose = pose.at[0].set(tilt(pose[0], up))
    vector = pose[np.array(prior.joints, int)].reshape(1, -1)
    rest = jnp.einsum(
        "kde,ke->kd", prior.whitening, vector - prior.means, precision=jax.lax.Precision.HIGHEST
    )
    scale = jnp.log(jnp.diagonal(prior.whitening, axis1=-2, axis2=-1)).sum(-1)
    constant = 0.5 * prior.means.shape[-1] * jnp.log(2 * jnp.pi)
    free = (pose[np.array(prior.free, int)] - prior.free_mean) / prior.free_scale
    return rest, jnp.log(prior.shares) + scale - constant, free.ravel()


def tilt(
    orientation: Float[Array, "*batch 3"], up: Float[Array, " 3"] | None = None
) -> Float[Array, "*batch 3"]:
    """How far an orientation (axis-angle) leans from upright, without its heading: the turn about
    a horizontal axis (y component 0) that has the model's view of `up`.

    Args:
      up: unit vector in the frame that the orientation turns the model into; +y if None. Any
        turn about it leaves the result as it is.
    """
    up = jnp.array([0.0, 1.0, 0.0]) if up is None else up
    seen = jnp.einsum(
        "...ba,b->...a", rotation.exp(orientation), up, precision=jax.lax.Precision.HIGHEST
    )
    # The least turn from `seen` to y has axis seen x y, of length sin(angle).
    axis = jnp.stack([-seen[..., 2], jnp.zeros_like(seen[..., 0]), seen[..., 0]], axis=-1)
    s = jnp.sum(axis**2, axis=-1)
    near = (s < 0.05) & (seen[..., 1] > 0)
    # Upside down every axis is as good; within 0.01 rad of it the offset bounds the derivative.
    offset = (_BLUNT * jnp.minimum(seen[..., 1], 0.0)) ** 2
    sine = jnp.sqrt(jnp.where(near, 1.0, s + offset))
    closed = jnp.arctan2(sine, jnp.where(near, 1.0, seen[..., 1])) / sine
    series = 1 + s * (1 / 6 + s * (3 / 40 + s * (15 / 336 + s * (105 / 3456 + s * 945 / 42240))))
    return axis * jnp.where(near, series, closed)[..., None]
