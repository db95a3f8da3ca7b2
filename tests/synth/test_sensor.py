"""Each sensor against the formula that it cites, and what holds for all of them."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.geometry.camera import make_camera, rays
from jrecon.synth import devices
from jrecon.synth.devices import SENSORS, choose, mixture
from jrecon.synth.sensor import EDGE, Sensor, jitter, scale, sense
from tests.quick import quick_jit

SIZE = 128
DEPTHS = (0.5, 1.0, 2.0, 3.0, 4.0)
traced = []


@jax.jit
def measure(sensor, key, depth, normals, camera):
    traced.append(camera)
    return sense(sensor, key, depth, normals, camera)


@jax.jit
def measure_often(sensor, key, depth, normals, camera):
    """32 images of one scene."""
    take = lambda one: sense(sensor, one, depth, normals, camera)
    return jax.lax.map(take, jax.random.split(key, 32))


def camera_of(focal, size=SIZE):
    return make_camera(focal, focal, (size - 1) / 2, (size - 1) / 2, size, size)


def plane(camera, z, tilt=0.0, about="y"):
    """Depth and normals of a plane through (0, 0, z), turned about an axis of the image."""
    sine, cosine = math.sin(tilt), math.cos(tilt)
    normal = np.array([sine, 0, -cosine] if about == "y" else [0, sine, -cosine])
    along = np.asarray(rays(camera), np.float64) @ normal
    depth = -cosine * z / along
    depth = np.where((depth > 0) & (depth < 50), depth, 0)
    normals = np.broadcast_to(normal, (*depth.shape, 3)) * (depth > 0)[..., None]
    return jnp.asarray(depth, jnp.float32), jnp.asarray(normals, jnp.float32)


def step_edge(camera, near, far, column):
    """A wall at `far`, and before it another one right of a column."""
    depth = jnp.where(jnp.arange(camera.width) >= column, near, far)
    depth = jnp.broadcast_to(depth, (camera.height, camera.width)).astype(jnp.float32)
    return depth, jnp.zeros((*depth.shape, 3)).at[..., 2].set(-1.0)


def only(sensor, *names, **values):
    """The sensor with all amounts 0 but those named, without quantisation in depth."""
    kept = {name: getattr(sensor, name) for name in names}
    silent = scale(sensor, 0.0)
    limits = dict(depth_step_m=0.0, min_range_m=0.0, max_range_m=100.0, uneven=0.0)
    return dataclasses.replace(silent, **{**limits, **kept, **values})


def error_of(sensor, key, z, tilt=0.0):
    """Measured minus true depth of every pixel of a plane, at the sensor's own resolution."""
    camera = camera_of(float(sensor.native_focal_px))
    depth, normals = plane(camera, z, tilt)
    return np.asarray(measure(sensor, key, depth, normals, camera), np.float64) - np.asarray(depth)


@pytest.mark.parametrize("z", DEPTHS)
def test_redwood_noise_and_step(key, z):
    sensor = dataclasses.replace(devices.structured_light(), correlated=0.0)
    noise = only(sensor, "disparity_noise_px", disparity_step_px=0.0)
    np.testing.assert_allclose(error_of(noise, key, z).std(), 0.79e-3 * z**2, rtol=0.05)
    levels = np.unique(error_of(only(sensor, "disparity_noise_px"), key, z))
    # Many pixels, few levels: neighbouring ones are a step apart.
    wide = error_of(only(sensor, disparity_noise_px=0.3), key, z)
    steps = np.diff(np.unique(wide.round(7)))
    np.testing.assert_allclose(np.median(steps), 3.56e-3 * z**2, rtol=0.05)
    assert len(levels) <= 4


@pytest.mark.parametrize("z", DEPTHS)
@pytest.mark.parametrize("tilt_deg", [0.0, 75.0])
def test_nguyen_axial_noise(key, z, tilt_deg):
    names = ("axial_noise_m", "axial_quadratic_per_m", "axial_grazing_m")
    sensor = only(devices.kinect_v1_axial(), *names)
    # A long focal length: depth and incidence are nearly the same at every pixel.
    camera = make_camera(5e4, 5e4, 63.5, 63.5, SIZE, SIZE)
    depth, normals = plane(camera, z, math.radians(tilt_deg))
    error = np.asarray(measure(sensor, key, depth, normals, camera) - depth)
    ratio = tilt_deg / (90 - tilt_deg)
    grazing = 0.0001 / math.sqrt(z) * ratio**2 if tilt_deg > 60 else 0.0
    expected = 0.0012 + 0.0019 * (z - 0.4) ** 2 + grazing
    np.testing.assert_allclose(error.std(), expected, rtol=0.05)
    assert abs(error.mean()) < 0.05 * expected


@pytest.mark.parametrize("z", DEPTHS)
@pytest.mark.parametrize("width", [848, 1280])
def test_stereo_noise_is_that_of_the_tuning_paper(key, z, width):
    focal = 0.5 * width
    sensor = only(devices.stereo_raw(), "disparity_noise_px", native_focal_px=focal)
    sensor = dataclasses.replace(sensor, disparity_step_px=0.0, correlated=0.0)
    expected = z**2 * 0.1 / (focal * 0.05)
    # The error of disparity is symmetric, that of depth only nearly so.
    np.testing.assert_allclose(error_of(sensor, key, z).std(), expected, rtol=0.05)


def test_stereo_noise_is_correlated_over_its_length(key):
    sensor = dataclasses.replace(devices.stereo(), disparity_step_px=0.0)
    sensor = only(sensor, "disparity_noise_px")
    camera = camera_of(383.0)
    plane_at = plane(camera, 2.0)
    error = np.asarray(measure_often(sensor, key, *plane_at, camera)) - np.asarray(plane_at[0])
    np.testing.assert_allclose(error.std(), 4 * 0.075 / (383 * 0.05), rtol=0.1)
    lags = np.arange(1, 32)
    curve = np.array([(error[..., :-lag] * error[..., lag:]).mean() for lag in lags])
    reached = lags[np.argmax(curve / error.var() < math.exp(-1))]
    assert abs(reached - devices.stereo().correlation_px) <= 2


def test_stereo_noise_differs_from_place_to_place_by_its_unevenness(key):
    sensor = only(devices.stereo(), "disparity_noise_px", uneven=0.4)
    sensor = dataclasses.replace(sensor, disparity_step_px=0.0, correlated=0.0)
    camera = camera_of(383.0)
    scene = plane(camera, 2.0)
    quiet, loud = (
        np.asarray(measure(dataclasses.replace(sensor, uneven=x), key, *scene, camera) - scene[0])
        for x in (0.0, 0.4)
    )
    # One draw of the noise, so that their ratio is what it is multiplied by.
    known = np.abs(quiet) > 1e-3
    change = np.log(np.abs(loud[known] / quiet[known]))
    assert abs(np.median(change)) < 0.15
    np.testing.assert_allclose(change.std(), 0.4, rtol=0.25)


def test_time_of_flight_reaches_the_measured_bounds_at_the_largest_jitter(key):
    sensor = dataclasses.replace(scale(devices.time_of_flight(), 2.0), correlated=0.0)
    noise = only(sensor, "axial_noise_m", "axial_quadratic_per_m")
    np.testing.assert_allclose(error_of(noise, key, 3.5).std(), 0.017, rtol=0.05)
    bias = only(sensor, "axial_bias_m")
    means = [error_of(bias, k, 1.0).mean() for k in jax.random.split(key, 40)]
    assert 0.006 < np.abs(means).max() <= 0.011


@pytest.mark.parametrize("tilt_deg", [30.0, 60.0])
@pytest.mark.parametrize("shrink", [1.0, 4.0])
def test_lateral_noise_on_a_slope(key, tilt_deg, shrink):
    """Depth error is the slope times the shift of Nguyen et al., in native pixels."""
    sensor = only(devices.kinect_v1_axial(), "lateral_px", "lateral_grazing_px")
    native, tilt = 5e4, math.radians(tilt_deg)
    sensor = dataclasses.replace(sensor, native_focal_px=native)
    camera = make_camera(native / shrink, native / shrink, 63.5, 63.5, SIZE, SIZE)
    depth, normals = plane(camera, 2.0, tilt)
    error = np.asarray(measure(sensor, key, depth, normals, camera) - depth)
    sigma_px = 0.8 + 0.035 * tilt_deg / (90 - tilt_deg)
    np.testing.assert_allclose(error.std(), math.tan(tilt) * 2 / native * sigma_px, rtol=0.05)


@pytest.mark.parametrize("tilt_deg", [0.0, 30.0, 60.0, 80.0])
def test_hole_rate_on_a_slope(key, tilt_deg):
    sensor = only(Sensor(), grazing_dropout=1.0)
    camera = make_camera(5e3, 5e3, 63.5, 63.5, SIZE, SIZE)
    depth, normals = plane(camera, 2.0, math.radians(tilt_deg))
    holes = np.asarray(measure(sensor, key, depth, normals, camera) == 0).mean()
    np.testing.assert_allclose(holes, 1 - math.cos(math.radians(tilt_deg)), atol=0.015)


@pytest.mark.parametrize(("name", "tolerance"), [("pixel_dropout", 0.002), ("patch_dropout", 0.04)])
def test_dropout_rate(key, name, tolerance):
    camera = camera_of(500.0)
    sensor = only(Sensor(), **{name: 0.1})
    returned = measure_often(sensor, key, *plane(camera, 2.0), camera)
    np.testing.assert_allclose((np.asarray(returned) == 0).mean(), 0.1, atol=tolerance)


@pytest.mark.parametrize("native", [100.0, 400.0])
def test_edges_are_crossed_as_often_as_the_shift_reaches_them(key, native):
    """Beside an edge, somewhere within a pixel, the other surface is seen by E[max(shift, 0)]."""
    camera = camera_of(100.0)
    depth, normals = step_edge(camera, 1.0, 2.0, 64)
    sensor = only(Sensor(native_focal_px=native), lateral_px=0.8)
    returned = np.asarray(measure_often(sensor, key, depth, normals, camera))
    # Nothing between the surfaces, and nothing beyond the reach of the shift.
    assert np.isin(returned, [1.0, 2.0]).all() or np.isclose(returned, 1).any()
    changed = np.abs(returned - np.asarray(depth)) > 0.1
    assert not changed[..., :61].any() and not changed[..., 67:].any()
    if native == 400.0:
        expected = 0.2 / math.sqrt(2 * math.pi)
        np.testing.assert_allclose(changed[..., 63:65].mean((0, 1)), expected, rtol=0.15)


def test_edge_pixels_blend_or_drop(key):
    camera = camera_of(100.0)
    depth, normals = step_edge(camera, 1.0, 2.0, 64)
    sensor = only(Sensor(native_focal_px=100.0), edge_px=1.0)
    for values, low, high in ((dict(edge_blend=1.0), 1.0, 2.0), (dict(edge_drop=1.0), 0.0, 0.0)):
        returned = measure(dataclasses.replace(sensor, **values), key, depth, normals, camera)
        changed = np.asarray(returned)[np.abs(np.asarray(returned - depth)) > 1e-3]
        assert len(changed) > 50
        assert (changed >= low).all() and (changed <= high).all()
    # Before nothing, there is nothing to blend with.
    nothing = jnp.where(depth > 1.5, 0.0, depth)
    returned = np.asarray(
        measure(dataclasses.replace(sensor, edge_blend=1.0), key, nothing, normals, camera)
    )
    assert np.isin(returned.round(5), [0.0, 1.0]).all()
    assert (returned[:, :64] == 0).all()


@pytest.mark.parametrize("focal", [400.0, 60.0])
def test_shadow_is_as_wide_as_the_disparities_differ(key, focal):
    """To the left of what is near, also when it is narrower than a pixel."""
    camera = camera_of(focal)
    depth, normals = step_edge(camera, 1.0, 2.0, 64)
    sensor = only(Sensor(native_focal_px=400.0, baseline_m=0.05), shadow=1.0)
    lost = np.asarray(measure_often(sensor, key, depth, normals, camera)) == 0
    assert not lost[..., 64:].any()
    width = focal * 0.05 * (1 / 1.0 - 1 / 2.0)
    # Less the margin that keeps slopes from shading themselves.
    margin = EDGE * focal * 0.05 / 2.0
    np.testing.assert_allclose(lost.sum(-1).mean(), width - margin, rtol=0.06)


def test_slopes_do_not_shade_themselves(key):
    camera = camera_of(150.0)
    sensor = only(devices.stereo(), "shadow")
    for tilt_deg in (-60, 60):
        depth, normals = plane(camera, 2.0, math.radians(tilt_deg))
        returned = measure(sensor, key, depth, normals, camera)
        assert (np.asarray(returned == 0) & np.asarray(depth > 0)).mean() < 0.005


def test_blur_spreads_an_edge_and_keeps_a_plane_and_the_background(key):
    camera = camera_of(100.0)
    sensor = only(Sensor(native_focal_px=100.0), blur_px=1.0)
    depth, normals = step_edge(camera, 1.0, 2.0, 64)
    depth = depth.at[:, :32].set(0.0)
    row = np.asarray(measure(sensor, key, depth, normals, camera))[SIZE // 2]
    assert (row[:32] == 0).all()
    np.testing.assert_allclose(row[32:60], 2, rtol=1e-5)
    assert 1.05 < row[64] < 1.5 < row[63] < 1.95


@pytest.mark.parametrize("name", SENSORS)
def test_holds_for_every_sensor(key, name):
    sensor = SENSORS[name]()
    camera = camera_of(150.0)
    depth, normals = step_edge(camera, 1.5, 3.0, 64)
    depth = depth.at[:, 100:].set(0.0)
    returned = measure(sensor, key, depth, normals, camera)
    assert (np.asarray(returned)[:, 100:] == 0).all()
    values = np.asarray(returned)[np.asarray(returned) > 0]
    assert len(values) > 8000
    assert values.min() > max(float(sensor.min_range_m), 1.0) and values.max() < 3.6
    np.testing.assert_array_equal(returned, measure(sensor, key, depth, normals, camera))
    if name != "ideal":
        other = measure(sensor, jax.random.key(1), depth, normals, camera)
        assert (np.asarray(other) != np.asarray(returned)).any()
    # Without noise, what is left is quantisation.
    silent = np.asarray(measure(scale(sensor, 0.0), key, depth, normals, camera))
    reach = float(sensor.native_focal_px * sensor.baseline_m)
    step = 9 * float(sensor.disparity_step_px) / reach if reach else 0.0
    np.testing.assert_allclose(silent, depth, atol=0.51 * (step + sensor.depth_step_m) + 1e-5)


@pytest.mark.parametrize("name", SENSORS)
def test_finite_for_any_input(key, name):
    """Depth from nothing to far, edge-on and missing normals, an empty image."""
    sensor = scale(SENSORS[name](), 4.0)
    camera = camera_of(150.0)
    ladder = jnp.array([0.0, 1e-6, jnp.nan, 0.1, 1.0, 10.0, jnp.inf, 1e4])
    depth = jnp.tile(jnp.repeat(ladder, 16), (SIZE, 1))
    edge_on = jnp.zeros((SIZE, SIZE, 3)).at[..., 0].set(1.0).at[:32].set(0.0)
    for image in (depth, jnp.zeros_like(depth)):
        returned = np.asarray(measure(sensor, key, image, edge_on, camera))
        assert np.isfinite(returned).all()
        assert (returned[~(np.asarray(image) > 0)] == 0).all()
        assert (returned >= 0).all()


def test_millimetres(key):
    camera = camera_of(150.0)
    returned = measure(devices.plain_gaussian(), key, *plane(camera, 2.0, 0.3), camera)
    thousands = np.asarray(returned, np.float64) * 1e3
    np.testing.assert_allclose(thousands, thousands.round(), atol=1e-3)


def test_batch_is_a_loop_and_one_function_serves_the_mixture(key):
    mix = mixture([make() for make in SENSORS.values()])
    camera = camera_of(150.0)
    depth, normals = plane(camera, 2.0, 0.4)

    def example(one):
        index, sensor = choose(mix, one)
        return index, sense(sensor, one, depth, normals, camera)

    keys = jax.random.split(key, 24)
    batch_index, batch = quick_jit(jax.vmap(example))(keys)
    index, sensors = zip(*map(jax.jit(lambda one: choose(mix, one)), keys), strict=True)
    loop = [
        measure(sensor, one, depth, normals, camera)
        for sensor, one in zip(sensors, keys, strict=True)
    ]
    np.testing.assert_array_equal(batch_index, index)
    # A rounding error may move a pixel by a step of the sensor, or across an edge.
    same = np.isclose(np.asarray(batch), np.asarray(loop), atol=1e-5)
    assert same.mean() > 0.995
    assert len(set(np.asarray(batch_index).tolist())) >= 5


@pytest.mark.slow
def test_jit_equals_no_jit(key):
    """Operation by operation, each compiled by itself."""
    camera = camera_of(150.0)
    scene = step_edge(camera, 1.5, 3.0, 64)
    returned = measure(devices.stereo(), key, *scene, camera)
    alone = sense(devices.stereo(), key, *scene, camera)
    # Rounding may move a pixel by one step of disparity.
    assert (np.abs(np.asarray(alone - returned)) < 1e-5).mean() > 0.995


def test_one_function_serves_every_sensor_and_a_noise_sweep(key):
    camera = camera_of(150.0)
    measure(devices.ideal(), key, *plane(camera, 2.0), camera)
    before = len(traced)
    for make in SENSORS.values():
        for factor in (0.0, 0.5, 4.0):
            measure(scale(make(), factor), key, *plane(camera, 2.0), camera)
    assert len(traced) == before


def test_mixture_shares(key):
    mix = mixture([devices.ideal(), devices.stereo(), devices.ideal()], [1, 3, 0])
    index, _ = jax.jit(jax.vmap(lambda k: choose(mix, k)))(jax.random.split(key, 4000))
    shares = np.bincount(np.asarray(index), minlength=3) / 4000
    np.testing.assert_allclose(shares, [0.25, 0.75, 0], atol=0.03)
    with pytest.raises(ValueError, match="share"):
        mixture([devices.ideal()], [1, 2])
    with pytest.raises(ValueError, match="at least one"):
        mixture([])


def test_jitter_varies_amounts_only(key):
    base = devices.stereo()
    varied = jax.jit(jax.vmap(lambda k: jitter(base, k)))(jax.random.split(key, 500))
    ratio = np.asarray(varied.disparity_noise_px) / base.disparity_noise_px
    assert 0.5 <= ratio.min() < 0.55 and 1.9 < ratio.max() <= 2.0
    assert abs(np.corrcoef(ratio, np.asarray(varied.edge_px))[0, 1]) < 0.2
    np.testing.assert_allclose(varied.native_focal_px, base.native_focal_px)


def test_sizes_are_checked(key):
    camera = camera_of(150.0, 64)
    with pytest.raises(ValueError, match="64 x 64"):
        sense(Sensor(), key, jnp.zeros((64, 32)), jnp.zeros((64, 32, 3)), camera)
