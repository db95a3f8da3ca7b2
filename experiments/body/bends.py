"""Poses that bend hips, knees, shoulders and elbows, and what they do to the volume of the body."""

from __future__ import annotations

import numpy as np
from body import measure, skeleton
from body.skeleton import INDEX

from jrecon.model import parametric


def _both(**left: tuple) -> dict[str, tuple]:
    """Joints of the left side, and the same for the right."""
    pose = {}
    for name, (x, y, z) in left.items():
        pose[name] = (x, y, z)
        if name.startswith("left_"):
            pose[skeleton.opposite(name)] = (x, -y, -z)
    return pose


# Axis-angle in degrees, from the A-pose rest. The elbow's hinge is (-0.74, -0.67, 0).
BODY_POSES = dict(
    sit=_both(
        left_hip=(-85, 0, -8), left_knee=(88, 0, 0), left_shoulder=(-20, 0, -32),
        left_elbow=(-30, -27, 0), spine1=(6, 0, 0),
    ),
    squat=_both(
        left_hip=(-110, 0, -10), left_knee=(125, 0, 0), left_ankle=(-25, 0, 0),
        left_shoulder=(-60, 0, -20), spine1=(15, 0, 0), spine2=(10, 0, 0), neck=(-10, 0, 0),
    ),
    elbows_bent=_both(left_elbow=(-74, -67, 0), left_shoulder=(0, 0, -30)),
    arms_up=_both(left_shoulder=(0, 0, 100), left_collar=(0, 0, 20)),
    run=dict(
        left_hip=(-65, 0, -5), left_knee=(80, 0, 0), right_hip=(25, 0, 5), right_knee=(55, 0, 0),
        left_shoulder=(45, 0, -35), left_elbow=(-50, -45, 0), right_shoulder=(-45, 0, 35),
        right_elbow=(-50, 45, 0),
    ),
    lunge=dict(
        left_hip=(-75, 0, -5), left_knee=(80, 0, 0), right_hip=(30, 0, 5), right_knee=(40, 0, 0),
        right_foot=(-30, 0, 0), left_shoulder=(0, 0, -35), right_shoulder=(0, 0, 35),
    ),
    kneel=_both(left_hip=(-15, 0, -4), left_knee=(120, 0, 0), left_ankle=(40, 0, 0),
                left_shoulder=(0, 0, -36)),
    arms_crossed=_both(left_shoulder=(0, -55, -30), left_elbow=(-60, -52, 0)),
)  # fmt: skip

# One joint at a time: joint, angles, azimuth of the view in degrees, half height of it in metres.
JOINT_BENDS = (
    ("left_knee", ((40, 0, 0), (80, 0, 0), (110, 0, 0), (138, 0, 0)), 80, 0.17),
    ("left_elbow", ((-22, -20, 0), (-44, -40, 0), (-66, -60, 0), (-81, -73, 0)), 30, 0.14),
    ("left_hip", ((-45, 0, 0), (-90, 0, 0), (-120, 0, 0), (30, 0, 0)), 80, 0.22),
    ("left_hip", ((-90, 0, 40), (0, 0, 45), (-60, 40, 0), (-110, 0, 0)), 160, 0.22),
    ("left_shoulder", ((0, 0, 45), (0, 0, 90), (0, 0, -38), (0, 0, 125)), 15, 0.20),
    ("left_shoulder", ((0, -80, 0), (-70, 0, 0), (40, 0, -30), (0, 30, 0)), 25, 0.20),
)


def pose_vector(degrees: dict[str, tuple]) -> np.ndarray:
    """A pose (52, 3) in radians from axis-angle components in degrees by joint."""
    pose = np.zeros((len(skeleton.NAMES), 3))
    for name, value in degrees.items():
        pose[INDEX[name]] = np.radians(value)
    return pose


def posed(
    model: parametric.ParametricModel, pose: np.ndarray, corrected: bool = True
) -> np.ndarray:
    """Vertices (v, 3) of the mean body in a pose, with or without the pose correctives."""
    vertices = np.asarray(model.vertices, np.float64)
    rotations = skeleton.rotation_matrices(pose)
    if corrected:
        feature = (rotations[list(model.corrective_joints)] - np.eye(3)).ravel()
        vertices = vertices + np.asarray(model.pose_basis, np.float64) @ feature
    joints = np.asarray(model.joints, np.float64)
    transforms = skeleton.skinning(joints, *skeleton.chain(joints, rotations))
    return skeleton.skin(vertices, dense_weights(model), transforms)


def dense_weights(model: parametric.ParametricModel) -> np.ndarray:
    """Skinning weights (v, 52)."""
    weights = np.asarray(model.weights, np.float64)
    dense = np.zeros((len(weights), len(skeleton.NAMES)))
    np.add.at(dense, (np.arange(len(weights))[:, None], np.asarray(model.weight_joints)), weights)
    return dense


def volume_changes(model: parametric.ParametricModel) -> dict[str, dict[str, float]]:
    """Change of volume in percent against the rest pose; overlapping parts count twice."""
    faces = np.asarray(model.faces)
    rest = measure.volume(np.asarray(model.vertices, np.float64), faces)
    result = {}
    for name, degrees in BODY_POSES.items():
        pose = pose_vector(degrees)
        change = [
            round(100 * measure.volume(posed(model, pose, on), faces) / rest - 100, 2)
            for on in (False, True)
        ]
        result[name] = dict(skinning_alone=change[0], with_correctives=change[1])
        print(f"  volume, {name}: {change[0]} % skinned, {change[1]} % with correctives")
    return result
