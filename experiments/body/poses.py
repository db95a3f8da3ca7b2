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


# Ranges of motion in degrees about three axes, for SMPL's T-pose: (axes, X, Y, Z), where the
# rotation is Rx(X) Ry(Y) Rz(Z) in the axes listed. The figures are those of `mmhuman3d`
# (core/conventions/joints_mapping/standard_joint_angles.py), with the locked axes freed by a few
# degrees, the necks and the elbows by more, and the supination of the wrist reduced.
# Only the left side is listed; a range of the right side is the mirror image.
_RANGES = dict(
    hip=("x z -y", (-45, 155), (-88, 17), (-60, 60)),
    knee=("x z -y", (-3, 150), (-6, 6), (-15, 15)),
    ankle=("x y z", (-35, 63), (-26, 26), (-40, 25)),
    foot=("x y z", (-60, 45), (-3, 3), (-10, 10)),
    spine1=("x -z y", (-25, 35), (-25, 25), (-30, 30)),
    spine2=("x -z y", (-25, 35), (-20, 20), (-25, 25)),
    spine3=("x -z y", (-25, 35), (-20, 20), (-25, 25)),
    neck=("x -z y", (-37, 40), (-30, 30), (-45, 45)),
    head=("x -z y", (-37, 40), (-30, 30), (-45, 45)),
    collar=("-z y x", (-35, 20), (-30, 20), (-15, 15)),
    shoulder=("-z y x", (-90, 100), (-97, 60), (-90, 90)),
    elbow=("-z y x", (-8, 8), (-150, 3), (-80, 20)),
    wrist=("-z y x", (-80, 80), (-40, 40), (-90, 60)),
)  # fmt: skip
_SAMPLES = 4000
# An axis-angle box around every corner of an Euler range would be far too wide.
_KEPT = (1.0, 99.0)
_ROOT_LIMIT = np.pi


def pose_limits(joints: np.ndarray, t_pose: np.ndarray) -> np.ndarray:
    """(2, 52, 3) bounds of the axis-angle components, radians.

    The published ranges are for a T-pose. A rotation R there is G_p^T R G_j here, where G are the
    global rotations that take this rest pose to the T-pose. The bounds hold the central 98 % of
    rotations drawn uniformly from the range, and the named poses.
    """
    rng = np.random.default_rng(0)
    frames = _global(t_pose)
    limits = np.zeros((2, len(NAMES), 3))
    limits[0, 0], limits[1, 0] = -_ROOT_LIMIT, _ROOT_LIMIT
    for index, name in enumerate(NAMES):
        side, _, part = name.rpartition("_")
        if part in _RANGES and side != "right":
            rotations = _sample(_RANGES[part], rng)
            parent = frames[PARENTS[index]]
            vectors = Rotation.from_matrix(parent.T @ rotations @ frames[index]).as_rotvec()
            limits[:, index] = np.percentile(vectors, _KEPT, axis=0)
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


def _global(pose: np.ndarray) -> np.ndarray:
    frames = rotation_matrices(pose)
    for index, parent in enumerate(PARENTS):
        if parent >= 0:
            frames[index] = frames[parent] @ frames[index]
    return frames


def _sample(entry, rng) -> np.ndarray:
    axes, *ranges = entry
    units = dict(x=(1, 0, 0), y=(0, 1, 0), z=(0, 0, 1))
    basis = [(-1 if a[0] == "-" else 1) * np.array(units[a[-1]]) for a in axes.split()]
    low, high = np.radians(ranges).T
    angles = rng.uniform(low, high, (_SAMPLES, 3))
    x, y, z = (rotation_matrices(angles[:, i : i + 1] * basis[i]) for i in range(3))
    return x @ y @ z


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
