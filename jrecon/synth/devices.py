"""The sensors that exist, as numbers; and mixtures of them, one of which takes each image.

Formulas: Khoshelham and Elberink 2012; Nguyen, Izadi and Lovell 2012; Teichman et al. 2013 and
Choi et al. 2015 (Redwood); the D400 tuning paper of Intel; Toelgyessy et al. 2021 (Azure Kinect).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jrecon.synth.sensor import Sensor, jitter


def ideal() -> Sensor:
    """What was rendered, as it is."""
    return Sensor()


def plain_gaussian(noise_m: float = 0.01) -> Sensor:
    """White noise of one standard deviation at every depth."""
    return Sensor(axial_noise_m=noise_m, depth_step_m=0.001)


def structured_light() -> Sensor:
    """Kinect v1, Xtion, Carmine, Structure.

    Disparity noise 1/36 px in steps of 1/8 px at focal length x baseline = 35.13 px m (Redwood):
    0.79 z^2 mm and steps of 3.56 z^2 mm. Lateral noise by Nguyen et al.
    """
    return Sensor(
        native_focal_px=468.4, baseline_m=0.075, shadow=1.0,
        lateral_px=0.8, lateral_grazing_px=0.035, edge_px=0.5, edge_blend=0.0, edge_drop=0.5,
        disparity_noise_px=1 / 36, disparity_step_px=1 / 8,
        correlated=0.5, correlation_px=3.0,
        grazing_dropout=0.08, pixel_dropout=0.002, patch_dropout=0.01,
        depth_step_m=0.001, min_range_m=0.4, max_range_m=8.0,
    )  # fmt: skip


def kinect_v1_axial() -> Sensor:
    """Kinect v1 by the axial and lateral noise of Nguyen et al. 2012, without quantisation."""
    return Sensor(
        native_focal_px=575.0, baseline_m=0.075, shadow=1.0,
        lateral_px=0.8, lateral_grazing_px=0.035, edge_drop=0.5,
        axial_noise_m=0.0012, axial_quadratic_per_m=0.0019, axial_from_m=0.4,
        axial_grazing_m=0.0001,
        grazing_dropout=0.08, depth_step_m=0.001, min_range_m=0.4, max_range_m=8.0,
    )  # fmt: skip


def stereo() -> Sensor:
    """RealSense D435 with its filters, as drivers deliver it.

    Noise, its correlation and unevenness, the step of disparity and the width of edges are tuned to
    real frames by `experiments/sensor_statistics.py`: smooth depth, blobs of error some ten pixels
    wide, larger on some surfaces than on others, edges that ramp from one surface to the other, and
    shadows that are mostly filled in.
    """
    return Sensor(
        native_focal_px=383.0, baseline_m=0.05, shadow=0.3,
        lateral_px=0.1, edge_px=1.0, edge_blend=0.6, edge_drop=0.1, blur_px=3.5,
        disparity_noise_px=0.075, disparity_bias_px=0.1, disparity_step_px=1 / 32,
        correlated=0.98, correlation_px=10.0, uneven=0.4,
        patch_dropout=0.002, depth_step_m=0.001, min_range_m=0.2, max_range_m=10.0,
    )  # fmt: skip


def stereo_raw() -> Sensor:
    """RealSense D400 without filters: sigma = z^2 disparity noise / (f b), 0.1 px by the tuning
    paper of Intel; whole shadows, ragged edges, holes. What is not cited is assumed."""
    return Sensor(
        native_focal_px=424.0, baseline_m=0.05, shadow=1.0,
        lateral_px=0.3, edge_px=2.0, edge_blend=0.3, edge_drop=0.3,
        disparity_noise_px=0.1, disparity_bias_px=0.1, disparity_step_px=1 / 32,
        correlated=0.8, correlation_px=4.0,
        grazing_dropout=0.05, pixel_dropout=0.002, patch_dropout=0.02,
        depth_step_m=0.001, min_range_m=0.2, max_range_m=10.0,
    )  # fmt: skip


def time_of_flight() -> Sensor:
    """Kinect v2, Azure Kinect, Orbbec Femto.

    At 3.5 m the noise is 8.4 mm, and with the largest jitter 17 mm, the bound measured by
    Toelgyessy et al.; their bound of the systematic error is 11 mm.
    """
    return Sensor(
        native_focal_px=365.0,
        lateral_px=0.3, edge_px=0.7, edge_blend=0.6, edge_drop=0.3,
        axial_noise_m=0.001, axial_quadratic_per_m=0.0006, axial_grazing_m=0.0003,
        axial_bias_m=0.0055, correlated=0.3, correlation_px=3.0,
        grazing_dropout=0.08, pixel_dropout=0.001, patch_dropout=0.02,
        depth_step_m=0.001, min_range_m=0.25, max_range_m=6.0,
    )  # fmt: skip


def phone_lidar() -> Sensor:
    """LiDAR of a phone, 256 x 192: few measured points, brought to the resolution of the image by
    interpolation, so edges are smooth and noise is correlated. No constants are published: these
    are assumed, and wide when jittered."""
    return Sensor(
        native_focal_px=212.0,
        lateral_px=0.3, edge_px=1.0, edge_blend=0.7, blur_px=1.5,
        axial_noise_m=0.002, axial_quadratic_per_m=0.001, axial_bias_m=0.01,
        correlated=0.95, correlation_px=8.0,
        depth_step_m=0.001, min_range_m=0.2, max_range_m=5.0,
    )  # fmt: skip


# The order of sensor ids in a default mixture.
SENSORS = {
    "ideal": ideal,
    "gaussian": plain_gaussian,
    "structured_light": structured_light,
    "kinect_v1_axial": kinect_v1_axial,
    "stereo": stereo,
    "stereo_raw": stereo_raw,
    "time_of_flight": time_of_flight,
    "phone_lidar": phone_lidar,
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """Several sensors, one of which takes each image. Build one with `mixture`."""

    sensors: Sensor
    """Every field has an axis n."""
    shares: Float[Array, " n"]
    """Of all images; they sum to one."""


def mixture(sensors: Sequence[Sensor], shares: Sequence[float] | None = None) -> Mixture:
    """A mixture of sensors, in equal shares if none are given.

    Raises:
      ValueError: no sensors, or shares that are not one positive number for each.
    """
    shares = [1.0] * len(sensors) if shares is None else list(shares)
    if not sensors or len(shares) != len(sensors) or min(shares) < 0 or sum(shares) <= 0:
        raise ValueError(
            f"mixture: got {len(sensors)} sensors and shares {shares}, need at least one sensor, "
            "and for each a share >= 0, not all 0."
        )
    stacked = jax.tree.map(lambda *values: jnp.array(values, jnp.float32), *sensors)
    return Mixture(stacked, jnp.array(shares, jnp.float32) / sum(shares))


def choose(mix: Mixture, key: PRNGKeyArray) -> tuple[Int[Array, ""], Sensor]:
    """A sensor of the mixture at random, jittered, and its index."""
    which, vary = jax.random.split(key)
    draw = jax.random.uniform(which)
    last = mix.shares.shape[0] - 1
    index = jnp.minimum(jnp.sum(draw >= jnp.cumsum(mix.shares)), last).astype(jnp.int32)
    return index, jitter(jax.tree.map(lambda field: field[index], mix.sensors), vary)
