"""Evaluation: errors of all examples, in their groups, beside pictures of them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.learn.evaluation import (
    comparison_captions,
    comparison_images,
    evaluate,
    labels,
    summary,
)
from jrecon.learn.regressor import Prediction
from jrecon.model.parametric import Params, pose
from tests.learn.small_class import EASY

COUNT = 24


@pytest.fixture(scope="module")
def examples(make):
    return make(2, COUNT)


def answer(examples, shift):
    """A predictor that knows the truth, and is off by `shift` metres."""
    known = {np.asarray(one).tobytes(): i for i, one in enumerate(examples.depth)}

    def predict(depth, camera, mask):
        rows = [known[np.asarray(one).tobytes()] for one in depth]
        params = jax.tree.map(lambda x: jnp.asarray(x[rows]), examples.params)
        moved = dataclasses.replace(params, translation=params.translation + shift)
        return Prediction(moved, jnp.ones((len(rows), 2)))

    return predict


def test_errors_of_a_known_shift(source, examples):
    shift = jnp.array([[0.03, 0.0, 0.04]])
    errors, found = evaluate(source.model, answer(examples, shift), examples, batch=10)
    assert len(errors.vertices) == len(found.params.pose) == COUNT
    np.testing.assert_allclose(errors.vertices, 50.0, rtol=1e-3)
    report = summary(errors, labels(examples, EASY.sensors))
    assert report["vertices_mm"]["mean"] == pytest.approx(50, rel=1e-3)
    assert report["vertices_aligned_mm"]["mean"] == pytest.approx(0, abs=0.01)
    assert set(report["parts_mm"]) == set(errors.parts)
    assert set(report["vertices_by_sensor_mm"]) <= set(EASY.sensors)
    counts = [row["count"] for row in report["vertices_by_off_front_mm"].values()]
    assert 10 <= sum(counts) <= COUNT
    assert json.loads(json.dumps(report)) == report


def test_labels_tell_what_was_drawn(source, examples):
    found = labels(examples, EASY.sensors)
    # EASY looks at most half a radian off the front; joints are bent, not the root.
    turned = Params(
        examples.params.shape,
        np.zeros_like(examples.params.pose),
        examples.params.translation,
    )
    front = dataclasses.replace(examples, params=turned)
    facing_away = labels(front, EASY.sensors)["off_front"]
    assert (facing_away != found["off_front"]).any()
    distance = np.linalg.norm(examples.joints.mean(1), axis=1)
    for value, label in zip(distance, found["distance"], strict=True):
        low, high = (float(part) for part in label.removesuffix(" m").split(" to "))
        assert low <= value <= high
    unknown = dataclasses.replace(examples, sensor=np.full(COUNT, -1))
    assert set(labels(unknown, EASY.sensors)["sensor"]) == {"real"}


def test_the_truth_and_its_prediction_look_alike(source, examples):
    few = jax.tree.map(lambda x: x[:2], examples)
    images = comparison_images(source.model, few, few.params)
    assert len(images) == 6
    for truth, found in (images[1:3], images[4:6]):
        assert truth.shape == found.shape
        background = truth[0, 0]
        same = (truth == background).all(-1) == (found == background).all(-1)
        assert same.mean() > 0.99
        assert not (truth == background).all()
    errors, _ = evaluate(source.model, answer(examples, 0.0), few)
    texts = comparison_captions(few, errors, EASY.sensors)
    assert len(texts) == 6 and texts[2] == "0 mm"
    assert pose(source.model, few.params).vertices.shape[0] == 2
