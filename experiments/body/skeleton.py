"""The reduced skeleton: 52 joints in SMPL-H order, from MakeHuman's 163 bones.

Bones are lumped (their skinning weights add up), so that the 30 finger joints and the 22 body
joints keep MakeHuman's deformation. Linear blend skinning in NumPy, for the build alone.
"""

from __future__ import annotations

import numpy as np
from body.makehuman import BaseMesh, Rig

BODY_PARENTS = dict(
    pelvis=None, left_hip="pelvis", right_hip="pelvis", spine1="pelvis", left_knee="left_hip",
    right_knee="right_hip", spine2="spine1", left_ankle="left_knee", right_ankle="right_knee",
    spine3="spine2", left_foot="left_ankle", right_foot="right_ankle", neck="spine3",
    left_collar="spine3", right_collar="spine3", head="neck", left_shoulder="left_collar",
    right_shoulder="right_collar", left_elbow="left_shoulder", right_elbow="right_shoulder",
    left_wrist="left_elbow", right_wrist="right_elbow",
)  # fmt: skip
FINGERS = dict(index=2, middle=3, pinky=5, ring=4, thumb=1)  # SMPL-H order; MakeHuman's number


def _names_and_parents() -> tuple[tuple[str, ...], tuple[int, ...]]:
    parents = dict(BODY_PARENTS)
    for side in ("left", "right"):
        for finger in FINGERS:
            parents[f"{side}_{finger}1"] = f"{side}_wrist"
            parents[f"{side}_{finger}2"] = f"{side}_{finger}1"
            parents[f"{side}_{finger}3"] = f"{side}_{finger}2"
    names = tuple(parents)
    return names, tuple(-1 if p is None else names.index(p) for p in parents.values())


NAMES, PARENTS = _names_and_parents()
INDEX = {name: index for index, name in enumerate(NAMES)}


def opposite(name: str) -> str:
    """The joint on the other side (itself for a joint in the middle)."""
    side, _, rest = name.partition("_")
    return {"left": f"right_{rest}", "right": f"left_{rest}"}.get(side, name)


MIRROR = np.array([INDEX[opposite(name)] for name in NAMES])

# Which joint moves a bone of MakeHuman's rig, by the start of the bone's name.
_LUMPS = dict(
    root="pelvis", pelvis="pelvis", spine05="pelvis", spine04="spine1", spine03="spine1",
    spine02="spine2", spine01="spine3", breast="spine3", neck="neck", clavicle="*_collar",
    shoulder01="*_collar", upperarm="*_shoulder", lowerarm="*_elbow", wrist="*_wrist",
    metacarpal="*_wrist", upperleg="*_hip", lowerleg="*_knee", foot="*_ankle", toe="*_foot",
)  # fmt: skip
# Where a joint is: at the head of this bone.
_HEADS = dict(
    spine1="spine04", spine2="spine02", spine3="spine01", neck="neck01", head="head",
    hip="upperleg01", knee="lowerleg01", ankle="foot", collar="clavicle", shoulder="upperarm01",
    elbow="lowerarm01", wrist="wrist",
)  # fmt: skip


def joint_of_bone(bone: str) -> str:
    stem, _, side = bone.partition(".")
    side = dict(L="left", R="right").get(side, "")
    if stem.startswith("finger"):
        number, _, phalanx = stem[len("finger") :].partition("-")
        finger = next(name for name, n in FINGERS.items() if n == int(number))
        return f"{side}_{finger}{phalanx}"
    for start, joint in _LUMPS.items():
        if stem.startswith(start):
            return joint.replace("*", side)
    return "head"  # face bones: jaw, eyes, lips, ...


def reduced_rig(base: BaseMesh, rig: Rig) -> tuple[np.ndarray, np.ndarray]:
    """Skinning weights (n, 52) and joint regressor (52, n) on the vertices of the base mesh."""
    weights = np.zeros((len(base.vertices), len(NAMES)))
    for column, bone in enumerate(rig.bones):
        weights[:, INDEX[joint_of_bone(bone)]] += rig.weights[:, column]
    row = {bone: index for index, bone in enumerate(rig.bones)}
    joints = np.zeros((len(NAMES), len(base.vertices)))
    for index, name in enumerate(NAMES):
        side, _, part = name.rpartition("_")
        end = "." + side[:1].upper() if side else ""
        if name == "pelvis":
            joints[index] = rig.tails[row["root"]]
        elif part == "foot":  # the balls of the toes
            joints[index] = sum(rig.heads[row[f"toe{toe}-1{end}"]] for toe in range(1, 6)) / 5
        elif part in _HEADS:
            joints[index] = rig.heads[row[_HEADS[part] + end]]
        else:
            joints[index] = rig.heads[row[f"finger{FINGERS[part[:-1]]}-{part[-1]}{end}"]]
    return weights, joints


def rotation_matrices(axis_angle: np.ndarray) -> np.ndarray:
    """Rodrigues' formula, (..., 3) radians to (..., 3, 3)."""
    angle = np.linalg.norm(axis_angle, axis=-1, keepdims=True)
    x, y, z = np.moveaxis(axis_angle / np.maximum(angle, 1e-12), -1, 0)
    o = np.zeros_like(x)
    cross = np.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*x.shape, 3, 3)
    sine, cosine = np.sin(angle)[..., None], np.cos(angle)[..., None]
    return np.eye(3) + sine * cross + (1 - cosine) * cross @ cross


def rotation_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest rotation that turns direction a into direction b, (..., 3) to (..., 3, 3)."""
    a = a / np.linalg.norm(a, axis=-1, keepdims=True)
    b = b / np.linalg.norm(b, axis=-1, keepdims=True)
    axis, cosine = np.cross(a, b), (a * b).sum(-1)
    x, y, z = np.moveaxis(axis, -1, 0)
    o = np.zeros_like(x)
    cross = np.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*x.shape, 3, 3)
    return np.eye(3) + cross + cross @ cross / (1 + cosine)[..., None, None]


def chain(joints: np.ndarray, rotations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Global rotations (52, 3, 3) and joint positions (52, 3) of a pose (52, 3, 3)."""
    frames, places = np.zeros_like(rotations), np.zeros_like(joints)
    for j, p in enumerate(PARENTS):
        frames[j] = rotations[j] if p < 0 else frames[p] @ rotations[j]
        places[j] = joints[j] if p < 0 else places[p] + frames[p] @ (joints[j] - joints[p])
    return frames, places


def skinning(joints: np.ndarray, frames: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(52, 3, 4) transforms from rest to posed space."""
    shift = places - np.einsum("jab,jb->ja", frames, joints)
    return np.concatenate([frames, shift[..., None]], -1)


def skin(vertices: np.ndarray, weights: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    """Linear blend skinning of (v, 3) with dense weights (v, 52)."""
    blend = np.tensordot(weights, transforms, 1)
    return np.einsum("vab,vb->va", blend[..., :3], vertices) + blend[..., 3]


def posed(
    vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray, axis_angle: np.ndarray
) -> np.ndarray:
    frames, places = chain(joints, rotation_matrices(axis_angle))
    return skin(vertices, weights, skinning(joints, frames, places))


def _bone_end(name: str) -> str | None:
    """The joint at the far end of a limb bone; None where the bone has no single one."""
    side, _, part = name.rpartition("_")
    ends = dict(hip="knee", knee="ankle", ankle="foot", collar="shoulder", shoulder="elbow")
    ends |= dict(elbow="wrist", wrist="middle1")
    if part in ends:
        return f"{side}_{ends[part]}"
    if side and part[-1] in "12":
        return f"{side}_{part[:-1]}{int(part[-1]) + 1}"
    return None


def normalise_pose(
    vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray, reference: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same body with every limb bone turned to its direction in the `reference` joints.

    Without this, shape coefficients would also lower the arms and bend the fingers.
    """
    frames = np.tile(np.eye(3), (len(NAMES), 1, 1))
    places = joints.copy()
    for j, name in enumerate(NAMES):
        p, end = PARENTS[j], _bone_end(name)
        if end is not None:
            k = INDEX[end]
            frames[j] = rotation_between(joints[k] - joints[j], reference[k] - reference[j])
        elif name.endswith(("_foot", "3")) and "_" in name:
            frames[j] = frames[p]  # toes and finger tips follow
        if p >= 0:
            places[j] = places[p] + frames[p] @ (joints[j] - joints[p])
    return skin(vertices, weights, skinning(joints, frames, places)), places
