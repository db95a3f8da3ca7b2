"""The distribution of shapes: Gaussians over the coefficients, within limits.

    prior = shape_prior(model)                                      # all groups, the model's limits
    prior = shape_prior(model, groups=("female",), ranges={"stature": (-1.0, 0.0)})
    shape = sample_shape(prior, key)

Each coefficient in turn is drawn from its Gaussian, given those before it, cut off at its limits
(the sampler of Geweke, Hajivassiliou and Keane). Coefficients with a range of the user's come
first, so the others follow from them as they do in the population: short people are lighter. So
nothing piles up at a limit and nothing is drawn in vain.

The same object is the prior of a fit: `shape_log_prob`, `shape_residuals`. Poses are in
`jrecon.synth.pose_prior`, viewpoints in `jrecon.synth.viewpoint`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jrecon.model.parametric import ParametricModel

# Cumulative probabilities are kept this far from 0 and 1, where float32 has no inverse: 5 sigma.
_TAIL = 3e-7


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
    low, high = (np.array(bound, np.float64) for bound in model.shape_limits)
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
    arrays = dict(
        shares=np.array(shares, float) / sum(shares),
        mean=np.asarray(model.prior_mean)[ids][:, order],
        factor=factor,
        whitening=whitening,
        low=low[order],
        high=high[order],
    )
    return ShapePrior(
        **{key: jax.device_put(value.astype(np.float32)) for key, value in arrays.items()},
        order=jax.device_put(order.astype(np.int32)),
    )


def sample_shape(prior: ShapePrior, key: PRNGKeyArray) -> Float[Array, " s"]:
    """Shape coefficients of one instance, for `vmap`."""
    count = prior.low.shape[0]
    which, draw = jax.random.split(key)
    group = jnp.sum(jax.random.uniform(which) >= jnp.cumsum(prior.shares)[:-1])
    uniform = jax.random.uniform(draw, (count,))
    mean, factor = prior.mean[group], prior.factor[group]

    def one(normal: Array, index: Array) -> tuple[Array, None]:
        row = factor[index]
        center = mean[index] + jnp.sum(row * normal)
        scale = jnp.maximum(row[index], 1e-9)
        low, high = (ndtr((bound[index] - center) / scale) for bound in (prior.low, prior.high))
        chance = jnp.clip(low + uniform[index] * (high - low), _TAIL, 1 - _TAIL)
        value = jnp.clip(center + scale * ndtri(chance), prior.low[index], prior.high[index])
        return normal.at[index].set((value - center) / scale), None

    normal, _ = jax.lax.scan(one, jnp.zeros(count), jnp.arange(count))
    values = mean + factor @ normal
    return jnp.zeros(count).at[prior.order].set(jnp.clip(values, prior.low, prior.high))


def shape_log_prob(prior: ShapePrior, shape: Float[Array, "*batch s"]) -> Float[Array, "*batch"]:
    """Log density of the mixture of Gaussians; limits play no part in it."""
    rest, logs = _standardised(prior, shape)
    return jax.nn.logsumexp(logs - 0.5 * jnp.sum(rest**2, axis=-1), axis=-1)


def shape_residuals(prior: ShapePrior, shape: Float[Array, "*batch s"]) -> Float[Array, "*batch s"]:
    """Residuals of the likeliest group: half the sum of their squares is its negative log density
    but for a constant. The choice has no derivative."""
    rest, logs = _standardised(prior, shape)
    best = jnp.argmax(jax.lax.stop_gradient(logs - 0.5 * jnp.sum(rest**2, axis=-1)), axis=-1)
    return jnp.take_along_axis(rest, best[..., None, None], axis=-2)[..., 0, :]


def _standardised(prior: ShapePrior, shape: Array) -> tuple[Array, Array]:
    ordered = shape[..., prior.order]
    rest = jnp.einsum(
        "gst,...gt->...gs", prior.whitening, ordered[..., None, :] - prior.mean,
        precision=jax.lax.Precision.HIGHEST,
    )  # fmt: skip
    scale = jnp.log(jnp.diagonal(prior.whitening, axis1=-2, axis2=-1)).sum(-1)
    constant = 0.5 * prior.low.shape[0] * jnp.log(2 * jnp.pi)
    return rest, jnp.log(prior.shares) + scale - constant
