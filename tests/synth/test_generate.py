"""Examples are functions of their number, finite, and explained by their parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import jrecon
from jrecon.model.parametric import pose
from jrecon.render import render
from jrecon.synth.devices import SENSORS
from jrecon.synth.generate import (
    SynthConfig,
    make_batch,
    make_example,
    make_examples,
    make_source,
)
from jrecon.synth.pose_prior import PoseConfig
from jrecon.synth.segmentation import RegionConfig, SegmentConfig
from jrecon.synth.surroundings import SurroundingsConfig
from tests.model.small_models import random_model
from tests.quick import quick_jit
from tests.synth.small_source import CONFIG, COUNT, small_source, undisturbed


@pytest.fixture(scope="module")
def source():
    return small_source()


@pytest.fixture(scope="module")
def examples(source):
    """128 examples in NumPy arrays."""
    batches = [
        make_batch(source, jax.random.key(0), start, COUNT) for start in range(0, 128, COUNT)
    ]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *batches)


@jax.jit
def truth(model, params, camera):
    """What the parameters of a batch say: the posed model, and depth without errors."""
    posed = pose(model, params)
    one = lambda each: render(each[0], model.faces, each[1]).depth
    return posed, jax.lax.map(one, (posed.vertices, camera))


def assert_same(one, other) -> None:
    """Bit for bit."""
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


def assert_rounded(one, other, share: float = 1e-3) -> None:
    """The same but for the last bits, and for a few values that these bring to another step."""
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True
    ):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        off = np.abs(a - b) > 4e-6 * np.maximum(1.0, np.abs(b))
        assert off.mean() <= share, jax.tree_util.keystr(path)


def test_an_example_is_the_same_wherever_it_is_in_a_batch(source, examples, key) -> None:
    later = make_batch(source, key, 21, COUNT)
    assert_same(later, jax.tree.map(lambda leaf: leaf[21 : 21 + COUNT], examples))


def test_an_example_is_the_same_on_any_number_of_devices(source, examples, key) -> None:
    """Two on each of four. They are compiled anew, so the last bit may differ."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    everywhere, split = PartitionSpec(), PartitionSpec("data")
    make = jax.shard_map(
        make_examples, mesh=mesh,
        in_specs=(everywhere, everywhere, split), out_specs=split, check_vma=False,
    )  # fmt: skip
    numbers = jnp.arange(40, 40 + 2 * len(jax.devices()))
    spread = quick_jit(make)(source, key, numbers)
    assert_rounded(spread, jax.tree.map(lambda leaf: leaf[numbers], examples))


@pytest.mark.slow
def test_an_example_is_the_same_under_vmap(source, examples, key) -> None:
    """As a GPU makes them."""
    numbers = jnp.arange(40, 48)
    together = jax.jit(jax.vmap(make_example, (None, None, 0)))(source, key, numbers)
    assert_rounded(together, jax.tree.map(lambda leaf: leaf[numbers], examples))


@pytest.mark.slow
def test_an_example_is_the_same_without_jit(source, examples, key) -> None:
    """Operation by operation, each compiled by itself."""
    for number in (0, 1):
        alone = make_example(source, key, number)
        assert_rounded(alone, jax.tree.map(lambda leaf, i=number: leaf[i], examples), 0.01)


def test_another_key_gives_other_examples(source, examples) -> None:
    other = make_batch(source, jax.random.key(1), 0, COUNT)
    assert np.all(np.asarray(other.params.shape) != examples.params.shape[:COUNT])


def test_examples_are_finite_and_within_range(examples) -> None:
    for leaf in jax.tree.leaves(examples):
        assert np.isfinite(leaf).all()
    assert (examples.depth >= 0).all() and (examples.depth < 100).all()
    assert not (examples.mask & (examples.depth == 0)).any()
    assert (examples.visible >= 0).all() and (examples.visible <= 1).all()
    assert set(np.unique(examples.sensor)) == set(range(len(SENSORS)))
    # Only these may show nothing of the object.
    seen = examples.mask.any((1, 2))
    assert seen.mean() > 0.8


def test_parameters_explain_the_depth(source, key) -> None:
    """What an ideal sensor sees of the object alone is the rendered truth."""
    clean = make_batch(undisturbed(source), key, 0, COUNT)
    posed, expected = truth(source.model, clean.params, clean.camera)
    np.testing.assert_allclose(posed.joints, clean.joints, atol=1e-5)
    expected = np.asarray(expected)
    mask, depth = np.asarray(clean.mask), np.asarray(clean.depth)
    assert mask.any((1, 2)).all()
    # The whole of the object, but for what is out of the sensor's frame, and no more.
    # Rays graze some of these triangles: there a rounding of the vertices shows more.
    error = np.abs(depth - expected)[mask]
    assert np.quantile(error, 0.99) < 1e-6 and error.max() < 2e-5
    assert (depth[~mask] == 0).all()
    inside = np.asarray(clean.visible) == 1
    assert (mask == (expected > 0))[inside].all()


def test_the_window_lies_around_what_is_in_the_frame(source, examples) -> None:
    parts = []
    for start in range(0, len(examples.depth), COUNT):
        part = jax.tree.map(lambda leaf, start=start: leaf[start : start + COUNT], examples)
        parts.append(truth(source.model, part.params, part.camera)[0].vertices)
    points = np.concatenate(parts)
    camera = examples.camera
    pixels = points[..., :2] / points[..., 2:] * camera.focal[:, None] + camera.center[:, None]
    whole = examples.visible == 1
    size = np.array([CONFIG.width, CONFIG.height])
    low, high = pixels.min(1) + 0.5, pixels.max(1) + 0.5
    # At least half of the margin less the shift on each side of the window, in pixels.
    slack = 0.06 * size.max()
    assert (low[whole] > -slack).all() and (high[whole] < size + slack).all()
    extent = ((high - low) / size).max(1)[whole]
    assert (extent > 1 / 1.41).all() and (extent < 1 / 1.01 * size.max() / size.min()).all()
    np.testing.assert_allclose(camera.focal[:, 0], camera.focal[:, 1], rtol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    (
        (dict(sensors=("kinnect",)), "kinnect"),
        (dict(sensors=()), "need some of"),
        (dict(height=0), "0 pixels"),
        (dict(sensor_shares=(1.0,)), "shares"),
        (dict(shape_ranges=(("girth", 0.0, 1.0),)), "girth"),
        (dict(margin=(0.4, 0.0)), "margin: got .* low <= high"),
        (
            dict(surroundings=SurroundingsConfig(floor_rate=1.5)),
            "surroundings.floor_rate: .* 0 and",
        ),
        (dict(surroundings=SurroundingsConfig(clutter_size_m=(-1.0, 1.0))), "clutter_size_m"),
        (dict(surroundings=SurroundingsConfig(boxes=-1)), "boxes: got -1, need a number"),
        (dict(segmentation=SegmentConfig(shift_px=(2.0, 1.0))), "segmentation.shift_px"),
        (dict(regions=RegionConfig(rate=float("nan"))), "regions.rate: got nan"),
        (dict(pose=PoseConfig(motion=0.0, mixed=0.0, limits=0.0, hard=0.0)), "one above 0"),
    ),
)
def test_what_is_refused(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_source(random_model(), dataclasses.replace(SynthConfig(), **change))


def test_the_body_has_a_source() -> None:
    source = make_source(jrecon.load_model("body", level="2k"))
    assert len(source.pose.hard) > 1
