"""One object through a video: each frame begins where the last one led.

    state = begin(fitter)
    known = expect(fitter, fit_config.energy, config, state)   # an anchor for the next frame
    known = fuse(config, known, anchor_of(fitter, ...))        # and what is predicted from it
    result = fit(fitter, known, (view,), fit_config)
    seen = Sight(off, contrary, anew=False)                    # True: from the prediction alone
    state = follow(config, state, result, seen)

What is known before a frame is seen: parameters go on changing as they did, by less and less; how
far joints turn and move between frames, more for those that lately came as a surprise; and the
shape, which is the same in all frames, so that it becomes surer with every one. What the learned
function says of each frame is heeded as well: it knows nothing of the frames before, so it does not
go on with their errors. A frame that explains much less than those before is a lost one: the state
waits, ever less sure of where things are, until something is found again. `jrecon.track` begins
anew with the learned function then, and where that has kept saying that the object faces elsewhere.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jrecon.fit.energy import Anchor, EnergyConfig
from jrecon.fit.fitter import Fitter, joint_points, posed_points
from jrecon.fit.solve import AT_LIMIT, FitResult
from jrecon.geometry import rotation
from jrecon.model.parametric import Params, zeros

# Frames after which the mean of shapes moves no slower: clothes shift, errors are not independent.
_LONGEST_MEMORY = 100
# Frames that it counts as after the object was lost for long.
_RELIC = 4.0
# Metres: a joint that was farther off was wrong, or is, and no faster than that.
_FARTHEST_OFF_M = 0.4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TrackConfig:
    """How a track goes about it; at some 30 frames a second."""

    widenings: tuple[float, ...] = dataclasses.field(
        default=(2.0,) * 2 + (1.0,) * 4, metadata=dict(static=True)
    )
    """Of the robust functions, in each iteration that goes on from the last frame."""
    sweeps: int = 1
    """How often each limb is tried elsewhere in each of these frames: see `jrecon.fit.search`."""
    margin: float = 3.0
    """Energy that one of them has to save: the search is too coarse to tell neighbours apart."""
    turn_rad: float = 0.75
    """Standard deviation of the rotation of a joint from the expected one."""
    joint_m: float = 0.07
    """And of its place, to which is added, in quadrature,"""
    haste: float = 2.0
    """so many times the distance by which the joint was lately off its expected place: gestures are
    fast, and so are bodies before a slow camera."""
    memory: float = 0.3
    """Share that a frame has in what is remembered of such surprises, and of where predictions
    faced."""
    contrary: float = 0.7
    """Where more of the late predictions face elsewhere than the track, a frame is tried anew: if
    that explains as much of it, the track was backwards."""
    heed: float = 4.0
    """How much predicted joints of the frame count beside that; 1: as much as they are sure. Chosen
    on the recordings of experiments/bench_track.py."""
    turned_rad: float = 0.8
    """Predictions count half where their root is turned so far from the expected rotation: they may
    have front and back confused. Twice as far they face elsewhere."""
    persistence: float = 0.6
    """Share of the last change that the next one is expected to be."""
    fastest_rad: float = 0.3
    """Joints turn no farther from frame to frame; more than that was put right, and ends."""
    fastest_m: float = 0.1
    """Nor does the whole move farther."""
    least_overlap: float = 0.45
    """Frames that overlap less are lost."""
    drop: float = 0.2
    """As are those that explain so much less of the object's pixels than frames did before."""
    patience: int = dataclasses.field(default=3, metadata=dict(static=True))
    """Lost frames in a row after which nothing is known of pose and place any more."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TrackState:
    """All that is kept of a video: of constant size."""

    params: Params
    """Of the last frame that was not lost; the shape is the mean of all of them."""
    turn: Float[Array, "j 3"]
    """Rotation of each joint from the frame before to that."""
    shift: Float[Array, " 3"]
    """And of the translation, metres."""
    surprise: Float[Array, " j"]
    """How far joints lately were from where they were expected, metres."""
    contrary: Float[Array, ""]
    """Share of the late frames whose predictions faced elsewhere."""
    frames: Float[Array, ""]
    """That the mean shape is of, up to a limit."""
    explained: Float[Array, ""]
    """Share of the object's pixels that is usually explained."""
    lost: Int[Array, ""]
    """Frames since then; -1: nothing was found yet."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Sight:
    """A frame's result beside what was expected and predicted of it."""

    off: Float[Array, " j"]
    """Distance of the result's joints from where they were expected, metres."""
    contrary: Bool[Array, ""] | bool
    """The prediction faces elsewhere than was expected."""
    anew: Bool[Array, ""] | bool
    """The result does not go on from the state."""


def begin(fitter: Fitter) -> TrackState:
    """The state before the first frame."""
    nothing = zeros(fitter.model)
    return TrackState(
        params=nothing,
        turn=jnp.zeros_like(nothing.pose),
        shift=jnp.zeros(3),
        surprise=jnp.zeros(len(nothing.pose)),
        contrary=jnp.zeros(()),
        frames=jnp.zeros(()),
        explained=jnp.zeros(()),
        lost=jnp.full((), -1, jnp.int32),
    )


def expect(fitter: Fitter, energy: EnergyConfig, config: TrackConfig, state: TrackState) -> Anchor:
    """What is known of the next frame, for fits with this energy."""
    share = config.persistence
    params = Params(
        state.params.shape,
        rotation.compose(share * state.turn, state.params.pose),
        state.params.translation + share * state.shift,
    )
    joints = posed_points(fitter, params)[joint_points(fitter)]
    # Each lost frame is one more step of a random walk.
    longer = jnp.sqrt(1.0 + jnp.maximum(state.lost, 0))
    return Anchor(
        params=params,
        joints=joints,
        joint_std=jnp.hypot(config.joint_m, config.haste * state.surprise) * longer,
        shape_sigma=jnp.maximum(jax.lax.rsqrt(1.0 + state.frames), 0.1),
        turn_sigma=longer * config.turn_rad / energy.turn_rad,
    )


def fuse(config: TrackConfig, known: Anchor, told: Anchor) -> Anchor:
    """What is known of joints before a frame, and what is predicted from it: means, weighted by how
    sure both are."""
    heed = config.heed / (1 + (turned(known, told) / config.turned_rad) ** 4)
    sure, more = known.joint_std**-2, heed * told.joint_std**-2
    share = (more / (sure + more))[:, None]
    return dataclasses.replace(
        known,
        joints=known.joints + share * (told.joints - known.joints),
        joint_std=(sure + more) ** -0.5,
    )


def turned(known: Anchor, told: Anchor) -> Float[Array, ""]:
    """Angle between two roots, radians."""
    return jnp.linalg.norm(rotation.compose(told.params.pose[0], -known.params.pose[0]))


def is_lost(config: TrackConfig, state: TrackState, result: FitResult) -> Bool[Array, ""]:
    """Whether a result is no continuation of the track."""
    seen = result.agreement
    return (
        (result.status > AT_LIMIT)
        | (seen.overlap < config.least_overlap)
        | (seen.inlier_share < state.explained - config.drop)
    )


def is_doubted(
    config: TrackConfig, state: TrackState, contrary: Bool[Array, ""] | bool
) -> Bool[Array, ""]:
    """Whether a frame is tried anew because predictions keep facing elsewhere, as its own does."""
    return (state.contrary > config.contrary) & contrary


def follow(config: TrackConfig, state: TrackState, result: FitResult, seen: Sight) -> TrackState:
    """The state after a frame."""
    lost = jnp.where(state.lost < 0, state.lost, state.lost + 1).astype(jnp.int32)
    # Who comes next may be somebody else.
    known = jnp.where(lost >= config.patience, jnp.minimum(state.frames, _RELIC), state.frames)
    waiting = dataclasses.replace(state, lost=lost, frames=known)
    # Too long ago to say anything of how fast things move, or of what is usual.
    forgotten = (state.lost < 0) | (state.lost >= config.patience)
    since = 1.0 + jnp.maximum(state.lost, 0)
    now, before = result.params, state.params
    count = jnp.minimum(state.frames + 1, _LONGEST_MEMORY)
    inverse = -before.pose
    turn = _unless_longer(config.fastest_rad, rotation.compose(now.pose, inverse) / since)
    shift = _unless_longer(config.fastest_m, (now.translation - before.translation) / since)
    turn, shift = (jnp.where(forgotten | seen.anew, 0.0, x) for x in (turn, shift))
    recent = lambda before, now: before + config.memory * (now - before)
    off = jnp.where(forgotten, 0.0, recent(state.surprise, jnp.minimum(seen.off, _FARTHEST_OFF_M)))
    # Once it was tried anew, a track is judged from there.
    settled = forgotten | seen.anew | is_doubted(config, state, seen.contrary)
    contrary = jnp.where(settled, 0.0, recent(state.contrary, 1.0 * seen.contrary))
    usual = jnp.where(forgotten, result.agreement.inlier_share, state.explained)
    going = TrackState(
        params=Params(before.shape + (now.shape - before.shape) / count, now.pose, now.translation),
        turn=turn,
        shift=shift,
        surprise=off,
        contrary=contrary,
        frames=count,
        explained=usual + 0.1 * (result.agreement.inlier_share - usual),
        lost=jnp.zeros((), jnp.int32),
    )
    lost = is_lost(config, dataclasses.replace(state, explained=usual), result)
    return jax.tree.map(lambda a, b: jnp.where(lost, a, b), waiting, going)


def _unless_longer(length: float, vector: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """The vector, or nothing where it is longer than that."""
    long = jnp.linalg.norm(vector, axis=-1, keepdims=True) > length
    return jnp.where(long, 0.0, vector)
