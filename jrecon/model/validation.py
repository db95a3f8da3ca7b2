"""What makes the fields of a parametric model consistent, checked on the host with NumPy.

Every check raises `ValueError` with what was got, what is needed and how to fix it. Model files of
any format end here, so a reader only has to find the arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

CORRECTIVES = ("none", "rotation", "quaternion")
FEATURES_PER_JOINT = {"none": 0, "rotation": 9, "quaternion": 4}

# Room for float16 storage and for weights rounded to a byte; more than that is a real defect.
WEIGHT_SUM_TOLERANCE = 0.02


def check_fields(fields: Mapping[str, Any]) -> None:
    """Check the fields of a `ParametricModel`, given by name as NumPy arrays and tuples.

    Raises:
      ValueError: at the first contradiction, naming the field.
    """
    _check_tree(fields["parents"])
    _check_shapes(fields)
    _check_finite(fields)
    _check_faces("faces", fields["faces"], len(fields["vertices"]))
    _check_weights(fields["weights"], fields["weight_joints"], len(fields["parents"]))
    _check_names(fields)
    _check_limits(fields)
    _check_prior(fields["prior_mean"], fields["prior_cov"], fields["prior_names"])
    _check_correctives(fields)
    _check_levels(fields)


def _check_tree(parents: tuple[int, ...]) -> None:
    if not parents or parents[0] != -1:
        raise ValueError(
            f"parents: got {parents[:1]} for joint 0, need -1: joint 0 is the root; reorder joints."
        )
    for joint, parent in enumerate(parents[1:], start=1):
        if parent == -1:
            raise ValueError(
                f"parents: joint {joint} is a second root (-1), need one tree; give it a parent."
            )
        if not 0 <= parent < joint:
            raise ValueError(
                f"parents: joint {joint} has parent {parent}, need one of 0..{joint - 1}: "
                "parents come before their children, so a cycle is impossible; sort the joints "
                "from the root outward and break any cycle."
            )


def _check_shapes(fields: Mapping[str, Any]) -> None:
    v, j = len(fields["vertices"]), len(fields["parents"])
    s = fields["shape_basis"].shape[-1] if fields["shape_basis"].ndim == 3 else -1
    k = fields["weights"].shape[-1] if fields["weights"].ndim == 2 else -1
    p = fields["pose_basis"].shape[-1] if fields["pose_basis"].ndim == 3 else -1
    g = len(fields["prior_names"])
    wanted = dict(
        vertices=("v 3", (v, 3)),
        shape_basis=("v 3 s", (v, 3, s)),
        joints=("j 3", (j, 3)),
        joint_basis=("j 3 s", (j, 3, s)),
        weights=("v k", (v, k)),
        weight_joints=("v k", (v, k)),
        pose_basis=("v 3 p", (v, 3, p)),
        pose_limits=("2 j 3", (2, j, 3)),
        shape_limits=("2 s", (2, s)),
        prior_mean=("g s", (g, s)),
        prior_cov=("g s s", (g, s, s)),
        **{f"named_poses/{key}": ("j 3", (j, 3)) for key in fields["named_poses"]},
    )
    for key, (axes, shape) in wanted.items():
        group, _, entry = key.partition("/")
        got = fields[group][entry].shape if entry else fields[group].shape
        if got != shape or -1 in shape:
            need = tuple("?" if size < 0 else size for size in shape)
            raise ValueError(
                f"{key}: got shape {got}, need ({axes}) = {need} for {v} vertices and {j} joints; "
                "check that all arrays come from the same model."
            )


def _check_finite(fields: Mapping[str, Any]) -> None:
    for key, value in fields.items():
        entries = value.items() if isinstance(value, dict) else [("", value)]
        for entry, array in entries:
            if not isinstance(array, np.ndarray):
                continue
            label = f"{key}/{entry}" if entry else key
            if array.dtype.kind not in "fiu":
                raise ValueError(f"{label}: got dtype {array.dtype}, need numbers.")
            bad = array.size - int(np.isfinite(array).sum())
            if bad:
                raise ValueError(
                    f"{label}: {bad} of {array.size} values are NaN or infinite, need finite "
                    "numbers; the file is damaged or its export went wrong."
                )


def _check_faces(label: str, faces: np.ndarray, count: int) -> None:
    if faces.ndim != 2 or faces.shape[-1] != 3 or faces.dtype.kind not in "iu":
        raise ValueError(
            f"{label}: got shape {faces.shape} of {faces.dtype}, need (f, 3) integers; "
            "triangulate the mesh first."
        )
    if faces.size and (faces.min() < 0 or faces.max() >= count):
        bad = int(((faces < 0) | (faces >= count)).any(1).sum())
        raise ValueError(
            f"{label}: {bad} of {len(faces)} faces point outside the {count} vertices "
            f"(indices {faces.min()}..{faces.max()}, need 0..{count - 1}); OBJ indices start at 1."
        )


def _check_weights(weights: np.ndarray, joints: np.ndarray, count: int) -> None:
    if joints.dtype.kind not in "iu" or (joints.size and not 0 <= joints.min()):
        raise ValueError("weight_joints: need non-negative integers: the joint of each weight.")
    if joints.size and joints.max() >= count:
        raise ValueError(
            f"weight_joints: got joint {joints.max()}, need 0..{count - 1}; "
            "weights and skeleton are of different models."
        )
    if weights.size and weights.min() < -1e-4:
        row = int(np.argmin(weights.min(1)))
        raise ValueError(
            f"weights: vertex {row} has weight {weights.min():.3g}, need weights >= 0; "
            "clip and renormalise."
        )
    sums = weights.astype(np.float64).sum(1)
    off = np.abs(sums - 1.0)
    if off.size and off.max() > WEIGHT_SUM_TOLERANCE:
        row = int(off.argmax())
        raise ValueError(
            f"weights: the row of vertex {row} sums to {sums[row]:.3g}, need 1 "
            f"(+-{WEIGHT_SUM_TOLERANCE}); {int((off > WEIGHT_SUM_TOLERANCE).sum())} of {len(sums)} "
            "rows are off; divide each row by its sum."
        )


def _check_names(fields: Mapping[str, Any]) -> None:
    counts = dict(
        joint_names=len(fields["parents"]),
        shape_names=fields["shape_basis"].shape[-1],
        prior_names=len(fields["prior_mean"]),
    )
    for key, count in counts.items():
        names = fields[key]
        if len(names) != count:
            raise ValueError(f"{key}: got {len(names)} names, need {count}.")
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"{key}: {', '.join(twice)} occur twice, need unique names.")


def _check_limits(fields: Mapping[str, Any]) -> None:
    for key in ("pose_limits", "shape_limits"):
        low, high = fields[key]
        if (low > high).any():
            where = tuple(int(i) for i in np.argwhere(low > high)[0])
            raise ValueError(
                f"{key}: at {where} the lower bound {low[where]:.3g} is above the upper bound "
                f"{high[where]:.3g}; swap them (row 0 holds the lower bounds)."
            )


def _check_prior(mean: np.ndarray, cov: np.ndarray, names: tuple[str, ...]) -> None:
    for group, matrix in zip(names, cov.astype(np.float64), strict=True):
        if matrix.size == 0:
            continue
        scale = max(np.abs(matrix).max(), 1e-12)
        if np.abs(matrix - matrix.T).max() > 1e-3 * scale:
            raise ValueError(f"prior_cov: group {group!r} is not symmetric, need a covariance.")
        smallest = np.linalg.eigvalsh((matrix + matrix.T) / 2)[0]
        if smallest < -1e-3 * scale:
            raise ValueError(
                f"prior_cov: group {group!r} has a negative eigenvalue {smallest:.3g}, need a "
                "positive semi-definite covariance."
            )


def _check_correctives(fields: Mapping[str, Any]) -> None:
    kind, chosen = fields["corrective"], fields["corrective_joints"]
    got = fields["pose_basis"].shape[-1]
    if kind not in CORRECTIVES:
        raise ValueError(f"corrective: got {kind!r}, need one of {', '.join(CORRECTIVES)}.")
    outside = [joint for joint in chosen if not 0 <= joint < len(fields["parents"])]
    if outside:
        raise ValueError(
            f"corrective_joints: got {outside}, need joints 0..{len(fields['parents']) - 1}."
        )
    if kind == "quaternion" and fields["shape_basis"].shape[-1] < 2:
        raise ValueError("corrective: 'quaternion' also reads shape coefficient 1; s must be >= 2.")
    need = FEATURES_PER_JOINT[kind] * len(chosen) + (kind == "quaternion")
    if got != need:
        raise ValueError(
            f"pose_basis: got {got} features, need {need} for corrective {kind!r} on "
            f"{len(chosen)} joints."
        )


def _check_levels(fields: Mapping[str, Any]) -> None:
    levels, faces = fields["levels"], fields["level_faces"]
    count = len(fields["vertices"])
    counts = [n for _, n in levels]
    if set(faces) != {name for name, _ in levels} or len(faces) != len(levels):
        raise ValueError(
            f"levels: got {[name for name, _ in levels]} but faces for {sorted(faces)}; "
            "need one face array for each level."
        )
    if counts != sorted(counts, reverse=True) or counts[0] != count or counts[-1] < 1:
        raise ValueError(
            f"levels: got vertex counts {counts}, need them falling from {count} (the full mesh)."
        )
    for name, n in levels:
        _check_faces(f"level_faces/{name}", faces[name], n)
