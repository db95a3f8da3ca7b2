"""Fit the pose prior of the body to open motion; only the computed statistics are kept.

    python experiments/build_pose_prior.py --motion DIR [--out jrecon/synth/assets/body_poses.npz]
        [--results experiments/results/pose_prior.json] [--sheet poses.png]

A mixture of Gaussians with covariance basis basis^T + diagonal^2, by expectation maximisation over
the rotation vectors of the 22 body joints, heading removed, mirrored poses included. Frames are
thinned so that no two are alike, or walking would be most of it. The number of components and the
rank are those with the highest likelihood on held-out clips (`experiments/clips.py`). Hard poses
are set by hand or, for hands that touch something, by inverse kinematics.

The data used in this project was obtained from mocap.cs.cmu.edu. The database was created with
funding from NSF EIA-0196217. Hard clips: DeepMimic (MIT).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import logsumexp

import jrecon
from experiments.clips import HELD_OUT, read_clips
from experiments.provenance import provenance
from jrecon.model.parametric import ParametricModel, Params
from jrecon.synth.pose_prior import other_side, remove_heading

BODY_JOINTS = 22
# What is tried: components, rank, and as if how many poses of the whole were in each component.
TRIALS = [(k, r, n) for k in (4, 8, 16) for r in (6, 12, 24) for n in (100, 400)]
# Two frames differ if some joint does by more than this, radians.
APART = 0.2
# Nobody holds a joint to better than this, radians; it also keeps covariances regular.
FLOOR = 0.04
NOTICE = (
    "Statistics of motion data obtained from mocap.cs.cmu.edu (created with funding from NSF "
    "EIA-0196217) and of DeepMimic's clips (MIT), retargeted to the body model."
)


def thin(poses: np.ndarray) -> np.ndarray:
    """Frames in order, without those that are close to one already kept."""
    kept: list[np.ndarray] = []
    for pose in poses:
        if not kept or np.abs(np.array(kept) - pose).max((1, 2)).min() > APART:
            kept.append(pose)
    return np.array(kept)


def training_set(
    clips: dict[str, np.ndarray], model: ParametricModel, held_out: bool
) -> np.ndarray:
    """Vectors (n, 66), mirrored ones included."""
    names = model.joint_names
    mirror = [names.index(other_side(name)) for name in names[:BODY_JOINTS]]
    chosen = []
    for name, poses in clips.items():
        if (name in HELD_OUT) == held_out:
            poses = poses[:, :BODY_JOINTS].copy()
            poses[:, 0] = np.asarray(remove_heading(jnp.asarray(poses[:, 0], jnp.float32)))
            # Half a turn has two rotation vectors; means need those of one side.
            chosen.append(thin(poses))
    poses = np.concatenate(chosen)
    poses = np.concatenate([poses, poses[:, mirror] * [1.0, -1.0, -1.0]])
    return poses.reshape(len(poses), -1)


Mixture = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def log_density(data: np.ndarray, mixture: Mixture) -> np.ndarray:
    """Log of share times density, (n, k)."""
    shares, means, basis, diagonal = mixture
    columns = []
    for k in range(len(shares)):
        covariance = basis[k] @ basis[k].T + np.diag(diagonal[k] ** 2)
        factor = np.linalg.cholesky(covariance)
        rest = np.linalg.solve(factor, (data - means[k]).T)
        columns.append(
            np.log(shares[k])
            - 0.5 * (rest**2).sum(0)
            - np.log(np.diag(factor)).sum()
            - 0.5 * data.shape[1] * np.log(2 * np.pi)
        )
    return np.stack(columns, axis=1)


def fit(
    data: np.ndarray, count: int, rank: int, strength: float, seed: int = 0, steps: int = 30
) -> Mixture:
    """Expectation maximisation from centres that are far apart; the covariance of a component is
    drawn towards that of all poses as if `strength` of them were in it, then cut to `rank`."""
    rng = np.random.default_rng(seed)
    centres = [data[rng.integers(len(data))]]
    for _ in range(count - 1):
        distance = np.min([((data - c) ** 2).sum(1) for c in centres], axis=0)
        centres.append(data[rng.choice(len(data), p=distance / distance.sum())])
    share_of = np.argmin([((data - c) ** 2).sum(1) for c in centres], axis=0)
    weights = np.eye(count)[share_of]
    common = np.cov(data.T) / (1 if count == 1 else 2)
    mixture: Mixture | None = None
    for _ in range(steps):
        total = weights.sum(0) + 1e-9
        shares = (total + 1) / (total + 1).sum()
        means = (weights.T @ data) / total[:, None]
        basis, diagonal = [], []
        for k in range(count):
            rest = data - means[k]
            covariance = (rest * weights[:, k : k + 1]).T @ rest + strength * common
            covariance /= total[k] + strength
            values, vectors = np.linalg.eigh(covariance)
            leading = vectors[:, -rank:] * np.sqrt(np.maximum(values[-rank:], 0.0))
            left = np.diag(covariance) - (leading**2).sum(1)
            basis.append(leading)
            diagonal.append(np.sqrt(np.maximum(left, FLOOR**2)))
        mixture = shares, means, np.array(basis), np.array(diagonal)
        logs = log_density(data, mixture)
        weights = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
    assert mixture is not None
    return mixture


# Rotation vectors in radians, by joint; the arms are as in `stand` where not given.
BY_HAND: dict[str, dict[str, tuple[float, float, float]]] = {
    "sit": {"left_hip": (-1.45, 0.1, 0.1), "right_hip": (-1.45, -0.1, -0.1),
            "left_knee": (1.5, 0, 0), "right_knee": (1.5, 0, 0)},
    "sit low": {"pelvis": (-0.15, 0, 0), "left_hip": (-1.8, 0.25, 0.2),
                "right_hip": (-1.8, -0.25, -0.2), "left_knee": (2.0, 0, 0),
                "right_knee": (2.0, 0, 0), "spine2": (0.3, 0, 0)},
    "crouch": {"pelvis": (0.5, 0, 0), "left_hip": (-2.0, 0.2, 0.2), "right_hip": (-2.0, -0.2, -0.2),
               "left_knee": (2.2, 0, 0), "right_knee": (2.2, 0, 0), "left_ankle": (-0.5, 0, 0),
               "right_ankle": (-0.5, 0, 0), "spine1": (0.2, 0, 0), "spine2": (0.2, 0, 0)},
    "kneel": {"left_hip": (-0.2, 0, 0), "right_hip": (-1.5, 0, 0), "left_knee": (1.8, 0, 0),
              "right_knee": (1.6, 0, 0), "left_ankle": (0.6, 0, 0)},
    "kick": {"pelvis": (-0.3, 0, 0), "right_hip": (-1.3, 0, 0), "right_knee": (0.3, 0, 0),
             "left_hip": (0.2, 0, 0), "left_knee": (0.2, 0, 0)},
    "kick sideways": {"pelvis": (0, 0, -0.4), "left_hip": (-0.4, 0, 0.9), "left_knee": (0.2, 0, 0),
                      "right_hip": (0, 0, -0.3)},
    "knee up": {"left_hip": (-1.5, 0, 0), "left_knee": (1.7, 0, 0)},
    "stoop": {"pelvis": (0.9, 0, 0), "left_hip": (-0.9, 0, 0), "right_hip": (-0.9, 0, 0),
              "spine1": (0.4, 0, 0), "spine2": (0.3, 0, 0)},
    "on the back": {"pelvis": (-1.55, 0, 0)},
    "on the front": {"pelvis": (1.55, 0, 0)},
    "on the side": {"pelvis": (0, 0, 1.55), "left_hip": (-0.5, 0, 0), "right_hip": (-0.3, 0, 0),
                    "left_knee": (0.7, 0, 0), "right_knee": (0.4, 0, 0)},
    "lunge": {"left_hip": (-1.2, 0, 0), "left_knee": (1.3, 0, 0), "right_hip": (0.4, 0, 0),
              "right_knee": (0.5, 0, 0)},
}  # fmt: skip
# Where wrists go in the rest frame, metres from the pelvis; the other arm mirrors unless given.
BY_REACH: dict[str, dict[str, tuple[float, float, float]]] = {
    "arms crossed": {"left_wrist": (-0.10, 0.22, 0.22), "right_wrist": (0.10, 0.25, 0.18)},
    "hands on hips": {"left_wrist": (0.23, 0.02, 0.06), "right_wrist": (-0.23, 0.02, 0.06)},
    "hands before the face": {"left_wrist": (0.08, 0.50, 0.30), "right_wrist": (-0.08, 0.50, 0.30)},
    "arms up": {"left_wrist": (0.25, 0.95, 0.05), "right_wrist": (-0.25, 0.95, 0.05)},
    "reach forward": {"left_wrist": (0.15, 0.40, 0.58), "right_wrist": (-0.15, 0.40, 0.58)},
    "hands together": {"left_wrist": (0.06, 0.05, 0.25), "right_wrist": (-0.06, 0.05, 0.25)},
    "phone": {"left_wrist": (0.12, 0.52, 0.10), "right_wrist": (-0.28, -0.05, 0.05)},
}


def hard_poses(model: ParametricModel) -> dict[str, np.ndarray]:
    """Poses (22, 3) by name; those of hands by inverse kinematics from `stand`."""
    names = model.joint_names
    stand = np.asarray(model.named_poses["stand"])
    found = {}
    for name, joints in BY_HAND.items():
        pose = stand.copy()
        for joint, vector in joints.items():
            pose[names.index(joint)] = vector
        found[name] = pose
    for name, targets in BY_REACH.items():
        found[name] = reach(model, stand, targets)
    # Sitting with the hands where hands are.
    for legs in ("sit", "sit low", "kick"):
        for arms in ("hands together", "arms crossed", "reach forward"):
            pose = found[legs].copy()
            for joint, each in enumerate(names):
                if any(part in each for part in ("collar", "shoulder", "elbow", "wrist")):
                    pose[joint] = found[arms][joint]
            found[f"{legs}, {arms}"] = pose
    low, high = (np.asarray(bound) for bound in model.pose_limits)
    for pose in found.values():
        pose[1:] = np.clip(pose, low, high)[1:]
    return {name: pose[:BODY_JOINTS] for name, pose in found.items()}


def reach(
    model: ParametricModel, start: np.ndarray, targets: dict[str, tuple[float, float, float]]
) -> np.ndarray:
    """The pose nearest to the start, inside the limits, with joints at given places."""
    arms = np.array(
        [any(p in n for p in ("collar", "shoulder", "elbow")) for n in model.joint_names]
    )
    ids = np.array([model.joint_names.index(name) for name in targets])
    goals = jnp.array(list(targets.values()))
    low, high = model.pose_limits

    def loss(pose: jax.Array) -> jax.Array:
        shape, place = jnp.zeros(model.num_shape), jnp.zeros(3)
        joints = jrecon.pose(model, Params(shape, pose, place)).joints[ids]
        beyond = jnp.sum(jnp.maximum(pose - high, 0) ** 2 + jnp.maximum(low - pose, 0) ** 2)
        return jnp.sum((joints - goals) ** 2) + 1e-3 * jnp.sum((pose - start) ** 2) + beyond

    optimizer = optax.adam(0.03)

    @jax.jit
    def run(pose: jax.Array) -> jax.Array:
        def step(state: tuple, _: None) -> tuple:
            pose, memory = state
            slope = jax.grad(loss)(pose) * arms[:, None]
            change, memory = optimizer.update(slope, memory)
            return (pose + change, memory), None

        return jax.lax.scan(step, (pose, optimizer.init(pose)), length=300)[0][0]

    return np.array(run(jnp.asarray(start, jnp.float32)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--motion", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("jrecon/synth/assets/body_poses.npz"))
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    model = jrecon.load_model("body", level="2k")
    clips = read_clips(args.motion, model)
    data, test = (training_set(clips, model, held_out) for held_out in (False, True))
    print(f"{len(data)} poses to learn from, {len(test)} to test on", flush=True)
    scores = {}
    single = fit(data, 1, data.shape[1] - 1, 0.0, steps=2)
    scores["one Gaussian"] = float(logsumexp(log_density(test, single), axis=1).mean())
    best, chosen = -np.inf, single
    for count, rank, strength in TRIALS:
        mixture = fit(data, count, rank, strength)
        score = float(logsumexp(log_density(test, mixture), axis=1).mean())
        name = f"{count} of rank {rank}, strength {strength}"
        scores[name] = score
        print(f"{name}: {score:.2f} nats per held-out pose", flush=True)
        if score > best:
            best, chosen = score, mixture
    hard = hard_poses(model)
    arrays = dict(zip(("shares", "means", "basis", "diagonal"), chosen, strict=True))
    np.savez_compressed(
        args.out,
        **{key: value.astype(np.float16) for key, value in arrays.items()},
        hard=np.stack(list(hard.values())).reshape(len(hard), -1).astype(np.float16),
        hard_names=np.array(list(hard)),
        joint_names=np.array(model.joint_names[:BODY_JOINTS]),
        notice=np.array(NOTICE),
    )
    report = provenance("experiments/build_pose_prior.py --motion DIR") | {
        "poses": len(data),
        "held_out_poses": len(test),
        "held_out_clips": sorted(HELD_OUT),
        "nats_per_held_out_pose": {key: round(value, 2) for key, value in scores.items()},
        "bytes": args.out.stat().st_size,
    }
    print(json.dumps(report["nats_per_held_out_pose"]), report["bytes"])
    if args.results:
        args.results.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
