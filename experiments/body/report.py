"""Figures of the build: what `experiments/results/body_build.json` holds."""

from __future__ import annotations

import numpy as np
from body import assemble, bends, measure, shape_space as spaces, skeleton
from body.anthropometry import SEXES, Survey
from body.assemble import Built, Shape
from body.population import Source, measured
from body.shape_space import Components

from jrecon.geometry.mesh import closest_on_surface

_COUNTS = (1, 2, 3, 5, 10, 16, 20, 32, 48, 64, 80)
_SHOWN = (
    "stature", "weightkg", "chestcircumference", "waistcircumference", "buttockcircumference",
    "thighcircumference", "calfcircumference",
)  # fmt: skip
_SAMPLES = 600


def shape_space(
    source: Source, components: Components, bodies: np.ndarray, sexes, held_out: np.ndarray
) -> dict:
    """Held-out error of the build set against the number of components."""
    centred = bodies[held_out] - components.mean
    per_point = (centred.reshape(len(centred), -1, 3) ** 2).sum(2)[:, : source.count]
    return dict(
        bodies=dict(trained=int((~held_out).sum()), held_out=int(held_out.sum())),
        variation_rms_mm=round(1e3 * float(np.sqrt(per_point.mean())), 2),
        held_out_vertex_error_mm=spaces.truncation_errors(
            components, bodies[held_out], source.count, _COUNTS
        ),
    )


def model(
    source: Source, shape: Shape, built: Built, survey: dict[str, Survey], bodies, rng
) -> dict:
    """Figures of the finished model."""
    return dict(
        prior=prior(source, shape, survey, rng),
        readable=readable(source, shape, rng),
        held_out_vertex_error_of_file_mm=_file_error(built, source, bodies),
        levels=levels(built),
        correctives=dict(
            fit=built.corrective_fit, volume_change_percent=bends.volume_changes(built.model)
        ),
    )


def prior(source: Source, shape: Shape, survey: dict[str, Survey], rng) -> dict:
    """Measures of bodies drawn from the prior of each sex beside those of the survey."""
    tape, result = source.tape(), {}
    for index, sex in enumerate(SEXES):
        drawn = truncated_draws(shape, index, rng, _SAMPLES)
        points = shape.components.points(drawn).reshape(_SAMPLES, -1, 3)
        values = measured(source, tape, points)
        pairs = np.triu_indices(len(measure.MEASURES), 1)
        wanted = survey[sex].cov / np.outer(survey[sex].sd, survey[sex].sd)
        got = np.corrcoef(values.T)
        result[sex] = dict(
            {
                name: dict(
                    model=_moments(values[:, k]),
                    survey=[
                        round(float(survey[sex].mean[k]), 1),
                        round(float(survey[sex].sd[k]), 1),
                    ],
                    offset_removed=round(float(shape.offsets[sex][k]), 1),
                )
                for k, name in enumerate(measure.MEASURES)
            },
            correlation_of_correlations=round(
                float(np.corrcoef(got[pairs], wanted[pairs])[0, 1]), 3
            ),
        )
        for name in _SHOWN:
            entry = result[sex][name]
            print(f"  {sex} {name}: model {entry['model']}, survey {entry['survey']}")
    return result


def truncated_draws(shape: Shape, group: int, rng, count: int) -> np.ndarray:
    """Coefficients (count, s) from the prior of a group, drawn again where outside the limits."""
    kept = np.zeros((0, assemble.SIZE))
    while len(kept) < count:
        drawn = rng.multivariate_normal(
            shape.prior_mean[group], shape.prior_cov[group], count, method="cholesky"
        )
        inside = ((drawn >= shape.limits[0]) & (drawn <= shape.limits[1])).all(1)
        kept = np.concatenate([kept, drawn[inside]])
    return kept[:count]


def _moments(values: np.ndarray) -> list[float]:
    return [round(float(values.mean()), 1), round(float(values.std()), 1)]


def readable(source: Source, shape: Shape, rng) -> dict:
    """What one unit of each named coefficient does, and how well it tells its measure."""
    drawn = rng.normal(size=(_SAMPLES, assemble.SIZE))
    points = shape.components.points(drawn).reshape(_SAMPLES, -1, 3)
    values = measured(source, source.tape(), points)
    slope = np.linalg.lstsq(drawn, values - values.mean(0), rcond=None)[0]
    result = {}
    for row, name in enumerate(assemble.NAMED):
        change = {key: round(float(slope[row, measure.MEASURES.index(key)]), 1) for key in _SHOWN}
        result[name] = change
    names = dict(
        stature="stature", mass="weightkg", waist="waistcircumference", legs="crotchheight"
    )
    for name, key in names.items():
        used = np.arange(assemble.NAMED.index(name) + 1)
        y = values[:, measure.MEASURES.index(key)]
        fit = np.linalg.lstsq(np.c_[drawn[:, used], np.ones(len(y))], y, rcond=None)[0]
        rest = y - np.c_[drawn[:, used], np.ones(len(y))] @ fit
        result[name]["variance_explained"] = round(1 - float(rest.var() / y.var()), 4)
    return result


def _file_error(built: Built, source: Source, bodies: np.ndarray) -> dict:
    """Held-out error through the stored, rounded arrays."""
    vertices = np.asarray(built.model.vertices, np.float64)
    basis = np.asarray(built.model.shape_basis, np.float64)
    step = assemble.STEPS
    vertices = np.rint(vertices / step["vertices"]) * step["vertices"]
    basis = (np.rint(basis / step["shape_basis"]) * step["shape_basis"]).reshape(
        -1, basis.shape[-1]
    )
    target = bodies.reshape(len(bodies), -1, 3)[:, built.order].astype(np.float64)
    rest = (target - vertices).reshape(len(bodies), -1).T
    rest = rest - basis @ np.linalg.lstsq(basis, rest, rcond=None)[0]
    error = 1e3 * np.linalg.norm(rest.T.reshape(len(bodies), -1, 3), axis=2)
    return dict(
        mean=round(float(error.mean()), 3),
        rms=round(float(np.sqrt((error**2).mean())), 3),
        max=round(float(error.max()), 2),
    )


def levels(built: Built) -> dict:
    """Distance in millimetres from the vertices of the full surface to each level, at rest."""
    vertices = np.asarray(built.model.vertices, np.float64)
    full = measure.volume(vertices, np.asarray(built.model.faces))
    head = bends.dense_weights(built.model)[:, skeleton.INDEX["head"]] > 0.5
    face = head & (vertices[:, 2] > np.percentile(vertices[head, 2], 60))
    result = {}
    for name, count in built.model.levels:
        faces = np.asarray(built.model.level_faces[name])
        entry = dict(vertices=count, faces=len(faces))
        if count < len(vertices):
            distance = 1e3 * closest_on_surface(vertices, vertices[:count], faces).distance
            entry |= dict(
                mean=round(float(distance.mean()), 3),
                rms=round(float(np.sqrt((distance**2).mean())), 3),
                p95=round(float(np.percentile(distance, 95)), 3),
                max=round(float(distance.max()), 2),
                face_mean=round(float(distance[face].mean()), 3),
                volume_percent=round(100 * measure.volume(vertices[:count], faces) / full - 100, 3),
            )
        result[name] = entry
    return result
