"""Levenberg-Marquardt on the tangent space: every lane of a batch at its own pace.

    fitter = make_fitter(model)
    view = observe(depth, camera, mask)
    result = fit(fitter, prediction, (view,))                  # jitted by the caller; batched

The number of iterations is fixed, so everything is one compiled program. Each lane has its own
damping and takes or refuses its own steps (Nielsen 1999, "Damping parameter in Marquardt's
method", in its simplest form: a third after a step that helped, four times after one that did not).
The robust functions begin wide and become narrow in stages, each of which starts from the energy of
its own width. A lane whose numbers are not finite keeps the last parameters that were.

Between the first, coarse iterations and the others, and once more when those narrow, limbs that are
in the wrong place are put where they explain more (`jrecon.fit.search`). Starts may be several: the
prediction may have front and back, or left and right, confused. The one that ends with the least
energy is kept.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jrecon.fit.energy import (
    Anchor,
    EnergyConfig,
    Quadratic,
    linearise,
)
from jrecon.fit.fitter import Fitter, joint_points, move, point_jacobian, posed_points
from jrecon.fit.observation import View
from jrecon.fit.report import Agreement, agreement
from jrecon.fit.search import search_limbs
from jrecon.geometry import rotation
from jrecon.model.parametric import Params
from jrecon.model.symmetry import mirrored_pose
from jrecon.synth.prior import shape_residuals

CONVERGED, AT_LIMIT, DIVERGED, TOO_FEW = range(4)
STATUS = ("converged", "hit the limit", "diverged", "too few pixels")
# Fewer pixels of the object in the window tell nothing.
LEAST_PIXELS = 24
# A merit below this says no more of how wrong a result is.
_LEAST_MERIT = 0.1


def _static(default: Any) -> Any:
    return dataclasses.field(default=default, metadata=dict(static=True))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FitConfig:
    """How a fit goes about it."""

    energy: EnergyConfig = EnergyConfig()
    belief: EnergyConfig = EnergyConfig(
        sigma_per_m=0.002, patch_m2=0.0018, joints=0.1, turn_rad=0.9, shape_std=0.8, pose=0.25,
        shape=0.5,
    )  # fmt: skip
    """Energy whose curvature tells how sure a result is. Measurements count for less in it than in
    the energy that finds the best parameters: their errors are not independent."""
    mistrust: float = 2.0
    """What views contribute to that curvature is multiplied by the merit of the agreement to this
    power: a curvature knows nothing of a limb that is in the wrong place."""
    certainty: float = 1.8
    """And all of that curvature by this, so that about two thirds of the vertices are within one
    standard deviation: docs/fitting.md."""
    damping: float = 0.01
    """At the start, and at least at that of each stage, as a share of the diagonal of the
    curvature."""
    longest_rad: float = 0.4
    """No joint turns farther in one step, and nothing moves farther than that in metres."""
    tolerance: float = 1e-3
    """A last step that lowers the energy by a smaller share than this is a converged fit's."""
    doubt: float = 20.0
    """How much less energy another start must end with than the prediction."""
    coarse: tuple[float, ...] = _static((6.0,) * 4)
    """Widening of the robust functions in each iteration before limbs are searched for."""
    fine: tuple[float, ...] = _static((3.0,) * 4 + (1.5,) * 4 + (1.0,) * 5)
    """And after it."""
    sweeps: tuple[int, ...] = _static((2, 1))
    """How often each limb is tried elsewhere (see `jrecon.fit.search`) after the coarse iterations,
    and at the next changes of the widening; (): never."""
    unsure_m: float = 0.2
    """Predictions whose joints are expected to be farther off, on average, are not relied upon:
    another start is tried as well."""
    starts: int = _static(2)
    """How many then, at most: see `_starts`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FitResult:
    """What came out, for each lane."""

    params: Params
    status: Int[Array, "*batch"]
    """Index into `STATUS`."""
    agreement: Agreement
    """How well the model explains what was seen."""
    shape_deviation: Float[Array, "*batch"]
    """How unusual the shape is in its class: root mean square of its coefficients, each in standard
    deviations of the likeliest group of the prior (Mahalanobis' distance, over the root of their
    number)."""
    joint_std: Float[Array, "*batch j"]
    """Standard deviation of each joint's position, metres."""
    vertex_std: Float[Array, "*batch v"]
    """And of each vertex's."""
    covariance: Float[Array, "*batch q q"]
    """Of the unknowns, see `jrecon.fit.fitter`."""
    energy: Float[Array, "*batch"]
    start: Int[Array, "*batch"]
    """Which of the starts was gone on with."""
    history: Float[Array, "*batch i"]
    """Energy after each iteration; it jumps where the robust functions become narrower."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """What each iteration does: data, so that every fit runs through the same compiled loop."""

    widening: Float[Array, " i"]
    fresh: Bool[Array, " i"]
    """The energy is another one than before: it is evaluated, and nothing moves."""
    search: Int[Array, " i"]
    """How many limbs are tried elsewhere, before that; a limb may have several turns."""
    belief: Bool[Array, " i"]
    """The energy is that which tells how sure the result is."""
    count: Int[Array, ""]
    """How many iterations there are; entries after these only fill the arrays up."""
    margin: Float[Array, ""]
    """Energy that a limb has to save there."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Lane:
    params: Params
    anchor: Anchor
    at: Quadratic
    energy: Float[Array, ""]
    damping: Float[Array, ""]
    gain: Float[Array, ""]
    """Share of the energy that the last step that was taken saved."""
    healthy: Bool[Array, ""]


def schedule_of(config: FitConfig, limbs: int, length: int | None = None) -> Schedule:
    """The iterations of a fit, in arrays of some length; a sweep of the search is so many limbs."""
    widening = np.array([*config.coarse, *config.fine, 1.0], np.float32)
    count, first = len(widening), len(config.coarse)
    belief = np.arange(count) == count - 1
    fresh = np.diff(widening, prepend=-1.0) != 0
    fresh[first] = True
    search = np.zeros(count, np.int32)
    narrower = first + np.flatnonzero(fresh[first:-1])
    for place, sweeps in zip(narrower, config.sweeps, strict=False):
        search[place] = sweeps * limbs
    wide = (0, (length or count) - count)
    full = [np.pad(x, wide) for x in (widening, fresh | belief, search, belief)]
    widening, fresh, search, belief = map(jnp.asarray, full)
    size = jnp.asarray(count, jnp.int32)
    return Schedule(widening, fresh, search, belief, size, margin=jnp.zeros(()))


def fit(
    fitter: Fitter, anchor: Anchor, views: tuple[View, ...], config: FitConfig = FitConfig()
) -> FitResult:
    """Refine a prediction (see `anchor_of`) until the model explains the views.

    Args:
      anchor, views: with the same batch axes, or none.

    Returns:
      For each lane; never NaN. Jitted by the caller.
    """
    batch = anchor.params.translation.shape[:-1]
    if not batch:
        return fit_one(fitter, anchor, views, config)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(batch) :]), (anchor, views))
    one = lambda lane: fit_one(fitter, lane[0], lane[1], config)
    # One after another on a CPU, as rendering is.
    found = jax.lax.platform_dependent(
        flat, cpu=lambda lanes: jax.lax.map(one, lanes), default=lambda lanes: jax.vmap(one)(lanes)
    )
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), found)


def fit_one(
    fitter: Fitter,
    anchor: Anchor,
    views: tuple[View, ...],
    config: FitConfig,
    schedule: Schedule | None = None,
    hint: Float[Array, "j 3"] | None = None,
) -> FitResult:
    """One lane; for `vmap` and `lax.map`. A schedule replaces that of the configuration; limbs are
    tried as in a hinted pose, too."""
    schedule = schedule or schedule_of(config, len(fitter.limbs))
    enough = sum(jnp.sum(view.own) for view in views) >= LEAST_PIXELS
    # Jitted, so that it is traced once for its shapes and its use, which takes seconds.
    run = jax.jit(functools.partial(_descend, fitter, config, schedule, views, hint))
    best, lane, history = _best_of(run, _starts(fitter, anchor), config, anchor)
    params = _where(enough & lane.healthy, lane.params, anchor.params)
    status = jnp.where(lane.gain < config.tolerance, CONVERGED, AT_LIMIT)
    status = jnp.where(lane.healthy, status, DIVERGED)
    agreed = agreement(fitter, views, params)
    trust = jnp.maximum(agreed.merit, _LEAST_MERIT) ** config.mistrust
    # The rest of the curvature, of priors and the prediction, tells of what was not seen.
    curvature = lane.at.curvature - (1 - trust) * lane.at.measured
    covariance, joint_std, vertex_std = deviations(fitter, params, config.certainty * curvature)
    return FitResult(
        params=params,
        status=jnp.where(enough, status, TOO_FEW).astype(jnp.int32),
        agreement=agreed,
        shape_deviation=_shape_deviation(fitter, params),
        joint_std=joint_std,
        vertex_std=vertex_std,
        covariance=covariance,
        energy=jnp.where(lane.healthy, lane.energy, 0.0),
        start=best,
        history=jnp.nan_to_num(history),
    )


def _best_of(
    run: Callable[[Anchor], tuple[_Lane, Array]],
    anchors: list[Anchor],
    config: FitConfig,
    anchor: Anchor,
) -> tuple[Int[Array, ""], _Lane, Float[Array, " i"]]:
    """Which start ended best, and how it went; the first alone where the anchor is sure."""
    many = jax.tree.map(lambda *x: jnp.stack(x), *anchors[: config.starts])
    unsure = jnp.mean(anchor.joint_std) > config.unsure_m
    count = jnp.where(unsure, min(config.starts, len(anchors)), 1)

    def go(i: Array, best: tuple[Array, _Lane, Array]) -> tuple[Array, _Lane, Array]:
        lane, history = run(jax.tree.map(lambda x: x[i], many))
        handicap = jnp.where(i > 0, config.doubt, 0.0)
        better = lane.healthy & (lane.energy + handicap < best[1].energy)
        return _where(better | (i == 0), (i, lane, history), best)

    shapes = jax.eval_shape(run, anchor)
    blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.fori_loop(0, count, go, (jnp.zeros((), jnp.int32), *blank))


def _descend(
    fitter: Fitter,
    config: FitConfig,
    schedule: Schedule,
    views: tuple[View, ...],
    hint: Float[Array, "j 3"] | None,
    anchor: Anchor,
) -> tuple[_Lane, Float[Array, " i"]]:
    """All iterations from one start, and the energy after each."""
    size = fitter.size
    nothing = Quadratic(
        jnp.asarray(jnp.inf), jnp.zeros(size), jnp.eye(size), jnp.zeros((size, size))
    )
    lane = _Lane(
        params=anchor.params,
        anchor=anchor,
        at=nothing,
        energy=jnp.asarray(jnp.inf),
        damping=jnp.asarray(config.damping),
        gain=jnp.asarray(1.0),
        healthy=jnp.asarray(False),
    )

    def search(lane: _Lane, _: Params, tries: Array) -> tuple[Params, Anchor]:
        # Joints stay anchored where they were predicted; rotations of limbs that were moved are
        # where the search has put them.
        start = lane.anchor, lane.params
        other = lane.params.pose if hint is None else hint
        params = search_limbs(fitter, views, *start, tries, other, schedule.margin)
        moved = jnp.any(params.pose != lane.params.pose, axis=-1, keepdims=True)
        turns = jnp.where(moved, params.pose, lane.anchor.params.pose)
        known = dataclasses.replace(lane.anchor.params, pose=turns)
        return params, dataclasses.replace(lane.anchor, params=known)

    def iterate(i: Array, carry: tuple[_Lane, Array]) -> tuple[_Lane, Array]:
        lane, history = carry
        now = jax.tree.map(lambda x: x if x.ndim == 0 else x[i], schedule)
        step = _step(fitter, config, lane.at, lane.damping) * jnp.where(now.fresh, 0.0, 1.0)
        candidate, anchor = move(fitter, lane.params, step), lane.anchor
        if config.sweeps:
            keep = lambda lane, candidate, _: (candidate, lane.anchor)
            known = lane, candidate, now.search
            candidate, anchor = jax.lax.cond(now.search > 0, search, keep, *known)
        terms = _where(now.belief, config.belief, config.energy)
        at = linearise(fitter, terms, views, anchor, candidate, now.widening)
        following = _judged(config, now, lane, candidate, anchor, at)
        return following, history.at[i].set(following.energy)

    history = jnp.full(schedule.widening.shape, jnp.inf)
    lane, history = jax.lax.fori_loop(0, schedule.count, iterate, (lane, history))
    # The last iteration told how sure the result is; entries after it were never written.
    last = schedule.count - 2
    return lane, jnp.where(jnp.arange(len(history)) > last, history[last], history)[:-1]


def _judged(
    config: FitConfig,
    now: Schedule,
    lane: _Lane,
    candidate: Params,
    anchor: Anchor,
    at: Quadratic,
) -> _Lane:
    """The lane with or without a step, and its damping for the next one."""
    sound = jnp.isfinite(at.energy) & jnp.all(jnp.isfinite(at.curvature))
    taken = sound & (now.fresh | (at.energy < lane.at.energy))
    damping = jnp.clip(lane.damping * jnp.where(taken, 1 / 3, 4.0), 1e-6, 1e4)
    damping = jnp.where(now.fresh, jnp.maximum(config.damping, lane.damping), damping)
    gain = (lane.at.energy - at.energy) / jnp.maximum(lane.at.energy, 1e-9)
    gain = jnp.where(now.fresh, 1.0, jnp.where(taken, gain, lane.gain))
    return _Lane(
        params=_where(taken, candidate, lane.params),
        anchor=anchor,
        at=_where(taken, at, lane.at),
        energy=jnp.where(taken & ~now.belief, at.energy, lane.energy),
        damping=damping,
        gain=jnp.where(now.belief, lane.gain, gain),
        healthy=lane.healthy | sound,
    )


def _step(
    fitter: Fitter, config: FitConfig, at: Quadratic, damping: Float[Array, ""]
) -> Float[Array, " q"]:
    """The damped Gauss-Newton step, shortened where it turns a joint too far."""
    diagonal = jnp.diagonal(at.curvature)
    damped = at.curvature + jnp.diag(damping * diagonal + 1e-6)
    factor = jax.scipy.linalg.cho_factor(damped)
    step = -jax.scipy.linalg.cho_solve(factor, at.slope)
    step = jnp.where(jnp.all(jnp.isfinite(step)), step, 0.0)
    turns = step[fitter.shapes :].reshape(-1, 3)
    longest = jnp.max(jnp.linalg.norm(turns, axis=-1))
    return step * jnp.minimum(1.0, config.longest_rad / jnp.maximum(longest, 1e-9))


def anchor_of(fitter: Fitter, params: Params, joint_std: Float[Array, "*batch j"]) -> Anchor:
    """What a prediction (`jrecon.learn.regressor.Prediction`) says, as a fit takes it.

    Args:
      params: *batch, in the frame of the parameters.
      joint_std: expected error of each joint, metres.
    """
    batch = params.translation.shape[:-1]
    points = posed_points(fitter, params)
    joints = points[..., joint_points(fitter), :]
    one = jnp.ones(batch)
    return Anchor(params, joints, jnp.maximum(joint_std, 0.005), one, one)


def _starts(fitter: Fitter, anchor: Anchor) -> list[Anchor]:
    """The anchor, and itself turned round with sides exchanged: what a depth map of an upright
    object may be confused with."""
    about = jnp.zeros(3).at[1].set(jnp.pi)
    turns = anchor.params.pose
    # All but the root: it is seen from where it was.
    exchanged = mirrored_pose(fitter.pose_prior.mirror, turns)
    exchanged = exchanged.at[0].set(rotation.compose(turns[0], about))
    params = dataclasses.replace(anchor.params, pose=exchanged)
    joints = posed_points(fitter, params)[joint_points(fitter)]
    return [anchor, dataclasses.replace(anchor, params=params, joints=joints)]


def _shape_deviation(fitter: Fitter, params: Params) -> Float[Array, ""]:
    rest = shape_residuals(fitter.shape_prior, params.shape)
    return jnp.sqrt(jnp.sum(rest**2) / max(len(rest), 1))


def deviations(
    fitter: Fitter, params: Params, curvature: Float[Array, "q q"]
) -> tuple[Float[Array, "q q"], Float[Array, " j"], Float[Array, " v"]]:
    """Covariance of the unknowns, and standard deviations of joints and vertices: Laplace's
    approximation, the inverse of the curvature at the optimum."""
    size = fitter.size
    scale = jax.lax.rsqrt(jnp.maximum(jnp.diagonal(curvature), 1e-9))
    scaled = curvature * scale[:, None] * scale[None] + 1e-5 * jnp.eye(size)
    factor = jnp.linalg.cholesky(scaled)
    root = jax.scipy.linalg.solve_triangular(factor, jnp.diag(scale), lower=True)
    covariance = jnp.matmul(root.T, root)
    slopes = point_jacobian(fitter, params)
    rows = jnp.matmul(slopes.reshape(-1, size), root.T).reshape(*slopes.shape)
    spread = jnp.sqrt(jnp.sum(rows**2, axis=(1, 2)))
    spread = jnp.where(jnp.isfinite(spread), spread, 1.0)
    joints, count = joint_points(fitter), len(fitter.model.vertices)
    return jnp.nan_to_num(covariance), spread[joints], spread[:count]


def _where(condition: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
