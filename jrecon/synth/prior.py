"""The distribution of shapes: Gaussians over the coefficients, within limits.

    prior = shape_prior(model)                                      # all groups, the model's limits
    prior = shape_prior(model, groups=("female",), ranges={"stature": (-1.0, 0.0)})
    shape = sample_shape(prior, key)

A draw outside the limits is drawn again, so nothing piles up at them. To do so for narrow ranges
too, each coefficient in turn is proposed from its Gaussian, given those before it, cut off at its
limits (the sampler of Geweke, Hajivassiliou and Keane), and the whole is kept or drawn again such
that what is kept has exactly the truncated Gaussian's distribution. Coefficients with a range of
the user's come first, and the others follow from them as they do in the population: short people
are lighter. The shares of the groups are those of what is drawn.

The same object is the prior of a fit: `shape_log_prob`, `shape_residuals`. Poses are in
`jrecon.synth.pose_prior`, viewpoints in `jrecon.synth.viewpoint`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jrecon.geometry.arrays import place
from jrecon.model.parametric import ParametricModel

# Cumulative probabilities are kept this far from 0 and 1, where float32 has no inverse: 5 sigma.
_TAIL = 3e-7
# How often a shape is drawn again at most; then the last one stays, within the limits as all are.
_ATTEMPTS = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ShapePrior:
    """A mixture of Gaussians over shape coefficients (s may be 0). Build one with `shape_prior`."""

    shares: Float[Array, " g"]
    """Of the groups; they sum to one."""
    mean: Float[Array, "g s"]
    factor: Float[Array, "g s s"]
    """Lower triangular in the order of `order`: covariance = factor factor^T."""
    whitening: Float[Array, "g s s"]
    """The inverse of the factor."""
    low: Float[Array, " s"]
    high: Float[Array, " s"]
    order: Int[Array, " s"]
    """In which coefficients are drawn."""


def shape_prior(
    model: ParametricModel,
    *,
    groups: Sequence[str] | None = None,
    shares: Sequence[float] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> ShapePrior:
    """The model's own prior, of some of its groups, within ranges of some of its coefficients.

    Args:
      groups: names out of `model.prior_names`; by default all but `pooled`, which is a summary of
        the others.
      shares: of the groups, equal by default.
      ranges: (low, high) by the name of a coefficient (`model.shape_names`), in its units.

    Raises:
      ValueError: names that the model does not have, an empty range, or one outside its limits.
    """
    names = list(model.prior_names)
    if groups is None:
        groups = [name for name in names if name != "pooled"] or names
    unknown = [name for name in groups if name not in names]
    if unknown or not groups:
        raise ValueError(f"groups: got {list(groups)}, need one or more of {names}.")
    if shares is None:
        shares = [1.0] * len(groups)
    if len(shares) != len(groups) or min(shares) < 0 or sum(shares) <= 0:
        raise ValueError(f"shares: got {list(shares)}, need a share >= 0 for each of {groups}.")
    low, high = np.array(model.shape_limits, np.float64)
    ranges = dict(ranges or {})
    for name, (least, most) in ranges.items():
        if name not in model.shape_names:
            raise ValueError(f"ranges: got {name!r}, need one of {list(model.shape_names)}.")
        index = model.shape_names.index(name)
        if not low[index] <= least < most <= high[index]:
            raise ValueError(
                f"ranges: got {name} = ({least}, {most}), need low < high within the limits of the "
                f"model, ({low[index]:g}, {high[index]:g})."
            )
        low[index], high[index] = least, most
    first = [model.shape_names.index(name) for name in ranges]
    order = np.array(first + [i for i in range(model.num_shape) if i not in first], int)
    ids = [names.index(name) for name in groups]
    covariance = np.asarray(model.prior_cov, np.float64)[ids][:, order][:, :, order]
    factor = np.linalg.cholesky(covariance) if model.num_shape else covariance
    whitening = np.linalg.inv(factor) if model.num_shape else factor
    arrays: dict[str, Any] = dict(
        shares=np.array(shares, float) / sum(shares),
        mean=np.asarray(model.prior_mean)[ids][:, order],
        factor=factor,
        whitening=whitening,
        low=low[order],
        high=high[order],
        order=order,
    )
    return ShapePrior(**place(arrays))


def sample_shape(prior: ShapePrior, key: PRNGKeyArray) -> Float[Array, " s"]:
    """Shape coefficients of one instance, for `vmap`."""
    if not len(prior.order):
        return jnp.zeros(0)
    which, draw = jax.random.split(key)
    group = jnp.sum(jax.random.uniform(which) >= jnp.cumsum(prior.shares)[:-1])

    def attempt(state: tuple) -> tuple:
        number, _, _ = state
        uniform = jax.random.uniform(jax.random.fold_in(draw, number), (len(prior.order) + 1,))
        normal, chance = _propose(prior, group, uniform[1:])
        return number + 1, normal, uniform[0] < chance

    start = (0, jnp.zeros(len(prior.order)), jnp.array(False))
    _, normal, _ = jax.lax.while_loop(lambda x: ~x[2] & (x[0] < _ATTEMPTS), attempt, start)
    product = jnp.matmul(prior.factor[group], normal, precision=jax.lax.Precision.HIGHEST)
    values = jnp.clip(prior.mean[group] + product, prior.low, prior.high)
    return jnp.zeros(len(prior.order)).at[prior.order].set(values)


def _propose(
    prior: ShapePrior, group: Array, uniform: Float[Array, " s"]
) -> tuple[Float[Array, " s"], Float[Array, ""]]:
    """Standard normal numbers of a shape within the limits, and the chance to keep it.

    The density of the proposal is the Gaussian's over the product of the probabilities p of each
    interval given the coefficients before, so it is kept in proportion to that product. p is
    largest with the Gaussian's centre in the middle of the interval; to that it is compared.
    """
    mean, factor = prior.mean[group], prior.factor[group]

    def one(state: tuple[Array, Array], index: Array) -> tuple[tuple[Array, Array], None]:
        normal, chance = state
        row, scale = factor[index], jnp.maximum(factor[index, index], 1e-9)
        center = mean[index] + jnp.sum(row * normal)
        low, high = prior.low[index], prior.high[index]
        below, above = ndtr((low - center) / scale), ndtr((high - center) / scale)
        share = jnp.clip(below + uniform[index] * (above - below), _TAIL, 1 - _TAIL)
        value = jnp.clip(center + scale * ndtri(share), low, high)
        # The first coefficient's interval has the same probability in every attempt.
        most = jnp.where(index == 0, above - below, 2 * ndtr((high - low) / (2 * scale)) - 1)
        chance = chance * (above - below) / jnp.maximum(most, 1e-30)
        return (normal.at[index].set((value - center) / scale), chance), None

    count = prior.low.shape[0]
    (normal, chance), _ = jax.lax.scan(one, (jnp.zeros(count), jnp.ones(())), jnp.arange(count))
    return normal, chance


def shape_log_prob(prior: ShapePrior, shape: Float[Array, "*batch s"]) -> Float[Array, "*batch"]:
    """Log density of the mixture of Gaussians; limits play no part in it, so it is smooth and
    finite everywhere."""

    def one(vector: Array) -> Array:
        rest, logs = _standardised(prior, vector)
        return jax.nn.logsumexp(logs - 0.5 * jnp.sum(rest**2, axis=-1))

    return jnp.vectorize(one, signature="(s)->()")(shape)


def shape_residuals(prior: ShapePrior, shape: Float[Array, "*batch s"]) -> Float[Array, "*batch s"]:
    """Residuals of the likeliest group: half the sum of their squares is its negative log density
    but for a constant. The choice has no derivative."""

    def one(vector: Array) -> Array:
        rest, logs = _standardised(prior, vector)
        return rest[jnp.argmax(jax.lax.stop_gradient(logs - 0.5 * jnp.sum(rest**2, axis=-1)))]

    return jnp.vectorize(one, signature="(s)->(s)")(shape)


def _standardised(
    prior: ShapePrior, shape: Float[Array, " s"]
) -> tuple[Float[Array, "g s"], Float[Array, " g"]]:
    """Standardised deviations from every group, and the log of its share and scale."""
    rest = jnp.einsum(
        "gst,gt->gs", prior.whitening, shape[prior.order][None] - prior.mean,
        precision=jax.lax.Precision.HIGHEST,
    )  # fmt: skip
    scale = jnp.log(jnp.diagonal(prior.whitening, axis1=-2, axis2=-1)).sum(-1)
    constant = 0.5 * prior.low.shape[0] * jnp.log(2 * jnp.pi)
    return rest, jnp.log(prior.shares) + scale - constant
