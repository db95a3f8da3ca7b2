"""Edits are values: undo brings back exactly what was there."""

import numpy as np
import pytest
from hypothesis import given, strategies

from jrecon.model.parametric import make_model, zeros
from jrecon.viewer import editing
from tests.learn.small_class import rod

MODEL = rod()


def flat(params):
    return np.concatenate([np.ravel(x) for x in (params.shape, params.pose, params.translation)])


def test_a_dragged_slider_is_one_step():
    edits = editing.begin(zeros(MODEL))
    for value in (0.1, 0.2, 0.3):
        edits = editing.change(edits, "shape 0", editing.with_shape(edits.now, 0, value))
    edits = editing.change(edits, "joint 1 2", editing.with_angle(edits.now, 1, 2, 0.5))
    assert edits.now.shape[0] == np.float32(0.3)
    assert edits.now.pose[1, 2] == 0.5
    edits = editing.undo(edits)
    assert edits.now.pose[1, 2] == 0
    assert edits.now.shape[0] == np.float32(0.3)
    assert editing.undo(edits).now.shape[0] == 0


def test_the_same_slider_after_undo_is_a_new_step():
    edits = editing.begin(zeros(MODEL))
    for value in (0.1, 0.2):
        edits = editing.change(edits, "shape 0", editing.with_shape(edits.now, 0, value))
        edits = editing.reset(edits)
    values = []
    for _ in range(4):
        edits = editing.undo(edits)
        values.append(round(float(edits.now.shape[0]), 3))
    assert values == [0.2, 0.0, 0.1, 0.0]


@given(strategies.lists(strategies.sampled_from(["a", "b", "undo", "redo", "reset"]), max_size=30))
def test_redo_is_the_inverse_of_undo(words):
    edits = editing.begin(zeros(MODEL))
    for count, word in enumerate(words):
        if word in ("a", "b"):
            changed = editing.with_shape(edits.now, word == "b", float(count))
            edits = editing.change(edits, word, changed)
        else:
            edits = getattr(editing, word)(edits)
        if edits.past:
            np.testing.assert_array_equal(
                flat(editing.redo(editing.undo(edits)).now), flat(edits.now)
            )
        if edits.future:
            np.testing.assert_array_equal(
                flat(editing.undo(editing.redo(edits)).now), flat(edits.now)
            )
    np.testing.assert_array_equal(flat(editing.reset(edits).now), flat(zeros(MODEL)))


def test_what_is_kept_is_bounded():
    edits = editing.begin(zeros(MODEL))
    for count in range(1000):
        edits = editing.change(edits, str(count), editing.with_shape(edits.now, 0, count))
    assert len(edits.past) == 200


def test_named_poses_leave_the_orientation():
    params = editing.with_angle(zeros(MODEL), 0, 1, 0.7)
    posed = editing.with_pose(params, np.full((2, 3), 0.2))
    np.testing.assert_allclose(posed.pose, [[0, 0.7, 0], [0.2] * 3], rtol=1e-6)


def test_labels():
    model = make_model(
        np.eye(3), [[0, 1, 2]], shape_basis=np.zeros((3, 3, 2)), name="flat",
        shape_names=("stature", "shape_05"), joint_names=("left_knee",),
    )  # fmt: skip
    assert [editing.shape_label(model, i) for i in (0, 1)] == ["stature", "shape 5"]
    assert editing.joint_label(model, 0) == "left knee"


@pytest.mark.parametrize("function", (editing.undo, editing.redo))
def test_nothing_to_undo(function):
    edits = editing.begin(zeros(MODEL))
    assert function(edits) is edits
