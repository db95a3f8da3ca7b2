"""The SMPL family: SMPL, SMPL+H, SMPL-X, MANO, FLAME, STAR, SMAL and models in their layout.

Their files differ in container and in extra keys, but share one core: `v_template` (v, 3),
`shapedirs` (v, 3, s), `posedirs` (v, 3, p), `J_regressor` (j, v), `weights` (v, j),
`kintree_table` (2, j) and `f` (f, 3), in metres, y up, faces +z. Which model a file holds is found
from its shapes, never from its name. The joints of these models are linear in the vertices, so
regressor times blend shapes is an exact joint basis.

Sources: Loper et al. 2015 (SMPL), Romero et al. 2017 (MANO, SMPL+H), Li et al. 2017 (FLAME),
Zuffi et al. 2017 (SMAL), Pavlakos et al. 2019 (SMPL-X), Osman et al. 2020 (STAR). The weights of
these models are licensed by their authors; none comes with jrecon.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jrecon.model.parametric import ParametricModel, make_model

_CORE = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")
# Row 0 of `kintree_table` is unsigned in old files: -1 for the root reads as 2^32 - 1.
_ROOT = 2**32 - 1
# What the authors' own demonstrations stay within; the coefficients are in standard deviations.
_SHAPE_LIMIT = 5.0
_SIZE_RANGE = (0.02, 10.0)

_LEGS_TO_WRISTS = (
    "pelvis left_hip right_hip spine1 left_knee right_knee spine2 left_ankle right_ankle spine3 "
    "left_foot right_foot neck left_collar right_collar head left_shoulder right_shoulder "
    "left_elbow right_elbow left_wrist right_wrist"
).split()
_FINGERS = [
    f"{name}{i}" for name in ("index", "middle", "pinky", "ring", "thumb") for i in (1, 2, 3)
]
_LEFT, _RIGHT = ([f"{side}_{finger}" for finger in _FINGERS] for side in ("left", "right"))


@dataclasses.dataclass(frozen=True)
class _Family:
    """A published model and how its file is told from the others."""

    name: str
    license: str
    joint_names: tuple[str, ...]
    hands: tuple[tuple[str, int], ...] = ()
    """Keys of mean hand poses, and the joint that each begins at."""


_NON_COMMERCIAL = "non-commercial research licence of the Max Planck Society"
_SMPL = _Family("SMPL", f"SMPL {_NON_COMMERCIAL}", (*_LEGS_TO_WRISTS, "left_hand", "right_hand"))
_BY_JOINTS = {
    24: _SMPL,
    52: _Family(
        "SMPL+H",
        f"MANO {_NON_COMMERCIAL}",
        (*_LEGS_TO_WRISTS, *_LEFT, *_RIGHT),
        (("hands_meanl", 22), ("hands_meanr", 37)),
    ),
    55: _Family(
        "SMPL-X",
        f"SMPL-X {_NON_COMMERCIAL}",
        (*_LEGS_TO_WRISTS, "jaw", "left_eye", "right_eye", *_LEFT, *_RIGHT),
        (("hands_meanl", 25), ("hands_meanr", 40)),
    ),
    16: _Family("MANO", f"MANO {_NON_COMMERCIAL}", ("wrist", *_FINGERS), (("hands_mean", 1),)),
    5: _Family(
        "FLAME",
        "FLAME licence (CC-BY-4.0 or older, see its source)",
        ("global", "neck", "jaw", "left_eye", "right_eye"),
    ),
}
_STAR = dataclasses.replace(_SMPL, name="STAR", license=f"STAR {_NON_COMMERCIAL}")


def read_smpl_family(arrays: Mapping[str, Any], name: str) -> ParametricModel:
    """A model from the arrays of a SMPL-family file.

    Args:
      arrays: the content of the file by key, read without pickle (`read_npz`, `read_pickle`).
      name: what to call the model, usually the file's stem.

    Returns:
      The model with all shape coefficients of the file; expression coefficients (SMPL-X, FLAME)
      follow them as `expression_00`, ... A mean hand pose in the file becomes the named pose
      `hands_mean`, which their own code adds to the hand joints.

    Raises:
      ValueError: keys are missing or their shapes contradict each other.
    """
    missing = [key for key in _CORE if key not in arrays]
    if missing:
        raise ValueError(
            f"{name}: not a model that can be read: found the keys {sorted(arrays) or 'none'}; a "
            f"native file has `format`, a SMPL-family file also needs {', '.join(missing)}. "
            "Entries that need unpickling are not read from .npz; convert the .pkl file instead."
        )
    core = {key: np.asarray(arrays[key]) for key in _CORE}
    parents = _parents(name, core["kintree_table"])
    _check_core(name, core, len(parents))
    family, corrective = _recognise(name, core["posedirs"].shape[-1], parents)
    joints_of = core["J_regressor"].astype(np.float64)
    template = core["v_template"].astype(np.float64)
    _check_size(name, template)
    num_shape = core["shapedirs"].shape[-1]
    num_expression = _num_expression(family.name, num_shape)
    shape_names = [f"shape_{i:02d}" for i in range(num_shape - num_expression)]
    shape_names += [f"expression_{i:02d}" for i in range(num_expression)]
    hands = _mean_hands(name, arrays, family, len(parents))
    return make_model(
        template,
        _faces(core["f"]),
        shape_basis=core["shapedirs"],
        joints=joints_of @ template,
        joint_basis=np.einsum("jv,vas->jas", joints_of, core["shapedirs"]),
        parents=parents,
        weights=core["weights"],
        pose_basis=core["posedirs"],
        corrective=corrective,
        corrective_joints=range(1, len(parents)),
        joint_names=family.joint_names or None,
        shape_names=shape_names,
        shape_limits=_SHAPE_LIMIT * np.array([[-1.0], [1.0]]) * np.ones((2, num_shape)),
        named_poses=hands,
        name=name,
        license=family.license,
        provenance=f"imported from a {family.name} file",
    )


def _parents(name: str, table: np.ndarray) -> tuple[int, ...]:
    if table.ndim != 2 or table.shape[0] != 2:
        raise ValueError(
            f"{name}: kintree_table: got shape {table.shape}, need (2, j): parents and joints."
        )
    row = table[0].astype(np.int64)
    return tuple(-1 if parent in (-1, _ROOT) else int(parent) for parent in row)


def _check_core(name: str, core: Mapping[str, np.ndarray], num_joints: int) -> None:
    v = len(core["v_template"])
    wanted = {"shapedirs": (v, 3, None), "posedirs": (v, 3, None)}
    wanted |= {"J_regressor": (num_joints, v), "weights": (v, num_joints), "v_template": (v, 3)}
    for key, shape in wanted.items():
        got = core[key].shape
        fits = len(got) == len(shape) and all(
            need in (None, size) for size, need in zip(got, shape, strict=True)
        )
        if not fits:
            need = ", ".join("any" if size is None else str(size) for size in shape)
            raise ValueError(
                f"{name}: {key}: got shape {got}, need ({need}) for {v} vertices and "
                f"{num_joints} joints; the arrays are of different models."
            )


def _recognise(name: str, num_features: int, parents: tuple[int, ...]) -> tuple[_Family, str]:
    """Which model this is, and what its pose correctives read."""
    moving = len(parents) - 1
    if num_features == 4 * moving + 1:
        corrective, known = "quaternion", {24: _STAR}
    elif num_features == 9 * moving:
        corrective, known = "rotation", _BY_JOINTS
    else:
        raise ValueError(
            f"{name}: posedirs: got {num_features} features, need {9 * moving} (9 a joint, SMPL) "
            f"or {4 * moving + 1} (4 a joint and one, STAR) for {moving + 1} joints."
        )
    label = "SMAL" if len(parents) in (33, 35) else "SMPL layout"
    other = _Family(label, "unknown: see the model's source", ())
    return known.get(len(parents), other), corrective


def _num_expression(family: str, num_shape: int) -> int:
    """How many of the last coefficients are of expression: these files hold both in one array."""
    if family not in ("SMPL-X", "FLAME"):
        return 0
    return {400: 100, 20: 10}.get(num_shape, 0)


def _check_size(name: str, template: np.ndarray) -> None:
    size = float(np.ptp(template, axis=0).max()) if np.isfinite(template).all() else 1.0
    if not _SIZE_RANGE[0] <= size <= _SIZE_RANGE[1]:
        raise ValueError(
            f"{name}: the template is {size:.3g} long, need metres "
            f"({_SIZE_RANGE[0]} to {_SIZE_RANGE[1]}); divide its vertices, shapedirs and posedirs "
            "by 100 for centimetres, by 1000 for millimetres."
        )


def _faces(faces: np.ndarray) -> np.ndarray:
    # uint32 in the files; a signed type keeps damaged indices comparable.
    return faces.astype(np.int64) if faces.dtype.kind in "iu" else faces


def _mean_hands(
    name: str, arrays: Mapping[str, Any], family: _Family, num_joints: int
) -> dict[str, np.ndarray]:
    pose = np.zeros((num_joints, 3))
    found = False
    for key, first in family.hands:
        if key not in arrays:
            continue
        mean = np.asarray(arrays[key])
        if mean.size != 45:
            raise ValueError(f"{name}: {key}: got {mean.size} numbers, need 45 (15 joints x 3).")
        pose[first : first + 15] = mean.reshape(15, 3)
        found = True
    return {"hands_mean": pose} if found else {}
