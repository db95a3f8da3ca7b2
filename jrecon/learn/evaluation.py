"""What a function is worth: its errors on examples, in all and by what makes examples hard."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jrecon.geometry import rotation
from jrecon.geometry.camera import Camera, resize
from jrecon.learn.baselines import Predictor
from jrecon.learn.regressor import Prediction, Regressor, predict
from jrecon.metrics import Errors, Interval, by_group, in_bins, interval, measure
from jrecon.model.parametric import ParametricModel, Params, pose
from jrecon.pictures import Color, Image, shade
from jrecon.render import View, render
from jrecon.synth.example import Example
from jrecon.synth.preview import captions, example_images

Tree = TypeVar("Tree")

# Borders of groups: distance in metres, visible share, degrees off the front.
_DISTANCES = np.array([0, 0.25, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 12, 100])
_VISIBLE = np.array([0, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0])
_AZIMUTHS = np.array([0, 45, 90, 135, 180])
_BATCH = 50
# Smaller images are enlarged to so many pixels, about.
_LEAST_PIXELS = 144
_BACKDROP: Color = (0.93, 0.93, 0.93)
_FOUND: Color = (0.45, 0.62, 0.82)


def predictor(function: Regressor) -> Predictor:
    """A trained function in the form in which baselines come, too."""
    return functools.partial(predict, function)


def evaluate(
    model: ParametricModel, predict: Predictor, examples: Example, batch: int = _BATCH
) -> tuple[Errors, Prediction]:
    """Errors and predictions of examples (n,), in NumPy arrays; worked off in batches of one size,
    the last one filled up."""
    count = len(np.asarray(examples.sensor))
    errors, found = [], []
    for start in range(0, count, batch):
        rows = np.minimum(np.arange(start, start + batch), count - 1)
        part = jax.tree.map(lambda x, rows=rows: jnp.asarray(np.asarray(x)[rows]), examples)
        guess = predict(part.depth, part.camera, part.mask)
        found.append(jax.tree.map(np.asarray, guess))
        errors.append(jax.tree.map(np.asarray, measure(model, guess.params, part.params)))
    return jax.tree.map(lambda x: x[:count], (join(errors), join(found)))


def join(parts: Sequence[Tree]) -> Tree:
    """Batches one after the other, in NumPy arrays."""
    return jax.tree.map(lambda *x: np.concatenate([np.asarray(each) for each in x]), *parts)


def labels(examples: Example, sensors: Sequence[str]) -> dict[str, np.ndarray]:
    """What groups each example belongs to: sensor, distance, visible share, side that is seen.

    Args:
      sensors: names by index; examples of none of them (-1, real captures) are "real".
    """
    index = np.asarray(examples.sensor)
    middle = np.asarray(examples.joints).mean(axis=1)
    azimuth = np.degrees(np.abs(np.asarray(_azimuth(examples.params, jnp.asarray(middle)))))
    return {
        "sensor": np.array([sensors[i] if 0 <= i < len(sensors) else "real" for i in index]),
        "distance": in_bins(np.linalg.norm(middle, axis=1), _DISTANCES, " m"),
        "visible": in_bins(np.asarray(examples.visible), _VISIBLE),
        "off_front": in_bins(azimuth, _AZIMUTHS, " degrees"),
    }


@jax.jit
def _azimuth(params: Params, middle: Array) -> Array:
    """Where the camera stands about an object: 0 before it, pi / 2 to its left."""
    turn = rotation.exp(jnp.asarray(params.pose)[:, 0])
    toward = jnp.einsum("bji,bj->bi", turn, -middle, precision=jax.lax.Precision.HIGHEST)
    return jnp.arctan2(toward[:, 0], toward[:, 2])


def summary(errors: Errors, groups: Mapping[str, np.ndarray] | None = None) -> dict[str, Any]:
    """Errors in millimetres with intervals, as plain JSON: of all examples, of the parts of the
    object, and of the vertices in groups of examples."""
    names = ("vertices", "vertices_aligned", "joints", "joints_aligned")
    report: dict[str, Any] = {
        f"{name}_mm": _row(interval(np.asarray(getattr(errors, name)))) for name in names
    }
    report["parts_mm"] = {
        name: _row(interval(np.asarray(one))) for name, one in errors.parts.items()
    }
    for what, intervals in by_group(np.asarray(errors.vertices), groups or {}).items():
        report[f"vertices_by_{what}_mm"] = {name: _row(one) for name, one in intervals.items()}
    return report


def _row(found: Interval) -> dict[str, float]:
    return {
        name: value if name == "count" else round(value, 2)
        for name, value in dataclasses.asdict(found).items()
    }


def comparison_images(model: ParametricModel, examples: Example, found: Params) -> list[Image]:
    """Three images of each example (n,): what the sensor returned, the truth, the prediction."""
    pairs = example_images(model, examples, _LEAST_PIXELS)
    images = []
    for i, (seen, truth) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
        one = jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf[i]), (found, examples.camera))
        factor = truth.shape[0] // examples.camera.height
        view = _rendered(model, *one, factor=factor)
        images += [seen, truth, shade(view, _FOUND, background=_BACKDROP)]
    return images


@functools.partial(jax.jit, static_argnames="factor")
def _rendered(model: ParametricModel, params: Params, camera: Camera, factor: int) -> View:
    camera = resize(camera, factor * camera.width, factor * camera.height)
    return render(pose(model, params).vertices, model.faces, camera)


def comparison_captions(examples: Example, errors: Errors, sensors: Sequence[str]) -> list[str]:
    """For `comparison_images`: the sensor, the visible share, the error."""
    pairs = captions(sensors, examples)
    texts = []
    for i, error in enumerate(np.asarray(errors.vertices)):
        texts += [*pairs[2 * i : 2 * i + 2], f"{error:.0f} mm"]
    return texts
