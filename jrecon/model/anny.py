"""Import of Anny, a body model of NAVER LABS (Brégier et al. 2025), where its package is installed.

Anny has no model file: its package computes bodies from MakeHuman data with torch. Its shape is a
product of phenotypes (age, sex, weight, ...), not linear in them. But the bodies of adults lie
close to a linear space, so people are drawn from Anny's own distribution of adults, in its
reference pose, and their principal components become the shape basis. `docs/models.md` has the
measured errors.

Anny's frame is z up, facing -y, in metres, and its root joint is the origin. Its `local-ref` pose
parameters, rotations about world-aligned axes at rest, are those of jrecon: the same rotation
vectors, turned into the other frame.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jrecon.model.parametric import ParametricModel, make_model

ADULT_YEARS = (18.0, 80.0)
# People computed at once: 20 take about 100 MB.
_BATCH = 20


@dataclasses.dataclass(frozen=True, eq=False)
class AnnySample:
    """Random adults in Anny's reference pose, in jrecon's frame, and the rig that they share."""

    vertices: Float[np.ndarray, "n v 3"]
    joints: Float[np.ndarray, "n j 3"]
    female: Bool[np.ndarray, " n"]
    faces: Int[np.ndarray, "f 3"]
    weights: Float[np.ndarray, "v k"]
    weight_joints: Int[np.ndarray, "v k"]
    parents: tuple[int, ...]
    joint_names: tuple[str, ...]


def read_anny(num_shape: int = 32, *, people: int = 500, seed: int = 0) -> ParametricModel:
    """Anny's adults as a parametric model: 13,718 vertices, 104 joints.

    Anny's first start takes about two minutes, in which it fills its cache (`ANNY_CACHE_DIR`).

    Args:
      num_shape: number of shape components; one unit is one standard deviation.
      people: how many adults the components are learnt from, half of them of each sex on average.
      seed: of the people.

    Raises:
      ImportError: `anny` (0.6 or newer) or the torch that it needs is not installed.
      ValueError: more components than the people allow.
    """
    if not 1 <= num_shape < people:
        raise ValueError(
            f"num_shape: got {num_shape}, need 1..{people - 1}: components of {people} people."
        )
    try:
        anny, torch = importlib.import_module("anny"), importlib.import_module("torch")
        distribution = importlib.import_module("anny.shape_distribution").SimpleShapeDistribution
        body = anny.Anny(skinning_method="lbs")
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"Anny cannot be used ({error}); install it and its torch with: pip install 'anny>=0.6'"
        ) from error
    return linear_model(_draw(body, torch, distribution, people, seed), num_shape)


def _draw(body: Any, torch: Any, distribution: Any, people: int, seed: int) -> AnnySample:
    draws = torch.distributions
    number = lambda value: torch.tensor(value, dtype=body.dtype)
    years = draws.Uniform(number(ADULT_YEARS[0]), number(ADULT_YEARS[1]))
    vertices, joints = [], []
    # The generator of torch is global; this leaves it as it was.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        _, phenotypes = distribution(body, years, draws.Bernoulli(number(0.5))).sample(people)
        for start in range(0, people, _BATCH):
            chunk = {key: value[start : start + _BATCH] for key, value in phenotypes.items()}
            posed = body(phenotype_kwargs=chunk)
            vertices.append(y_up(posed["vertices"].numpy()))
            joints.append(y_up(posed["bone_poses"][..., :3, 3].numpy()))
    return AnnySample(
        vertices=np.concatenate(vertices),
        joints=np.concatenate(joints),
        female=phenotypes["gender"].numpy() > 0.5,
        faces=body.get_triangular_faces().numpy(),
        weights=body.vertex_bone_weights.numpy(),
        weight_joints=body.vertex_bone_indices.numpy(),
        parents=tuple(int(parent) for parent in body.bone_parents),
        joint_names=tuple(body.bone_labels),
    )


def y_up(points: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
    """From z up, facing -y to y up, facing +z. Rotation vectors turn alike."""
    x, y, z = np.moveaxis(points, -1, 0)
    return np.stack([x, z, -y], axis=-1)


def linear_model(sample: AnnySample, num_shape: int) -> ParametricModel:
    """The principal components of the vertices, and the joints by least squares on them."""
    count = len(sample.vertices)
    template, joints = sample.vertices.mean(axis=0), sample.joints.mean(axis=0)
    centred = (sample.vertices - template).reshape(count, -1)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    # A positive coefficient makes the body larger.
    outward = (template - template.mean(axis=0)).reshape(-1)
    signs = np.where(directions[:num_shape] @ outward < 0, -1.0, 1.0)
    deviations = singular[:num_shape] / np.sqrt(count - 1)
    if deviations[-1] <= 1e-9 * np.linalg.norm(outward):
        rank = int((singular > 1e-9 * singular[0]).sum())
        raise ValueError(f"num_shape: got {num_shape}, these people vary in {rank} directions.")
    axes = signs[:, None] * directions[:num_shape]
    # Uncorrelated, with unit variance: least squares of the joints on them is a mean.
    coefficients = centred @ axes.T / deviations
    moves = np.einsum("nja,ns->jas", sample.joints - joints, coefficients) / (count - 1)
    reach = np.maximum(3.0, np.abs(coefficients).max(axis=0))
    groups = {
        "female": sample.female,
        "male": ~sample.female,
        "pooled": np.ones(count, bool),
    }
    return make_model(
        template,
        sample.faces,
        shape_basis=(axes * deviations[:, None]).T.reshape(-1, 3, num_shape),
        joints=joints,
        joint_basis=moves,
        parents=sample.parents,
        weights=sample.weights,
        weight_joints=sample.weight_joints,
        joint_names=sample.joint_names,
        shape_names=[f"component_{i + 1:02d}" for i in range(num_shape)],
        shape_limits=np.stack([-reach, reach]),
        prior_names=tuple(groups),
        prior_mean=np.stack([coefficients[group].mean(0) for group in groups.values()]),
        prior_cov=np.stack(
            [np.cov(coefficients[group].T).reshape(num_shape, -1) for group in groups.values()]
        ),
        name="anny",
        license="Apache-2.0 (Anny, NAVER Corp.); shapes from MakeHuman data, CC0-1.0",
        provenance=f"principal components of {count} adults drawn from the anny package",
    )
