"""Fit of the body model to clothed avatars of another rig: how much of a foreign person it covers.

    python experiments/fit_avatars.py --avatars DIR [--out experiments/results/fit_avatars.json]

Each avatar in its rest pose (T-pose) is fitted by Gauss-Newton: first its joints, then the surface,
point to plane from model vertices to their nearest point of the avatar and with Geman-McClure
weights, since hair and clothes are no part of the model. Distances are reported for all vertices,
hair and clothes included.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import trimesh

import jrecon
from experiments.provenance import provenance
from jrecon.geometry.mesh import closest_on_surface
from jrecon.model.parametric import from_vector, to_vector
from jrecon.pictures import downsample, look_at, shade, sheet, smooth_normals, write_image
from jrecon.render import render

JOINTS = {
    "pelvis": "Hips", "neck": "Neck", "head": "Head", "left_hip": "LeftUpLeg",
    "right_hip": "RightUpLeg", "left_knee": "LeftLeg", "right_knee": "RightLeg",
    "left_ankle": "LeftFoot", "right_ankle": "RightFoot", "left_shoulder": "LeftArm",
    "right_shoulder": "RightArm", "left_elbow": "LeftForeArm", "right_elbow": "RightForeArm",
    "left_wrist": "LeftHand", "right_wrist": "RightHand",
}  # fmt: skip
JOINT_SIGMA = 0.02
# Geman-McClure scale, metres: halves the pull of what is this far away; shrinks as the fit settles.
SCALES = (0.06, 0.06, 0.04, 0.04, 0.03, 0.03, 0.02, 0.02, 0.02, 0.02)
POSE_SIGMA, FINGER_SIGMA = 0.3, 0.05
SURFACE_SIGMA = 0.01


def solve(jacobian: np.ndarray, residual: np.ndarray, weight: np.ndarray, prior: Any) -> np.ndarray:
    """One Gauss-Newton step: rows of the Jacobian (n, q), and a diagonal-plus-dense prior."""
    precision, pull = prior
    left = jacobian.T @ (weight[:, None] * jacobian) + precision
    return np.linalg.solve(left, -jacobian.T @ (weight * residual) - pull)


def fit(
    model: jrecon.ParametricModel, mesh: trimesh.Trimesh, joints: dict[str, list[float]]
) -> Any:
    """Parameters of the model for one avatar."""
    group = model.prior_names.index("pooled")
    mean, covariance = np.asarray(model.prior_mean)[group], np.asarray(model.prior_cov)[group]
    start = jrecon.Params(jnp.asarray(mean), model.named_poses["t_pose"], jnp.zeros(3))
    center = np.asarray(to_vector(start), np.float64)
    sigma = np.full((model.num_joints, 3), FINGER_SIGMA)
    sigma[:22] = POSE_SIGMA
    s, q = model.num_shape, len(center)
    precision = np.zeros((q, q))
    precision[:s, :s] = np.linalg.inv(covariance + 1e-6 * np.eye(s))
    precision[range(s, q - 3), range(s, q - 3)] = sigma.ravel() ** -2
    vector = center.copy()

    ids = [model.joint_names.index(name) for name in JOINTS]
    goal = np.array([joints[other] for other in JOINTS.values()])
    joints_of = jax.jit(lambda v: jrecon.pose(model, from_vector(model, v)).joints[np.array(ids)])
    slope_of = jax.jit(jax.jacfwd(joints_of))
    for _ in range(8):
        at = jnp.asarray(vector, jnp.float32)
        residual = (np.asarray(joints_of(at)) - goal).ravel()
        rows = np.asarray(slope_of(at), np.float64).reshape(-1, q)
        weight = np.full(len(rows), JOINT_SIGMA**-2)
        vector += solve(rows, residual, weight, (precision, precision @ (vector - center)))

    vertices_of = jax.jit(lambda v: jrecon.pose(model, from_vector(model, v)).vertices)
    jacobian_of = jax.jit(lambda v: jrecon.jacobian(model, from_vector(model, v)))
    normals = np.asarray(mesh.face_normals)
    for scale in SCALES:
        at = jnp.asarray(vector, jnp.float32)
        vertices = np.asarray(vertices_of(at), np.float64)
        near = closest_on_surface(vertices, mesh.vertices, mesh.faces)
        normal = normals[near.face_id]
        residual = np.sum((vertices - near.points) * normal, axis=1)
        rows = np.einsum("vaq,va->vq", np.asarray(jacobian_of(at), np.float64), normal)
        weight = (scale**2 / (scale**2 + near.distance**2)) ** 2 / SURFACE_SIGMA**2
        # Neighbouring vertices see the same cloth: they are far from independent measurements.
        weight *= 200 / len(vertices)
        vector += solve(rows, residual, weight, (precision, precision @ (vector - center)))
    return from_vector(model, jnp.asarray(vector, jnp.float32))


def summary(distance: np.ndarray) -> dict[str, float]:
    mm = 1e3 * distance
    levels = {"mean": mm.mean(), "median": np.median(mm), "p95": np.percentile(mm, 95)}
    return {key: round(float(value), 1) for key, value in levels.items()}


def picture(meshes: list[tuple[np.ndarray, np.ndarray]], colors: list[Any]) -> np.ndarray:
    """Meshes in one frame, side by side, and then in one place: the nearer one shows."""
    images, depths = [], []
    framing = np.concatenate([vertices for vertices, _ in meshes])
    for (vertices, faces), color in zip(meshes, colors, strict=True):
        view = look_at(framing, width=560, height=640, azimuth=0.35)
        placed = view.place(vertices)
        seen = render(jnp.asarray(placed), jnp.asarray(faces), view.camera)
        images.append(shade(seen, color, normals=smooth_normals(seen, faces, placed)))
        depth = np.asarray(seen.depth)
        depths.append(np.where(depth > 0, depth, np.inf))
    nearer = np.argmin(depths, axis=0)
    overlay = np.where(nearer[..., None] == 0, images[0], images[1])
    return np.concatenate([downsample(image, 2) for image in (*images, overlay)], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--avatars", type=Path, required=True)
    parser.add_argument("--level", default="3.5k")
    parser.add_argument("--out", type=Path, default=Path("experiments/results/fit_avatars.json"))
    parser.add_argument("--picture", type=Path, default=Path("docs/images/fit_avatars.png"))
    args = parser.parse_args()
    full = jrecon.load_model("body")
    coarse = jrecon.at_level(full, args.level)
    results, images, names = {}, [], []
    for path in sorted(args.avatars.glob("*__rest.ply")):
        mesh: Any = trimesh.load(path, process=False)
        joints = json.loads(path.with_name(path.stem + "_joints.json").read_text())
        params = fit(coarse, mesh, joints)
        vertices = np.asarray(jrecon.pose(full, params).vertices, np.float64)
        name = path.stem.removesuffix("__rest")
        faces = np.asarray(full.faces)
        results[name] = {
            "model to avatar (mm)": summary(
                closest_on_surface(vertices, mesh.vertices, mesh.faces).distance
            ),
            "avatar to model (mm)": summary(
                closest_on_surface(mesh.vertices, vertices, faces).distance
            ),
            "shape rms (sd)": round(float(jnp.sqrt(jnp.mean(params.shape**2))), 2),
        }
        print(name, results[name], flush=True)
        pair = [(np.asarray(mesh.vertices), np.asarray(mesh.faces)), (vertices, faces)]
        images.append(picture(pair, [(0.75, 0.6, 0.45), (0.62, 0.66, 0.72)]))
        names.append(f"{name}: avatar, fit, both")
    write_image(args.picture, sheet(images, columns=2, captions=names), overwrite=True)
    both = ("model to avatar (mm)", "avatar to model (mm)")
    means = {k: round(float(np.mean([r[k]["mean"] for r in results.values()])), 1) for k in both}
    report = provenance("experiments/fit_avatars.py --avatars DIR") | {
        "level": args.level, "avatars": results, "mean over avatars": means,
    }  # fmt: skip
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
