"""Named poses and pose limits of the skeleton, relative to its A-pose rest.

Axis-angle convention of the model: joint axes are world-aligned at rest (x to the subject's left,
y up, z front), rotations relative to the parent.
"""

from __future__ import annotations

import numpy as np
from body.skeleton import FINGERS, INDEX, NAMES, PARENTS, rotation_between, rotation_matrices
from scipy.spatial.transform import Rotation

SIDES = (("left", 1.0), ("right", -1.0))


def named_poses(joints: np.ndarray) -> dict[str, np.ndarray]:
    """`t_pose` (arms out, legs straight down) and `stand` (arms at the sides), (52, 3) radians."""
    t_pose, stand = {}, {}
    for side, s in SIDES:
        for joint in ("shoulder", "elbow", "wrist"):
            t_pose[f"{side}_{joint}"] = (s, 0, 0)
        for joint in ("hip", "knee"):
            t_pose[f"{side}_{joint}"] = (0, -1, 0)
        stand |= {
            f"{side}_shoulder": (0.17 * s, -1, -0.06),
            f"{side}_elbow": (0.12 * s, -1, 0.14),
            f"{side}_wrist": (0.06 * s, -1, 0.14),
            f"{side}_hip": (0.0, -1, 0),
            f"{side}_knee": (0.02 * s, -1, -0.06),
        }
    return dict(t_pose=towards(joints, t_pose), stand=towards(joints, stand))


_BONE_ENDS = dict(shoulder="elbow", elbow="wrist", wrist="middle1", hip="knee", knee="ankle")


def towards(joints: np.ndarray, directions: dict[str, tuple]) -> np.ndarray:
    """The pose (52, 3) in which limb bones point along world directions, without twist.

    The feet keep their rest orientation.
    """
    frames = np.tile(np.eye(3), (len(NAMES), 1, 1))
    for index, name in enumerate(NAMES):
        parent = max(PARENTS[index], 0)
        side, _, part = name.rpartition("_")
        if name in directions:
            bone = joints[INDEX[f"{side}_{_BONE_ENDS[part]}"]] - joints[index]
            frames[index] = rotation_between(bone, np.asarray(directions[name], float))
        elif part not in ("ankle", "foot"):
            frames[index] = frames[parent]
    local = [frames[max(p, 0)].T @ frames[i] for i, p in enumerate(PARENTS)]
    return Rotation.from_matrix(np.array(local)).as_rotvec()


# Ranges of motion in degrees about three axes, for a T-pose with straight arms and legs: (axes, X,
# Y, Z), where the rotation is Rx(X) Ry(Y) Rz(Z) about the axes listed. The figures follow those of
# `mmhuman3d` (core/conventions/joints_mapping/standard_joint_angles.py, Apache-2.0) and of
# BodyPressure (generate_pose_slp_prox.py, MIT); every sign was checked on the rendered model. Axes
# that they lock are freed by a few degrees, neck, spine and elbow by more, and the twist of the
# wrist is shared with the elbow. Left side; the right side is the mirror image.
_RANGES = dict(
    hip=("x z -y", (-130, 35), (-20, 60), (-50, 50)),  # flexion -, abduction +, turning out +
    knee=("x z -y", (-3, 150), (-6, 6), (-15, 15)),  # flexion +
    ankle=("x y z", (-35, 63), (-26, 26), (-40, 25)),  # toes up -, down +
    foot=("x y z", (-60, 45), (-3, 3), (-10, 10)),
    spine1=("x -z y", (-25, 35), (-25, 25), (-30, 30)),  # forward +
    spine2=("x -z y", (-25, 35), (-20, 20), (-25, 25)),
    spine3=("x -z y", (-25, 35), (-20, 20), (-25, 25)),
    neck=("x -z y", (-37, 40), (-30, 30), (-45, 45)),
    head=("x -z y", (-37, 40), (-30, 30), (-45, 45)),
    collar=("-z y x", (-35, 20), (-30, 20), (-15, 15)),  # up -, forward -
    shoulder=("-z y x", (-90, 85), (-97, 50), (-90, 90)),  # up -, forward -
    elbow=("-z y x", (-8, 8), (-150, 3), (-80, 30)),  # flexion -, supination -
    wrist=("-z y x", (-80, 80), (-35, 35), (-90, 60)),  # back -, palm +
)
_SAMPLES = 4000
# An axis-angle box around every corner of an Euler range would be far too wide.
_KEPT = (1.0, 99.0)
_ROOT_LIMIT = np.pi


def pose_limits(joints: np.ndarray, t_pose: np.ndarray) -> np.ndarray:
    """(2, 52, 3) bounds of the axis-angle components, radians.

    The published ranges are for a T-pose. A rotation R there is G_p^T R G_j here, where G are the
    global rotations that take this rest pose to the T-pose. The bounds hold the central 98 % of
    rotations drawn from the range, its extremes about one axis, and the named poses.
    """
    rng = np.random.default_rng(0)
    limits = np.zeros((2, len(NAMES), 3))
    limits[0, 0], limits[1, 0] = -_ROOT_LIMIT, _ROOT_LIMIT
    for index, name in enumerate(NAMES):
        side, _, part = name.rpartition("_")
        if part in _RANGES and side != "right":
            rotations = sampled_rotations(part, index, t_pose, rng, _SAMPLES)
            vectors = Rotation.from_matrix(rotations).as_rotvec()
            extremes = _transferred(_extremes(_RANGES[part]), index, t_pose)
            corners = Rotation.from_matrix(extremes).as_rotvec()
            low, high = np.percentile(vectors, _KEPT, axis=0)
            limits[:, index] = np.minimum(low, corners.min(0)), np.maximum(high, corners.max(0))
        elif part[:-1] in FINGERS and side == "left":
            limits[:, index] = _finger_limits(joints, side, part)
    for index, name in enumerate(NAMES):
        if name.startswith("right_"):  # a mirrored rotation keeps x and negates y and z
            low, high = limits[:, INDEX[name.replace("right", "left")]]
            limits[:, index] = [[low[0], -high[1], -high[2]], [high[0], -low[1], -low[2]]]
    for pose in named_poses(joints).values():
        limits[0, 1:] = np.minimum(limits[0, 1:], pose[1:] - np.radians(2))
        limits[1, 1:] = np.maximum(limits[1, 1:], pose[1:] + np.radians(2))
    return limits


def sampled_rotations(part: str, joint: int, t_pose: np.ndarray, rng, count: int) -> np.ndarray:
    """(count, 3, 3) local rotations from the range of a `part` of the left side: half of them about
    all three axes, half about one alone."""
    _, *ranges = _RANGES[part]
    low, high = np.radians(ranges).T
    angles = rng.uniform(low, high, (count, 3))
    alone = np.eye(3)[rng.integers(0, 3, count // 2)]
    angles[: count // 2] *= alone
    return _transferred(_rotations(_RANGES[part], rng.permutation(angles)), joint, t_pose)


def _transferred(rotations: np.ndarray, joint: int, t_pose: np.ndarray) -> np.ndarray:
    """Local rotations of a T-pose rest as those of this rest pose."""
    frames = _global(t_pose)
    return frames[max(PARENTS[joint], 0)].T @ rotations @ frames[joint]


def _global(pose: np.ndarray) -> np.ndarray:
    frames = rotation_matrices(pose)
    for index, parent in enumerate(PARENTS):
        if parent >= 0:
            frames[index] = frames[parent] @ frames[index]
    return frames


def _rotations(entry, angles: np.ndarray) -> np.ndarray:
    units = dict(x=(1, 0, 0), y=(0, 1, 0), z=(0, 0, 1))
    basis = [(-1 if a[0] == "-" else 1) * np.array(units[a[-1]]) for a in entry[0].split()]
    x, y, z = (rotation_matrices(angles[:, i : i + 1] * basis[i]) for i in range(3))
    return x @ y @ z


def _extremes(entry) -> np.ndarray:
    """The rotations at both ends of each axis alone."""
    _, *ranges = entry
    angles = np.concatenate([np.diag(ends) for ends in np.radians(ranges).T])
    return _rotations(entry, angles)


# Finger joints: flexion, spread and twist in degrees about the hand's own axes.
_FINGER = {"1": ((-25, 90), (-22, 22), (-8, 8)), "2": ((-5, 110), (-4, 4), (-4, 4)),
           "3": ((-10, 85), (-4, 4), (-4, 4))}  # fmt: skip
_THUMB = {"1": ((-35, 45), (-35, 45), (-30, 30)), "2": ((-20, 60), (-15, 15), (-10, 10)),
          "3": ((-25, 85), (-6, 6), (-6, 6))}  # fmt: skip


def finger_axes(joints: np.ndarray, side: str, finger: str) -> np.ndarray:
    """Rows: flexion, spread and twist axis of a finger at rest (unit vectors)."""
    at = lambda part: joints[INDEX[f"{side}_{part}"]]
    along = at(f"{finger}2") - at(f"{finger}1")
    along = along / np.linalg.norm(along)
    knuckles = (at("pinky1") - at("index1")) * (1 if side == "left" else -1)
    if finger == "thumb":  # bends towards the palm, about an axis across the other fingers'
        palm = np.cross(at("middle1") - at("wrist"), knuckles)
        knuckles = palm - (palm @ along) * along
    flexion = knuckles - (knuckles @ along) * along
    flexion /= np.linalg.norm(flexion)
    return np.stack([flexion, np.cross(along, flexion), along])


def _finger_limits(joints: np.ndarray, side: str, part: str) -> np.ndarray:
    ranges = (_THUMB if part.startswith("thumb") else _FINGER)[part[-1]]
    axes = finger_axes(joints, side, part[:-1])
    corners = np.array(np.meshgrid(*np.radians(ranges), indexing="ij")).reshape(3, -1).T @ axes
    return np.stack([corners.min(0), corners.max(0)])
