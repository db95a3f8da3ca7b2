"""The steps that build the shipped body, on small cases with known answers."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def scripts_on_path(monkeypatch):
    """Experiments are scripts: their folder is the root of their imports."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))


def step(name: str) -> Any:
    """A module of `experiments/body`."""
    return importlib.import_module(f"body.{name}")


def test_girth_of_an_ellipse_and_of_a_square():
    girth = step("measure").girth

    angle = np.linspace(0, 2 * np.pi, 400)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    assert girth(0.1 * circle + [3, 4]) == pytest.approx(0.2 * np.pi, rel=1e-3)
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0.5, 0.5]])
    assert girth(square) == pytest.approx(4, rel=2e-3)


def test_volume_of_a_box():
    volume = step("measure").volume

    box = trimesh.creation.box(extents=(1, 2, 3))
    assert volume(np.asarray(box.vertices), np.asarray(box.faces)) == pytest.approx(6)


def test_survey_is_read_alike_from_figures_and_from_tables(tmp_path, rng):
    SEXES = step("anthropometry").SEXES
    read_survey = step("anthropometry").read_survey
    MEASURES = step("measure").MEASURES

    figures: dict[str, Any] = dict(measures=list(reversed(MEASURES)))
    for sex in SEXES:
        rows = 1000 + 50 * rng.normal(size=(200, len(MEASURES)))
        lines = [",".join(MEASURES), *(",".join(map(repr, row.tolist())) for row in rows)]
        (tmp_path / f"ANSUR_II_{sex.upper()}_Public.csv").write_text("\n".join(lines), "latin1")
        rows[:, MEASURES.index("weightkg")] /= 10  # published in hectograms
        rows = rows[:, ::-1]
        figures[sex] = dict(
            mean=rows.mean(0).tolist(),
            sd=rows.std(0, ddof=1).tolist(),
            corr=np.corrcoef(rows.T).tolist(),
        )
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    tables, read = read_survey(tmp_path), read_survey(tmp_path / "figures.json")
    for sex in SEXES:
        np.testing.assert_allclose(read[sex].mean, tables[sex].mean)
        np.testing.assert_allclose(read[sex].cov, tables[sex].cov, rtol=1e-9, atol=1e-9)


def test_matched_moments_are_those_of_the_survey(rng):
    """A linear world in which the survey is attainable: mean and spread are met."""
    Survey = step("anthropometry").Survey
    match_moments = step("anthropometry").match_moments
    MEASURES = step("measure").MEASURES

    size, dim = len(MEASURES), 40
    slope, base = rng.normal(size=(size, dim)), 1000 + rng.normal(size=size)
    truth_mean, root = 0.3 * rng.normal(size=dim), np.diag(rng.uniform(0.5, 1.5, dim))
    survey = Survey(base + slope @ truth_mean, slope @ root @ root @ slope.T)
    matched = match_moments(
        lambda x: base + x @ slope.T, np.zeros(dim), np.eye(dim), survey, rng, count=400
    )
    got_mean, got_cov = base + slope @ matched.mean, slope @ matched.cov @ slope.T
    precise = [MEASURES.index(name) for name in ("stature", "weightkg", "waistcircumference")]
    sd = survey.sd[precise]
    np.testing.assert_allclose((got_mean - survey.mean)[precise] / sd, 0, atol=0.03)
    np.testing.assert_allclose(np.sqrt(np.diag(got_cov))[precise] / sd, 1, atol=0.06)
    assert np.linalg.eigvalsh(matched.cov).min() > 0


def test_readable_components_are_uncorrelated_and_follow_the_gradients(rng):
    principal_components = step("shape_space").principal_components
    readable = step("shape_space").readable

    data = rng.normal(size=(300, 8)) @ rng.normal(size=(8, 60)) + 5
    space = principal_components(data, 8)
    gradients = [rng.normal(size=8), rng.normal(size=8)]
    turned = readable(space, gradients)
    coefficients = turned.coefficients(data)
    np.testing.assert_allclose(coefficients.T @ coefficients / 300, np.eye(8), atol=1e-8)
    old = space.coefficients(data)
    assert np.corrcoef(coefficients[:, 0], old @ gradients[0])[0, 1] > 1 - 1e-9
    rest = old @ gradients[1]
    fit = np.linalg.lstsq(coefficients[:, :2], rest, rcond=None)[0]
    np.testing.assert_allclose(coefficients[:, :2] @ fit, rest, atol=1e-8)
    np.testing.assert_allclose(turned.points(coefficients), data, atol=1e-8)


def test_decimation_nests_and_stays_closed_and_symmetric():
    decimate = step("decimate").decimate
    check_closed = step("surface").check_closed

    ball = trimesh.creation.icosphere(subdivisions=3)
    vertices, faces = np.asarray(ball.vertices), np.asarray(ball.faces)
    mirror = np.linalg.norm(vertices[:, None] * [-1, 1, 1] - vertices[None], axis=2).argmin(1)
    levels = decimate(
        np.stack([vertices, 1.2 * vertices]), faces, mirror, np.ones(len(vertices)), [400, 151, 60]
    )
    kept = [set(np.unique(level).tolist()) for level in levels]
    assert [len(k) for k in kept] == [400, 151, 60]
    assert kept[2] < kept[1] < kept[0]
    for level, vertices_kept in zip(levels, kept, strict=True):
        check_closed(level)
        assert {int(mirror[v]) for v in vertices_kept} == vertices_kept
        volume = trimesh.Trimesh(vertices, level, process=False).volume
        assert 0.7 * ball.volume < volume <= ball.volume


def test_rotation_between_directions(rng):
    rotation_between = step("skeleton").rotation_between

    a, b = rng.normal(size=(2, 50, 3))
    turned = np.einsum("nij,nj->ni", rotation_between(a, b), a)
    norm = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)
    np.testing.assert_allclose(norm(turned), norm(b), atol=1e-9)


def test_unclosed_surfaces_are_refused():
    check_closed = step("surface").check_closed

    with pytest.raises(ValueError, match="not a closed surface"):
        check_closed(np.array([[0, 1, 2], [0, 2, 3]]))
