"""Skeletons for registered meshes: a joint tree, skinning weights, and where the joints are.

A skeleton file is JSON or `.npz` with the keys

    joint_names      (j) texts
    parents          (j) integers, -1 for the root, which comes first; parents before children
    weights          (v, j) skinning weights, rows sum to one
    joint_regressor  (j, v): the joints of a mesh are joint_regressor @ vertices, or instead
    joint_positions  (n, j, 3) in the unit of the meshes, in their order; in JSON an object
                     {file name without suffix: [[x, y, z], ...]} names the meshes
    rest_joints      optional (j, 3): the rest pose (default: the pose of the first mesh); only the
                     directions of its bones matter
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jrecon.model.formats import read_npz

_REQUIRED = ("joint_names", "parents", "weights")


@dataclasses.dataclass(frozen=True, eq=False)
class Skeleton:
    """Joint tree, skin and joints of a set of registered meshes. Make one with `make_skeleton`."""

    joint_names: tuple[str, ...]
    parents: tuple[int, ...]
    """-1 for the root, joint 0; parents come before their children."""
    weights: Float[np.ndarray, "v j"]
    joint_regressor: Float[np.ndarray, "j v"] | None
    joint_positions: Float[np.ndarray, "n j 3"] | None
    """Joints of each mesh as posed, metres. Either these or the regressor is given."""
    rest_joints: Float[np.ndarray, "j 3"] | None

    def joints_of(self, vertices: Float[np.ndarray, "n v 3"]) -> Float[np.ndarray, "n j 3"]:
        """The joints of each mesh (the given positions, where there is no regressor)."""
        if self.joint_regressor is None:
            assert self.joint_positions is not None, "make_skeleton requires one of the two"
            return self.joint_positions
        return np.einsum("jv,nva->nja", self.joint_regressor, vertices, optimize=True)


def make_skeleton(
    joint_names: Sequence[str],
    parents: Sequence[int],
    weights: Any,
    *,
    joint_regressor: Any = None,
    joint_positions: Any = None,
    rest_joints: Any = None,
    unit: float = 1.0,
) -> Skeleton:
    """A checked skeleton (see the fields of `Skeleton`); lengths are multiplied by `unit`.

    Raises:
      ValueError: a field is missing, has the wrong shape, is not finite, or the parents are no
        tree; the message says what was got and what is needed.
    """
    parents = tuple(int(parent) for parent in parents)
    j = len(parents)
    if not parents or parents[0] != -1:
        raise ValueError(f"parents: got {parents[:1]} for joint 0, need -1: joint 0 is the root.")
    for joint, parent in enumerate(parents[1:], start=1):
        if not 0 <= parent < joint:
            raise ValueError(
                f"parents: joint {joint} has parent {parent}, need one of 0..{joint - 1}; sort the "
                "joints from the root outward, with one root."
            )
    if len(joint_names) != j:
        raise ValueError(f"joint_names: got {len(joint_names)}, need {j}: one for each parent.")
    if (joint_regressor is None) == (joint_positions is None):
        raise ValueError("need joint_regressor or joint_positions, and not both.")
    weights = _numbers("weights", weights, (None, j), "a row per vertex, a column per joint")
    sums = weights.sum(1)
    if weights.min() < -1e-6 or np.abs(sums - 1).max() > 0.02:
        row = int(np.abs(sums - 1).argmax())
        raise ValueError(
            f"weights: the smallest is {weights.min():.3g} and the row of vertex {row} sums to "
            f"{sums[row]:.3g}, need weights >= 0 and rows that sum to 1; divide rows by their sums."
        )
    v = len(weights)
    optional = dict(
        joint_regressor=(joint_regressor, (j, v), "a row per joint, a column per vertex", 1.0),
        joint_positions=(joint_positions, (None, j, 3), "the joints of every mesh", unit),
        rest_joints=(rest_joints, (j, 3), "the joints of the rest pose", unit),
    )
    checked = {
        key: None if value is None else scale * _numbers(key, value, shape, meaning)
        for key, (value, shape, meaning, scale) in optional.items()
    }
    regressor = checked["joint_regressor"]
    if regressor is not None and np.abs(regressor.sum(1) - 1).max() > 0.02:
        row = int(np.abs(regressor.sum(1) - 1).argmax())
        raise ValueError(
            f"joint_regressor: the row of joint {row} sums to {regressor[row].sum():.3g}, need 1: "
            "joints have to move along with the vertices."
        )
    names = tuple(str(name) for name in joint_names)
    return Skeleton(names, parents, weights / sums[:, None], **checked)


def read_skeleton(
    path: str | os.PathLike[str], mesh_names: Sequence[str], *, unit: float | None = None
) -> Skeleton:
    """A skeleton from a JSON or `.npz` file (the format stands at the top of this module).

    Args:
      path: the file.
      mesh_names: names or paths of the meshes, to put `joint_positions` in their order.
      unit: length of the file's unit in metres, the same as of the meshes.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file cannot be read, keys are missing, or a field is wrong.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; check the path of the skeleton.")
    fields = _read_json(path) if path.suffix.lower() == ".json" else read_npz(path)
    missing = [key for key in _REQUIRED if key not in fields]
    if missing:
        raise ValueError(
            f"{path}: keys {', '.join(missing)} are missing; a skeleton has {', '.join(_REQUIRED)} "
            "and joint_regressor or joint_positions."
        )
    known = [field.name for field in dataclasses.fields(Skeleton)]
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise ValueError(f"{path}: got unknown keys {', '.join(unknown)}; known: {known}.")
    fields = dict(fields)
    positions = fields.get("joint_positions")
    try:
        if isinstance(positions, Mapping):
            fields["joint_positions"] = _in_order(positions, mesh_names)
        return make_skeleton(**fields, unit=1.0 if unit is None else unit)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        fields = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON ({error}).") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: got a JSON {type(fields).__name__}, need an object with keys.")
    return fields


def _in_order(positions: Mapping[str, Any], mesh_names: Sequence[str]) -> list[Any]:
    stems = [Path(name).stem for name in mesh_names]
    missing = [stem for stem in stems if stem not in positions]
    if missing:
        raise ValueError(
            f"joint_positions: no entry for {len(missing)} meshes ({', '.join(missing[:3])}); "
            "the keys are the mesh files' names without suffix."
        )
    return [positions[stem] for stem in stems]


def _numbers(key: str, value: Any, shape: tuple[int | None, ...], meaning: str) -> np.ndarray:
    try:
        array = np.asarray(value, np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{key}: need numbers in equal rows: {meaning} ({error}).") from error
    fits = array.ndim == len(shape) and all(
        need in (None, size) for need, size in zip(shape, array.shape, strict=True)
    )
    if not fits or not array.size:
        need = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{key}: got shape {array.shape}, need ({need}): {meaning}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{key}: got values that are NaN or infinite, need finite numbers.")
    return array
