"""Retargeting: the poses of one skeleton on the body of another, on the host.

Two skeletons never rest alike: arms out or down, straight or bent, more or fewer bones in the
spine. So *global* orientations are carried over, not local angles. For a target joint that follows
a source joint,

    G_target(t) = G_source(t) A,

where the constant rotation A takes the target's rest pose to the source's rest pose: it aligns the
bone (shoulder to elbow, ...) and, about the bone, the axis that the limb bends on (the hinge of
elbow and knee, the thumb's side of the hand). Feet are aligned by heading and sole, as a foot
stands flat whatever the slope of its bone. Joints of the trunk keep A = identity, as both skeletons
stand upright at rest; where the source has fewer joints in the spine, orientations between its
joints are interpolated.

Frames: y up, facing +z at rest, metres; readers convert into it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from jrecon.model.parametric import ParametricModel, chain_levels

# Less bend than this, as the sine of the angle, does not tell the axis of a hinge.
_STRAIGHT = 0.05

# Joint of the target -> joints of the source between whose orientations it lies, and how far.
Mapped = tuple[str, str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Motion:
    """Poses of a source skeleton over time."""

    joint_names: tuple[str, ...]
    parents: tuple[int, ...]
    rest: Float[np.ndarray, "j 3"]
    """Joint positions of the rest pose, y up, facing +z, metres."""
    rotations: Float[np.ndarray, "n j 3 3"]
    """Local rotations from the rest pose, axes aligned with the frame at rest; joint 0 orients."""
    root: Float[np.ndarray, "n 3"]
    """Position of joint 0, metres."""
    mapping: Mapping[str, Mapped]
    """What each target joint follows; those that are absent keep their rest rotation."""
    limbs: Mapping[str, str]
    """The source joint at the far end of each source bone that has a direction to match."""
    thumbs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """For each source wrist, the joint that lies to the side of the thumb."""
    soles: Mapping[str, Float[np.ndarray, " 3"]] = dataclasses.field(default_factory=dict)
    """For each source ankle, the upward normal of its sole at rest; absent: straight up."""
    ankle_height: float | None = None
    """Of the ankles above the soles, metres; None: that of the model, scaled."""


@dataclasses.dataclass(frozen=True, eq=False)
class Retargeted:
    """Poses for a parametric model, as NumPy arrays in its frame (y up)."""

    pose: Float[np.ndarray, "n j 3"]
    translation: Float[np.ndarray, "n 3"]
    """Puts the hips where the source's are, scaled by the length of the legs; with the height of
    its ankles known, soles meet the ground where the source's do."""


# Far end of a target bone with a direction; the limb whose hinge fixes the twist about it.
_ENDS = {"hip": "knee", "knee": "ankle", "shoulder": "elbow", "elbow": "wrist"}
_HINGES = {"hip": "knee", "knee": "knee", "ankle": "knee", "foot": "knee",
           "shoulder": "elbow", "elbow": "elbow", "wrist": "elbow"}  # fmt: skip
_CHAINS = {"knee": ("hip", "knee", "ankle"), "elbow": ("shoulder", "elbow", "wrist")}
_FINGERS = ("index1", "middle1", "pinky1")
_UP, _FRONT = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])
# The way that a straight limb bends at rest: a shank backward, a forearm forward.
_BENDS_TO = {"knee": np.array([0.0, 0.0, -1.0]), "elbow": np.array([0.0, 0.0, 1.0])}


def retarget(motion: Motion, model: ParametricModel, *, limit: bool = False) -> Retargeted:
    """The poses of `motion` for a model with the joint names of the SMPL family.

    Args:
      motion: source poses (`read_cmu`, `read_deepmimic`, or made by hand).
      model: joints are found by name (`left_knee`, ...); fingers and others keep their rest pose.
      limit: clip every axis-angle component to the model's `pose_limits`.

    Raises:
      ValueError: the motion names joints that it does not have, the model has none of the mapped
        joints, or a limb is there only in part.
    """
    _check_mapping(motion, model)
    world = global_rotations(motion.parents, motion.rotations)
    joints = np.asarray(model.joints, np.float64)
    names = list(model.joint_names)
    target = np.tile(np.eye(3), (len(world), len(names), 1, 1))
    for level in chain_levels(model.parents):
        for joint in level:
            name, parent = names[joint], model.parents[joint]
            if name in motion.mapping:
                followed = _followed(motion, world, motion.mapping[name])
                target[:, joint] = followed @ _alignment(motion, name, names, joints)
            elif parent >= 0:
                target[:, joint] = target[:, parent]
    local = target.copy()
    for joint, parent in enumerate(model.parents):
        if parent >= 0:
            local[:, joint] = np.swapaxes(target[:, parent], -1, -2) @ target[:, joint]
    pose = Rotation.from_matrix(local.reshape(-1, 3, 3)).as_rotvec().reshape(len(local), -1, 3)
    if limit:
        pose[:, 1:] = np.clip(pose, *np.asarray(model.pose_limits))[:, 1:]
    return Retargeted(pose, _translation(motion, model, world))


def global_rotations(
    parents: tuple[int, ...], local: Float[np.ndarray, "n j 3 3"]
) -> Float[np.ndarray, "n j 3 3"]:
    """Orientation of every joint in the frame of the root's parent."""
    world = local.copy()
    for level in chain_levels(parents)[1:]:
        for joint in level:
            world[:, joint] = world[:, parents[joint]] @ local[:, joint]
    return world


def _translation(motion: Motion, model: ParametricModel, world: np.ndarray) -> np.ndarray:
    names, joints = list(model.joint_names), np.asarray(model.joints, np.float64)
    scale = _leg_length(names, joints) / _source_leg_length(motion)
    both = [f"{side}_hip" for side in ("left", "right")]
    if not set(both) <= set(names) & set(motion.mapping):
        both = both[:1]
    ours = joints[[names.index(name) for name in both]].mean(0) - joints[0]
    follow = [motion.joint_names.index(motion.mapping[name][0]) for name in both]
    theirs = motion.rest[follow].mean(0) - motion.rest[0]
    root = scale * (motion.root + world[:, 0] @ theirs) - world[:, 0] @ ours
    if motion.ankle_height is not None:
        own_height = joints[names.index("left_ankle"), 1] - np.asarray(model.vertices)[:, 1].min()
        root += (own_height - scale * motion.ankle_height) * _UP
    return root - joints[0]


def _check_mapping(motion: Motion, model: ParametricModel) -> None:
    known = set(motion.joint_names)
    needed = {name for first, second, _ in motion.mapping.values() for name in (first, second)}
    needed |= set(motion.limbs) | set(motion.limbs.values())
    if needed - known:
        raise ValueError(
            f"mapping: the motion has no joints {sorted(needed - known)}; it has "
            f"{', '.join(motion.joint_names)}."
        )
    mapped = set(motion.mapping) & set(model.joint_names)
    if not mapped:
        raise ValueError(
            f"model {model.name!r}: none of its joints ({', '.join(model.joint_names[:6])}, ...) "
            f"is mapped; need names as {', '.join(list(motion.mapping)[:4])}: rename its joints."
        )
    # Legs give the scale; every other limb is needed whole once a part of it follows.
    limbs = {("left", "knee")}
    for name in mapped:
        side, _, part = name.partition("_")
        if part in _HINGES:
            limbs.add((side, _HINGES[part]))
    for side, hinge in sorted(limbs):
        chain = [f"{side}_{part}" for part in _CHAINS[hinge]]
        absent = [name for name in chain if name not in model.joint_names]
        if absent:
            raise ValueError(
                f"model {model.name!r}: has no joints {absent}, need {chain} to align the limb; "
                "rename its joints."
            )
        unmapped = [name for name in chain[:2] if name not in motion.mapping]
        if unmapped:
            raise ValueError(
                f"mapping: got no entry for {unmapped}, need {chain[:2]} to align the limb; say "
                "which joint of the motion each follows."
            )


def _followed(motion: Motion, world: np.ndarray, mapped: Mapped) -> np.ndarray:
    first, second, fraction = mapped
    a, b = (world[:, motion.joint_names.index(name)] for name in (first, second))
    if first == second or fraction == 0.0:
        return a
    step = Rotation.from_matrix(np.swapaxes(a, -1, -2) @ b).as_rotvec()
    return a @ Rotation.from_rotvec(fraction * step).as_matrix()


def _alignment(motion: Motion, name: str, names: list[str], joints: np.ndarray) -> np.ndarray:
    """A of the module's text: from the target's rest pose to the source's."""
    source = motion.mapping[name][0]
    side, _, part = name.partition("_")
    if part in ("ankle", "foot"):
        return _source_sole(motion, side) @ _target_sole(side, names, joints).T
    if part == "wrist":
        return _hand_alignment(motion, side, names, joints)
    if part not in _ENDS or source not in motion.limbs:
        return np.eye(3)
    own_bone = joints[names.index(f"{side}_{_ENDS[part]}")] - joints[names.index(name)]
    hinge = _HINGES[part]
    own_hinge = _target_hinge(hinge, side, names, joints)
    source_hinge = _source_hinge(motion, hinge, side)
    return _frame(_source_bone(motion, source), source_hinge) @ _frame(own_bone, own_hinge).T


def _hand_alignment(motion: Motion, side: str, names: list[str], joints: np.ndarray) -> np.ndarray:
    """By the fingers and the thumb's side; a hand without them goes on from its forearm."""
    source = motion.mapping[f"{side}_wrist"][0]
    fingers = [f"{side}_{finger}" for finger in _FINGERS]
    known = source in motion.thumbs and source in motion.limbs
    if not known or not set(fingers) <= set(names):
        return _alignment(motion, f"{side}_elbow", names, joints)
    start, thumb = (motion.joint_names.index(n) for n in (source, motion.thumbs[source]))
    across = motion.rest[thumb] - motion.rest[start]
    index, middle, pinky = (joints[names.index(finger)] for finger in fingers)
    own_bone = middle - joints[names.index(f"{side}_wrist")]
    return _frame(_source_bone(motion, source), across) @ _frame(own_bone, index - pinky).T


def _source_sole(motion: Motion, side: str) -> np.ndarray:
    ankle = motion.mapping.get(f"{side}_ankle", ("", "", 0.0))[0]
    heading = _source_bone(motion, ankle) if ankle in motion.limbs else _FRONT
    return _frame(motion.soles.get(ankle, _UP), heading)


def _target_sole(side: str, names: list[str], joints: np.ndarray) -> np.ndarray:
    """The model stands flat at rest; its feet head for their balls."""
    ball = f"{side}_foot"
    if ball not in names:
        return _frame(_UP, _FRONT)
    return _frame(_UP, joints[names.index(ball)] - joints[names.index(f"{side}_ankle")])


def _source_bone(motion: Motion, source: str) -> np.ndarray:
    start, end = (motion.joint_names.index(name) for name in (source, motion.limbs[source]))
    return motion.rest[end] - motion.rest[start]


def _target_hinge(hinge: str, side: str, names: list[str], joints: np.ndarray) -> np.ndarray:
    """The axis that flexes knee or elbow, from the bend that the rest pose has already."""
    a, b, c = (joints[names.index(f"{side}_{part}")] for part in _CHAINS[hinge])
    return _bend_axis(hinge, b - a, c - b)


def _source_hinge(motion: Motion, hinge: str, side: str) -> np.ndarray:
    """The axis that the source's knee or elbow bends on, from how it moves, else as it rests."""
    above, joint = (motion.mapping[f"{side}_{part}"][0] for part in _CHAINS[hinge][:2])
    local = motion.rotations[:, motion.joint_names.index(joint)]
    axis = Rotation.from_matrix(local).as_rotvec().mean(0)
    if np.linalg.norm(axis) > _STRAIGHT:
        return axis
    start, middle = (motion.rest[motion.joint_names.index(name)] for name in (above, joint))
    lower = _source_bone(motion, joint) if joint in motion.limbs else middle - start
    return _bend_axis(hinge, middle - start, lower)


def _bend_axis(hinge: str, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    upper, lower = (bone / np.linalg.norm(bone) for bone in (upper, lower))
    axis = np.cross(upper, lower)
    return axis if np.linalg.norm(axis) > _STRAIGHT else np.cross(upper, _BENDS_TO[hinge])


def _frame(primary: np.ndarray, secondary: np.ndarray) -> np.ndarray:
    """Right-handed orthonormal columns: along the first vector, then towards the second."""
    x = primary / np.linalg.norm(primary)
    z = np.cross(x, secondary)
    z /= np.linalg.norm(z)
    return np.stack([x, np.cross(z, x), z], axis=1)


def _leg_length(names: list[str], joints: np.ndarray) -> float:
    a, b, c = (joints[names.index(f"left_{part}")] for part in ("hip", "knee", "ankle"))
    return float(np.linalg.norm(b - a) + np.linalg.norm(c - b))


def _source_leg_length(motion: Motion) -> float:
    hip, knee = (motion.mapping[f"left_{part}"][0] for part in ("hip", "knee"))
    return float(sum(np.linalg.norm(_source_bone(motion, joint)) for joint in (hip, knee)))


def _sided(table: Mapping[str, str], mark: str, side: str) -> dict[str, Mapped]:
    return {f"{side}_{ours}": (mark + theirs, mark + theirs, 0.0) for ours, theirs in table.items()}


_CMU_LIMBS = dict(
    hip="femur", knee="tibia", ankle="foot", foot="toes", collar="clavicle", shoulder="humerus",
    elbow="radius",
)  # fmt: skip
_CMU_TRUNK = dict(
    pelvis="root", spine1="lowerback", spine2="upperback", spine3="thorax", head="head",
)  # fmt: skip


def read_cmu(path: str | os.PathLike[str]) -> Motion:
    """CMU motion capture as one `.npz`: `rotations` (n, j, 3) axis-angle, `parents`, `joint_names`,
    `offsets` (j, 3) of the T-pose in metres, y up. There is no root position in it.

    Raises:
      ValueError: keys are missing.
    """
    with np.load(path, allow_pickle=False) as data:
        missing = {"rotations", "parents", "joint_names", "offsets"} - set(data.files)
        if missing:
            raise ValueError(f"{path}: keys {sorted(missing)} are missing; is this the CMU file?")
        names = tuple(str(name) for name in data["joint_names"])
        parents = tuple(int(parent) for parent in data["parents"])
        rotations = data["rotations"].astype(np.float64)
        offsets = data["offsets"].astype(np.float64)
    count = len(rotations)
    mapping = {ours: (theirs, theirs, 0.0) for ours, theirs in _CMU_TRUNK.items()}
    # Its two segments of the neck are one bone of ours.
    mapping["neck"] = ("lowerneck", "upperneck", 0.5)
    limbs, thumbs = {}, {}
    for mark, side in (("l", "left"), ("r", "right")):
        mapping |= _sided(_CMU_LIMBS, mark, side)
        chain = ("femur", "tibia", "foot", "toes"), ("humerus", "radius", "wrist", "fingers")
        limbs |= {
            mark + a: mark + b for part in chain for a, b in zip(part, part[1:], strict=False)
        }
        # `wrist` rolls the forearm; `hand` bends the wrist, 25 to 29 degrees in the median frame:
        # too much for relaxed hands, so half.
        mapping[f"{side}_wrist"] = (f"{mark}wrist", f"{mark}hand", 0.5)
        thumbs[f"{mark}wrist"] = f"{mark}thumb_end"
    motion = Motion(
        joint_names=names,
        parents=parents,
        rest=_rest_positions(parents, offsets),
        rotations=_to_matrices(rotations),
        root=np.zeros((count, 3)),
        mapping=mapping,
        limbs=limbs,
        thumbs=thumbs,
    )
    # At rest its legs are splayed, and the feet lean with them: soles hold the hinges of the knees.
    normals = {
        side: np.cross(_FRONT, _source_hinge(motion, "knee", side)) for side in ("left", "right")
    }
    soles = {f"{side[0]}foot": normal for side, normal in normals.items()}
    return dataclasses.replace(motion, soles=soles)


def _rest_positions(parents: tuple[int, ...], offsets: np.ndarray) -> np.ndarray:
    rest = offsets.copy()
    for joint, parent in enumerate(parents):
        if parent >= 0:
            rest[joint] += rest[parent]
    return rest


def _to_matrices(axis_angle: np.ndarray) -> np.ndarray:
    matrices = Rotation.from_rotvec(axis_angle.reshape(-1, 3)).as_matrix()
    return matrices.reshape(*axis_angle.shape[:-1], 3, 3)


# DeepMimic faces +x with +z to the right; columns are its axes in our frame (x left, z front).
_FROM_DEEPMIMIC = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


def read_deepmimic(character: str | os.PathLike[str], clip: str | os.PathLike[str]) -> Motion:
    """A clip of the DeepMimic humanoid: JSON `Frames` and the character's skeleton file.

    A frame is duration, root position, root quaternion (w first), then in the order of the
    character's joints a quaternion for a spherical joint, an angle about z for a hinge.

    Raises:
      ValueError: the frames do not fit the skeleton.
    """
    description = json.loads(Path(character).read_text())
    joints = description["Skeleton"]["Joints"]
    frames = np.asarray(json.loads(Path(clip).read_text())["Frames"], np.float64)
    widths = {"spherical": 4, "revolute": 1, "fixed": 0}
    need = 8 + sum(widths.get(joint["Type"], 0) for joint in joints[1:])
    if frames.ndim != 2 or frames.shape[1] != need:
        raise ValueError(
            f"{clip}: got frames of shape {frames.shape}, need (n, {need}) for {character}; is it "
            "a clip of another character?"
        )
    offsets = np.array([[joint[f"Attach{axis}"] for axis in "XYZ"] for joint in joints], float)
    parents = tuple(int(joint["Parent"]) for joint in joints)
    rotations = np.tile(np.eye(3), (len(frames), len(joints), 1, 1))
    rotations[:, 0] = Rotation.from_quat(frames[:, 4:8], scalar_first=True).as_matrix()
    column = 8
    for index, joint in enumerate(joints[1:], start=1):
        if joint["Type"] == "spherical":
            part = Rotation.from_quat(frames[:, column : column + 4], scalar_first=True)
        elif joint["Type"] == "revolute":
            part = Rotation.from_rotvec(frames[:, column, None] * [0.0, 0.0, 1.0])
        else:
            continue
        rotations[:, index] = part.as_matrix()
        column += widths[joint["Type"]]
    turn = _FROM_DEEPMIMIC
    names = tuple(str(joint["Name"]) for joint in joints)
    return Motion(
        joint_names=names,
        parents=parents,
        rest=_rest_positions(parents, offsets @ turn.T),
        rotations=turn @ rotations @ turn.T,
        root=frames[:, 1:4] @ turn.T,
        ankle_height=_deepmimic_ankle_height(description),
        mapping=_deepmimic_mapping(),
        limbs={
            f"{side}_{a}": f"{side}_{b}"
            for side in ("left", "right")
            for a, b in (
                ("hip", "knee"),
                ("knee", "ankle"),
                ("shoulder", "elbow"),
                ("elbow", "wrist"),
            )
        },
    )


def _deepmimic_ankle_height(description: dict[str, Any]) -> float | None:
    """Of the boxes that are its feet; Param1 is the vertical size of a box."""
    for body in description.get("BodyDefs", ()):
        if body["Name"] == "left_ankle" and body["Shape"] == "box":
            return body["Param1"] / 2 - body["AttachY"]
    return None


def _deepmimic_mapping() -> dict[str, Mapped]:
    mapping: dict[str, Mapped] = {
        "pelvis": ("root", "root", 0.0),
        "spine1": ("root", "chest", 1 / 3),
        "spine2": ("root", "chest", 2 / 3),
        "spine3": ("chest", "chest", 0.0),
        "neck": ("chest", "neck", 0.5),
        "head": ("neck", "neck", 0.0),
    }
    for side in ("left", "right"):
        for part in ("hip", "knee", "ankle", "shoulder", "elbow"):
            mapping[f"{side}_{part}"] = (f"{side}_{part}", f"{side}_{part}", 0.0)
    return mapping
