"""The model card of the shipped function: facts, what the run came to, errors of these weights."""

import json

import pytest

from experiments.ship_body import MEASURES, card, errors, minutes

FACTS = {"class": "body", "runs": [{"steps": 10, "batch": 4, "minutes": 1}, {"batch": 8}]}


@pytest.fixture
def folder(tmp_path):
    lines = [{"step": step, "examples": 8 * step, "examples_per_s": 0.2} for step in (30, 60, 90)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_the_card_tells_what_the_run_came_to(folder):
    # 60 steps of 8 examples at one example in five seconds.
    assert minutes(folder, 60) == 40
    found = card(FACTS, folder, 60)
    assert found["examples"] == 10 * 4 + 60 * 8
    assert found["runs"] == [FACTS["runs"][0], {"batch": 8, "steps": 60, "minutes": 40}]


def test_errors_of_other_weights_are_refused():
    row = {"mean": 1.0, "low": 0.9, "high": 1.1, "median": 1.0, "count": 300}
    network = dict.fromkeys(MEASURES, row) | {"parts_mm": {}}
    bench = {
        "function": {"examples": 520},
        "count": 300,
        "milliseconds": {"batch_1_least": 4.0},
        "conditions": {"clean": {"network": network, "mean": {}}},
    }
    found = errors(bench, 520)
    assert found["bench_body"] == {"clean": dict.fromkeys(MEASURES, row)}
    with pytest.raises(SystemExit, match="a function of 520 examples, the checkpoint has 521"):
        errors(bench, 521)
