"""Imperfect masks and dropped regions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.geometry.camera import make_camera
from jrecon.synth.segmentation import (
    RegionConfig,
    SegmentConfig,
    drop_regions,
    segment,
)

CAMERA = make_camera(70.0, 70.0, 31.5, 31.5, 64, 64)
EXACT = SegmentConfig(
    exact_rate=0.0, shift_px=(0.0, 0.0), ragged_px=0.0, missing_rate=0.0, leak_rate=0.0
)
TRUTH = jnp.zeros((64, 64), bool).at[16:48, 20:44].set(True)
DEPTH = jnp.where(TRUTH, 2.0, 2.1).at[:, :10].set(5.0)
run = jax.jit(segment)


@jax.jit
def run_all(config, keys, depth):
    return jax.lax.map(lambda key: segment(config, key, depth, TRUTH, CAMERA), keys)


def masks(config, count=200, depth=DEPTH):
    return np.asarray(run_all(config, jax.random.split(jax.random.key(0), count), depth))


def test_right_masks(key):
    np.testing.assert_array_equal(run(EXACT, key, DEPTH, TRUTH, CAMERA), TRUTH)
    exact = dataclasses.replace(SegmentConfig(), exact_rate=1.0)
    np.testing.assert_array_equal(run(exact, key, DEPTH, TRUTH, CAMERA), TRUTH)


@pytest.mark.parametrize("pixels", [-2, -1, 1, 2])
def test_outline_moves_by_the_pixels_asked_for(key, pixels):
    config = dataclasses.replace(EXACT, shift_px=(float(pixels), float(pixels)))
    mask = np.asarray(run(config, key, DEPTH, TRUTH, CAMERA))
    row, column = mask[32], mask[:, 32]
    assert row.sum() == 24 + 2 * pixels and column.sum() == 32 + 2 * pixels
    assert row[20 - pixels] and not row[20 - pixels - 1]


def test_ragged_outline_wanders_by_its_deviation():
    edges = masks(dataclasses.replace(EXACT, ragged_px=1.0))[:, 24:40].argmax(-1) - 20.0
    assert abs(edges.mean()) < 0.3
    np.testing.assert_allclose(edges.std(), 1.0, rtol=0.2)
    # Neighbouring rows move together.
    centred = edges - edges.mean()
    assert (centred[:, 1:] * centred[:, :-1]).mean() / edges.var() > 0.6


def test_parts_go_missing_or_leak():
    truth = np.asarray(TRUTH)
    missing = masks(dataclasses.replace(EXACT, missing_rate=1.0))
    assert not (missing & ~truth).any()
    assert (missing.sum((1, 2)) < truth.sum()).all()
    leaked = masks(dataclasses.replace(EXACT, leak_rate=1.0))
    assert (leaked | ~truth).all()
    assert (leaked.sum((1, 2)) > truth.sum()).mean() > 0.3
    # What is far from the object in depth is never taken for it.
    assert not leaked[:, :, :10].any()
    rate = (masks(dataclasses.replace(EXACT, missing_rate=0.3)) != truth).any((1, 2)).mean()
    assert abs(rate - 0.3) < 0.1


def test_nothing_is_seen_where_there_is_no_depth(key):
    holes = DEPTH.at[20:30].set(0.0)
    mask = masks(SegmentConfig(leak_rate=1.0), depth=holes)
    assert not mask[:, 20:30].any()
    empty = run(SegmentConfig(), key, DEPTH, jnp.zeros_like(TRUTH), CAMERA)
    assert not np.asarray(empty).any()


def test_regions_drop_as_often_and_as_large_as_asked():
    config = RegionConfig(rate=0.5, size=(0.1, 0.1), count=1)
    keys = jax.random.split(jax.random.key(0), 400)
    drop = jax.jit(jax.vmap(lambda config, k: drop_regions(config, k, DEPTH), (None, 0)))
    dropped = np.asarray(drop(config, keys)) == 0
    assert abs(dropped.any((1, 2)).mean() - 0.5) < 0.08
    area = dropped.sum((1, 2))
    assert area.max() <= 14 * 14
    assert 0.5 * np.pi * 6.4**2 < np.median(area[area > 0])
    kept = drop(dataclasses.replace(config, rate=0.0), keys)
    assert (np.asarray(kept) == DEPTH[None]).all()
