"""Measures of the body: against the survey, against geometry, and their deviations."""

import json
import pathlib

import numpy as np
import pytest

from jrecon.measure import Tape, make_tape, measure, measure_fit
from jrecon.model.formats import load_model
from tests.model.small_models import random_model

RESULTS = pathlib.Path(__file__).parents[1] / "experiments/results/shape_figures.json"
SURVEY = {"chest": "chest", "waist": "waist", "hip": "buttock", "thigh": "thigh", "calf": "calf"}


def tape_of(model) -> Tape:
    tape = make_tape(model)
    assert tape is not None
    return tape


@pytest.fixture(scope="module")
def body():
    return load_model("body")


@pytest.mark.parametrize("sex", ("female", "male"))
def test_mean_bodies_have_the_sizes_of_the_survey(body, sex):
    figures = json.loads(RESULTS.read_text())[sex]
    mean = np.asarray(body.prior_mean[body.prior_names.index(sex)])
    found = measure(tape_of(body), mean)
    assert found["stature"] == pytest.approx(figures["stature"]["survey"][0] / 1e3, abs=0.006)
    for name, called in SURVEY.items():
        # The girth of the mean is not the mean girth, but within a third of a deviation of it.
        value, spread = figures[f"{called}circumference"]["survey"][:2]
        assert 1e3 * found[name] == pytest.approx(value, abs=0.34 * spread), name


def test_levels_of_detail_agree(body):
    coarse = measure(tape_of(load_model("body", level="2k")), np.zeros(body.num_shape))
    for name, value in measure(tape_of(body), np.zeros(body.num_shape)).items():
        assert coarse[name] == pytest.approx(value, abs=0.006), name


def test_deviations_are_those_of_drawn_shapes(body):
    rng = np.random.default_rng(0)
    tape = tape_of(load_model("body", level="2k"))
    mean = np.asarray(body.prior_mean[0], np.float64)
    small = 0.02 * np.asarray(body.prior_cov[0], np.float64)[:8, :8]
    found = measure_fit(tape, mean, small)
    drawn = rng.multivariate_normal(np.zeros(8), small, 60)
    shapes = [mean + np.pad(offset, (0, len(mean) - 8)) for offset in drawn]
    values = [measure(tape, shape) for shape in shapes]
    for name, one in found.items():
        assert one.value_m == pytest.approx(measure(tape, mean)[name])
        spread = np.std([value[name] for value in values])
        assert one.std_m == pytest.approx(spread, rel=0.35), name


def test_things_that_are_no_bodies_have_no_girths():
    assert make_tape(random_model()) is None
