"""Mirror images: classes of objects whose left and right are alike, such as people.

The mirror is the plane x = 0 of the model frame. What is seen in it of a rotation `R` of a joint is
`M R M` of the joint on the other side, `M = diag(-1, 1, 1)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.spatial import KDTree

if TYPE_CHECKING:
    from jrecon.model.parametric import ParametricModel

_MIRROR = np.array([-1.0, 1.0, 1.0], np.float32)
# As a share of the size of the object: what is less than this apart is in the same place.
_TOLERANCE = 1e-3


def other_side(name: str) -> str:
    """The name of the joint on the other side; the same for those of the middle."""
    for one, other in (("left_", "right_"), ("right_", "left_")):
        if name.startswith(one):
            return other + name.removeprefix(one)
    return name


def opposite_joints(model: ParametricModel) -> tuple[int, ...]:
    """The joint on the other side, for every joint, by name (`left_...`, `right_...`)."""
    names = list(model.joint_names)
    return tuple(
        names.index(other_side(name)) if other_side(name) in names else index
        for index, name in enumerate(names)
    )


def is_symmetric(model: ParametricModel) -> bool:
    """Whether every shape of the class is its own mirror image, sides exchanged. On the host."""
    mirror = _MIRROR.astype(np.float64)
    vertices = np.asarray(model.vertices, np.float64)
    _, twins = KDTree(vertices).query(vertices * mirror)
    joints = np.array(opposite_joints(model))
    near = _TOLERANCE * np.ptp(vertices, axis=0).max()
    apart = [
        np.asarray(values, np.float64)[rows] * (mirror if values.ndim == 2 else mirror[:, None])
        - np.asarray(values)
        for values, rows in (
            (model.vertices, twins),
            (model.shape_basis, twins),
            (model.joints, joints),
            (model.joint_basis, joints),
        )
    ]
    return all(np.abs(each).max(initial=0.0) < near for each in apart)


def mirrored_pose(
    opposite: tuple[int, ...], pose: Float[Array, "*n j 3"]
) -> Float[Array, "*n j 3"]:
    """Rotations (axis angle) as seen in the mirror."""
    return _times(pose[..., np.array(opposite), :], -_MIRROR)


def mirrored_rotations(
    opposite: tuple[int, ...], matrices: Float[Array, "*n j 3 3"]
) -> Float[Array, "*n j 3 3"]:
    """The same of matrices."""
    return _times(matrices[..., np.array(opposite), :, :], _MIRROR[:, None] * _MIRROR)


def mirrored_points(points: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    return _times(points, _MIRROR)


def _times(values: Array, signs: np.ndarray) -> Array:
    return values * jnp.broadcast_to(signs, values.shape)
