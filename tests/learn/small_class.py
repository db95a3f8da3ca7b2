"""A small class to learn: a bent rod with two joints, whose shape is its length and thickness."""

import numpy as np
import trimesh

from jrecon.learn.network import NetworkConfig
from jrecon.learn.train import TrainConfig
from jrecon.model.parametric import ParametricModel, make_model
from jrecon.synth.generate import SynthConfig
from jrecon.synth.segmentation import RegionConfig
from jrecon.synth.surroundings import SurroundingsConfig
from jrecon.synth.viewpoint import ViewConfig

# Of the examples that are made at once: one size, one compilation.
BATCH = 8
NETWORK = NetworkConfig(image=16, patch=4, channels=(8, 16), blocks=(1, 1), hidden=32)
CONFIG = TrainConfig(steps=40, batch=BATCH, warmup=2, decay=10, learning_rate=3e-3, vertices=40)
EASY = SynthConfig(
    view=ViewConfig(distance_m=(1.5, 2.5), azimuth_rad=(-0.5, 0.5), aim=(-0.05, 0.05)),
    surroundings=SurroundingsConfig(nothing_rate=1.0, boxes=1, ellipsoids=1, occluders=1),
    regions=RegionConfig(rate=0.0, count=1),
    sensors=("ideal", "gaussian"),
    height=24,
    width=24,
)


def rod(longest_edge: float | None = None) -> ParametricModel:
    """y from -0.5 to 0.5 m, with a nose that tells its front."""
    made = trimesh.creation.capsule(height=0.8, radius=0.1, count=(8, 8))
    if longest_edge:
        parts = trimesh.remesh.subdivide_to_size(made.vertices, made.faces, longest_edge)
        # Joins what lies in one place.
        made = trimesh.Trimesh(parts[0], parts[1])
    points = np.asarray(made.vertices)[:, [1, 2, 0]]
    points[:, 2] += 0.08 * (points[:, 2] > 0.05)
    upper = np.clip((points[:, 1] + 0.05) / 0.1, 0, 1)
    longer = points * [0.0, 0.2, 0.0]
    thicker = points * [0.2, 0.0, 0.2]
    return make_model(
        points,
        np.asarray(made.faces),
        shape_basis=np.stack([longer, thicker], axis=-1),
        joints=[[0, -0.3, 0], [0, 0, 0]],
        joint_basis=np.stack([[[0, -0.06, 0], [0, 0, 0]], np.zeros((2, 3))], axis=-1),
        parents=(-1, 0),
        weights=np.stack([1 - upper, upper], axis=1),
        pose_limits=[[[-3] * 3, [-0.8, -0.2, -0.2]], [[3] * 3, [0.8, 0.2, 0.2]]],
        name="rod",
    )
