"""One object through a video: each frame begins where the last one led.

    state = begin(fitter)
    known = expect(fitter, fit_config.energy, config, state)   # an anchor for the next frame
    known = fuse(config, known, anchor_of(fitter, ...))        # and what is predicted from it
    result = fit(fitter, known, (view,), fit_config)
    state = follow(config, state, result, anew=False)          # True: from the prediction alone

What is known before a frame is seen: parameters go on changing as they did, by less and less; how
far joints turn and move between frames; and the shape, which is the same in all frames, so that it
becomes surer with every one. What the learned function says of each frame is heeded as well: it
knows nothing of the frames before, so it does not go on with their errors. A frame that explains
much less than those before is a lost one: the state waits, ever less sure of where things are,
until something is found again. `jrecon.track` begins anew with the learned function then.
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TrackConfig:
    """How a track goes about it; at some 30 frames a second."""

    widenings: tuple[float, ...] = dataclasses.field(
        default=(2.0,) * 2 + (1.0,) * 4, metadata=dict(static=True)
    )
    """Of the robust functions, in each iteration that goes on from the last frame."""
    limbs: int = 1
    """That are tried elsewhere in each of these frames, in turns: see `jrecon.fit.search`."""
    margin: float = 8.0
    """Energy that one of them has to save: the search is too coarse to tell neighbours apart."""
    turn_rad: float = 0.75
    """Standard deviation of the rotation of a joint from the expected one."""
    joint_m: float = 0.05
    """And of its place."""
    heed: float = 4.0
    """How much predicted joints of the frame count beside that; 1: as much as they are sure. Chosen
    on the recordings of experiments/bench_track.py."""
    turned_rad: float = 0.8
    """Predictions count half where their root is turned so far from the expected rotation: they may
    have front and back confused."""
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
    frames: Float[Array, ""]
    """That the mean shape is of, up to a limit."""
    explained: Float[Array, ""]
    """Share of the object's pixels that is usually explained."""
    lost: Int[Array, ""]
    """Frames since then; -1: nothing was found yet."""
    turns: Int[Array, ""]
    """Of limbs that were tried elsewhere."""


def begin(fitter: Fitter) -> TrackState:
    """The state before the first frame."""
    nothing = zeros(fitter.model)
    return TrackState(
        params=nothing,
        turn=jnp.zeros_like(nothing.pose),
        shift=jnp.zeros(3),
        frames=jnp.zeros(()),
        explained=jnp.zeros(()),
        lost=jnp.full((), -1, jnp.int32),
        turns=jnp.zeros((), jnp.int32),
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
        joint_std=jnp.full(len(joints), config.joint_m) * longer,
        shape_sigma=jnp.maximum(jax.lax.rsqrt(1.0 + state.frames), 0.1),
        turn_sigma=longer * config.turn_rad / energy.turn_rad,
    )


def fuse(config: TrackConfig, known: Anchor, told: Anchor) -> Anchor:
    """What is known of joints before a frame, and what is predicted from it: means, weighted by how
    sure both are."""
    turned = rotation.compose(told.params.pose[0], -known.params.pose[0])
    angle = jnp.linalg.norm(turned)
    heed = config.heed / (1 + (angle / config.turned_rad) ** 4)
    sure, more = known.joint_std**-2, heed * told.joint_std**-2
    share = (more / (sure + more))[:, None]
    return dataclasses.replace(
        known,
        joints=known.joints + share * (told.joints - known.joints),
        joint_std=(sure + more) ** -0.5,
    )


def is_lost(config: TrackConfig, state: TrackState, result: FitResult) -> Bool[Array, ""]:
    """Whether a result is no continuation of the track."""
    seen = result.agreement
    return (
        (result.status > AT_LIMIT)
        | (seen.overlap < config.least_overlap)
        | (seen.inlier_share < state.explained - config.drop)
    )


def follow(
    config: TrackConfig, state: TrackState, result: FitResult, *, anew: bool | Bool[Array, ""]
) -> TrackState:
    """The state after a frame; `anew`: its result does not go on from the state."""
    turns = state.turns + config.limbs
    lost = jnp.where(state.lost < 0, state.lost, state.lost + 1).astype(jnp.int32)
    # Who comes next may be somebody else.
    known = jnp.where(lost >= config.patience, jnp.minimum(state.frames, _RELIC), state.frames)
    waiting = dataclasses.replace(state, lost=lost, turns=turns, frames=known)
    # Too long ago to say anything of how fast things move, or of what is usual.
    forgotten = (state.lost < 0) | (state.lost >= config.patience)
    since = 1.0 + jnp.maximum(state.lost, 0)
    now, before = result.params, state.params
    count = jnp.minimum(state.frames + 1, _LONGEST_MEMORY)
    inverse = -before.pose
    turn = _unless_longer(config.fastest_rad, rotation.compose(now.pose, inverse) / since)
    shift = _unless_longer(config.fastest_m, (now.translation - before.translation) / since)
    turn, shift = (jnp.where(forgotten | anew, 0.0, x) for x in (turn, shift))
    usual = jnp.where(forgotten, result.agreement.inlier_share, state.explained)
    going = TrackState(
        params=Params(before.shape + (now.shape - before.shape) / count, now.pose, now.translation),
        turn=turn,
        shift=shift,
        frames=count,
        explained=usual + 0.1 * (result.agreement.inlier_share - usual),
        lost=jnp.zeros((), jnp.int32),
        turns=turns,
    )
    lost = is_lost(config, dataclasses.replace(state, explained=usual), result)
    return jax.tree.map(lambda a, b: jnp.where(lost, a, b), waiting, going)


def _unless_longer(length: float, vector: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """The vector, or nothing where it is longer than that."""
    long = jnp.linalg.norm(vector, axis=-1, keepdims=True) > length
    return jnp.where(long, 0.0, vector)
