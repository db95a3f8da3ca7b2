"""BVH files say where the model's joints are: read again by a reader of their own."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from jrecon.io.bvh import export_bvh
from jrecon.model.parametric import Params, pose
from tests.model.small_models import params_of, random_model, random_params


def read_bvh(text):
    """Names, parents (-1 for the root), offsets, end sites, channels and rows of numbers: the
    grammar alone, nothing of the writer's conventions."""
    words = iter(text.split())
    names, parents, offsets, channels, ends, open_joints = [], [], [], [], {}, []
    for word in words:
        if word in ("ROOT", "JOINT"):
            names.append(next(words))
            parents.append(open_joints[-1] if open_joints else -1)
        elif word == "End":
            assert next(words) == "Site"
            names.append(None)
            parents.append(open_joints[-1])
        elif word == "{":
            open_joints.append(len(names) - 1)
        elif word == "}":
            open_joints.pop()
        elif word == "OFFSET":
            offsets.append([float(next(words)) for _ in range(3)])
            if names[-1] is None:
                ends[names[parents[-1]]] = offsets.pop()
                names.pop()
                parents.pop()
                # What follows the brace belongs to the joint above.
                assert next(words) == "}"
                open_joints.pop()
        elif word == "CHANNELS":
            channels.append([next(words) for _ in range(int(next(words)))])
        elif word == "MOTION":
            break
    assert [next(words), next(words).isdigit(), next(words), next(words)] == [
        "Frames:", True, "Frame", "Time:"
    ]  # fmt: skip
    step = float(next(words))
    rows = np.array([float(word) for word in words]).reshape(-1, sum(map(len, channels)))
    return names, parents, np.array(offsets), ends, channels, rows, step


def play(parents, offsets, channels, row):
    """Positions of the joints of a frame (j, 3)."""
    values, places, turns = iter(row), [], []
    for parent, offset, own in zip(parents, offsets, channels, strict=True):
        shift, turn = offset.copy(), Rotation.identity()
        for channel in own:
            if channel.endswith("position"):
                shift["XYZ".index(channel[0])] += next(values)
            else:
                turn = turn * Rotation.from_euler(channel[0].lower(), next(values), degrees=True)
        above = turns[parent] if parent >= 0 else Rotation.identity()
        places.append((places[parent] if parent >= 0 else 0) + above.apply(shift))
        turns.append(above * turn)
    return np.array(places)


def motion(model, frames=5):
    one = params_of(random_params(model, batch=(frames,)))
    return dataclasses.replace(one, shape=np.repeat(np.asarray(one.shape[:1]), frames, axis=0))


@pytest.mark.parametrize("frame, units", (("model", 1.0), ("camera", 100.0)))
def test_joints_are_where_pose_puts_them(tmp_path, frame, units):
    model = random_model()
    params = motion(model)
    path = tmp_path / "m.bvh"
    count = export_bvh(path, model, params, frame=frame, fps=25, units_per_metre=units)
    names, parents, offsets, _, channels, rows, step = read_bvh(path.read_text())
    assert count == len(rows) == 5 and step == pytest.approx(1 / 25)
    order = [names.index(name) for name in model.joint_names]
    flip = np.array([1, -1, -1]) if frame == "camera" else np.ones(3)
    expected = np.asarray(pose(model, params).joints) * flip * units
    for row, joints in zip(rows, expected, strict=True):
        found = play(parents, offsets, channels, row)[order]
        np.testing.assert_allclose(found, joints, atol=2e-5 * units)


def test_a_single_pose_is_one_frame_and_leaves_end_somewhere(tmp_path):
    model = random_model()
    export_bvh(tmp_path / "p.bvh", model, params_of(random_params(model)))
    names, parents, _, ends, channels, rows, _ = read_bvh((tmp_path / "p.bvh").read_text())
    assert len(rows) == 1 and len(channels[0]) == 6
    assert set(ends) == {name for i, name in enumerate(names) if i not in parents}


def test_curves_have_no_jumps(tmp_path):
    """A joint turns twice round: every step of every curve stays small."""
    model = random_model()
    frames, half = 41, np.radians(360)
    turns = np.zeros((frames, model.num_joints, 3), np.float32)
    turns[:, 1, 0] = np.linspace(-half, half, frames)
    turns[:, 2, 2] = np.linspace(-half, half, frames)
    shape = np.zeros((frames, model.num_shape), np.float32)
    params = Params(shape, turns, np.zeros((frames, 3), np.float32))  # pyright: ignore
    export_bvh(tmp_path / "m.bvh", model, params)
    *_, rows, _ = read_bvh((tmp_path / "m.bvh").read_text())
    assert np.abs(np.diff(rows, axis=0)).max() < 19
    # In between, linear curves are near the shortest turn.
    middle = Rotation.from_euler("ZXY", (rows[4, 6:9] + rows[5, 6:9]) / 2, degrees=True)
    ends = Rotation.from_euler("ZXY", rows[4:6, 6:9], degrees=True)
    assert (Slerp([0, 1], ends)(0.5).inv() * middle).magnitude() < 0.01


def test_what_bvh_cannot_hold_is_refused(tmp_path):
    model = random_model()
    with pytest.raises(ValueError, match="one shape|the mean"):
        export_bvh(tmp_path / "m.bvh", model, params_of(random_params(model, batch=(3,))))
    with pytest.raises(ValueError, match="fps"):
        export_bvh(tmp_path / "m.bvh", model, motion(model), fps=0)
    with pytest.raises(ValueError, match="suffix"):
        export_bvh(tmp_path / "m.txt", model, motion(model))
    (tmp_path / "m.bvh").write_text("old")
    with pytest.raises(FileExistsError):
        export_bvh(tmp_path / "m.bvh", model, motion(model))
    assert (tmp_path / "m.bvh").read_text() == "old"
