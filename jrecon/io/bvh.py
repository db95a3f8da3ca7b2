"""Motion as BVH (Biovision hierarchy): the skeleton of one shape, and joint angles per frame.

A BVH file is text: HIERARCHY lists each joint's offset from its parent in the rest pose, MOTION has
a line of numbers for each frame. Joint frames of a parametric model are aligned with the world at
rest, as BVH wants them, so rotations carry over as they are. Each joint turns by intrinsic Euler
angles about z, x, y in degrees (R = Rz Rx Ry), the order that capture systems use; of the two
triples that mean the same rotation the one nearer to the frame before is written, without jumps of
a whole turn, so that curves can be edited and frames interpolated.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from jrecon.io.files import write_whole
from jrecon.io.glb import Frame
from jrecon.io.rig import check_params
from jrecon.model.parametric import ParametricModel, Params, dense_weights

_ORDER = "ZXY"
# Degrees between x and a right angle at which the other two angles are not told apart.
_LOCKED = 1e-3
_CHANNELS = "Zrotation Xrotation Yrotation"
# The camera frame (y down, z forward) turned upright: half a turn about x.
_UPRIGHT = Rotation.from_quat([1.0, 0.0, 0.0, 0.0])


def export_bvh(
    path: str | os.PathLike[str],
    model: ParametricModel,
    params: Params,
    *,
    frame: Frame = "model",
    fps: float = 30.0,
    units_per_metre: float = 1.0,
    overwrite: bool = False,
) -> int:
    """Write a pose or a motion as BVH, y up.

    Args:
      path: file to write, `.bvh`.
      model: any model; a joint without children ends at its farthest vertex.
      params: a single pose, or a motion with one leading axis over frames and one shape.
      frame: the frame that `params` place the model in, `model` (y up) or `camera` (y down).
      fps: frames per second.
      units_per_metre: 1 for metres; 100 for programs that take BVH to be in centimetres.
      overwrite: replace an existing file.

    Returns:
      The number of frames.

    Raises:
      ValueError: the parameters do not fit the model, change shape over time or are not finite, an
        option is out of range, or the path has another suffix.
      OSError: the file exists and `overwrite` is false, or it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".bvh":
        raise ValueError(f"{path}: got the suffix {path.suffix!r}, need '.bvh'; rename it.")
    for name, value in (("fps", fps), ("units_per_metre", units_per_metre)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name}: got {value}, need a number > 0.")
    text = encode_bvh(model, params, frame=frame, fps=fps, units_per_metre=units_per_metre)
    write_whole(path, text.encode(), overwrite=overwrite)
    return text.count("\n", text.index("Frame Time")) - 1


def encode_bvh(
    model: ParametricModel, params: Params, *, frame: Frame, fps: float, units_per_metre: float
) -> str:
    """The file's text; arguments as of `export_bvh`, checked."""
    params = check_params(model, params)
    joints = model.num_joints
    shape = np.asarray(params.shape, np.float64).reshape(-1, model.num_shape)[0]
    rest = np.asarray(model.joints, np.float64) + np.asarray(model.joint_basis) @ shape
    pose = np.asarray(params.pose, np.float64).reshape(-1, joints, 3)
    root = rest[0] + np.asarray(params.translation, np.float64).reshape(-1, 3)
    turns = Rotation.from_rotvec(pose.reshape(-1, 3)).as_matrix().reshape(-1, joints, 3, 3)
    if frame == "camera":
        turns[:, 0] = _UPRIGHT.as_matrix() @ turns[:, 0]
        root = _UPRIGHT.apply(root)
    order = _depth_first(model.parents)
    angles = np.stack([_smooth_angles(turns[:, joint]) for joint in order], axis=1)
    rows = np.concatenate([root * units_per_metre, angles.reshape(len(pose), -1)], axis=1)
    ends = _ends(model, rest, shape)
    offsets = units_per_metre * np.array(
        [
            [0.0] * 3 if parent < 0 else rest[j] - rest[parent]
            for j, parent in enumerate(model.parents)
        ]
    )
    lines = ["HIERARCHY", *_hierarchy(model, offsets, units_per_metre * ends, 0, 0)]
    lines += ["MOTION", f"Frames: {len(rows)}", f"Frame Time: {1 / fps:.9g}"]
    lines += [" ".join(f"{value:.6f}" for value in row) for row in rows]
    return "\n".join(lines) + "\n"


def _depth_first(parents: tuple[int, ...], joint: int = 0) -> list[int]:
    """Joints in the order in which the hierarchy lists them."""
    found = [joint]
    for child, parent in enumerate(parents):
        if parent == joint:
            found += _depth_first(parents, child)
    return found


def _smooth_angles(turns: Float[np.ndarray, "t 3 3"]) -> Float[np.ndarray, "t 3"]:
    """Euler angles in degrees that change as little as they can from frame to frame."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Gimbal lock")
        angles = Rotation.from_matrix(turns).as_euler(_ORDER, degrees=True)
    for now, before in zip(angles[1:], angles[:-1], strict=True):
        if 90 - abs(now[1]) < _LOCKED:
            # Only the sum (difference) of the outer two is known here: y stays, z takes the rest.
            now[0] += np.sign(now[1]) * (now[2] - before[2])
            now[2] = before[2]
        # The same rotation: (z + 180, 180 - x, y + 180), and whole turns.
        other = np.array([now[0] + 180, 180 - now[1], now[2] + 180])
        both = np.stack([now, other])
        both -= 360 * np.rint((both - before) / 360)
        now[:] = both[np.argmin(np.abs(both - before).sum(axis=1))]
    return angles


def _ends(
    model: ParametricModel, rest: Float[np.ndarray, "j 3"], shape: Float[np.ndarray, " s"]
) -> Float[np.ndarray, "j 3"]:
    """From each joint to the farthest of the vertices that follow it more than any other."""
    surface = np.asarray(model.vertices, np.float64) + np.asarray(model.shape_basis) @ shape
    owner = np.argmax(np.asarray(dense_weights(model)), axis=1)
    ends = np.zeros((model.num_joints, 3))
    for joint in range(model.num_joints):
        reach = surface[owner == joint] - rest[joint]
        if len(reach):
            ends[joint] = reach[np.argmax(np.linalg.norm(reach, axis=1))]
    return ends


def _hierarchy(
    model: ParametricModel,
    offsets: Float[np.ndarray, "j 3"],
    ends: Float[np.ndarray, "j 3"],
    joint: int,
    level: int,
) -> list[str]:
    numbers = lambda values: " ".join(f"{value:.6f}" for value in values)
    name = model.joint_names[joint].replace(" ", "_")
    children = [child for child, parent in enumerate(model.parents) if parent == joint]
    channels = f"3 {_CHANNELS}" if level else f"6 Xposition Yposition Zposition {_CHANNELS}"
    inside = [f"OFFSET {numbers(offsets[joint])}", f"CHANNELS {channels}"]
    for child in children:
        inside += _hierarchy(model, offsets, ends, child, level + 1)
    if not children:
        inside += ["End Site", "{", f"\tOFFSET {numbers(ends[joint])}", "}"]
    head = f"{'JOINT' if level else 'ROOT'} {name}"
    return [head, "{", *(f"\t{line}" for line in inside), "}"]
