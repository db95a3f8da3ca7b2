"""The model beside an earlier one on the same surface: mean body, shape space and prior."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from body import measure
from body.anthropometry import SEXES, Survey
from body.assemble import Shape
from body.population import Source, measured

from jrecon.geometry.mesh import closest_on_surface

_SAMPLES = 400
_SHOWN = ("stature", "weightkg", "chestcircumference", "waistcircumference", "buttockcircumference")


def compare(
    path: Path, source: Source, shape: Shape, survey: dict[str, Survey], bodies: np.ndarray, rng
) -> dict:
    """Figures of the model in `path` next to those of `report`.

    Args:
      path: `.npz` with `v_template`, `J_template` and `shapedirs`, `J_shapedirs` on the vertices of
        the mannequin, and a prior per sex (`prior_names`, `prior_mean`, `prior_cov`).
      source: MakeHuman's data.
      shape: this model's shape space.
      survey: ANSUR II.
      bodies: (b, 3 p) held-out bodies of this build.
      rng: source of the samples.
    """
    with np.load(path) as file:
        other = {key: file[key] for key in file.files}
    mean = np.concatenate([other["v_template"], other["J_template"]]).astype(np.float64)
    basis = np.concatenate([other["shapedirs"], other["J_shapedirs"]]).astype(np.float64)
    own = source.split(shape.components.mean.reshape(-1, 3))[0]
    vertices = mean[: source.count]
    aligned = vertices - vertices.mean(0) + own.mean(0)
    faces = source.surface.faces
    distance = 1e3 * closest_on_surface(own, aligned, faces).distance
    return dict(
        mean_body_distance_mm=_spread(distance),
        mean_body_distance_after_fit_mm=_fit_of_mean(mean, basis, own, source),
        held_out_vertex_error_mm=_held_out(mean, basis, bodies, source.count),
        prior=_prior(other, mean, basis, source, survey, rng),
    )


def _spread(distance: np.ndarray) -> dict[str, float]:
    return dict(
        mean=round(float(distance.mean()), 2),
        p95=round(float(np.percentile(distance, 95)), 2),
        max=round(float(distance.max()), 2),
    )


def _residual(mean: np.ndarray, basis: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(b, v) distance in mm of targets (b, v, 3) to the nearest body of a model, shifts free."""
    count = targets.shape[1]
    shifts = np.tile(np.eye(3), (count, 1))
    columns = np.concatenate([basis[:count].reshape(3 * count, -1), shifts], 1)
    rest = (targets - mean[:count]).reshape(len(targets), -1).T
    rest = rest - columns @ np.linalg.lstsq(columns, rest, rcond=None)[0]
    return 1e3 * np.linalg.norm(rest.T.reshape(targets.shape), axis=2)


def _fit_of_mean(mean, basis, own: np.ndarray, source: Source) -> dict[str, float]:
    return _spread(_residual(mean, basis, own[None])[0])


def _held_out(mean, basis, bodies: np.ndarray, count: int) -> dict[str, float]:
    targets = bodies.reshape(len(bodies), -1, 3)[:, :count].astype(np.float64)
    error = _residual(mean, basis, targets)
    return dict(_spread(error.ravel()), rms=round(float(np.sqrt((error**2).mean())), 2))


def _prior(other, mean, basis, source: Source, survey: dict[str, Survey], rng) -> dict:
    tape, result = source.tape(), {}
    columns = [measure.MEASURES.index(name) for name in _SHOWN]
    for index, sex in enumerate(other["prior_names"].tolist()):
        if sex not in SEXES:
            continue
        drawn = rng.multivariate_normal(
            other["prior_mean"][index], other["prior_cov"][index], _SAMPLES, method="svd"
        )
        points = mean + np.moveaxis(basis @ drawn.T, -1, 0)
        values = measured(source, tape, points)[:, columns]
        result[sex] = {
            name: dict(
                model=[round(float(values[:, k].mean()), 1), round(float(values[:, k].std()), 1)],
                survey=[
                    round(float(survey[sex].mean[column]), 1),
                    round(float(survey[sex].sd[column]), 1),
                ],
            )
            for k, (name, column) in enumerate(zip(_SHOWN, columns, strict=True))
        }
    return result
