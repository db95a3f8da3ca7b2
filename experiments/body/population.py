"""A population of adults as phenotypes and local changes of MakeHuman, calibrated to ANSUR II."""

from __future__ import annotations

import dataclasses

import numpy as np
from body import anthropometry, makehuman, measure, skeleton, surface
from body.anthropometry import Matched, Survey

# Phenotypes and local changes that are calibrated to the survey, in the order of a parameter row.
PHENOTYPES = ("height", "weight", "muscle", "proportions", "cupsize")
LOCALS = (
    "arms:measure-upperarm-length-incr", "arms:measure-upperarm-circ-incr",
    "arms:measure-lowerarm-length-incr", "feet:measure-ankle-circ-incr",
    "hands:measure-wrist-circ-incr", "legs:measure-calf-circ-incr",
    "legs:measure-lowerleg-height-incr", "legs:measure-upperleg-height-incr",
    "legs:measure-knee-circ-incr", "legs:measure-thigh-circ-incr", "neck:measure-neck-circ-incr",
    "neck:measure-neck-height-incr", "torso:measure-napetowaist-dist-incr",
    "torso:measure-waisttohip-dist-incr", "torso:measure-shoulder-dist-incr",
    "torso:measure-hips-circ-incr", "torso:measure-waist-circ-incr",
    "torso:measure-frontchest-dist-incr", "torso:measure-bust-circ-incr",
    "torso:torso-scale-depth-incr", "torso:torso-scale-horiz-incr", "hip:hip-scale-depth-incr",
    "hip:hip-scale-horiz-incr", "torso:torso-scale-vert-incr", "stomach:stomach-tone-incr",
    "buttocks:buttocks-volume-incr", "feet:foot-scale-incr", "hands:hand-scale-incr",
    "head:head-scale-depth-incr", "head:head-scale-horiz-incr", "neck:neck-scale-vert-incr",
    "torso:torso-vshape-incr", "torso:torso-muscle-dorsi-incr",
    "torso:torso-muscle-pectoral-incr",
)  # fmt: skip
# Where the calibration starts: mean and spread of the phenotypes of each sex.
_START = dict(
    female=((0.38, 0.75, 0.45, 0.55, 0.5), (0.08, 0.35, 0.25, 0.25, 0.2)),
    male=((0.36, 0.75, 0.45, 0.55, 0.5), (0.08, 0.35, 0.25, 0.25, 0.001)),
)
_LOCAL_SD = 0.3
_HEAD_SD = 0.12  # no measure of the survey ties the shape of head and neck down
WEIGHT_RANGE = (-0.1, 2.0)

# Variation that no measure sees: the remaining local changes at random.
_BODY_PARTS = ("arms", "breast", "buttocks", "hip", "legs", "torso", "stomach", "pelvis", "neck",
               "feet", "hands")  # fmt: skip
_EXTRA_BODY_SD, _EXTRA_FACE_SD, _EXTRA_LIMIT = 0.12, 0.25, 0.8
# They move parts as a whole or are no shape of a neutral adult.
_NOT_RANDOM = ("pregnant", "breast-point", "hand-trans", "foot-trans", "bulge")


@dataclasses.dataclass(frozen=True)
class Source:
    """Everything that is read from MakeHuman, reduced to the mannequin and its 52 joints.

    Points are the v vertices of the mannequin followed by the 52 joints.
    """

    surface: surface.Surface
    base: np.ndarray
    """(p, 3) the neutral base mesh."""
    weights: np.ndarray
    """(v, 52) skinning weights."""
    targets: makehuman.Targets

    @property
    def count(self) -> int:
        return len(self.weights)

    def split(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vertices and joints of points (..., p, 3)."""
        return points[..., : self.count, :], points[..., self.count :, :]

    def symmetric(self, points: np.ndarray) -> np.ndarray:
        """Points (..., p, 3) averaged with their mirror image."""
        swap = np.concatenate([self.surface.mirror, self.count + skeleton.MIRROR])
        flip = np.array([-1, 1, 1], points.dtype)
        return (points + points[..., swap, :] * flip) / 2

    def tape(self) -> measure.Tape:
        vertices, joints = self.split(self.base)
        return measure.make_tape(
            vertices, joints, self.weights, self.surface.faces, self.surface.base_index
        )


def read_source(folder) -> Source:
    """Read and reduce MakeHuman's data (`makehuman.data_folder`)."""
    base = makehuman.read_base(folder)
    weights, regressor = skeleton.reduced_rig(base, makehuman.read_rig(folder, base))
    mannequin = surface.mannequin(base)
    surface.check_closed(mannequin.faces)
    caps = np.zeros((2, weights.shape[1]))
    caps[:, skeleton.INDEX["head"]] = 1.0
    weights = np.concatenate([weights, caps])[mannequin.base_index]
    weights = (weights + weights[mannequin.mirror][:, skeleton.MIRROR]) / 2

    def points(vertices: np.ndarray) -> np.ndarray:
        return np.concatenate([mannequin.matrix @ vertices, regressor @ vertices])

    targets = makehuman.read_targets(folder, len(base.vertices), points)
    return Source(mannequin, points(base.vertices), weights, targets)


def bodies(
    source: Source, sex: str, parameters: np.ndarray, context: np.ndarray, extra=None
) -> np.ndarray:
    """Points (b, p, 3) of adults.

    Args:
      source: the data.
      sex: `female` or `male`.
      parameters: (b, 39) `PHENOTYPES`, then strengths of `LOCALS`.
      context: (b, 6) age, distance from the pure sex, firmness, and three shares of ancestry.
      extra: strengths (b, l) of all local changes, added to those of `LOCALS`.
    """
    names = source.targets.local_names
    macro, local = parameters[:, : len(PHENOTYPES)], parameters[:, len(PHENOTYPES) :]
    values: dict[str, np.ndarray] = {}
    values |= zip(PHENOTYPES, np.clip(macro, 0, 1).T, strict=True)
    values["weight"] = np.clip(macro[:, PHENOTYPES.index("weight")], *WEIGHT_RANGE)
    values["gender"] = context[:, 1] if sex == "male" else 1 - context[:, 1]
    values |= dict(age=context[:, 0], firmness=context[:, 2])
    values |= dict(zip(makehuman.RACES, context[:, 3:].T, strict=True))
    strength = np.zeros((len(parameters), len(names))) if extra is None else extra.copy()
    strength[:, [names.index(name) for name in LOCALS]] += np.clip(local, -1, 1)
    used = np.flatnonzero(np.abs(strength).sum(0) > 0)
    moved = makehuman.displacements(source.targets, values, strength[:, used], used)
    return source.base.astype(np.float32) + moved


def draw_context(rng: np.random.Generator, count: int, ages: tuple[float, float]) -> np.ndarray:
    return np.column_stack(
        [
            rng.uniform(*ages, count),
            np.minimum(np.abs(rng.normal(0, 0.08, count)), 1.0),
            rng.uniform(0.2, 0.9, count),
            rng.dirichlet([0.5, 0.5, 0.5], count),
        ]
    )


def measured(source: Source, tape: measure.Tape, points: np.ndarray) -> np.ndarray:
    """The survey's measures (b, m) of points (b, p, 3)."""
    rows = [measure.measure(tape, *source.split(body.astype(np.float64))) for body in points]
    return np.array(rows)


def calibrate(source: Source, survey: dict[str, Survey], rng) -> dict[str, Matched]:
    """For each sex the Gaussian of parameters whose bodies measure as in the survey."""
    tape, result = source.tape(), {}
    for sex, (mean, sd) in _START.items():
        local_sd = [_HEAD_SD if n.startswith(("head", "neck")) else _LOCAL_SD for n in LOCALS]
        start = np.concatenate([mean, np.zeros(len(LOCALS))])
        cov = np.diag(np.square([*sd, *local_sd]))
        count = 300
        context = draw_context(rng, count, (0.68, 0.88))  # soldiers: young adults to about 55

        def body_measures(x, sex=sex, context=context):
            return measured(source, tape, bodies(source, sex, x, context))

        result[sex] = anthropometry.match_moments(
            body_measures, start, cov, survey[sex], rng, count
        )
    return result


def draw(source: Source, sex: str, fitted: Matched, rng, count: int) -> np.ndarray:
    """Points (count, p, 3) of random adults of all ages for the statistical model.

    Extremes are left to the linear model: MakeHuman's own shapes break down beyond its range.
    """
    x = rng.multivariate_normal(fitted.mean, fitted.cov, count, method="cholesky")
    low = [0.1, -0.05, 0.05, 0.05, 0.05, *[-0.6] * len(LOCALS)]
    high = [0.6, 1.2, 0.95, 0.95, 0.95, *[0.6] * len(LOCALS)]
    x = np.clip(x, low, high)
    context = draw_context(rng, count, (makehuman.AGE_RANGE[0], 0.97))
    return bodies(source, sex, x, context, extra=_random_changes(source, rng, count))


def _random_changes(source: Source, rng, count: int) -> np.ndarray:
    strength = np.zeros((count, len(source.targets.local_names)))
    for column, name in enumerate(source.targets.local_names):
        if name in LOCALS or any(word in name for word in _NOT_RANDOM):
            continue
        sd = _EXTRA_BODY_SD if name.split(":")[0] in _BODY_PARTS else _EXTRA_FACE_SD
        strength[:, column] = np.clip(rng.normal(0, sd, count), -_EXTRA_LIMIT, _EXTRA_LIMIT)
    return strength
