"""The plain gradient route: any loss of parameters, through the renderer if wanted, by optax.

    loss = lambda params: depth_loss(fitter, (view,), params)       # or one of your own
    params, history = jax.jit(lambda start: minimize(loss, start))(prediction)

`jrecon.fit.solve` needs squares and takes some twenty iterations; this route takes whatever has a
derivative, and hundreds. Steps are taken on the tangent space: rotations are turned on by small
ones, so no parametrisation of them runs into its singularities.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jrecon.fit.fitter import Fitter
from jrecon.fit.observation import View, to_camera
from jrecon.geometry import rotation
from jrecon.model.parametric import Params, pose
from jrecon.render import render
from jrecon.synth.pose_prior import limit_residuals, residuals
from jrecon.synth.prior import shape_residuals

Scalar = Float[Array, ""]
Loss = Callable[[Params], Scalar]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Units:
    """What an optimiser's step of 1 is for each kind of parameter: they differ in size."""

    shape: float = 1.0
    turn_rad: float = 0.3
    translation_m: float = 0.15


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DepthLoss:
    """Weights and scales of `depth_loss`; all traced."""

    sigma_m: float = 0.02
    """Standard deviation of the depth of a pixel."""
    width_m: float = 0.15
    """Of the Geman-McClure function: pixels that are farther off lose their weight."""
    patch_m2: float = 0.0009
    """Area that counts as one independent measurement, as in `EnergyConfig`."""
    outline: float = 4.0
    """Of a pixel that shows the object and not the model, or the other way round."""
    margin_m: float = 0.05
    """The model is not hidden, but wrong, where it is this far before what was measured."""
    pose: float = 0.5
    shape: float = 0.5
    limits: float = 1.0


def minimize(
    loss: Loss,
    params: Params,
    optimizer: optax.GradientTransformation | None = None,
    *,
    steps: int = 200,
    units: Units | None = None,
) -> tuple[Params, Float[Array, " n"]]:
    """Parameters with the least loss on the way down. One lane, for `vmap` and `lax.map`; total.

    Args:
      loss: one lane's parameters -> scalar. Derivatives that are not finite count as 0.
      params: where to begin; shape (s,), pose (j, 3), translation (3,).
      optimizer: of steps in `units`; by default Adam with a cosine schedule from 0.1.
      steps: how many; static.

    Returns:
      The best parameters that were met, and the loss before each step.
    """
    optimizer = optimizer or optax.adam(optax.cosine_decay_schedule(0.1, steps))
    sizes = units or Units()

    def moved(params: Params, step: Params) -> Params:
        turned = rotation.compose(sizes.turn_rad * step.pose, params.pose)
        return Params(
            params.shape + sizes.shape * step.shape,
            turned,
            params.translation + sizes.translation_m * step.translation,
        )

    still = jax.tree.map(jnp.zeros_like, params)

    def go(carry: Any, _: None) -> tuple[Any, Scalar]:
        params, memory, best, least = carry
        value, slope = jax.value_and_grad(lambda step: loss(moved(params, step)))(still)
        better = jnp.isfinite(value) & (value < least)
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), params, best)
        slope = jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0.0), slope)
        update, memory = optimizer.update(slope, memory, still)
        step: Any = update
        following = moved(params, step)
        return (following, memory, best, jnp.where(better, value, least)), value

    start = (params, optimizer.init(still), params, jnp.asarray(jnp.inf))
    (last, _, best, least), history = jax.lax.scan(go, start, length=steps)
    better = loss(last) < least
    return jax.tree.map(lambda a, b: jnp.where(better, a, b), last, best), history


def depth_loss(
    fitter: Fitter, views: tuple[View, ...], params: Params, config: DepthLoss | None = None
) -> Scalar:
    """How badly a rendered model agrees with what was seen, and how unlikely it is. One lane.

    Depth is compared pixel by pixel where both are seen; where the object is and the model is not,
    or the model is before what was measured, the outline is wrong, and silhouettes carry the
    derivative. The model may be behind other things, and where nothing came back it costs little.
    """
    config = config or DepthLoss()
    vertices = pose(fitter.model, params).vertices
    total = jnp.zeros(())
    for view in views:
        placed = to_camera(view, vertices)
        seen = render(placed, fitter.model.faces, view.camera)
        # Without the derivatives of silhouettes, where depth jumps to zero: coverage has them.
        corners = fitter.model.faces[jnp.maximum(seen.face_id, 0)]
        gap = jnp.sum(seen.barycentrics * placed[corners, 2], axis=-1) - view.depth
        squared = (gap / config.width_m) ** 2
        depth = 0.5 * (config.width_m / config.sigma_m) ** 2 * squared / (1 + squared)
        missing = config.outline * (1 - seen.coverage)
        # Which pixels count is no matter of derivatives; how much of them is covered is.
        ahead = view.clear - jax.lax.stop_gradient(seen.depth) > config.margin_m
        wrong = config.outline * seen.coverage * view.trust * ahead
        each = jnp.where(view.own, jnp.where(seen.mask, depth, 0.0) + missing, wrong)
        area = _pixel_area(view) / config.patch_m2
        total += area * jnp.sum(each)
    prior = fitter.pose_prior
    parts = [
        config.limits * limit_residuals(prior, params.pose).ravel() ** 2,
        config.shape * shape_residuals(fitter.shape_prior, params.shape).ravel() ** 2,
    ]
    if prior.joints:
        parts.append(config.pose * residuals(prior, params.pose).ravel() ** 2)
    return total + 0.5 * jnp.sum(jnp.concatenate(parts))


def _pixel_area(view: View) -> Scalar:
    """Surface that a pixel of the object stands for, square metres, on average."""
    own = jnp.sum(jnp.where(view.own, view.depth**2, 0.0)) / jnp.maximum(jnp.sum(view.own), 1)
    return own / jnp.prod(view.camera.focal)
