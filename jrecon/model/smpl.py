"""The SMPL family: SMPL, SMPL+H, SMPL-X, MANO, FLAME, STAR, SMAL and models in their layout.

Their files differ in container and in extra keys, but share one core: `v_template` (v, 3),
`shapedirs` (v, 3, s), `posedirs` (v, 3, p), `J_regressor` (j, v), `weights` (v, j),
`kintree_table` (2, j) and `f` (f, 3), in metres. Which model a file holds is found from its
skeleton and shapes, never from its name. The joints of these models are linear in the vertices, so
regressor times blend shapes is an exact joint basis.

Models keep their own axes, so that published parameters apply unchanged: y up, facing +z for people
and faces, but not for MANO and SMAL.

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
# What the authors' own demonstrations stay within; the coefficients are in standard deviations.
_SHAPE_LIMIT = 5.0
_SIZE_RANGE = (0.02, 10.0)

# Keys that tell other models, which cannot be read, from a damaged file of this family.
_OTHERS = {
    "corrective_blendshapes": "MHR, whose bones scale and whose correctives pass through a ReLU: "
    "shape and pose cannot express that",
    "J_regressor_osim": "SKEL, whose joints turn by Euler angles about anatomical axes; convert "
    "the SMPL file that its skin is made for",
    "eigvec": "DMPL, soft-tissue blend shapes that go with SMPL+H and are no model by themselves",
}


@dataclasses.dataclass(frozen=True)
class _Family:
    """A published model and how its file is told from the others."""

    name: str
    license: str
    joint_names: tuple[str, ...]
    parents: tuple[int, ...]
    hands: tuple[tuple[str, int], ...] = ()
    """Keys of mean hand poses, and the joint that each begins at."""


def _hand_parents(wrist: int, first: int) -> tuple[int, ...]:
    return tuple(wrist if i % 3 == 0 else first + i - 1 for i in range(15))


_BODY = tuple(
    "pelvis left_hip right_hip spine1 left_knee right_knee spine2 left_ankle right_ankle spine3 "
    "left_foot right_foot neck left_collar right_collar head left_shoulder right_shoulder "
    "left_elbow right_elbow left_wrist right_wrist".split()
)
_BODY_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19)
_FINGERS = tuple(
    f"{finger}{i}" for finger in ("index", "middle", "pinky", "ring", "thumb") for i in (1, 2, 3)
)
_LEFT, _RIGHT = (tuple(f"{side}_{name}" for name in _FINGERS) for side in ("left", "right"))

_NON_COMMERCIAL = "non-commercial research licence of the Max Planck Society"
_SMPL = _Family(
    "SMPL",
    f"SMPL {_NON_COMMERCIAL}",
    (*_BODY, "left_hand", "right_hand"),
    (*_BODY_PARENTS, 20, 21),
)
_STAR = dataclasses.replace(_SMPL, name="STAR", license=f"STAR {_NON_COMMERCIAL}")
_FAMILIES = (
    _SMPL,
    _Family(
        "SMPL+H",
        f"MANO {_NON_COMMERCIAL}",
        (*_BODY, *_LEFT, *_RIGHT),
        (*_BODY_PARENTS, *_hand_parents(20, 22), *_hand_parents(21, 37)),
        (("hands_meanl", 22), ("hands_meanr", 37)),
    ),
    _Family(
        "SMPL-X",
        f"SMPL-X {_NON_COMMERCIAL}",
        (*_BODY, "jaw", "left_eye", "right_eye", *_LEFT, *_RIGHT),
        (*_BODY_PARENTS, 15, 15, 15, *_hand_parents(20, 25), *_hand_parents(21, 40)),
        (("hands_meanl", 25), ("hands_meanr", 40)),
    ),
    _Family(
        "MANO",
        f"MANO {_NON_COMMERCIAL}",
        ("wrist", *_FINGERS),
        (-1, *_hand_parents(0, 1)),
        (("hands_mean", 1),),
    ),
    _Family(
        "FLAME",
        "FLAME licence (CC-BY-4.0 or older, see its source)",
        ("global", "neck", "jaw", "left_eye", "right_eye"),
        (-1, 0, 1, 1, 1),
    ),
)
_SMAL = f"SMAL {_NON_COMMERCIAL}"


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
    core = _core(name, arrays)
    parents = _parents(name, core["kintree_table"])
    _check_shapes(name, core, len(parents))
    family, corrective = _recognise(name, core["posedirs"].shape[-1], parents)
    regressor = core["J_regressor"].astype(np.float64)
    template = core["v_template"].astype(np.float64)
    _check_size(name, template)
    num_shape = core["shapedirs"].shape[-1]
    num_expression = _num_expression(family.name, num_shape)
    shape_names = [f"shape_{i:02d}" for i in range(num_shape - num_expression)]
    shape_names += [f"expression_{i:02d}" for i in range(num_expression)]
    hands = _mean_hands(name, arrays, family, len(parents))
    try:
        return make_model(
            template,
            _faces(core["f"]),
            shape_basis=core["shapedirs"],
            joints=regressor @ template,
            joint_basis=np.tensordot(regressor, core["shapedirs"], axes=1),
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
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _core(name: str, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    missing = [key for key in _CORE if key not in arrays]
    for key, meaning in _OTHERS.items():
        if key in arrays:
            raise ValueError(f"{name}: cannot be read: `{key}` is of {meaning}.")
    if missing:
        raise ValueError(
            f"{name}: not a model that can be read: found the keys {sorted(arrays) or 'none'}; a "
            f"native file has `format`, a SMPL-family file also needs {', '.join(missing)}. "
            "Entries that need unpickling are not read from .npz; convert the .pkl file instead."
        )
    core = {key: np.asarray(arrays[key]) for key in _CORE}
    for key, array in core.items():
        if array.dtype.kind not in "iuf":
            raise ValueError(f"{name}: {key}: got {array.dtype}, need an array of numbers.")
    return core


def _parents(name: str, table: np.ndarray) -> tuple[int, ...]:
    """Row 0 names each joint's parent, row 1 the joint itself; the root's parent is no joint.

    In most files that is -1, kept as unsigned: 2^32 - 1.
    """
    if table.ndim != 2 or table.shape[0] != 2 or not table.shape[1]:
        raise ValueError(
            f"{name}: kintree_table: got shape {table.shape}, need (2, j): parents and joints."
        )
    if not np.isfinite(table).all():
        raise ValueError(f"{name}: kintree_table: got NaN or infinity, need joint numbers.")
    column = {int(joint): i for i, joint in enumerate(table[1])}
    if len(column) != table.shape[1]:
        raise ValueError(f"{name}: kintree_table: row 1 names a joint twice, need each joint once.")
    unknown = [int(p) for p in table[0, 1:] if int(p) not in column]
    if unknown:
        raise ValueError(
            f"{name}: kintree_table: row 0 has the parents {unknown[:5]}, which row 1 does not "
            "name; only the first joint, the root, may have no parent."
        )
    return (column.get(int(table[0, 0]), -1), *(column[int(p)] for p in table[0, 1:]))


def _check_shapes(name: str, core: Mapping[str, np.ndarray], num_joints: int) -> None:
    v = core["v_template"].shape[0] if core["v_template"].ndim else 0
    if core["J_regressor"].shape == (3 * num_joints, 3 * v + 1):
        raise ValueError(
            f"{name}: J_regressor: got shape {core['J_regressor'].shape}: SUPR, whose joints are "
            "regressed from all coordinates and partly locked, cannot be read."
        )
    wanted = {
        "v_template": (v, 3),
        "shapedirs": (v, 3, None),
        "posedirs": (v, 3, None),
        "J_regressor": (num_joints, v),
        "weights": (v, num_joints),
    }
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
        corrective, known = "quaternion", (_STAR,)
    elif num_features == 9 * moving:
        corrective, known = "rotation", _FAMILIES
    else:
        raise ValueError(
            f"{name}: posedirs: got {num_features} features, need {9 * moving} (9 a joint, SMPL) "
            f"or {4 * moving + 1} (4 a joint and one, STAR) for {moving + 1} joints."
        )
    for family in known:
        if family.parents == parents:
            return family, corrective
    # Quadrupeds: 33 joints as first published, 35 with ears. Joints are not named in the files.
    if len(parents) in (33, 35):
        return _Family("SMAL", _SMAL, (), parents), corrective
    return _Family("SMPL layout", "unknown: see the model's source", (), parents), corrective


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
