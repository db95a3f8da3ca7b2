"""How well people are followed: simulated recordings of motion that no weights have learned from.

    python experiments/bench_track.py --motion DIR [--clips 15] [--seed N]
        [--out experiments/results/bench_track.json]

Of each held-out clip of walking, sport and signalling the first second or so after its start, at
24 frames a second (every other frame is in between two of the clip), and two seconds at 6 (a slow
camera, or fast gestures); by one sensor, the sensors in turn. Nobody turns or walks through the
room: the clips have no such motion. Errors over the surface against the truth, of the track and of
every frame by itself; how far joints' accelerations (second differences) are from the true ones;
frames that were lost; time of a frame.
"""

from __future__ import annotations

import argparse
import json
import operator
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.clips import HARD, HELD_OUT, read_clips
from experiments.provenance import provenance
from jrecon.geometry import rotation
from jrecon.metrics import interval
from jrecon.model.parametric import Params, pose
from jrecon.reconstructor import Reconstruction, load, reconstruct, start_track, track
from jrecon.render import render
from jrecon.synth.devices import SENSORS, choose
from jrecon.synth.generate import Source, SynthConfig, make_source
from jrecon.synth.pose_prior import tilt
from jrecon.synth.prior import sample_shape
from jrecon.synth.segmentation import segment
from jrecon.synth.sensor import sense
from jrecon.synth.surroundings import SurroundingsConfig, surround
from jrecon.synth.viewpoint import ViewConfig, place, random_point, viewpoint, window

SEED = 20261130
# Of the frames at 24 a second: how many are recorded, and which are kept, by frames a second.
RATES = {24: slice(0, 24), 6: slice(0, 48, 4)}
HEIGHT, WIDTH = 180, 240
VIEW = ViewConfig(distance_m=(2.4, 4.0), aim=(-0.05, 0.05))
# Clips begin in a T-pose.
SKIPPED = 12


def frames_of(clip: np.ndarray, count: int) -> np.ndarray:
    """(count, j, 3) poses at twice the clip's rate, from a little after its start."""
    start = min(SKIPPED, len(clip) - count // 2 - 2)
    part = jnp.asarray(clip[start : start + count // 2 + 2], jnp.float32)
    part = part.at[:, 0].set(tilt(part[:, 0]))
    step = rotation.compose(part[1:], -part[:-1])
    between = rotation.compose(0.5 * step, part[:-1])
    both = jnp.stack([part[:-1], between], axis=1).reshape(-1, *part.shape[1:])
    return np.asarray(both[:count])


@jax.jit
def record(source: Source, key: Any, poses: Any) -> Any:
    """Params, depth, mask of every frame, and the camera."""
    keys = jax.random.split(key, 6)
    view = viewpoint(VIEW, random_point(keys[0]))
    shape = sample_shape(source.shape, keys[1])
    own = jax.vmap(lambda p: Params(shape, p, jnp.zeros(3)))(poses)
    joints = pose(source.model, own).joints
    middle = (joints[0].min(0) + joints[0].max(0)) / 2
    shift = view.target - jnp.matmul(view.rotation, middle, precision=jax.lax.Precision.HIGHEST)
    params = jax.vmap(lambda p: place(source.model, p, view.rotation, shift))(own)
    vertices = pose(source.model, params).vertices
    size = jnp.array([view.camera.width, view.camera.height])
    camera = window(view.camera, jnp.full(2, -0.5), size - 0.5, WIDTH, HEIGHT)
    floor = jnp.min(jnp.matmul(vertices, view.up, precision=jax.lax.Precision.HIGHEST))
    config = source.config
    _, sensor = choose(source.sensors, keys[2])

    def one(frame: Any) -> Any:
        number, points = frame
        seen = render(points, source.model.faces, camera)
        scene = surround(
            config.surroundings, keys[3], seen.depth, seen.normals, camera, view.up, floor
        )
        noise, edges = jax.random.split(jax.random.fold_in(keys[4], number))
        depth = sense(sensor, noise, scene.depth, scene.normals, camera)
        return depth, segment(config.segmentation, edges, depth, scene.object, camera)

    depth, mask = jax.lax.map(one, (jnp.arange(len(vertices)), vertices))
    return params, depth, mask, camera


def follow(
    recon: Any, depth: Any, mask: Any, camera: Any, config: Any = None
) -> Iterator[tuple[Reconstruction, bool]]:
    """What comes of each frame, and whether it was lost."""
    state = start_track(recon)
    for one, held in zip(depth, mask, strict=True):
        state, out = track(recon, state, one, camera, held, config)
        yield out, bool(state.lost != 0)


def by_themselves(
    recon: Any, depth: Any, mask: Any, camera: Any
) -> Iterator[tuple[Reconstruction, bool]]:
    """The same, nothing known of other frames."""
    for one, held in zip(depth, mask, strict=True):
        yield reconstruct(recon, one, camera, held), False


def collected(results: Iterator[tuple[Reconstruction, bool]]) -> tuple[np.ndarray, ...]:
    """Of each frame: vertices, joints, deviations of vertices; lost; milliseconds."""
    rows, begin = [], time.perf_counter()
    for out, lost in results:
        found = [np.asarray(x) for x in (out.vertices, out.joints, out.fit.vertex_std)]
        rows.append((*found, lost, 1e3 * (time.perf_counter() - begin)))
        begin = time.perf_counter()
    return tuple(np.stack(column) for column in zip(*rows, strict=True))


def recordings(recon: Any, motion: Path, clips: int, seed: int) -> list[tuple[str, str, Any]]:
    """Name of the clip and of the sensor, and the recording at 24 frames a second."""
    count = max(frames.stop for frames in RATES.values())
    model = recon.model
    read = read_clips(motion, model)
    names = sorted(name for name in HELD_OUT - HARD if len(read[name]) > count // 2 + 2)
    made = []
    for number, name in enumerate(names[:clips]):
        sensor = list(SENSORS)[number % len(SENSORS)]
        config = SynthConfig(surroundings=SurroundingsConfig(occluder_rate=0.0), sensors=(sensor,))
        key = jax.random.fold_in(jax.random.key(seed), number)
        poses = frames_of(read[name], count)
        made.append((name, sensor, record(make_source(model, config), key, poses)))
    return made


def second_difference(joints: np.ndarray) -> np.ndarray:
    return joints[2:] - 2 * joints[1:-1] + joints[:-2]


def measured(made: list[Any], runs: list[Any]) -> dict[str, Any]:
    """Figures over all recordings; `runs` are what was `collected`."""
    errors, rough, lost, times, inside = [], [], [], [], []
    for (_, _, (truth, *_, model)), run in zip(made, runs, strict=True):
        vertices, joints, deviations, gone, took = run
        exact = jax.tree.map(np.asarray, pose(model, truth))
        apart = np.linalg.norm(vertices - exact.vertices, axis=-1)
        errors.append(1e3 * apart.mean(axis=-1))
        inside.append((apart < deviations).mean())
        off = second_difference(joints) - second_difference(exact.joints)
        rough.append(1e3 * np.linalg.norm(off, axis=-1).mean())
        lost.append(gone.mean())
        times.append(took[2:])
    each = np.array([e.mean() for e in errors])
    return {
        "mm": str(interval(each)),
        "median_mm": round(float(np.median(np.concatenate(errors))), 1),
        "last_third_mm": round(float(np.mean([e[-len(e) // 3 :].mean() for e in errors])), 1),
        "acceleration_off_mm": round(float(np.mean(rough)), 1),
        "within_one_sigma": round(float(np.mean(inside)), 3),
        "lost_share": round(float(np.mean(lost)), 3),
        "ms_a_frame": round(float(np.median(np.concatenate(times))), 1),
        "each_mm": [round(float(e), 1) for e in each],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--motion", type=Path, required=True)
    parser.add_argument("--function", default="body")
    parser.add_argument("--clips", type=int, default=15)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    recon = load(args.function)
    recorded = recordings(recon, args.motion, args.clips, args.seed)
    report: dict[str, Any] = provenance("experiments/bench_track.py --motion DIR")
    report |= {"seed": args.seed}
    report["recordings"] = [f"{name}, {sensor}" for name, sensor, _ in recorded]
    for rate, frames in RATES.items():
        made = []
        for name, sensor, (*seen, camera) in recorded:
            truth, depth, mask = jax.tree.map(operator.itemgetter(frames), tuple(seen))
            made.append((name, sensor, (truth, depth, mask, camera, recon.model)))
        tracked = [collected(follow(recon, *seen[1:4])) for _, _, seen in made]
        alone = [collected(by_themselves(recon, *seen[1:4])) for _, _, seen in made]
        report[f"{rate}_frames_a_second"] = {
            "frames": len(made[0][2][1]),
            "track": measured(made, tracked),
            "each_frame_alone": measured(made, alone),
        }
    print(json.dumps(report, indent=1))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
