"""Motion-captured poses on the body model: a contact sheet, and how much carries over.

    python experiments/poses_sheet.py --motion DIR [--out docs/images/motion.png]

Poses are chosen for variety by farthest-point selection over all frames of all clips; each is seen
from the front and the left of its pelvis. Reported: directions of limb bones; joint positions
against the source's, both from the middle of the hips and scaled by the length of the legs (bodies
of other proportions never match in these); on the walks of DeepMimic, which have a root position
and the ground at y = 0, how high the lowest point is and how far feet slide while they stand.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

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

WALKS = ("walk", "run", "stealthy_walk", "zombie_walk")
CLIPS = ("backflip", "crawl", "dance_a", "getup_facedown", "jump", "roll", "run", "spinkick")
# Directions to compare: target bone, and the source joints of the same bone.
BONES = {
    "left_hip": "left_knee", "right_hip": "right_knee", "left_knee": "left_ankle",
    "right_knee": "right_ankle", "left_shoulder": "left_elbow", "right_shoulder": "right_elbow",
    "left_elbow": "left_wrist", "right_elbow": "right_wrist",
}  # fmt: skip


def load_clip(folder: Path, name: str) -> Motion:
    folder = folder / "deepmimic"
    clip = folder / f"humanoid3d_{name}.txt"
    return read_deepmimic(folder / "character_humanoid3d.txt", clip)


def load(folder: Path) -> list[Motion]:
    """CMU as one motion, and the DeepMimic clips."""
    return [read_cmu(folder / "cmu_poses.npz"), *(load_clip(folder, name) for name in CLIPS)]


def pick(poses: np.ndarray, count: int) -> np.ndarray:
    """Indices of poses far from each other in body pose (orientation left out)."""
    points = poses[:, 1:22].reshape(len(poses), -1)
    chosen = [int(np.argmin(np.linalg.norm(points - points.mean(0), axis=1)))]
    distance = np.full(len(points), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
        chosen.append(int(distance.argmax()))
    return np.array(chosen)


def source_joints(motion: Motion) -> np.ndarray:
    """Joint positions of the source, metres, (n, j, 3)."""
    world = global_rotations(motion.parents, motion.rotations)
    joints = np.repeat(motion.root[:, None], len(motion.parents), axis=1)
    for joint, parent in enumerate(motion.parents):
        if parent >= 0:
            step = world[:, parent] @ (motion.rest[joint] - motion.rest[parent])
            joints[:, joint] = joints[:, parent] + step
    return joints


def target_joints(model: jrecon.ParametricModel, pose: np.ndarray) -> np.ndarray:
    params = jrecon.Params(jnp.zeros(model.num_shape), jnp.asarray(pose), jnp.zeros(3))
    return np.asarray(jrecon.pose(model, params).joints, np.float64)


def leg_scale(motion: Motion, model: jrecon.ParametricModel) -> float:
    """Length of the target's legs over the source's."""
    names = ("left_hip", "left_knee", "left_ankle")
    rest = np.asarray(model.joints)
    ours = [rest[model.joint_names.index(name)] for name in names]
    theirs = [motion.rest[motion.joint_names.index(motion.mapping[name][0])] for name in names]
    length = lambda p: np.linalg.norm(p[1] - p[0]) + np.linalg.norm(p[2] - p[1])
    return float(length(ours) / length(theirs))


def position_errors(
    motion: Motion, model: jrecon.ParametricModel, pose: np.ndarray
) -> dict[str, dict[str, float]]:
    """Distance between joints of target and scaled source, from the middle of the hips, mm."""
    hips = ("left_hip", "right_hip")
    ours, theirs = target_joints(model, pose), leg_scale(motion, model) * source_joints(motion)
    ours_at = {name: ours[:, model.joint_names.index(name)] for name in model.joint_names}
    follow = {name: motion.mapping[name][0] for name in (*BONES, *BONES.values())
              if name in motion.mapping}  # fmt: skip
    theirs_at = {n: theirs[:, motion.joint_names.index(other)] for n, other in follow.items()}
    for joints in (ours_at, theirs_at):
        middle = (joints[hips[0]] + joints[hips[1]]) / 2
        for name in joints:
            joints[name] = joints[name] - middle
    errors = {n: 1e3 * np.linalg.norm(ours_at[n] - at, axis=1) for n, at in theirs_at.items()}
    return {
        name: {"mean": round(float(e.mean()), 1), "p95": round(float(np.percentile(e, 95)), 1)}
        for name, e in sorted(errors.items())
    }


def ground_contact(folder: Path, name: str, model: jrecon.ParametricModel) -> dict[str, float]:
    """Height of the lowest vertex, and the slide of standing feet on target and scaled source."""
    motion = load_clip(folder, name)
    got = retarget(motion, model)
    params = jrecon.Params(
        jnp.zeros(model.num_shape), jnp.asarray(got.pose), jnp.asarray(got.translation)
    )
    posed = jrecon.pose(model, params)
    low = 1e3 * np.asarray(posed.vertices)[..., 1].min(1)
    ours = np.asarray(posed.joints, np.float64)
    theirs = leg_scale(motion, model) * source_joints(motion)
    slides = []
    for side in ("left", "right"):
        ankle = f"{side}_ankle"
        source = theirs[:, motion.joint_names.index(ankle)]
        target = ours[:, model.joint_names.index(ankle)]
        # A foot stands while its ankle is near its lowest in this clip, before and after a step.
        near = source[:, 1] < source[:, 1].min() + 0.03
        stands = near[1:] & near[:-1]
        slides.append(
            [np.linalg.norm(np.diff(p[:, [0, 2]], axis=0)[stands], axis=1)
             for p in (target, source)]
        )  # fmt: skip
    target_slide, source_slide = (
        1e3 * np.concatenate(parts) for parts in zip(*slides, strict=True)
    )
    figures = dict(
        lowest_p5=np.percentile(low, 5), lowest_median=np.median(low),
        lowest_p95=np.percentile(low, 95), slide_per_frame=target_slide.mean(),
        slide_per_frame_of_source=source_slide.mean(),
    )  # fmt: skip
    return {key: round(float(value), 1) for key, value in figures.items()}


def direction_errors(motion: Motion, model: jrecon.ParametricModel, pose: np.ndarray) -> np.ndarray:
    """Angle between each limb bone of source and target, degrees, (n, bones)."""
    theirs_all, ours_all = source_joints(motion), target_joints(model, pose)
    index, errors = model.joint_names.index, []
    for start, end in BONES.items():
        source = motion.mapping[start][0]
        i, k = (motion.joint_names.index(n) for n in (source, motion.limbs[source]))
        theirs = theirs_all[:, k] - theirs_all[:, i]
        ours = ours_all[:, index(end)] - ours_all[:, index(start)]
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
    motions, walk = load(args.motion), load_clip(args.motion, "walk")
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
        front = Rotation.from_rotvec(one[0]).as_matrix()[:, 2]
        heading = float(np.arctan2(front[0], front[2]))
        views = [
            look_at(vertices, width=280, height=360, azimuth=heading + turn, elevation=0.1)
            for turn in (0.0, np.pi / 2)
        ]
        pair = [picture(view, vertices, model.faces) for view in views]
        images.append(downsample(np.concatenate(pair, axis=1), 2))
    write_image(args.out, sheet(images, columns=6), overwrite=True)
    report = provenance("experiments/poses_sheet.py --motion DIR") | {
        "bone direction error (degrees)": {
            name: {"mean": float(e.mean()), "max": float(e.max())}
            for name, e in zip(("cmu", *CLIPS), errors, strict=True)
        },
        "joint position error (mm)": {
            "cmu": position_errors(motions[0], coarse, poses[0]),
            "walk": position_errors(walk, coarse, retarget(walk, coarse).pose),
        },
        "ground contact (mm)": {n: ground_contact(args.motion, n, coarse) for n in WALKS},
        "share of axis-angle components outside the joint limits": {
            name: float(share) for name, share in zip(("cmu", *CLIPS), outside, strict=True)
        },
    }
    args.report.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
