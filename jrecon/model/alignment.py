"""Alignment of registered meshes: what differs between two scans but not between two objects.

Generalised Procrustes analysis (Gower 1975) moves every mesh rigidly onto the mean of all, in turns
with the mean, until nothing moves. What remains is shape. Size is shape too and stays, unless a
similarity is asked for. The first mesh sets the frame: it is not turned, and all meshes share its
centroid, so it should stand as the class is to stand (y up, front +z).
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

Alignment = Literal["rigid", "similarity", "none"]
"""`rigid` removes position and orientation, `similarity` also size, `none` nothing."""

MAX_ROUNDS = 200
# A turn between rounds (radians) far below what float32 vertices can resolve.
TOLERANCE = 1e-10


@dataclasses.dataclass(frozen=True, eq=False)
class Motions:
    """A similarity for each mesh: x -> scale * rotation @ x + translation."""

    scale: Float[np.ndarray, " n"]
    rotation: Float[np.ndarray, "n 3 3"]
    translation: Float[np.ndarray, "n 3"]

    def move(self, points: Float[np.ndarray, "n p 3"]) -> Float[np.ndarray, "n p 3"]:
        """The points of each mesh, moved."""
        turned = points @ self.rotation.transpose(0, 2, 1)
        return self.scale[:, None, None] * turned + self.translation[:, None]


def procrustes(vertices: Float[np.ndarray, "n v 3"], method: Alignment = "rigid") -> Motions:
    """The motions that align the meshes.

    Raises:
      ValueError: there is no such method.
    """
    if method not in get_args(Alignment):
        raise ValueError(f"align: got {method!r}, need one of {', '.join(get_args(Alignment))}.")
    count = len(vertices)
    scale, rotation = np.ones(count), np.tile(np.eye(3), (count, 1, 1))
    if method == "none":
        return Motions(scale, rotation, np.zeros((count, 3)))
    centroids = vertices.mean(axis=1)
    centred = vertices - centroids[:, None]
    if method == "similarity":
        # Centroid size, the root mean square distance from the centroid; its geometric mean stays.
        sizes = np.sqrt((centred**2).sum(-1).mean(-1))
        scale = np.exp(np.log(sizes).mean()) / sizes
        centred = scale[:, None, None] * centred
    rotation = _rotate_onto_mean(centred)
    moved = scale[:, None] * np.einsum("nab,nb->na", rotation, centroids)
    return Motions(scale, rotation, centroids[:1] - moved)


def _rotate_onto_mean(centred: Float[np.ndarray, "n v 3"]) -> Float[np.ndarray, "n 3 3"]:
    rotation = np.tile(np.eye(3), (len(centred), 1, 1))
    mean = centred[0]
    for _ in range(MAX_ROUNDS):
        before = rotation
        rotation = best_rotation(centred, mean)
        # The mean may turn as a whole from round to round: the first mesh holds it.
        rotation = rotation[0].T @ rotation
        mean = np.einsum("nab,nvb->va", rotation, centred) / len(centred)
        if np.abs(rotation - before).max() < TOLERANCE:
            break
    return rotation


def best_rotation(
    source: Float[np.ndarray, "*batch p 3"],
    target: Float[np.ndarray, "*batch p 3"],
    weights: Float[np.ndarray, " p"] | None = None,
) -> Float[np.ndarray, "*batch 3 3"]:
    """The rotation about the origin that takes `source` closest to `target` (least squares).

    Source: Kabsch 1976, with Umeyama's sign (1991), which excludes reflections.
    """
    weighted = target if weights is None else target * weights[:, None]
    covariance = np.swapaxes(weighted, -1, -2) @ source
    u, _, vt = np.linalg.svd(covariance)
    sign = np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)
    u = np.concatenate([u[..., :2], u[..., 2:] * sign[..., None, None]], axis=-1)
    return u @ vt
