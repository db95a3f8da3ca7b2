"""Retargeting: what must carry over exactly, and real motion where it is at hand."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jrecon.model.parametric import Params, make_model, pose
from jrecon.model.retarget import Motion, global_rotations, read_cmu, read_deepmimic, retarget
from tests.quick import quick_jit

fast_pose = quick_jit(pose)

LEG, ARM = ("hip", "knee", "ankle", "foot"), ("shoulder", "elbow", "wrist")
NAMES: tuple[str, ...] = (
    "pelvis",
    *(f"{side}_{part}" for side in ("left", "right") for part in LEG),
    "spine1",
    "head",
    *(f"{side}_{part}" for side in ("left", "right") for part in ARM),
)
PARENTS = (-1, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 9, 11, 12, 9, 14, 15)
LEFT = {
    "hip": [0.1, 0.0, 0.0], "knee": [0.12, -0.4, 0.04], "ankle": [0.14, -0.8, 0.0],
    "foot": [0.15, -0.85, 0.14], "shoulder": [0.18, 0.45, 0.0], "elbow": [0.36, 0.25, 0.0],
    "wrist": [0.5, 0.12, 0.15],
}  # fmt: skip
LIMBS = {
    f"{side}_{a}": f"{side}_{b}"
    for side in ("left", "right")
    for a, b in (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "wrist"))
}  # fmt: skip

# Feet have a heading, but are aligned by their soles.
FEET = {f"{side}_ankle": f"{side}_foot" for side in ("left", "right")}


def rest_joints(scale=1.0):
    """A person whose arms hang forward and whose knees and elbows are a little bent."""
    rest = np.zeros((len(NAMES), 3))
    for joint, name in enumerate(NAMES):
        side, _, part = name.partition("_")
        if part in LEFT:
            rest[joint] = np.array(LEFT[part]) * [1 if side == "left" else -1, 1, 1]
    rest[NAMES.index("spine1")], rest[NAMES.index("head")] = [0, 0.2, 0], [0, 0.6, 0]
    return scale * rest


def target():
    rest = rest_joints()
    return make_model(
        rest,
        np.zeros((0, 3), int),
        joints=rest,
        parents=PARENTS,
        weights=np.eye(len(NAMES)),
        joint_names=NAMES,
    )


def motion(rest, rotations, root=None, names=NAMES):
    mapped = {name: (other, other, 0.0) for name, other in zip(NAMES, names, strict=True)}
    rename = dict(zip(NAMES, names, strict=True))
    count = len(rotations)
    return Motion(
        joint_names=tuple(names),
        parents=PARENTS,
        rest=rest,
        rotations=rotations,
        root=np.zeros((count, 3)) if root is None else root,
        mapping=mapped,
        limbs={rename[a]: rename[b] for a, b in (LIMBS | FEET).items()},
    )


def flexing(rng, count=5):
    """Local rotations that flex elbows and knees on their own hinges, and move the rest freely."""
    rest = rest_joints()
    vectors = 0.5 * rng.normal(size=(count, len(NAMES), 3))
    for name, above, below in (("knee", "hip", "ankle"), ("elbow", "shoulder", "wrist")):
        for side in ("left", "right"):
            a, b, c = (rest[NAMES.index(f"{side}_{n}")] for n in (above, name, below))
            axis = np.cross(b - a, c - b)
            axis /= np.linalg.norm(axis)
            vectors[:, NAMES.index(f"{side}_{name}")] = rng.uniform(0.3, 1.5, (count, 1)) * axis
    return vectors, Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(
        count, len(NAMES), 3, 3
    )


def test_onto_itself_gives_the_same_pose(rng):
    vectors, rotations = flexing(rng)
    root = rng.normal(size=(len(rotations), 3))
    got = retarget(motion(rest_joints(), rotations, root), target())
    np.testing.assert_allclose(got.pose, vectors, atol=1e-6)
    np.testing.assert_allclose(got.translation, root - rest_joints()[0], atol=1e-12)


def test_one_turned_joint_turns_alone():
    local = np.tile(np.eye(3), (1, len(NAMES), 1, 1))
    shoulder = NAMES.index("right_shoulder")
    local[0, shoulder] = Rotation.from_rotvec([0.7, 0.1, -0.4]).as_matrix()
    got = retarget(motion(rest_joints(), local), target()).pose[0]
    np.testing.assert_allclose(got[shoulder], [0.7, 0.1, -0.4], atol=1e-6)
    np.testing.assert_allclose(np.delete(got, shoulder, axis=0), 0.0, atol=1e-6)


def mirrored(rotations):
    """The same motion seen in a mirror: sides swapped, reflected in x."""
    swap = [
        NAMES.index(name.replace("left", "#").replace("right", "left").replace("#", "right"))
        for name in NAMES
    ]
    mirror = np.diag([-1.0, 1.0, 1.0])
    return mirror @ rotations[:, swap] @ mirror, swap


def test_a_mirrored_motion_gives_the_mirrored_pose(rng):
    _, rotations = flexing(rng)
    reflected, swap = mirrored(rotations)
    straight, other = (retarget(motion(splayed(), r), target()) for r in (rotations, reflected))
    expected = straight.pose[:, swap] * [1, -1, -1]
    np.testing.assert_allclose(
        Rotation.from_rotvec(other.pose.reshape(-1, 3)).as_matrix(),
        Rotation.from_rotvec(expected.reshape(-1, 3)).as_matrix(),
        atol=1e-9,
    )


def bone_directions(joints):
    index = NAMES.index
    bones = [joints[:, index(b)] - joints[:, index(a)] for a, b in LIMBS.items()]
    return np.stack([bone / np.linalg.norm(bone, axis=1, keepdims=True) for bone in bones], axis=1)


def source_joints(one):
    world = global_rotations(one.parents, one.rotations)
    joints = np.zeros((len(world), len(PARENTS), 3))
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            step = world[:, parent] @ (one.rest[joint] - one.rest[parent])
            joints[:, joint] = joints[:, parent] + step
    return joints


def splayed(angle=0.0):
    """A source in T-pose with straight limbs, other proportions, and legs splayed by an angle."""
    rest = rest_joints(1.3)
    index = NAMES.index
    for side, sign in (("left", 1), ("right", -1)):
        for step, name in enumerate(("shoulder", "elbow", "wrist")):
            rest[index(f"{side}_{name}")] = [sign * (0.2 + 0.3 * step), 0.5, 0]
        for step, name in enumerate(("hip", "knee", "ankle")):
            down = 0.45 * step * np.array([sign * np.sin(angle), -np.cos(angle), 0])
            rest[index(f"{side}_{name}")] = [sign * 0.1, 0, 0] + down
        # Feet are part of the splayed leg, and slope otherwise than the target's.
        rest[index(f"{side}_foot")] = rest[index(f"{side}_ankle")] + [0, -0.03, 0.2]
    return rest


@pytest.mark.parametrize("angle", [0.0, 0.35])
def test_feet_stand_flat_when_the_legs_of_a_splayed_source_hang_straight(angle):
    local = np.tile(np.eye(3), (1, len(NAMES), 1, 1))
    for side, sign in (("left", 1), ("right", -1)):
        hip = NAMES.index(f"{side}_hip")
        local[0, hip] = Rotation.from_rotvec([0, 0, -sign * angle]).as_matrix()
    source = motion(splayed(angle), local)
    lean = {f"{side}_ankle": np.array([-sign * np.sin(angle), np.cos(angle), 0])
            for side, sign in (("left", 1), ("right", -1))}  # fmt: skip
    got = retarget(dataclasses.replace(source, soles=lean), target()).pose
    turned = global_rotations(PARENTS, Rotation.from_rotvec(got.reshape(-1, 3)).as_matrix()[None])
    for name in ("left_ankle", "right_ankle", "left_foot", "right_foot"):
        np.testing.assert_allclose(turned[0, NAMES.index(name), :, 1], [0, 1, 0], atol=1e-9)


def test_hips_and_soles_are_where_those_of_the_source_are(rng):
    """The source's pelvis joint lies 0.1 m above its hips, the target's between them."""
    _, rotations = flexing(rng, 3)
    rest = rest_joints()
    rest[NAMES.index("pelvis")] = [0, 0.1, 0]
    source = motion(rest, rotations, root=rng.normal(size=(3, 3)))
    world = global_rotations(PARENTS, rotations)
    hips = source.root + world[:, 0] @ [0, -0.1, 0]
    got = retarget(source, target())
    np.testing.assert_allclose(got.translation, hips, atol=1e-6)
    # The target's lowest vertex lies 0.05 m below its ankles.
    lifted = retarget(dataclasses.replace(source, ankle_height=0.02), target())
    raised = lifted.translation - got.translation
    np.testing.assert_allclose(raised, np.tile([0, 0.03, 0], (3, 1)), atol=1e-6)


def test_bones_keep_their_directions_between_different_rest_poses(rng):
    rest = splayed()
    _, rotations = flexing(rng)
    source = motion(rest, rotations, names=[f"s_{name}" for name in NAMES])
    got = retarget(source, target())
    params = Params(jnp.zeros(0), jnp.asarray(got.pose, jnp.float32), jnp.zeros((len(got.pose), 3)))
    ours = bone_directions(np.asarray(fast_pose(target(), params).joints))
    np.testing.assert_allclose(ours, bone_directions(source_joints(source)), atol=1e-5)


def test_orientation_and_scale_of_the_root(rng):
    _, rotations = flexing(rng, 2)
    turned = rotations.copy()
    turn = Rotation.from_euler("y", 70, degrees=True).as_matrix()
    turned[:, 0] = turn @ rotations[:, 0]
    straight, other = (
        retarget(motion(rest_joints(2.0), r, np.ones((2, 3))), target())
        for r in (rotations, turned)
    )
    np.testing.assert_allclose(other.pose[:, 1:], straight.pose[:, 1:], atol=1e-9)
    np.testing.assert_allclose(
        Rotation.from_rotvec(other.pose[:, 0]).as_matrix(),
        turn @ Rotation.from_rotvec(straight.pose[:, 0]).as_matrix(),
        atol=1e-9,
    )
    np.testing.assert_allclose(straight.translation, 0.5, atol=1e-9)


def test_interpolated_joints_share_the_turn(rng):
    _, rotations = flexing(rng, 1)
    rotations[:, NAMES.index("spine1")] = Rotation.from_rotvec([0, 0.9, 0]).as_matrix()
    one = motion(rest_joints(), rotations)
    third = {**one.mapping, "spine1": ("pelvis", "spine1", 1 / 3)}
    got = retarget(dataclasses.replace(one, mapping=third), target())
    np.testing.assert_allclose(got.pose[0, NAMES.index("spine1")], [0, 0.3, 0], atol=1e-9)


def test_limits_hold_when_asked_for(rng):
    _, rotations = flexing(rng)
    model = dataclasses.replace(
        target(), pose_limits=jnp.stack([-0.2 * jnp.ones((17, 3)), 0.2 * jnp.ones((17, 3))])
    )
    got = retarget(motion(rest_joints(), rotations), model, limit=True)
    assert np.abs(got.pose[:, 1:]).max() <= 0.2 + 1e-7 and np.abs(got.pose[:, 0]).max() > 0.2


def test_unknown_joints_are_named(rng):
    _, rotations = flexing(rng, 1)
    one = motion(rest_joints(), rotations)
    with pytest.raises(ValueError, match=r"no joints \['tail'\]"):
        retarget(dataclasses.replace(one, mapping={"head": ("tail", "tail", 0.0)}), target())
    other = make_model(np.eye(3), np.zeros((0, 3), int), joint_names=("box",))
    with pytest.raises(ValueError, match="none of its joints"):
        retarget(one, other)
    partly = {name: way for name, way in one.mapping.items() if name != "right_elbow"}
    with pytest.raises(ValueError, match=r"no entry for \['right_elbow'\]"):
        retarget(dataclasses.replace(one, mapping=partly), target())
    names = tuple("ankle_of_left" if name == "left_ankle" else name for name in NAMES)
    with pytest.raises(ValueError, match=r"has no joints \['left_ankle'\]"):
        retarget(one, dataclasses.replace(target(), joint_names=names))


def test_a_model_without_fingers_takes_hands_along_with_forearms(rng):
    _, rotations = flexing(rng, 2)
    rotations[:, NAMES.index("left_wrist")] = np.eye(3)
    one = motion(rest_joints(), rotations)
    thumb = dataclasses.replace(
        one,
        limbs={**one.limbs, "left_wrist": "head"},
        thumbs={"left_wrist": "spine1"},
    )
    got = retarget(thumb, target()).pose
    np.testing.assert_allclose(got[:, NAMES.index("left_wrist")], 0.0, atol=1e-9)


def test_readers_explain_wrong_files(tmp_path):
    np.savez(tmp_path / "a.npz", rotations=np.zeros((1, 1, 3)))
    with pytest.raises(ValueError, match="keys .* are missing"):
        read_cmu(tmp_path / "a.npz")
    joint = dict(ID=0, Name="root", Type="none", Parent=-1, AttachX=0, AttachY=0, AttachZ=0)
    (tmp_path / "c.txt").write_text(json.dumps({"Skeleton": {"Joints": [joint]}}))
    (tmp_path / "m.txt").write_text(json.dumps({"Frames": [[0.0] * 9]}))
    with pytest.raises(ValueError, match=r"need \(n, 8\)"):
        read_deepmimic(tmp_path / "c.txt", tmp_path / "m.txt")


def test_captured_knees_and_elbows_bend_the_way_they_can(shared_dir):
    from jrecon.model.formats import load_model

    model = load_model("body", level="2k")
    got = retarget(read_cmu(shared_dir / "data" / "motion" / "cmu_poses.npz"), model).pose
    low, high = (np.asarray(bound)[1:22] for bound in model.pose_limits)
    body = got[:, 1:22]
    outside = (body < low - 0.1) | (body > high + 0.1)
    assert outside.mean() < 0.005
    knee = got[:, [model.joint_names.index(f"{side}_knee") for side in ("left", "right")], 0]
    assert np.quantile(knee, 0.01) > -0.35 and knee.max() > 1.2
