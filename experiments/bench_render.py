"""How fast depth of a changing mesh is rendered, beside ray casters and a hand-written rasterizer.

    pip install open3d warp-lang embreex        # the peers; those that are absent are left out
    python experiments/bench_render.py [--out experiments/results/bench_render.json]
                                       [--plot docs/images/bench_render.png]

A body of 13,996 faces takes another pose in every frame, so acceleration structures are built anew.
Engines take turns frame by frame, in one process; reported are the least and the median time of a
frame (what else the machine does can only add) after compilation. Coverage and depth are compared
with Open3D's. Growth, gradients, compile time and memory are jrecon's alone; memory is the peak of
a fresh process. On a GPU, if JAX has one, the peers on the CPU are left out, and ten runs are
compared bit by bit.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jrecon
from experiments.provenance import provenance
from experiments.render_peers import PEERS
from jrecon.geometry.camera import Camera, make_camera
from jrecon.model.parametric import Params
from jrecon.pictures import plot_lines, stack, write_image
from jrecon.render import render

LEVEL, SIZES, BATCHES = "7k", (128, 256), (1, 64, 512)
FACES_AT = 128


def frames(model: jrecon.ParametricModel, count: int, seed: int = 0) -> np.ndarray:
    """A body that stands 2.3 m away and moves all its joints a little in every frame."""
    rng = np.random.default_rng(seed)
    pose = 0.1 * rng.normal(size=(count, model.num_joints, 3))
    pose[:, 0] = [np.pi, 0.0, 0.0]
    params = Params(
        shape=jnp.zeros((count, model.num_shape)),
        pose=jnp.asarray(pose, jnp.float32),
        translation=jnp.broadcast_to(jnp.array([0.0, 0.05, 2.3]), (count, 3)),
    )
    return np.asarray(jax.jit(jrecon.pose)(model, params).vertices)


def camera_of(size: int) -> Camera:
    return make_camera(1.2 * size, 1.2 * size, 0.49 * size, 0.51 * size, size, size)


def forward(camera: Camera, vertices: jax.Array, faces: jax.Array) -> jax.Array:
    return render(vertices, faces, camera).depth


def gradient(camera: Camera, vertices: jax.Array, faces: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The loss is a sum of squares of depth; silhouettes are part of its gradient."""

    def loss(vertices: jax.Array) -> jax.Array:
        return jnp.sum(render(vertices, faces, camera).depth ** 2)

    return jax.value_and_grad(loss)(vertices)


def compiled(function: Any, camera: Camera, *args: Any) -> tuple[Any, float]:
    """The function compiled, and the seconds that it took."""
    start = time.perf_counter()
    made = jax.jit(functools.partial(function, camera)).lower(*args).compile()
    return made, time.perf_counter() - start


def times_ms(call: Callable[[int], Any], seconds: float) -> list[float]:
    """Times of calls with a running number."""
    found: list[float] = []
    while sum(found) < 1e3 * seconds or len(found) < 5:
        start = time.perf_counter()
        jax.block_until_ready(call(len(found)))
        found.append(1e3 * (time.perf_counter() - start))
    return found


def summary(found: list[float]) -> dict[str, float]:
    return {"least_ms": round(min(found), 3), "median_ms": round(float(np.median(found)), 3)}


def compare(model: jrecon.ParametricModel, size: int, rounds: int) -> dict[str, Any]:
    """Engines in turns, a frame each, and whether they agree."""
    camera, faces = camera_of(size), np.asarray(model.faces)
    meshes = frames(model, 16)
    made, _ = compiled(forward, camera, meshes[0], model.faces)
    both, _ = compiled(gradient, camera, meshes[0], model.faces)
    engines: dict[str, Callable[[np.ndarray], Any]] = {
        "jrecon": lambda mesh: np.asarray(made(mesh, model.faces)),
        "jrecon forward and backward": lambda mesh: jax.block_until_ready(both(mesh, model.faces)),
    }
    missing = []
    for name, make in PEERS.items():
        try:
            engines[name] = make(faces, camera)
        except ImportError as error:
            missing.append(f"{name}: {error}")
    found: dict[str, list[float]] = {name: [] for name in engines}
    for index in range(rounds):
        for name, engine in engines.items():
            mesh = meshes[index % len(meshes)]
            start = time.perf_counter()
            engine(mesh)
            if index >= 3:
                found[name].append(1e3 * (time.perf_counter() - start))
    rows: dict[str, Any] = {name: summary(each) for name, each in found.items()}
    for name, row in rows.items():
        if name in PEERS:
            row["jrecon_is_faster_by"] = round(row["least_ms"] / rows["jrecon"]["least_ms"], 2)
            row |= difference(engines[name], engines["jrecon"], meshes)
    return {"engines": rows, "missing": missing}


def difference(peer: Any, own: Any, meshes: np.ndarray) -> dict[str, float]:
    """Pixels that one of two engines sees something at and the other not; depth where both do."""
    pixels, depths = 0, []
    for mesh in meshes[:4]:
        a, b = np.asarray(peer(mesh)), np.asarray(own(mesh))
        pixels += int(((a > 0) != (b > 0)).sum())
        depths.append(np.abs(a - b)[(a > 0) & (b > 0)])
    largest = 1e6 * np.concatenate(depths)
    return {
        "pixels_covered_differently": pixels,
        "depth_difference_99.9_percent_um": round(float(np.percentile(largest, 99.9)), 2),
    }


def throughput(model: jrecon.ParametricModel, size: int, batch: int, seconds: float) -> dict:
    """Images per second, forward and with the gradient, and compile times."""
    camera = camera_of(size)
    meshes = jnp.asarray(frames(model, batch))
    row: dict[str, Any] = {}
    for name, function in (("forward", forward), ("forward_backward", gradient)):
        made, took = compiled(function, camera, meshes, model.faces)
        found = times_ms(lambda _, made=made: made(meshes, model.faces), seconds)
        row[f"{name}_images_per_s"] = round(1e3 * batch / min(found), 1)
        row[f"{name}_compile_s"] = round(took, 2)
    row["backward_over_forward"] = round(
        row["forward_images_per_s"] / row["forward_backward_images_per_s"] - 1, 2
    )
    return row


def growth(seconds: float) -> dict[str, dict[int, float]]:
    """Milliseconds per image against faces, pixels along a side, and batch."""
    full = jrecon.load_model("body")
    level = jrecon.at_level(full, LEVEL)

    def forward_ms(model: jrecon.ParametricModel, size: int, batch: int) -> float:
        meshes = jnp.asarray(frames(model, batch))
        made, _ = compiled(forward, camera_of(size), meshes, model.faces)
        return round(min(times_ms(lambda _: made(meshes, model.faces), seconds)) / batch, 3)

    by_faces = {}
    for name, _ in full.levels:
        model = jrecon.at_level(full, name)
        by_faces[len(model.faces)] = forward_ms(model, FACES_AT, 1)
    return {
        "faces": dict(sorted(by_faces.items())),
        "pixels": {size: forward_ms(level, size, 1) for size in (32, 64, 128, 256, 512)},
        "batch": {batch: forward_ms(level, FACES_AT, batch) for batch in (1, 4, 16, 64, 256)},
    }


def plot(curves: dict[str, dict[int, float]], path: Path) -> None:
    labels = {
        "faces": f"faces, at {FACES_AT} x {FACES_AT} pixels",
        "pixels": "pixels along a side, 13,996 faces",
        "batch": f"images in a batch, 13,996 faces at {FACES_AT} x {FACES_AT} pixels",
    }
    charts = [
        plot_lines(
            {"forward": (list(curve), list(curve.values()))},
            x_label=labels[name], y_label="ms per image", width=520, height=240,
        )
        for name, curve in curves.items()
    ]  # fmt: skip
    write_image(path, stack(charts), overwrite=True)


def peak_memory_mb(batch: int, with_gradient: bool) -> float:
    """Of a fresh process that renders one batch, less that of one that only prepares it."""
    measured = [
        int(
            subprocess.run(
                [sys.executable, __file__, "--memory-of", str(batch), kind],
                check=True,
                capture_output=True,
                text=True,
                env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
            ).stdout
        )
        for kind in ("gradient" if with_gradient else "forward", "nothing")
    ]
    return round((measured[0] - measured[1]) / 1024, 1)


def measure_memory(batch: int, kind: str) -> None:
    import resource

    model = jrecon.at_level(jrecon.load_model("body"), LEVEL)
    meshes = jnp.asarray(frames(model, batch))
    if kind != "nothing":
        function = gradient if kind == "gradient" else forward
        made, _ = compiled(function, camera_of(FACES_AT), meshes, model.faces)
        jax.block_until_ready(made(meshes, model.faces))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def same_bits(model: jrecon.ParametricModel, runs: int = 10) -> bool:
    """Whether so many runs of one batch agree bit by bit."""
    meshes = jnp.asarray(frames(model, 64))
    made, _ = compiled(forward, camera_of(FACES_AT), meshes, model.faces)
    first = np.asarray(made(meshes, model.faces)).tobytes()
    return all(np.asarray(made(meshes, model.faces)).tobytes() == first for _ in range(runs - 1))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--rounds", type=int, default=120, help="frames that engines take turns in")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each other number")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        return measure_memory(int(args.memory_of[0]), args.memory_of[1])
    model = jrecon.at_level(jrecon.load_model("body"), LEVEL)
    report: dict[str, Any] = provenance("experiments/bench_render.py") | {
        "load_average": os.getloadavg()[0],
        "mesh": f"body, level {LEVEL}, {len(model.faces)} faces",
        "bitwise_equal_runs": same_bits(model),
    }
    if jax.default_backend() == "cpu":
        for size in SIZES:
            report[f"engines_{size}"] = compare(model, size, args.rounds)
            print(size, json.dumps(report[f"engines_{size}"], indent=1), flush=True)
    for size in SIZES:
        for batch in BATCHES:
            row = throughput(model, size, batch, args.seconds)
            report[f"throughput_{size}_batch_{batch}"] = row
            print(size, batch, row, flush=True)
    if jax.default_backend() == "cpu":
        report["peak_memory_mb"] = {
            f"{kind}_batch_{batch}": peak_memory_mb(batch, kind == "gradient")
            for batch in BATCHES
            for kind in ("forward", "gradient")
        }
        print(report["peak_memory_mb"], flush=True)
    report["growth_ms_per_image"] = growth(args.seconds)
    print(report["growth_ms_per_image"], flush=True)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    if args.plot:
        plot(report["growth_ms_per_image"], args.plot)


if __name__ == "__main__":
    main()
