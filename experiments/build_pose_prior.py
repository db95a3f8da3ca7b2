"""Fit the pose prior of the body to open motion; only the computed statistics are kept.

    python experiments/build_pose_prior.py --motion DIR [--out jrecon/synth/assets/body_poses.npz]
        [--results experiments/results/pose_prior.json]

A mixture of Gaussians with covariance basis basis^T + diagonal^2, by expectation maximisation over
the rotation vectors of the 22 body joints, heading removed, mirrored poses included. Frames are
thinned so that no two are alike, or walking would be most of it. The number of components, the
rank and the shrinkage have the highest likelihood in cross-validation over clips; the clips of
`experiments.clips.HELD_OUT` take no part in that and give the likelihood that is reported. Hard
poses are set by hand or, for hands that touch something, by inverse kinematics.

The data used in this project was obtained from mocap.cs.cmu.edu. The database was created with
funding from NSF EIA-0196217. Hard clips: DeepMimic (MIT).
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

import jrecon
from experiments.clips import HELD_OUT, read_clips
from experiments.provenance import provenance
from jrecon.model.parametric import ParametricModel, Params
from jrecon.model.symmetry import other_side
from jrecon.synth.pose_prior import tilt

BODY_JOINTS = 22
# What is tried: components, rank, and as if how many poses of the whole were in each component.
TRIALS = list(itertools.product((8, 16, 32), (24, 64), (50.0, 100.0, 400.0)))
FOLDS = 3
# Two frames differ if some joint does by more than this, radians.
APART = 0.25
# Least share of the component that knows no kinds of pose.
BACKGROUND = 0.1
# Nobody holds a joint to better than this, radians; it also keeps covariances regular.
FLOOR = 0.04
# The captures do not record collar bones, which shrug and follow the arms.
COLLAR_FLOOR = 0.1
NOTICE = (
    "Statistics of motion data obtained from mocap.cs.cmu.edu (the database was created with "
    "funding from NSF EIA-0196217) and of DeepMimic's clips (MIT licence), retargeted to the body "
    "model. The data itself is not included."
)

Mixture = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def body_vectors(clips: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rotation vectors (n, 66) of the body joints, the heading removed from the first. Of all clips
    at once: JAX compiles anew for each length."""
    poses = np.concatenate(list(clips.values()))[:, :BODY_JOINTS].astype(np.float32)
    poses[:, 0] = np.asarray(tilt(jnp.asarray(poses[:, 0])))
    ends = np.cumsum([len(clip) for clip in clips.values()])
    return dict(zip(clips, np.split(poses.reshape(len(poses), -1), ends[:-1]), strict=True))


def thin(vectors: np.ndarray) -> np.ndarray:
    """Frames in order, without those that are close to one already kept."""
    kept, count = np.zeros_like(vectors), 0
    for vector in vectors:
        if not np.any(np.abs(kept[:count] - vector).max(1) < APART):
            kept[count] = vector
            count += 1
    return kept[:count]


def with_mirrored(vectors: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """The poses, and then the same in a mirror."""
    mirror = [names.index(other_side(name)) for name in names[:BODY_JOINTS]]
    poses = vectors.reshape(len(vectors), BODY_JOINTS, 3)
    other = poses[:, mirror] * np.array([1.0, -1.0, -1.0], np.float32)
    return np.concatenate([poses, other]).reshape(2 * len(poses), -1)


def floors(names: tuple[str, ...]) -> np.ndarray:
    """The least standard deviation of each component, radians."""
    each = [COLLAR_FLOOR if "collar" in name else FLOOR for name in names[:BODY_JOINTS]]
    return np.repeat(np.array(each, np.float32), 3)


def log_density(data: np.ndarray, mixture: Mixture) -> np.ndarray:
    """Log of share times density, (n, k)."""
    shares, means, basis, diagonal = mixture
    columns = []
    for k in range(len(shares)):
        covariance = basis[k] @ basis[k].T + np.diag(diagonal[k] ** 2)
        factor = np.linalg.cholesky(covariance)
        rest = solve_triangular(factor, (data - means[k]).T, lower=True)
        columns.append(
            np.log(shares[k])
            - 0.5 * (rest**2).sum(0)
            - np.log(np.diag(factor)).sum()
            - 0.5 * data.shape[1] * np.log(2 * np.pi)
        )
    return np.stack(columns, axis=1)


def mean_log_density(data: np.ndarray, mixture: Mixture) -> float:
    """Nats per pose."""
    return float(np.asarray(logsumexp(log_density(data, mixture), axis=1)).mean())


def fit(
    data: np.ndarray,
    floor: np.ndarray,
    count: int,
    rank: int,
    strength: float,
    seed: int = 0,
    steps: int = 25,
) -> Mixture:
    """Expectation maximisation from centres that are far apart (k-means++); the covariance of a
    component is drawn towards that of all poses as if `strength` of them were in it, then cut to
    `rank` and what is left of its diagonal.

    The first component stays the Gaussian of all poses, with a share of `BACKGROUND` or more: what
    people do is far from being known from some dozens of clips, and without it one pose of a new
    kind is as unlikely as a hundred known ones.
    """
    rng = np.random.default_rng(seed)
    centres = [data[rng.integers(len(data))]]
    distance = np.full(len(data), np.inf)
    for _ in range(count - 2):
        distance = np.minimum(distance, ((data - centres[-1]) ** 2).sum(1))
        centres.append(data[rng.choice(len(data), p=distance / distance.sum())])
    nearest = np.argmin([((data - centre) ** 2).sum(1) for centre in centres], axis=0)
    weights = np.eye(count, dtype=np.float32)[nearest + (count > 1)]
    mean, whole = data.mean(0), np.cov(data.T)
    mixture: Mixture | None = None
    for _ in range(steps if count > 1 else 1):
        total = weights.sum(0) + 1.0
        shares = total / total.sum()
        shares[0] = max(shares[0], BACKGROUND)
        shares /= shares.sum()
        means = (weights.T @ data + mean) / total[:, None]
        means[0] = mean
        basis, diagonal = [], []
        for k in range(count):
            rest = data - means[k]
            covariance = (rest * weights[:, k : k + 1]).T @ rest + strength * whole / 2
            covariance = whole if k == 0 else covariance / (total[k] + strength)
            values, vectors = np.linalg.eigh(covariance)
            leading = vectors[:, -rank:] * np.sqrt(np.maximum(values[-rank:], 0.0))
            left = np.diag(covariance) - (leading**2).sum(1)
            basis.append(leading)
            diagonal.append(np.sqrt(np.maximum(left, floor**2)))
        mixture = shares, means, np.array(basis), np.array(diagonal)
        logs = log_density(data, mixture)
        weights = np.exp(logs - logsumexp(logs, axis=1, keepdims=True)).astype(np.float32)
    assert mixture is not None
    return mixture


def choose(clips: dict[str, np.ndarray], names: tuple[str, ...]) -> dict[str, float]:
    """Nats per pose of clips that were left out, for every trial (and one full Gaussian)."""
    floor, ordered = floors(names), sorted(clips)
    scores: dict[str, list[float]] = {}
    for fold in range(FOLDS):
        out = ordered[fold::FOLDS]
        test = thin(np.concatenate([clips[name] for name in out]))
        train = thin(np.concatenate([clips[name] for name in ordered if name not in out]))
        train = with_mirrored(train, names)
        for trial in [(1, train.shape[1] - 1, 0.0), *TRIALS]:
            started = time.time()
            score = mean_log_density(test, fit(train, floor, *trial))
            scores.setdefault(label(trial), []).append(score)
            print(f"fold {fold}: {label(trial)}: {score:.2f}, {time.time() - started:.0f} s",
                  flush=True)  # fmt: skip
    return {key: float(np.mean(value)) for key, value in scores.items()}


def label(trial: tuple[int, int, float]) -> str:
    count, rank, strength = trial
    return f"{count} of rank {rank}, strength {strength:g}" if count > 1 else "one Gaussian"


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
    names = model.joint_names
    clips = body_vectors(read_clips(args.motion, model))
    known = {name: clip for name, clip in clips.items() if name not in HELD_OUT}
    data = with_mirrored(thin(np.concatenate(list(known.values()))), names)
    test = thin(np.concatenate([clips[name] for name in sorted(HELD_OUT)]))
    print(f"{len(data)} poses to learn from, {len(test)} to test on", flush=True)
    scores = choose(known, names)
    best = max(TRIALS, key=lambda trial: scores[label(trial)])
    chosen = tuple(part.astype(np.float16) for part in fit(data, floors(names), *best))
    single = fit(data, floors(names), 1, data.shape[1] - 1, 0.0)
    stored: Mixture = tuple(part.astype(np.float64) for part in chosen)  # type: ignore
    held_out = {
        "one Gaussian": mean_log_density(test, single),
        label(best): mean_log_density(test, stored),
    }
    hard = hard_poses(model)
    np.savez_compressed(
        args.out,
        **dict(zip(("shares", "means", "basis", "diagonal"), chosen, strict=True)),
        hard=np.stack(list(hard.values())).reshape(len(hard), -1).astype(np.float16),
        hard_names=np.array(list(hard)),
        joint_names=np.array(names[:BODY_JOINTS]),
        notice=np.array(NOTICE),
    )
    report = provenance("experiments/build_pose_prior.py --motion DIR") | {
        "poses_with_mirrored": len(data),
        "held_out_poses": len(test),
        "held_out_clips": sorted(HELD_OUT),
        "chosen": label(best),
        "nats_per_pose_in_cross_validation": {k: round(v, 2) for k, v in scores.items()},
        "nats_per_held_out_pose": {k: round(v, 2) for k, v in held_out.items()},
        "hard_poses": list(hard),
        "bytes": args.out.stat().st_size,
    }
    print(json.dumps(report["nats_per_held_out_pose"]), report["bytes"])
    if args.results:
        args.results.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
