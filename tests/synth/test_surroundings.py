"""Surroundings: every pixel lies on what it shows, and the object stays as it was."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.geometry.camera import make_camera, unproject_depth
from jrecon.synth.surroundings import SurroundingsConfig, surround
from tests.quick import quick_jit

CAMERA = make_camera(70.0, 70.0, 31.5, 31.5, 64, 64)
UP = jnp.array([0.0, -np.cos(0.2), -np.sin(0.2)])
NONE = SurroundingsConfig(
    nothing_rate=0.0, floor_rate=0.0, wall_rate=0.0, clutter_rate=0.0, occluder_rate=0.0,
    boxes=1, ellipsoids=1, occluders=1,
)  # fmt: skip
EVERYTHING = dataclasses.replace(
    NONE, floor_rate=1.0, wall_rate=1.0, clutter_rate=1.0, occluder_rate=1.0
)


@pytest.fixture
def thing():
    """A ball of radius 0.5 m, 2.5 m away."""
    x, y = np.meshgrid((np.arange(64) - 31.5) / 70, (np.arange(64) - 31.5) / 70)
    ray = np.stack([x, y, np.ones_like(x)], -1)
    middle = np.array([0.1, 0.1, 2.5])
    a, b, c = (ray**2).sum(-1), -(ray @ middle), middle @ middle - 0.25
    inside = b * b - a * c
    depth = np.where(inside > 0, (-b - np.sqrt(np.maximum(inside, 0))) / a, 0)
    normals = np.where(depth[..., None] > 0, (ray * depth[..., None] - middle) / 0.5, 0)
    return jnp.asarray(depth, jnp.float32), jnp.asarray(normals, jnp.float32)


KEYS = jax.random.split(jax.random.key(3), 24)


def scenes(config, thing, up=UP, floor=None):
    """24 of one config."""
    return _scenes(config, thing, up, floor)


@jax.jit
def _scenes(config, thing, up, floor):
    return jax.lax.map(
        lambda key: surround(config, key, thing[0], thing[1], CAMERA, up, floor), KEYS
    )


def first(batch):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[0], batch)


def test_nothing_leaves_the_image_alone(thing):
    for config in (NONE, dataclasses.replace(EVERYTHING, nothing_rate=1.0)):
        scene = first(scenes(config, thing))
        np.testing.assert_array_equal(scene.depth, thing[0])
        np.testing.assert_array_equal(scene.normals, thing[1])
        np.testing.assert_array_equal(scene.object, thing[0] > 0)
        assert scene.hidden == 0


def test_floor_lies_under_the_object(thing):
    config = dataclasses.replace(NONE, floor_rate=1.0)
    for options, level in (({}, None), (dict(floor=jnp.array(-1.2)), -1.2)):
        scene = first(scenes(config, thing, **options))
        height = np.asarray(unproject_depth(CAMERA, scene.depth) @ UP)
        floor = np.asarray((scene.depth > 0) & ~scene.object)
        lowest = height[np.asarray(scene.object)].min()
        assert floor.sum() > 200
        expected = lowest if level is None else level
        np.testing.assert_allclose(height[floor], expected, atol=1e-4)
        np.testing.assert_allclose(scene.normals[floor], np.tile(UP, (floor.sum(), 1)), atol=1e-6)
        assert scene.hidden == 0


def test_wall_stands_behind_the_object(thing):
    batch = scenes(dataclasses.replace(NONE, wall_rate=1.0), thing)
    assert (np.asarray(batch.hidden) == 0).all()
    np.testing.assert_array_equal(
        batch.object, np.broadcast_to(np.asarray(thing[0] > 0), batch.object.shape)
    )
    wall = np.asarray((batch.depth > 0) & ~batch.object)
    assert wall.sum() > 24 * 1000
    assert np.abs(np.asarray(batch.normals)[wall] @ np.asarray(UP)).max() < 1e-5


@pytest.mark.parametrize("kind", ["clutter_rate", "occluder_rate"])
def test_normals_are_those_of_the_depth(thing, kind):
    """Neighbouring points on one face lie in the plane that the normal says."""
    config = dataclasses.replace(NONE, occluder_depth=(0.5, 0.6), **{kind: 1.0})
    batch = scenes(config, thing)
    points = np.asarray(jax.vmap(lambda d: unproject_depth(CAMERA, d))(batch.depth), np.float64)
    normals = np.asarray(batch.normals, np.float64)
    other = np.asarray((batch.depth > 0) & ~batch.object)
    assert other.sum() > 24 * 100
    np.testing.assert_allclose(np.linalg.norm(normals[other], axis=-1), 1, atol=1e-4)
    # They face the camera.
    assert ((normals * points).sum(-1)[other] < 1e-6).all()
    pair = other[:, :, 1:] & other[:, :, :-1]
    alike = pair & ((normals[:, :, 1:] * normals[:, :, :-1]).sum(-1) > 0.999)
    step = points[:, :, 1:] - points[:, :, :-1]
    near = alike & (np.abs(step[..., 2]) < 0.05)
    assert near.sum() > 1000
    off = np.abs((step * (normals[:, :, 1:] + normals[:, :, :-1]) / 2).sum(-1))[near]
    assert np.quantile(off, 0.99) < 2e-3


def test_hidden_is_the_share_of_the_object_that_something_hides(thing):
    batch = scenes(EVERYTHING, thing)
    depth = np.asarray(thing[0])
    for depth_seen, normals, seen, hidden in zip(
        *(np.asarray(x) for x in (batch.depth, batch.normals, batch.object, batch.hidden)),
        strict=True,
    ):
        np.testing.assert_array_equal(depth_seen[seen], depth[seen])
        np.testing.assert_array_equal(normals[seen], np.asarray(thing[1])[seen])
        covered = (depth > 0) & ~seen
        assert (depth_seen[covered] < depth[covered]).all()
        np.testing.assert_allclose(hidden, covered.sum() / (depth > 0).sum(), atol=1e-6)
    assert np.asarray(batch.hidden).max() > 0.3


def test_an_image_without_the_object():
    empty = jnp.zeros((64, 64)), jnp.zeros((64, 64, 3))
    for up in (UP, jnp.array([0.0, 0.0, -1.0]), jnp.array([0.0, 0.0, 1.0])):
        scene = first(scenes(EVERYTHING, empty, up))
        assert np.isfinite(scene.depth).all() and np.isfinite(scene.normals).all()
        assert not np.asarray(scene.object).any() and scene.hidden == 0
        assert (np.asarray(scene.depth) >= 0).all()


def test_batch_is_a_loop(thing):
    run = lambda config, key: surround(config, key, thing[0], thing[1], CAMERA, UP)
    together = quick_jit(jax.vmap(run, (None, 0)))(EVERYTHING, KEYS)
    close = np.isclose(together.depth, scenes(EVERYTHING, thing).depth, rtol=1e-4)
    # At the outline of a thing, rounding decides.
    assert close.mean() > 0.995
