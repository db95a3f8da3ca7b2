"""Random fields: distribution, correlation, independence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.synth.noise import gaussian, smooth_field, uniforms, words

SIZE = 1 << 18


def test_fields_of_a_key_are_gaussian_uniform_and_independent(key):
    fields = words(key, 3, SIZE)
    columns = [np.asarray(gaussian(field)) for field in fields[:2]]
    columns += [np.asarray(half) for half in uniforms(fields[2])]
    for normal in columns[:2]:
        np.testing.assert_allclose([normal.mean(), normal.std()], [0, 1], atol=0.01)
        assert np.abs(normal).max() < 3.46
        np.testing.assert_allclose((np.abs(normal) < 1).mean(), 0.6827, atol=0.02)
    for uniform in columns[2:]:
        assert uniform.min() >= 0 and uniform.max() < 1
        counts = np.histogram(uniform, 64, (0, 1))[0]
        # Chi-squared with 63 degrees of freedom: 120 is beyond 5 standard deviations.
        assert ((counts - SIZE / 64) ** 2 / (SIZE / 64)).sum() < 120
    correlation = np.corrcoef(columns) - np.eye(4)
    assert np.abs(correlation).max() < 0.01
    lagged = [
        np.corrcoef(column[:-lag], column[lag:])[0, 1] for column in columns for lag in (1, 2)
    ]
    assert np.abs(lagged).max() < 0.01


def test_keys_are_independent(key):
    one, two = (gaussian(words(k, 1, SIZE)[0]) for k in jax.random.split(key))
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.01


@jax.jit
def draw_many(keys, length):
    return jax.vmap(lambda key: smooth_field(key, length, 48, 64))(keys)


@pytest.mark.parametrize("length", [3.0, 6.0, 12.0])
def test_smooth_field_has_unit_variance_and_the_length_asked_for(key, length):
    fields = np.asarray(draw_many(jax.random.split(key, 4000), length))
    # At every pixel, not only on average: 4000 samples give 1.1 %.
    np.testing.assert_allclose(fields.std(0), 1, atol=0.06)
    np.testing.assert_allclose(fields.mean(0), 0, atol=0.08)
    for axis in (1, 2):
        centred = np.moveaxis(fields, axis, 1)
        correlation = [
            (centred[:, : 40 - lag] * centred[:, lag:40]).mean() for lag in range(int(3 * length))
        ]
        reached = np.argmax(np.array(correlation) < np.exp(-1))
        assert abs(reached - length) <= max(1.0, 0.2 * length)


def test_smooth_field_same_in_a_batch(key):
    keys = jax.random.split(key, 3)
    lengths = jnp.array([2.0, 5.0, 50.0])
    one_of = jax.jit(lambda k, length: smooth_field(k, length, 12, 20))
    batch = jax.jit(jax.vmap(one_of))(keys, lengths)
    for i in range(3):
        one = one_of(keys[i], lengths[i])
        np.testing.assert_allclose(batch[i], one, atol=1e-5)
        assert np.isfinite(one).all()
