"""Statistical models from registered meshes: alignment, pose normalisation, principal components.

    meshes = read_meshes(paths)
    model, report = build_model(meshes)
    save_model("class.npz", model)

The template is the mean of the aligned (and, with a skeleton, unposed) meshes; the shape basis are
their principal components, scaled so that a coefficient of 1 is one standard deviation. Then the
prior of the coefficients is the standard normal distribution. The method is that of Blanz and
Vetter 1999 and, with a skeleton, of SMPL's shape space (Loper et al. 2015).

How many components a class needs is answered by meshes that were left out: `BuildReport.held_out`.
Everything is computed in float64 and is deterministic.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import pdist, squareform

from jrecon.model.alignment import Alignment, procrustes
from jrecon.model.parametric import ParametricModel, make_model
from jrecon.model.registered import RegisteredMeshes, make_meshes, read_meshes
from jrecon.model.skeleton import Skeleton, make_skeleton, read_skeleton
from jrecon.model.unpose import unpose

__all__ = [
    "BuildReport",
    "HeldOut",
    "build_model",
    "make_meshes",
    "make_skeleton",
    "read_meshes",
    "read_skeleton",
]

# Fewer meshes than this say little about how a class varies.
FEW = 10
# Variation below this part of the object's size is float32 rounding.
ROUNDING = 1e-7


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Distance of vertices of meshes that were left out to their best fit in the model."""

    components: int
    mean_mm: float
    rms_mm: float
    max_mm: float


@dataclasses.dataclass(frozen=True, eq=False)
class BuildReport:
    """What a model was built from, and how well it describes meshes that it has not seen."""

    name: str
    meshes: tuple[str, ...]
    num_vertices: int
    num_faces: int
    align_by: Alignment
    num_components: int
    explained: Float[np.ndarray, " r"]
    """Part of the variance that the first 1, 2, ... components explain."""
    component_rms_mm: Float[np.ndarray, " r"]
    """Root mean square displacement of a vertex by one standard deviation of each component."""
    spread_mm: float
    """Root mean square distance of the vertices to the mean after alignment."""
    held_out: tuple[HeldOut, ...]
    """Errors by number of components, from 0 (the mean alone), over all folds."""
    folds: int
    seed: int
    coefficients: Float[np.ndarray, "n s"]
    """Shape coefficients of the meshes themselves."""
    unposed_deg: dict[str, float]
    """Mean rotation that pose normalisation took out at each joint, in degrees; else empty."""
    warnings: tuple[str, ...]

    def error_at(self, components: int) -> HeldOut:
        """The held-out error at a number of components.

        Raises:
          ValueError: it was not measured there.
        """
        for row in self.held_out:
            if row.components == components:
                return row
        measured = ", ".join(str(row.components) for row in self.held_out)
        raise ValueError(f"components: got {components}, measured were {measured}.")


def build_model(
    meshes: RegisteredMeshes,
    *,
    align_by: Alignment = "rigid",
    skeleton: Skeleton | None = None,
    components: int | None = None,
    variance: float = 0.98,
    folds: int = 5,
    seed: int = 0,
    name: str = "class",
    license: str = "unknown",
    provenance: str = "",
) -> tuple[ParametricModel, BuildReport]:
    """A parametric model of a class of objects from meshes of instances, and a report.

    Args:
      meshes: at least two; `read_meshes` and `make_meshes` check them.
      align_by: `rigid` removes position and orientation, `similarity` also size, `none` nothing.
      skeleton: for articulated objects. The meshes are unposed, and the model gets its joints,
        which move with shape, and its skin. Without one the model is rigid with one joint in the
        centroid.
      components: number of shape components; if left out, as many as explain `variance`.
      variance: part of the variance of the aligned meshes, in (0, 1].
      folds: for the held-out error, the meshes are split into so many parts, each left out once.
      seed: of the split.
      name, license, provenance: kept in the model.

    Raises:
      ValueError: more components than the meshes allow, or an argument or the skeleton does not
        fit the meshes.
    """
    _check_arguments(meshes, skeleton, components, variance, folds)
    motions = procrustes(meshes.vertices, align_by)
    vertices = motions.move(meshes.vertices)
    unposed_deg: dict[str, float] = {}
    if skeleton is None:
        joints = vertices.mean(axis=1, keepdims=True)
    else:
        joints = skeleton.joints_of(meshes.vertices)
        result = unpose(vertices, motions.move(joints), skeleton, meshes.names)
        vertices, joints = result.vertices, result.joints
        degrees = np.degrees(result.angles.mean(axis=0))
        unposed_deg = dict(zip(skeleton.joint_names, degrees.tolist(), strict=True))
        if align_by != "none":
            shift = vertices[:1].mean(axis=1) - vertices.mean(axis=1)
            vertices, joints = vertices + shift[:, None], joints + shift[:, None]
    space = _principal_components(vertices)
    chosen = _choose(space, components, variance, len(meshes))
    warnings = _warnings(meshes, space, chosen)
    labels: dict[str, Any] = dict(name=name, license=license, provenance=provenance)
    model = _assemble(meshes.faces, joints, skeleton, space, chosen, labels)
    per_vertex = np.sqrt(vertices.shape[1])
    report = BuildReport(
        name=name,
        meshes=meshes.names,
        num_vertices=vertices.shape[1],
        num_faces=len(meshes.faces),
        align_by=align_by,
        num_components=chosen,
        explained=_explained(space),
        component_rms_mm=1e3 * space.deviations / per_vertex,
        spread_mm=1e3 * float(np.sqrt((space.scores**2).sum(1).mean())) / per_vertex,
        held_out=_held_out(space, folds, seed, chosen),
        folds=min(folds, len(meshes)),
        seed=seed,
        coefficients=space.coefficients[:, :chosen],
        unposed_deg=unposed_deg,
        warnings=warnings,
    )
    return model, report


@dataclasses.dataclass(frozen=True, eq=False)
class _Space:
    """All meshes, exactly, in coordinates of an orthonormal basis about their mean."""

    mean: Float[np.ndarray, "v 3"]
    directions: Float[np.ndarray, "r d"]
    """Orthonormal rows, by falling variance; d = 3 v."""
    scores: Float[np.ndarray, "n r"]
    """Coordinates of the meshes, metres (of the norm over all vertices)."""
    deviations: Float[np.ndarray, " r"]
    """Standard deviation (n - 1) of each coordinate."""
    rank: int
    """Number of directions with more variation than rounding makes."""

    @property
    def coefficients(self) -> Float[np.ndarray, "n k"]:
        return self.scores[:, : self.rank] / self.deviations[: self.rank]


def _principal_components(vertices: Float[np.ndarray, "n v 3"]) -> _Space:
    count, num_vertices = vertices.shape[:2]
    mean = vertices.mean(axis=0)
    centred = (vertices - mean).reshape(count, -1)
    # n meshes span n - 1 dimensions of the 3 v: QR first, so that the SVD is of an n x n matrix;
    # unlike the eigenvectors of the Gram matrix this keeps all digits.
    q, r = np.linalg.qr(centred.T)
    u, singular, vt = np.linalg.svd(r, full_matrices=False)
    keep = min(count - 1, len(singular))
    directions, singular = (q @ u[:, :keep]).T, singular[:keep]
    scores = vt[:keep].T * singular
    deviations = singular / np.sqrt(count - 1)
    size = np.linalg.norm(np.ptp(mean, axis=0))
    rank = int((deviations > ROUNDING * size * np.sqrt(num_vertices / count)).sum())
    signs = _signs(mean, directions, scores)
    return _Space(mean, signs[:, None] * directions, scores * signs, deviations, rank)


def _signs(
    mean: Float[np.ndarray, "v 3"],
    directions: Float[np.ndarray, "r d"],
    scores: Float[np.ndarray, "n r"],
) -> Float[np.ndarray, " r"]:
    """The sign of each component: a positive coefficient makes the object larger.

    Where a component does not change size, the mesh with the largest coefficient has a positive
    one. Both rules look at shape alone: turning all meshes, or exact symmetry, changes nothing.
    """
    outward = (mean - mean.mean(axis=0)).reshape(-1)
    growth = directions @ outward / max(float(np.linalg.norm(outward)), 1e-300)
    largest = np.take_along_axis(scores, np.abs(scores).argmax(0)[None], axis=0)[0]
    return np.where(np.where(np.abs(growth) > 1e-3, growth, largest) < 0, -1.0, 1.0)


def _explained(space: _Space) -> Float[np.ndarray, " r"]:
    total = (space.deviations**2).sum()
    return np.cumsum(space.deviations**2) / total if space.rank else np.ones(len(space.deviations))


def _choose(space: _Space, components: int | None, variance: float, count: int) -> int:
    if components is None:
        enough = int(np.searchsorted(_explained(space), variance * (1 - 1e-12))) + 1
        return min(enough, space.rank)
    if components > space.rank:
        raise ValueError(
            f"components: got {components}, need at most {space.rank}: {count} meshes vary in "
            f"{space.rank} directions after alignment; add meshes or ask for fewer."
        )
    return components


def _assemble(
    faces: Int[np.ndarray, "f 3"],
    joints: Float[np.ndarray, "n j 3"],
    skeleton: Skeleton | None,
    space: _Space,
    chosen: int,
    labels: dict[str, Any],
) -> ParametricModel:
    basis = (space.directions[:chosen] * space.deviations[:chosen, None]).T
    coefficients = space.coefficients[:, :chosen]
    # Uncorrelated coefficients with unit variance: least squares of the joints on them is a mean.
    # For joints that are linear in the vertices this is the regressor applied to the basis.
    moves = np.einsum("nja,ns->jas", joints - joints.mean(axis=0), coefficients)
    reach = np.maximum(3.0, np.abs(coefficients).max(axis=0, initial=0.0))
    articulated: dict[str, Any] = {}
    if skeleton is not None:
        articulated = dict(
            parents=skeleton.parents, joint_names=skeleton.joint_names, weights=skeleton.weights
        )
    return make_model(
        space.mean,
        faces,
        shape_basis=basis.reshape(-1, 3, chosen) if chosen else None,
        joints=joints.mean(axis=0),
        joint_basis=moves / (len(joints) - 1),
        shape_names=[f"component_{i + 1:02d}" for i in range(chosen)],
        shape_limits=np.stack([-reach, reach]),
        prior_names=("all",),
        **articulated,
        **labels,
    )


def _held_out(space: _Space, folds: int, seed: int, chosen: int) -> tuple[HeldOut, ...]:
    """Errors of left-out meshes. The basis is isometric, so each fold's analysis is n x n small."""
    count = len(space.scores)
    order = np.random.default_rng(seed).permutation(count)
    parts = np.array_split(order, min(folds, count))
    most = min(count - max(len(part) for part in parts) - 1, space.rank)
    counts = sorted({k for k in (*_grid(most), chosen) if k <= most})
    distances: dict[int, list[np.ndarray]] = {k: [] for k in counts}
    for part in parts:
        train = np.delete(space.scores, part, axis=0)
        centre = train.mean(axis=0)
        _, _, axes = np.linalg.svd(train - centre, full_matrices=False)
        left_out = space.scores[part] - centre
        for k in counts:
            residual = left_out - (left_out @ axes[:k].T) @ axes[:k]
            error = (residual @ space.directions).reshape(len(part), -1, 3)
            distances[k].append(1e3 * np.linalg.norm(error, axis=-1))
    return tuple(_summary(k, np.concatenate(distances[k])) for k in counts)


def _grid(most: int) -> list[int]:
    """0 to 8 one by one, then about 1.3 times more each."""
    grid = list(range(9))
    while grid[-1] < most:
        grid.append(max(grid[-1] + 1, round(1.3 * grid[-1])))
    return [*grid, most]


def _summary(components: int, distances_mm: Float[np.ndarray, "n v"]) -> HeldOut:
    mean, top = float(distances_mm.mean()), float(distances_mm.max())
    return HeldOut(components, mean, float(np.sqrt((distances_mm**2).mean())), top)


def _warnings(meshes: RegisteredMeshes, space: _Space, chosen: int) -> tuple[str, ...]:
    found = []
    if not space.rank:
        found.append("the meshes do not differ after alignment: the model has no shape components.")
    elif len(meshes) < FEW:
        found.append(f"{len(meshes)} meshes say little about a class; {FEW} and more are better.")
    size = np.linalg.norm(np.ptp(space.mean, axis=0))
    close = ROUNDING * size * np.sqrt(len(space.mean))
    twins = np.argwhere(np.triu(squareform(pdist(space.scores)) <= 10 * close, k=1))
    if space.rank and len(twins):
        a, b = twins[0]
        found.append(
            f"{len(twins)} pairs of meshes are the same object moved (first: {meshes.names[a]} and "
            f"{meshes.names[b]}): held-out errors look better than they are; keep one of each."
        )
    return tuple(found)


def _check_arguments(
    meshes: RegisteredMeshes,
    skeleton: Skeleton | None,
    components: int | None,
    variance: float,
    folds: int,
) -> None:
    if components is not None and components < 0:
        raise ValueError(f"components: got {components}, need 0 or more.")
    if not 0 < variance <= 1:
        raise ValueError(f"variance: got {variance}, need a part in (0, 1], such as 0.98.")
    if folds < 2:
        raise ValueError(f"folds: got {folds}, need at least 2: one part is left out at a time.")
    if skeleton is None:
        return
    count, num_vertices = meshes.vertices.shape[:2]
    if len(skeleton.weights) != num_vertices:
        raise ValueError(
            f"skeleton: weights for {len(skeleton.weights)} vertices, the meshes have "
            f"{num_vertices}; make the skeleton on the same topology."
        )
    given = skeleton.joint_positions
    if given is not None and len(given) != count:
        raise ValueError(
            f"skeleton: joint_positions for {len(given)} meshes, need {count}: one entry for each."
        )
