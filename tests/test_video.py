"""Following through a recording: in which order, from what state, and what motion comes of it."""

import dataclasses
import types
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jrecon import video
from jrecon.geometry.camera import make_camera
from jrecon.io.segment import Segment, Segmentation
from jrecon.io.sequence import Frame
from jrecon.model.parametric import Params, pose, zeros
from tests.learn.small_class import rod

CAMERA = make_camera(60, 60, 15.5, 11.5, 32, 24)


def mask_at(column):
    mask = np.zeros((24, 32), bool)
    mask[6:18, column : column + 6] = True
    return mask


class Recording:
    """A block that moves by one pixel a frame, and another that stays."""

    def read(self, number):
        depth = np.where(mask_at(number) | mask_at(24), 2.0, 3.0).astype(np.float32)
        return Frame(depth, CAMERA, f"{number}", None, ())


@pytest.fixture
def heard(monkeypatch):
    """What `track` was asked, instead of a fit: (state, column of the mask)."""
    asked: list[Any] = []

    def track(recon, state, depth, camera, mask):
        column = int(np.flatnonzero(mask.any(axis=0))[0])
        asked.append((state, column))
        number = jnp.float32(column)
        return types.SimpleNamespace(lost=jnp.int32(column == 5), came_from=column), number

    def find_objects(depth, camera):
        column = int(np.flatnonzero((depth == 2.0).any(axis=0))[0])
        unlike, like = (
            Segment(mask, (0, 0, 1, 1), 2.0, 1.7, 72, 1.0)
            for mask in (mask_at(24), mask_at(column))
        )
        return Segmentation((unlike, like), None, {}, np.array([0.0, -1.0, 0.0]))

    monkeypatch.setattr(video, "track", track)
    monkeypatch.setattr(video, "find_objects", find_objects)
    monkeypatch.setattr(video, "start_track", lambda recon: "start")
    return asked


def test_both_ways_begin_with_the_surest_frame(heard):
    recon: Any = None
    capture: Any = Recording()
    steps = list(video.follow(recon, capture, range(2, 8), video.Surest(4, mask_at(4))))
    assert [number for number, _ in steps] == [4, 5, 6, 7, 3, 2]
    assert [step.frame.name for _, step in steps] == ["4", "5", "6", "7", "3", "2"]
    # Of the two objects the one of the frame before is followed.
    assert [column for _, column in heard] == [4, 5, 6, 7, 3, 2]
    came_from = [getattr(state, "came_from", state) for state, _ in heard]
    assert came_from == ["start", 4, 5, 6, 4, 3]
    assert [number for number, step in steps if step.lost] == [5]


def test_a_motion_has_one_shape_and_goes_where_it_was_found():
    model = rod()
    base = zeros(model)
    found = {}
    for number, size in ((1, 0.5), (2, 1.5), (4, 1.0)):
        shape = base.shape.at[0].set(size)
        place = jnp.array([0.1 * number, 0, 2])
        found[number] = dataclasses.replace(base, shape=shape, translation=place)
    made = video.motion(model, found, range(5))
    assert np.asarray(made.shape).shape == (5, model.num_shape)
    np.testing.assert_allclose(np.asarray(made.shape)[:, 0], 1.0, rtol=1e-6)
    roots = np.asarray(pose(model, made).joints)[:, 0]
    for number, params in found.items():
        np.testing.assert_allclose(roots[number], pose(model, params).joints[0], atol=1e-6)
    # Where nothing was found: as in the nearest frame.
    np.testing.assert_array_equal(roots[0], roots[1])
    assert isinstance(made, Params)
