"""What the priors of the body draw: pictures of poses, joint angles, self-intersection, sizes.

    python experiments/prior_sheets.py --motion DIR --survey ansur2.json [--out experiments/out]
        [--results experiments/results/prior_sheets.json]

64 poses of each kind are drawn as pictures. Joint angles are compared with those of the clips that
the prior learned from. Self-intersection: 250 vertices all over the body, moved 5 mm out along
their normals, are inside another part where the winding number of the surface is above 1/2
(Jacobson et al. 2013); creases of bent joints count, so held-out motion is measured for comparison.
Statures are those of ANSUR II if shapes are drawn right: the height of the standing mesh.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jrecon
from experiments.clips import HELD_OUT, read_clips
from experiments.provenance import provenance
from jrecon.model.parametric import ParametricModel, Params
from jrecon.pictures import look_at, shade, sheet, write_image
from jrecon.render import render
from jrecon.synth.pose_prior import PoseConfig, PosePrior, pose_prior, sample_pose, tilt
from jrecon.synth.prior import sample_shape, shape_prior

KINDS = ("motion", "mixed", "limits", "hard")
CHECKED = 250
COUNT = 250
OUTWARD = 0.005


def draw(prior: PosePrior, kind: str, count: int) -> np.ndarray:
    """Poses (n, j, 3) of one kind."""
    shares = {each: float(each == kind) for each in KINDS}
    config = dataclasses.replace(PoseConfig(), **shares)
    keys = jax.random.split(jax.random.key(KINDS.index(kind)), count)
    return np.asarray(jax.jit(jax.vmap(lambda key: sample_pose(prior, config, key)[0]))(keys))


def pictures(model: ParametricModel, poses: np.ndarray, title: str) -> np.ndarray:
    """The poses from a little above and to the side, each as large as it fits."""
    images = []
    posed = jax.jit(lambda each: jax.lax.map(functools.partial(vertices_of, model), each))(poses)
    for vertices in np.asarray(posed):
        point = look_at(vertices, width=128, height=128, azimuth=0.5, elevation=0.25)
        view = render(jnp.asarray(point.place(vertices)), model.faces, point.camera)
        images.append(shade(view))
    return sheet(images, columns=8, title=title)


def vertices_of(model: ParametricModel, pose: jax.Array) -> jax.Array:
    """Of the mean shape, in the model's frame."""
    return jrecon.pose(model, Params(jnp.zeros(model.num_shape), pose, jnp.zeros(3))).vertices


def share_inside(model: ParametricModel, poses: np.ndarray) -> np.ndarray:
    """For every pose, how many of the checked vertices are inside another part, as a share."""

    def one(pose: jax.Array) -> jax.Array:
        vertices = vertices_of(model, pose)
        a, b, c = (vertices[model.faces[:, i]] for i in range(3))
        area = jnp.cross(b - a, c - a)
        normals = jnp.zeros_like(vertices).at[model.faces.reshape(-1)].add(jnp.repeat(area, 3, 0))
        normals /= jnp.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
        points = vertices[:CHECKED] + OUTWARD * normals[:CHECKED]
        return jnp.mean(jax.lax.map(functools.partial(winding, a, b, c), points) > 0.5)

    return np.asarray(jax.jit(lambda x: jax.lax.map(one, x))(jnp.asarray(poses)))


def winding(a: jax.Array, b: jax.Array, c: jax.Array, point: jax.Array) -> jax.Array:
    """Winding number of the triangles (f, 3) about a point (van Oosterom and Strackee 1983)."""
    a, b, c = a - point[None], b - point[None], c - point[None]
    x, y, z = (jnp.linalg.norm(side, axis=1) for side in (a, b, c))
    dot = lambda p, q: jnp.sum(p * q, axis=1)
    volume = dot(a, jnp.cross(b, c))
    base = x * y * z + dot(a, b) * z + dot(b, c) * x + dot(c, a) * y
    return jnp.sum(jnp.arctan2(volume, base)) / (2 * jnp.pi)


def summary(shares: np.ndarray) -> dict[str, float]:
    """How many poses have more than so many of the checked vertices inside."""
    return {
        "mean_share_of_vertices": round(float(shares.mean()), 4),
        "poses_above_2_percent": round(float((shares > 0.02).mean()), 3),
        "poses_above_5_percent": round(float((shares > 0.05).mean()), 3),
    }


def angles(drawn: np.ndarray, data: np.ndarray, names: tuple[str, ...]) -> dict[str, list[float]]:
    """For the size of each joint's rotation, the largest difference between the two cumulative
    histograms, and the 5th, 50th and 95th percentiles of draws and of data, radians."""
    table = {}
    for joint, name in enumerate(names[:22]):
        ours, theirs = (np.linalg.norm(poses[:, joint], axis=1) for poses in (drawn, data))
        grid = np.linspace(0, np.pi, 200)
        gap = max(abs(np.mean(ours < x) - np.mean(theirs < x)) for x in grid)
        marks = [*np.percentile(ours, [5, 50, 95]), *np.percentile(theirs, [5, 50, 95])]
        table[name] = [round(float(value), 2) for value in (gap, *marks)]
    return table


def statures(model: ParametricModel, survey: dict, count: int = 1000) -> dict[str, dict]:
    """Height of the standing mesh in mm, mean and standard deviation, beside the survey's."""
    stand = model.named_poses["stand"]
    keys = jax.random.split(jax.random.key(9), count)
    table = {}
    for group in ("female", "male"):
        prior = shape_prior(model, groups=[group])

        def height(key: jax.Array, prior: object = prior) -> jax.Array:
            params = Params(sample_shape(prior, key), stand, jnp.zeros(3))  # type: ignore
            vertices = jrecon.pose(model, params).vertices
            return jnp.ptp(vertices[:, 1]) * 1000

        heights = np.asarray(jax.jit(lambda k, f=height: jax.lax.map(f, k))(keys))
        index = survey["measures"].index("stature")
        table[group] = {
            "drawn": [round(float(heights.mean())), round(float(heights.std()))],
            "survey": [round(survey[group][key][index]) for key in ("mean", "sd")],
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--motion", type=Path, required=True)
    parser.add_argument("--survey", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("experiments/out"))
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    model = jrecon.load_model("body", level="2k")
    prior = pose_prior(model)
    args.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = provenance("experiments/prior_sheets.py --motion DIR --survey FILE")
    drawn = {kind: draw(prior, kind, COUNT) for kind in KINDS}
    clips = read_clips(args.motion, model)
    for poses in clips.values():
        poses[:, 0] = np.asarray(tilt(jnp.asarray(poses[:, 0], jnp.float32)))
    known = np.concatenate([poses for name, poses in clips.items() if name not in HELD_OUT])
    unseen = np.concatenate([clips[name] for name in sorted(HELD_OUT)]).astype(np.float32)
    report["statures_mm"] = statures(model, json.loads(args.survey.read_text()))
    report["angles_rad"] = angles(drawn["motion"], known, model.joint_names)
    report["inside"] = {}
    for kind, poses in {**drawn, "held-out motion": unseen[:: len(unseen) // 200]}.items():
        started = time.time()
        report["inside"][kind] = summary(share_inside(model, poses))
        print(kind, report["inside"][kind], f"{time.time() - started:.0f} s", flush=True)
    if args.results:
        args.results.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1), flush=True)
    for kind, poses in drawn.items():
        image = pictures(model, poses[:64], kind)
        write_image(args.out / f"poses_{kind}.png", image, overwrite=True)
        print(args.out / f"poses_{kind}.png", flush=True)


if __name__ == "__main__":
    main()
