"""Motion-captured poses on the body model: a contact sheet, and how well bones keep directions.

    python experiments/poses_sheet.py --motion DIR [--out docs/images/motion.png]

Poses are chosen for variety by farthest-point selection over all frames of all clips.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jrecon
from experiments.provenance import provenance
from jrecon.model.retarget import Motion, global_rotations, read_cmu, read_deepmimic, retarget
from jrecon.pictures import (
    Image,
    Viewpoint,
    downsample,
    look_at,
    shade,
    sheet,
    smooth_normals,
    write_image,
)
from jrecon.render import render

CLIPS = ("backflip", "crawl", "dance_a", "getup_facedown", "jump", "roll", "run", "spinkick")
# Directions to compare: target bone, and the source joints of the same bone.
BONES = {
    "left_hip": "left_knee", "right_hip": "right_knee", "left_knee": "left_ankle",
    "right_knee": "right_ankle", "left_shoulder": "left_elbow", "right_shoulder": "right_elbow",
    "left_elbow": "left_wrist", "right_elbow": "right_wrist",
}  # fmt: skip


def load(folder: Path) -> list[Motion]:
    """CMU as one motion, and the DeepMimic clips."""
    character = folder / "deepmimic" / "character_humanoid3d.txt"
    clips = [folder / "deepmimic" / f"humanoid3d_{name}.txt" for name in CLIPS]
    return [read_cmu(folder / "cmu_poses.npz"), *(read_deepmimic(character, c) for c in clips)]


def pick(poses: np.ndarray, count: int) -> np.ndarray:
    """Indices of poses far from each other in body pose (orientation left out)."""
    points = poses[:, 1:22].reshape(len(poses), -1)
    chosen = [int(np.argmin(np.linalg.norm(points - points.mean(0), axis=1)))]
    distance = np.full(len(points), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
        chosen.append(int(distance.argmax()))
    return np.array(chosen)


def direction_errors(motion: Motion, model: jrecon.ParametricModel, pose: np.ndarray) -> np.ndarray:
    """Angle between each limb bone of source and target, degrees, (n, bones)."""
    world = global_rotations(motion.parents, motion.rotations)
    params = jrecon.Params(jnp.zeros(model.num_shape), jnp.asarray(pose), jnp.zeros(3))
    joints = np.asarray(jrecon.pose(model, params).joints)
    index, errors = model.joint_names.index, []
    for start, end in BONES.items():
        source = motion.mapping[start][0]
        i, k = (motion.joint_names.index(n) for n in (source, motion.limbs[source]))
        theirs = world[:, i] @ (motion.rest[k] - motion.rest[i])
        ours = joints[:, index(end)] - joints[:, index(start)]
        cosine = np.sum(theirs * ours, 1) / np.linalg.norm(theirs, axis=1)
        errors.append(np.degrees(np.arccos(np.clip(cosine / np.linalg.norm(ours, axis=1), -1, 1))))
    return np.stack(errors, axis=1)


def picture(viewpoint: Viewpoint, vertices: np.ndarray, faces: jax.Array) -> Image:
    placed = viewpoint.place(vertices)
    view = render(jnp.asarray(placed), faces, viewpoint.camera)
    return shade(view, normals=smooth_normals(view, faces, placed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--motion", type=Path, required=True)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path("docs/images/motion.png"))
    parser.add_argument("--report", type=Path, default=Path("experiments/results/poses.json"))
    args = parser.parse_args()
    model = jrecon.at_level(jrecon.load_model("body"), "7k")
    coarse = jrecon.at_level(model, "2k")
    motions = load(args.motion)
    poses = [retarget(motion, model).pose for motion in motions]
    errors = [direction_errors(m, coarse, p) for m, p in zip(motions, poses, strict=True)]
    low, high = (np.asarray(bound) for bound in model.pose_limits)
    outside = [((p[:, 1:22] < low[1:22]) | (p[:, 1:22] > high[1:22])).mean() for p in poses]
    # Two thirds from capture, one third from the acrobatic clips.
    share = [args.count * 2 // 3, args.count - args.count * 2 // 3]
    chosen = np.concatenate(
        [
            poses[0][pick(poses[0], share[0])],
            np.concatenate(poses[1:])[pick(np.concatenate(poses[1:]), share[1])],
        ]
    )
    images = []
    for one in chosen:
        params = jrecon.Params(jnp.zeros(model.num_shape), jnp.asarray(one), jnp.zeros(3))
        vertices = np.asarray(jrecon.pose(model, params).vertices)
        views = [
            look_at(vertices, width=280, height=360, azimuth=azimuth, elevation=0.15)
            for azimuth in (0.5, 2.07)
        ]
        pair = [picture(view, vertices, model.faces) for view in views]
        images.append(downsample(np.concatenate(pair, axis=1), 2))
    write_image(args.out, sheet(images, columns=6), overwrite=True)
    report = provenance("experiments/poses_sheet.py --motion DIR") | {
        "bone direction error (degrees)": {
            name: {"mean": float(e.mean()), "max": float(e.max())}
            for name, e in zip(("cmu", *CLIPS), errors, strict=True)
        },
        "share of axis-angle components outside the joint limits": {
            name: float(share) for name, share in zip(("cmu", *CLIPS), outside, strict=True)
        },
    }
    args.report.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
