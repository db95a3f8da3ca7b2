"""Pose normalisation takes out the pose that linear blend skinning put in."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jrecon.model.build import build_model, make_meshes, make_skeleton, read_skeleton
from jrecon.model.parametric import Params, pose
from jrecon.model.unpose import unpose
from tests.quick import quick_jit

fast_pose = quick_jit(pose)

# A trunk that forks into two arms of two bones each, each ending in a hand.
NAMES = ("trunk", "left", "left_elbow", "left_hand", "right", "right_elbow", "right_hand")
PARENTS = (-1, 0, 1, 2, 0, 4, 5)
JOINTS = np.array(
    [
        [0, 0, 0],
        [0.2, 0.5, 0],
        [0.5, 0.5, 0.05],
        [0.8, 0.5, 0],
        [-0.2, 0.5, 0],
        [-0.5, 0.5, 0.05],
        [-0.8, 0.5, 0],
    ]
)
BONES = ((0, 1), (0, 4), (1, 2), (2, 3), (4, 5), (5, 6), (3, 3), (6, 6))


@dataclasses.dataclass(frozen=True)
class Creature:
    """Blobs of vertices along the bones of the fork, with two ways to differ that keep the
    directions of its bones: size, and the girth of its limbs."""

    template: np.ndarray
    girth: np.ndarray
    weights: np.ndarray

    def at(self, size, girth):
        """Vertices and joints in the rest pose."""
        return size * (self.template + girth * self.girth), size * JOINTS


@pytest.fixture
def creature(rng):
    vertices, girths, weights = [], [], []
    for start, end in BONES:
        along = rng.uniform(0.0, 1.0, size=(40, 1))
        tip = JOINTS[end] + (0.15 * np.sign(JOINTS[end]) * [1, 0, 0] if start == end else 0.0)
        # No cylinder: a cross section with a direction makes the twist visible.
        across = rng.normal(size=(40, 3)) * [0.05, 0.05, 0.02]
        axis = (tip - JOINTS[start]) / np.linalg.norm(tip - JOINTS[start])
        vertices.append(JOINTS[start] + along * (tip - JOINTS[start]) + across)
        girths.append(across - (across @ axis)[:, None] * axis)
        blend = np.zeros((40, len(PARENTS)))
        near = np.clip((0.25 - along[:, 0]) / 0.5, 0, 0.5) * (start > 0)
        blend[:, start] = 1 - near
        blend[:, max(PARENTS[start], 0)] += near
        weights.append(blend)
    return Creature(np.concatenate(vertices), np.concatenate(girths), np.concatenate(weights))


def skin(rest, joints, weights, angles, place):
    """Linear blend skinning in float64, joint by joint."""
    frames, positions, moved = [], [], np.zeros_like(rest)
    for j, parent in enumerate(PARENTS):
        local = Rotation.from_rotvec(angles[j]).as_matrix()
        frames.append(local if parent < 0 else frames[parent] @ local)
        bone = joints[j] - joints[parent]
        positions.append(joints[j] if parent < 0 else positions[parent] + frames[parent] @ bone)
        moved += weights[:, j, None] * ((rest - joints[j]) @ frames[j].T + positions[j])
    return moved + place, np.stack(positions) + place


def pose_meshes(rng, creature, count, *, bend=0.5, vary=1.0):
    """Posed vertices and joints, rest vertices, angles; the first mesh is in the rest pose."""
    angles = bend * rng.normal(size=(count, len(PARENTS), 3))
    angles[0] = 0.0
    sizes, girths = 1 + 0.1 * vary * rng.normal(size=count), 0.2 * vary * rng.normal(size=count)
    rest = [creature.at(size, girth) for size, girth in zip(sizes, girths, strict=True)]
    posed = [
        skin(shape, centres, creature.weights, angle, rng.normal(size=3))
        for (shape, centres), angle in zip(rest, angles, strict=True)
    ]
    vertices, joints = (np.stack(parts) for parts in zip(*posed, strict=True))
    return vertices, joints, np.stack([vertices for vertices, _ in rest]), angles


def centred(vertices):
    return vertices - vertices.mean(axis=-2, keepdims=True)


def faces_for(vertices):
    return np.arange(vertices.shape[1] // 3 * 3).reshape(-1, 3)


def test_recovers_the_rest_shape_of_one_object_in_many_poses(rng, creature):
    vertices, joints, rest, angles = pose_meshes(rng, creature, 8, vary=0.0)
    skeleton = make_skeleton(NAMES, PARENTS, creature.weights, joint_positions=joints)
    result = unpose(vertices, joints, skeleton, tuple("abcdefgh"))
    np.testing.assert_allclose(centred(result.vertices), centred(rest), atol=1e-6)
    # Twists and leaves too: every rotation is found, not only the directions of the bones.
    expected = Rotation.from_rotvec(angles.reshape(-1, 3)).magnitude().reshape(angles.shape[:2])
    np.testing.assert_allclose(result.angles, expected, atol=1e-5)


def test_recovers_rest_shapes_of_a_family(rng, creature):
    vertices, joints, rest, _ = pose_meshes(rng, creature, 30)
    skeleton = make_skeleton(NAMES, PARENTS, creature.weights, joint_positions=joints)
    result = unpose(vertices, joints, skeleton, ("",) * 30)
    error = np.linalg.norm(centred(result.vertices) - centred(rest), axis=-1)
    # Hands and girth vary about the mean part, which leaves their orientation a little open.
    assert error.mean() < 0.002 and error.max() < 0.02
    lengths = np.linalg.norm(np.diff(result.joints[:, 1:4], axis=1), axis=-1)
    expected = np.linalg.norm(np.diff(joints[:, 1:4], axis=1), axis=-1)
    np.testing.assert_allclose(lengths, expected, rtol=1e-9)


def test_the_model_of_an_articulated_family(rng, creature):
    vertices, joints, rest, _ = pose_meshes(rng, creature, 30)
    skeleton = make_skeleton(NAMES, PARENTS, creature.weights, joint_positions=joints)
    meshes = make_meshes(vertices, faces_for(vertices))
    model, report = build_model(meshes, skeleton=skeleton, components=2)
    _, posed = build_model(meshes)
    _, truth = build_model(make_meshes(centred(rest), meshes.faces), align_by="none")
    assert report.explained[1] > 0.98
    assert report.error_at(2).rms_mm < 2 and posed.error_at(2).rms_mm > 30
    assert report.spread_mm == pytest.approx(truth.spread_mm, rel=0.02)
    assert posed.spread_mm > 2 * truth.spread_mm
    assert model.joint_names == NAMES and model.parents == PARENTS
    assert set(report.unposed_deg) == set(NAMES) and report.unposed_deg["left_elbow"] > 20
    # The model poses a shape like the skin that made the meshes.
    angles = 0.4 * rng.normal(size=(len(PARENTS), 3))
    shape, rest_joints = creature.at(1.0, 0.0)
    target, _ = skin(shape, rest_joints, creature.weights, angles, np.zeros(3))
    basis = np.asarray(model.shape_basis, np.float64)
    gap = centred(shape) - centred(np.asarray(model.vertices, np.float64))
    flat = centred(basis.transpose(2, 0, 1)).reshape(2, -1)
    coefficients = np.linalg.lstsq(flat.T, gap.ravel(), rcond=None)[0]
    params = Params(jnp.array(coefficients), jnp.array(angles), jnp.zeros(3))
    result = centred(np.asarray(fast_pose(model, params).vertices, np.float64))
    assert np.linalg.norm(result - centred(target), axis=-1).mean() < 0.003


def test_regressor_and_positions_agree(rng, creature):
    vertices, _, _, _ = pose_meshes(rng, creature, 6, bend=0.2)
    hard = np.eye(len(PARENTS))[creature.weights.argmax(1)]
    regressor = hard.T / hard.sum(0)[:, None]
    by_regressor = make_skeleton(NAMES, PARENTS, creature.weights, joint_regressor=regressor)
    by_position = make_skeleton(
        NAMES, PARENTS, creature.weights, joint_positions=by_regressor.joints_of(vertices)
    )
    meshes = make_meshes(vertices, faces_for(vertices))
    first, second = (build_model(meshes, skeleton=s)[0] for s in (by_regressor, by_position))
    np.testing.assert_array_equal(first.vertices, second.vertices)
    np.testing.assert_array_equal(first.joint_basis, second.joint_basis)


def test_rest_joints_choose_the_rest_pose(rng, creature):
    vertices, joints, _, _ = pose_meshes(rng, creature, 6, vary=0.0)
    vertices, joints = vertices[1:], joints[1:]  # nobody stands in the rest pose
    skeleton = make_skeleton(
        NAMES, PARENTS, creature.weights, joint_positions=joints, rest_joints=JOINTS + 7.0
    )
    meshes = make_meshes(vertices, faces_for(vertices))
    model, report = build_model(meshes, skeleton=skeleton)
    bones = model.joints[1:] - model.joints[jnp.array(PARENTS[1:])]
    np.testing.assert_allclose(bones, JOINTS[1:] - JOINTS[list(PARENTS[1:])], atol=1e-5)
    # The first mesh is unposed by bone directions alone and leaves its twists in the rest pose;
    # linear blend skinning cannot reproduce other meshes exactly from there.
    assert report.spread_mm < 0.05 * build_model(meshes)[1].spread_mm


def test_a_joint_folded_by_half_a_turn(rng):
    """A chain on one line, folded back at a hard joint: no division by zero, no wrong side."""
    joints = np.array([[[0.0, 0, 0], [0, 1, 0], [0, 2, 0]], [[0, 0, 0], [0, 1, 0], [0, 0, 1e-9]]])
    weights = np.repeat(np.eye(3), 5, axis=0)
    rest = rng.normal(size=(15, 3)) + np.repeat(joints[0], 5, axis=0)
    turn = Rotation.from_rotvec([np.pi, 0, 0]).as_matrix()
    folded = np.concatenate([rest[:5], (rest[5:] - [0, 1, 0]) @ turn.T + [0, 1, 0]])
    skeleton = make_skeleton("abc", (-1, 0, 1), weights, joint_positions=joints)
    result = unpose(np.stack([rest, folded]), joints, skeleton, ("rest", "folded"))
    np.testing.assert_allclose(result.vertices[1], rest, atol=1e-6)
    np.testing.assert_allclose(result.angles[1], [0, np.pi, 0], atol=1e-6)


def test_collapsed_skin_and_bones_without_length(rng):
    joints = np.array([[[0.0, 0, 0], [0, 1, 0]], [[0, 0, 0], [0, 1, 0]]])
    weights = np.array([[1.0, 0]] * 4 + [[0, 1.0]] * 4 + [[0.5, 0.5]])
    rest = rng.normal(size=(9, 3))
    turn = Rotation.from_rotvec([np.pi, 0, 0]).as_matrix()
    bent = np.concatenate([rest[:4], (rest[4:] - [0, 1, 0]) @ turn.T + [0, 1, 0]])
    skeleton = make_skeleton("ab", (-1, 0), weights, joint_positions=joints)
    with pytest.raises(ValueError, match="bent: a joint is bent or twisted so far .* 1 vertices"):
        unpose(np.stack([rest, bent]), joints, skeleton, ("rest", "bent"))
    joints[1, 1] = joints[1, 0]
    with pytest.raises(ValueError, match="bent: joints a and b lie in one place"):
        unpose(np.stack([rest, bent]), joints, skeleton, ("rest", "bent"))


def skeleton_fields():
    return dict(
        joint_names=["root", "lid"],
        parents=[-1, 0],
        weights=[[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]],
        joint_regressor=[[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]],
    )


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_skeleton_files(tmp_path, suffix):
    path = tmp_path / f"skeleton{suffix}"
    positions = {"b": np.ones((2, 3)).tolist(), "a": np.zeros((2, 3)).tolist()}
    fields = skeleton_fields() | dict(rest_joints=[[0.0, 0, 0], [0, 2.0, 0]])
    if suffix == ".json":
        path.write_text(json.dumps(fields))
    else:
        np.savez(path, allow_pickle=False, **{k: np.array(v) for k, v in fields.items()})
    skeleton = read_skeleton(path, ["x/a.ply", "x/b.ply"], unit=0.1)
    assert skeleton.joint_names == ("root", "lid") and skeleton.parents == (-1, 0)
    assert skeleton.rest_joints is not None
    np.testing.assert_allclose(skeleton.rest_joints, [[0, 0, 0], [0, 0.2, 0]])
    np.testing.assert_allclose(
        skeleton.joints_of(np.arange(9.0).reshape(1, 3, 3)), [[[0, 1, 2], [4.5, 5.5, 6.5]]]
    )
    if suffix == ".json":
        fields = {k: v for k, v in fields.items() if k != "joint_regressor"}
        path.write_text(json.dumps(fields | dict(joint_positions=positions)))
        by_name = read_skeleton(path, ["x/a.ply", "x/b.ply"])
        assert by_name.joint_positions is not None
        np.testing.assert_array_equal(by_name.joint_positions[:, 0, 0], [0.0, 1.0])
        with pytest.raises(ValueError, match=r"no entry for 1 meshes \(c\)"):
            read_skeleton(path, ["x/a.ply", "x/c.ply"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(parents=[0, -1]), "joint 0 is the root"),
        (dict(parents=[-1, 1]), "joint 1 has parent 1, need one of 0..0"),
        (dict(joint_names=["root"]), "joint_names: got 1, need 2"),
        (dict(weights=[[1.0, 0.0], [0.5, 0.2], [0.0, 1.0]]), "row of vertex 1 sums to 0.7"),
        (dict(weights=[[1.0], [1.0], [1.0]]), r"weights: got shape \(3, 1\), need \(any, 2\)"),
        (dict(weights=[[1.0, np.nan]] * 3), "weights: got values that are NaN"),
        (dict(weights=[[1.0], [1.0, 2.0]]), "weights: need numbers in equal rows"),
        (dict(joint_regressor=[[1.0, 1.0, 0.0], [0, 0, 1]]), "row of joint 0 sums to 2"),
        (dict(joint_regressor=[[1.0, 0.0]] * 2), "joint_regressor: got shape"),
        (dict(joint_regressor=None), "need joint_regressor or joint_positions"),
        (dict(joint_positions=[[[0.0] * 3] * 2]), "and not both"),
        (dict(weigths=1), "unknown keys weigths"),
    ],
)
def test_bad_skeletons(tmp_path, change, message):
    path = tmp_path / "skeleton.json"
    path.write_text(json.dumps(skeleton_fields() | change))
    with pytest.raises(ValueError, match=message):
        read_skeleton(path, ["a", "b"])


def test_unreadable_skeletons(tmp_path):
    path = tmp_path / "skeleton.json"
    with pytest.raises(FileNotFoundError, match="check the path of the skeleton"):
        read_skeleton(path, [])
    for text, message in (("{", "not readable as JSON"), ("[1]", "got a JSON list")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_skeleton(path, [])
    path.write_text('{"parents": [-1]}')
    with pytest.raises(ValueError, match="keys joint_names, weights are missing"):
        read_skeleton(path, [])
