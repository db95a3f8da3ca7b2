"""How far a reconstruction is from the truth, in millimetres, and how sure that number is.

Errors are distances between corresponding points: of the surface, where every vertex counts as the
area around it, so that the number does not depend on where a mesh is fine; and of joints. *Aligned*
means after the rigid motion that brings the prediction nearest to the truth (Kabsch 1976; vertices
again count as their area), so that only pose and shape are left, not where the object is and how it
is turned. Means come with bootstrap intervals (Efron 1979) over examples.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jrecon.geometry.mesh import face_areas
from jrecon.model.parametric import ParametricModel, Params, pose

# Joints by what their names contain, first match first; others are a part of their own name.
_PARTS = (
    ("head", ("head", "neck", "jaw", "eye")),
    ("hands", ("wrist", "thumb", "index", "middle", "ring", "pinky", "hand")),
    ("feet", ("ankle", "foot", "toe")),
    ("arms", ("shoulder", "elbow", "collar", "arm")),
    ("legs", ("hip", "knee", "leg")),
    ("trunk", ("pelvis", "spine", "root", "chest")),
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Errors:
    """Of each example, millimetres, mean over its points."""

    vertices: Float[Array, " n"]
    """Mean over the surface."""
    vertices_aligned: Float[Array, " n"]
    joints: Float[Array, " n"]
    joints_aligned: Float[Array, " n"]
    parts: dict[str, Float[Array, " n"]]
    """Of the vertices by part of the object, not aligned."""


def measure(model: ParametricModel, found: Params, truth: Params) -> Errors:
    """Errors of a batch (n,) of parameters."""
    return _measure(model, found, truth, surface_shares(model), part_of_vertices(model))


@jax.jit
def _measure(
    model: ParametricModel, found: Params, truth: Params, shares: Array, parts: dict[str, Array]
) -> Errors:
    posed, target = pose(model, found), pose(model, truth)
    apart = 1e3 * jnp.linalg.norm(posed.vertices - target.vertices, axis=-1)
    aligned = align(posed.vertices, target.vertices, shares)
    joints = align(posed.joints, target.joints)
    return Errors(
        vertices=apart @ shares,
        vertices_aligned=1e3 * jnp.linalg.norm(aligned - target.vertices, axis=-1) @ shares,
        joints=1e3 * jnp.linalg.norm(posed.joints - target.joints, axis=-1).mean(-1),
        joints_aligned=1e3 * jnp.linalg.norm(joints - target.joints, axis=-1).mean(-1),
        parts={
            name: apart @ (shares * held) / jnp.dot(shares, held) for name, held in parts.items()
        },
    )


def align(
    points: Float[Array, "*batch n 3"],
    target: Float[Array, "*batch n 3"],
    shares: Float[Array, " n"] | None = None,
) -> Array:
    """The points after the rigid motion that brings them nearest to the target, in squares of
    distances; never a mirror image. A single point is moved onto its target.

    Args:
      shares: how much each point counts, together 1; by default all the same.
    """
    if shares is None:
        shares = jnp.full(points.shape[-2], 1 / points.shape[-2])
    middle = lambda x: jnp.einsum("n,...ni->...i", shares, x, precision=jax.lax.Precision.HIGHEST)[
        ..., None, :
    ]
    center, goal = middle(points), middle(target)
    a, b = points - center, target - goal
    spread = jnp.einsum("n,...ni,...nj->...ij", shares, a, b, precision=jax.lax.Precision.HIGHEST)
    u, _, vt = jnp.linalg.svd(spread)
    sign = jnp.linalg.det(jnp.matmul(u, vt, precision=jax.lax.Precision.HIGHEST))
    u = u.at[..., :, 2].multiply(jnp.where(sign < 0, -1.0, 1.0)[..., None])
    turn = jnp.matmul(u, vt, precision=jax.lax.Precision.HIGHEST)
    return jnp.matmul(a, turn, precision=jax.lax.Precision.HIGHEST) + goal


def surface_shares(model: ParametricModel) -> Float[Array, " v"]:
    """Of each vertex in the area of the template; they sum to one."""
    faces, count = np.asarray(model.faces), len(model.vertices)
    areas = np.asarray(face_areas(model.vertices, model.faces), np.float64)
    around = np.bincount(faces.ravel(), np.repeat(areas / 3, 3), count)
    return jnp.asarray(around / around.sum(), jnp.float32)


def part_of_vertices(model: ParametricModel) -> dict[str, Float[Array, " v"]]:
    """For each part of the object, 1 at the vertices that its joints move most."""
    owner = np.asarray(model.weight_joints)[
        np.arange(len(model.vertices)), np.argmax(np.asarray(model.weights), axis=1)
    ]
    names = [_part(name) for name in model.joint_names]
    held = {name: np.isin(owner, [i for i, n in enumerate(names) if n == name]) for name in names}
    return {name: jnp.asarray(mask, jnp.float32) for name, mask in held.items() if mask.any()}


def _part(joint: str) -> str:
    return next((part for part, words in _PARTS if any(word in joint for word in words)), joint)


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over examples and where it would lie for other examples."""

    mean: float
    low: float
    high: float
    """2.5 and 97.5 percentile of means of resampled examples."""
    median: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.1f} ({self.low:.1f}-{self.high:.1f})"


def interval(values: Float[np.ndarray, " n"], *, rounds: int = 1000, seed: int = 0) -> Interval:
    """The mean of values with its bootstrap interval.

    Raises:
      ValueError: there are no values, or some are not finite.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"values: got shape {values.shape}, need (n,) finite numbers, n >= 1.")
    rng = np.random.default_rng(seed)
    means = np.array([rng.choice(values, len(values)).mean() for _ in range(rounds)])
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(
        float(values.mean()), float(low), float(high), float(np.median(values)), len(values)
    )


def by_group(
    values: Float[np.ndarray, " n"], labels: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Interval]]:
    """Intervals of values by labels: {what: {label: interval}}; groups below ten are left out."""
    values = np.asarray(values)
    return {
        what: {
            str(label): interval(values[each == label])
            for label in sorted(np.unique(each), key=_order)
            if np.sum(each == label) >= 10
        }
        for what, each in labels.items()
    }


def _order(label: str) -> tuple[float, str]:
    """Bins by their lower ends, other labels by name."""
    match = re.match(r"-?[\d.]+(?= to )", str(label))
    return (float(match.group()) if match else -np.inf, str(label))


def in_bins(values: np.ndarray, edges: np.ndarray, unit: str = "") -> np.ndarray:
    """Labels such as `1-2 m` for numbers, by the bin that they lie in."""
    names = [f"{low:g} to {high:g}{unit}" for low, high in zip(edges[:-1], edges[1:], strict=True)]
    index = np.clip(np.digitize(values, edges) - 1, 0, len(names) - 1)
    return np.array(names)[index]
