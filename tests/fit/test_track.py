"""A rod through a video: followed, lost, found again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrecon import programs
from jrecon.fit.fitter import make_fitter
from jrecon.fit.solve import STATUS, FitConfig, anchor_of
from jrecon.fit.track import Sight, TrackConfig, expect, follow, fuse, is_doubted
from jrecon.geometry import rotation
from jrecon.learn.regressor import make_regressor
from jrecon.model.parametric import pose
from jrecon.reconstructor import Reconstructor, start_track, track
from jrecon.render import render
from tests.fit.test_solve import CAMERA, placed
from tests.learn.small_class import NETWORK, rod

FRAMES = 6


def moving(frame):
    return placed(bend=0.2 + 0.05 * frame, lean=0.1, x=0.05 + 0.01 * frame)


@pytest.fixture(scope="module")
def recon():
    model = rod(0.1)
    config = FitConfig(coarse=(3.0,) * 2, fine=(1.0,) * 5)
    function = make_regressor(model, jax.random.key(0), NETWORK)
    return Reconstructor(function, make_fitter(model), config)


@pytest.fixture(scope="module")
def video(recon):
    draw = jax.jit(lambda p: render(pose(recon.model, p).vertices, recon.model.faces, CAMERA))
    frames = []
    for frame in range(FRAMES):
        seen = draw(moving(frame))
        frames.append((jnp.where(seen.mask, seen.depth, 3.5), seen.mask))
    return frames


def sight(off=(0.0, 0.0), contrary=False, anew=False):
    return Sight(jnp.asarray(off), contrary, anew)


def error_mm(recon, found, frame):
    apart = found.vertices - pose(recon.model, moving(frame)).vertices
    return 1e3 * float(jnp.linalg.norm(apart, axis=-1).mean())


@pytest.fixture(scope="module")
def followed(recon, video):
    """From the truth of the frame before the first: what an untrained function says is no start."""
    first = dataclasses.replace(
        start_track(recon),
        params=moving(-1),
        frames=jnp.ones(()),
        explained=jnp.full((), 0.7),
        lost=jnp.zeros((), jnp.int32),
    )
    state, states, found = first, [], []
    empty = jnp.zeros_like(video[0][0]), jnp.zeros_like(video[0][1])
    for frame in [*video[:3], empty, *video[4:]]:
        state, out = track(recon, state, frame[0], CAMERA, frame[1])
        states.append(state)
        found.append(out)
    return states, found


def test_a_moving_object_is_followed(recon, followed):
    states, found = followed
    for frame in (0, 1, 2):
        assert error_mm(recon, found[frame], frame) < 25
        assert states[frame].lost == 0
    assert float(states[2].shift[0]) == pytest.approx(0.01, abs=0.006)


def test_a_frame_without_it_leaves_the_state_waiting(recon, followed):
    states, found = followed
    assert states[3].lost == 1
    np.testing.assert_array_equal(states[3].params.pose, states[2].params.pose)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(found[3]))
    assert states[4].lost == 0 and error_mm(recon, found[4], 4) < 25


def test_the_shape_becomes_surer_and_nothing_grows(followed):
    states, _ = followed
    assert [float(s.frames) for s in states] == [2, 3, 4, 4, 5, 6]
    assert len({jax.tree.structure(s) for s in states}) == 1
    assert len({tuple(x.shape for x in jax.tree.leaves(s)) for s in states}) == 1


def test_a_limb_that_is_lost_is_found_again(recon, video):
    """What goes on from the last frame ends in the nearest place; the search looks farther."""
    truth = moving(0)
    wrong = dataclasses.replace(truth, pose=truth.pose.at[1, 0].set(-0.8))
    state = dataclasses.replace(
        start_track(recon), params=wrong, frames=jnp.full((), 5.0), lost=jnp.zeros((), jnp.int32)
    )
    errors = {}
    for sweeps in (0, 1):
        config = TrackConfig(sweeps=sweeps, turn_rad=1.0, joint_m=0.3)
        _, found = track(recon, state, video[0][0], CAMERA, video[0][1], config)
        errors[sweeps] = error_mm(recon, found, 0)
    assert errors[1] < 25 < errors[0]


def test_predictions_are_heeded_as_sure_as_they_are(recon):
    """Means weighted by precision; hardly where they face elsewhere."""
    model = recon.model
    state = dataclasses.replace(start_track(recon), params=moving(0), lost=jnp.zeros((), jnp.int32))
    config = TrackConfig(heed=1.0, joint_m=0.05)
    known = expect(recon.fitter, recon.config.energy, config, state)
    std = jnp.full(model.num_joints, 0.05)
    told = anchor_of(recon.fitter, moving(4), std)
    both = fuse(config, known, told)
    np.testing.assert_allclose(both.joints, (known.joints + told.joints) / 2, atol=1e-6)
    np.testing.assert_allclose(both.joint_std, std / 2**0.5, rtol=1e-5)
    unsure = dataclasses.replace(told, joint_std=20 * std)
    np.testing.assert_allclose(fuse(config, known, unsure).joints, known.joints, atol=1e-3)
    turned = rotation.compose(jnp.array([0.0, 3.0, 0.0]), told.params.pose[0])
    params = dataclasses.replace(told.params, pose=told.params.pose.at[0].set(turned))
    away = fuse(config, known, dataclasses.replace(told, params=params))
    assert float(jnp.abs(away.joints - known.joints).max()) < 0.01 * float(
        jnp.abs(told.joints - known.joints).max()
    )


def test_what_was_put_right_is_no_motion(followed):
    """Velocities are those from frame to frame, of what can move so, and not of corrections."""
    states, found = followed
    config, state, result = TrackConfig(), states[1], found[2].fit

    def after(dx, turn, lost=0, anew=False):
        params = dataclasses.replace(
            state.params,
            translation=state.params.translation + jnp.array([dx, 0.0, 0.0]),
            pose=rotation.compose(jnp.array([[0.0, 0.0, turn]]), state.params.pose),
        )
        known = dataclasses.replace(state, lost=jnp.asarray(lost, jnp.int32))
        seen = dataclasses.replace(result, params=params)
        return follow(config, known, seen, sight(anew=anew))

    moved = after(0.06, 0.2)
    np.testing.assert_allclose(moved.shift, [0.06, 0, 0], atol=1e-6)
    np.testing.assert_allclose(moved.turn[1], [0, 0, 0.2], atol=1e-5)
    np.testing.assert_allclose(after(0.06, 0.2, lost=1).shift, moved.shift / 2, atol=1e-6)
    for jump in (after(0.4, 1.6), after(0.06, 0.2, anew=True), after(0.06, 0.2, lost=3)):
        assert not jump.shift.any() and not jump.turn.any() and jump.lost == 0
    # Who comes after a long time may be somebody else: the shape is not held to the first one's.
    empty = dataclasses.replace(result, status=jnp.asarray(STATUS.index("too few pixels")))
    long = dataclasses.replace(state, frames=jnp.full((), 90.0), lost=jnp.asarray(2, jnp.int32))
    assert follow(config, long, empty, sight()).frames == 4
    short = dataclasses.replace(long, lost=jnp.asarray(1, jnp.int32))
    assert follow(config, short, empty, sight()).frames == 90


def test_joints_that_moved_unexpectedly_are_held_less(recon, followed):
    """By so many times the running mean of how far off they were; forgotten when at rest."""
    states, found = followed
    config, state, result = TrackConfig(haste=2.0, memory=0.3), states[1], found[2].fit
    still = dataclasses.replace(state, surprise=jnp.zeros(2))
    held = lambda state: expect(recon.fitter, recon.config.energy, config, state).joint_std
    np.testing.assert_allclose(held(still), config.joint_m, rtol=1e-6)
    hasty = follow(config, still, result, sight(off=(0.0, 0.2)))
    np.testing.assert_allclose(hasty.surprise, [0.0, 0.06], rtol=1e-5)
    much = np.hypot(config.joint_m, 0.12)
    np.testing.assert_allclose(held(hasty), [config.joint_m, much], rtol=1e-5)
    # A joint cannot have been metres off for its haste.
    far = follow(config, still, result, sight(off=(0.0, 5.0)))
    assert float(far.surprise[1]) == pytest.approx(0.3 * 0.4)
    for _ in range(20):
        hasty = follow(config, hasty, result, sight())
    np.testing.assert_allclose(held(hasty), config.joint_m, rtol=1e-3)


def test_a_track_that_is_contradicted_is_tried_anew_once(followed):
    """By several frames in a row; and then not before as many more."""
    states, found = followed
    config, state, result = TrackConfig(), states[1], found[2].fit
    state, doubts = dataclasses.replace(state, contrary=jnp.zeros(())), []
    for _ in range(10):
        doubts.append(bool(is_doubted(config, state, True)))
        assert not is_doubted(config, state, False)
        state = follow(config, state, result, sight(contrary=True))
    assert doubts == ([False] * 4 + [True]) * 2
    for contrary in (True, False) * 10:
        state = follow(config, state, result, sight(contrary=contrary))
        assert not is_doubted(config, state, True)


def test_another_size_of_image_compiles_no_other_fit(recon, video, followed, monkeypatch):
    """The same scene in a larger image: the same answer, by the same program."""
    depth, mask = video[5]
    wide = [jnp.pad(x, [(8, 4), (10, 2)]) for x in (depth, mask)]
    larger = dataclasses.replace(
        CAMERA,
        center=CAMERA.center + jnp.array([10.0, 8.0]),
        width=CAMERA.width + 12,
        height=CAMERA.height + 12,
    )
    monkeypatch.setattr(programs, "_make_ready", None)
    _, found = track(recon, followed[0][4], wide[0], larger, wide[1])
    # What is out of the image is told from what did not come back.
    assert error_mm(recon, found, 5) < 25


def test_wrong_shapes_are_explained(recon, video):
    state = start_track(recon)
    depth, mask = video[0]
    with pytest.raises(ValueError, match="one frame"):
        track(recon, state, depth[None], CAMERA, mask[None], TrackConfig())
    with pytest.raises(ValueError, match="the same"):
        track(recon, state, depth, CAMERA, mask[1:])
