"""How fast depth of a changing mesh is rendered, beside ray casters and a hand-written rasterizer.

    python -m venv peers && peers/bin/pip install -e . open3d warp-lang embreex
    PYTHONPATH=. peers/bin/python experiments/bench_render.py
        [--out experiments/results/bench_render.json] [--plot docs/images/bench_render.png]

A body of 13,996 faces takes another pose in every frame, so acceleration structures are built anew.
Engines take turns frame by frame, in one process; reported are the least and the median time of a
frame (what else the machine does can only add) after compilation, from NumPy vertices to NumPy
depth. Peers that are not installed are left out, and the report says so; they have no batches, so
their images per second are those of batch 1. Peak memory is that of a fresh process per engine,
less that of one that only prepares the frames. Agreement is measured with the body 3 m away.

On a GPU, if JAX has one, jrecon is timed beside nvdiffrast and DRTK (`render_gpu_peers.py`).
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
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jrecon
from experiments.provenance import provenance
from experiments.render_agreement import agreement, camera_of, frames, near_an_edge
from experiments.render_gpu_peers import time_gpu_peers
from experiments.render_peers import PEERS
from jrecon.geometry.camera import Camera
from jrecon.pictures import plot_lines, stack, write_image
from jrecon.render import render

LEVEL, SIZES, BATCHES = "7k", (128, 256), (1, 64, 512)
GROWTH_SIZE, GROWTH_SIZES, GROWTH_BATCHES = 128, (64, 128, 256, 512), (1, 8, 64)


def forward(camera: Camera, vertices: jax.Array, faces: jax.Array) -> jax.Array:
    return render(vertices, faces, camera).depth


def gradient(camera: Camera, vertices: jax.Array, faces: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The loss is a sum of squares of depth; silhouettes are part of its gradient."""

    def loss(vertices: jax.Array) -> jax.Array:
        return jnp.sum(render(vertices, faces, camera).depth ** 2)

    return jax.value_and_grad(loss)(vertices)


OURS = {"jrecon": forward, "jrecon, forward and backward": gradient}


def compiled(function: Any, camera: Camera, *args: Any) -> tuple[Any, float]:
    """The function compiled, and the seconds that it took."""
    start = time.perf_counter()
    made = jax.jit(functools.partial(function, camera)).lower(*args).compile()
    return made, round(time.perf_counter() - start, 2)


def least_ms(call: Callable[[], Any], seconds: float) -> float:
    found: list[float] = []
    while sum(found) < 1e3 * seconds or len(found) < 3:
        start = time.perf_counter()
        jax.block_until_ready(call())
        found.append(1e3 * (time.perf_counter() - start))
    return min(found)


def make_engines(faces: Any, camera: Camera, mesh: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Functions of vertices, ready to be timed, and the seconds until each was; those that are not
    installed are missing from the first and have the reason in the second."""
    engines: dict[str, Any] = {}
    ready: dict[str, Any] = {}
    for name, function in OURS.items():
        made, ready[name] = compiled(function, camera, mesh, faces)
        engines[name] = lambda mesh, made=made: jax.tree.map(np.asarray, made(mesh, faces))
    for name, make in PEERS.items():
        start = time.perf_counter()
        try:
            engines[name] = make(np.asarray(faces), camera)
            engines[name](mesh)
            ready[name] = round(time.perf_counter() - start, 2)
        except ImportError as error:
            ready[name] = str(error)
    return engines, ready


def compare(model: jrecon.ParametricModel, size: int, rounds: int) -> dict[str, Any]:
    """Engines in turns, a frame each, and whether they agree."""
    camera, meshes = camera_of(size), frames(model, 16)
    engines, ready = make_engines(model.faces, camera, meshes[0])
    found: dict[str, list[float]] = {name: [] for name in engines}
    for index in range(rounds):
        for name, engine in engines.items():
            start = time.perf_counter()
            engine(meshes[index % len(meshes)])
            found[name].append(1e3 * (time.perf_counter() - start))
    rows: dict[str, Any] = {}
    for name, times in found.items():
        least, median = float(np.min(times)), float(np.median(times))
        rows[name] = {
            "least_ms": round(least, 3),
            "median_ms": round(median, 3),
            "images_per_s": round(1e3 / least, 1),
            "ready_after_s": ready[name],
            "of_jrecon_least": round(least / min(found["jrecon"]), 2),
            "of_jrecon_median": round(median / float(np.median(found["jrecon"])), 2),
        }
    far, faces = frames(model, 8, distance=3.0), np.asarray(model.faces)
    doubtful = np.stack([near_an_edge(mesh, faces, camera) for mesh in far])
    for name in [name for name in PEERS if name in engines]:
        own, peer = (np.stack([engines[each](mesh) for mesh in far]) for each in ("jrecon", name))
        rows[name]["agreement"] = agreement(own, peer, doubtful)
    absent = {name: ready[name] for name in ready if name not in engines}
    return {"engines": rows, "missing": absent, "load_average": os.getloadavg()[0]}


def throughput(model: jrecon.ParametricModel, size: int, batch: int, seconds: float) -> dict:
    """Images per second, forward and with the gradient, and compile times."""
    camera = camera_of(size)
    meshes = jnp.asarray(frames(model, batch))
    made, compile_s = zip(
        *(compiled(function, camera, meshes, model.faces) for function in OURS.values()),
        strict=True,
    )
    found = [np.inf, np.inf]
    # In turns, so that their ratio means something on a machine that has other work.
    for _ in range(2):
        for index, function in enumerate(made):
            call = functools.partial(function, meshes, model.faces)
            found[index] = min(found[index], least_ms(call, seconds / 2))
    return {
        "forward_images_per_s": round(1e3 * batch / found[0], 1),
        "forward_backward_images_per_s": round(1e3 * batch / found[1], 1),
        "backward_over_forward": round((found[1] - found[0]) / found[0], 2),
        "forward_compile_s": compile_s[0],
        "forward_backward_compile_s": compile_s[1],
    }


def growth(seconds: float) -> dict[str, dict[str, dict[int, float]]]:
    """Milliseconds per image against faces, pixels along a side, and batch."""
    full = jrecon.load_model("body")
    usual = jrecon.at_level(full, LEVEL)

    def of(model: jrecon.ParametricModel, size: int, batch: int) -> dict[str, float]:
        meshes = jnp.asarray(frames(model, batch))
        row = {}
        for name, function in OURS.items():
            made, _ = compiled(function, camera_of(size), meshes, model.faces)
            call = functools.partial(made, meshes, model.faces)
            row[name] = round(least_ms(call, seconds) / batch, 3)
        return row

    def curves(points: dict[int, dict[str, float]]) -> dict[str, dict[int, float]]:
        return {name: {x: row[name] for x, row in sorted(points.items())} for name in OURS}

    levels = [jrecon.at_level(full, name) for name, _ in full.levels]
    return {
        "faces": curves({len(model.faces): of(model, GROWTH_SIZE, 1) for model in levels}),
        "pixels": curves({size: of(usual, size, 1) for size in GROWTH_SIZES}),
        "batch": curves({batch: of(usual, GROWTH_SIZE, batch) for batch in GROWTH_BATCHES}),
    }


def plot(curves: dict[str, dict[str, dict[int, float]]], faces: int, path: Path) -> None:
    labels = {
        "faces": f"faces, at {GROWTH_SIZE} x {GROWTH_SIZE} pixels",
        "pixels": f"pixels along a side, {faces:,} faces",
        "batch": f"images in a batch, {faces:,} faces at {GROWTH_SIZE} x {GROWTH_SIZE} pixels",
    }
    charts = [
        plot_lines(
            {name: (list(curve), list(curve.values())) for name, curve in curves[kind].items()},
            x_label=label, y_label="ms per image", width=560, height=260,
        )
        for kind, label in labels.items()
    ]  # fmt: skip
    write_image(path, stack(charts), overwrite=True)


def peak_memory_mb(engine: str, batch: int) -> float | None:
    """Of a fresh process that renders, less that of one that only prepares the frames; None where
    the engine is not installed."""
    peak, base = peak_kb(engine, batch), peak_kb("nothing", batch)
    return None if peak is None or base is None else round((peak - base) / 1024, 1)


@functools.cache
def peak_kb(engine: str, batch: int) -> int | None:
    command = [sys.executable, __file__, "--memory-of", engine, str(batch)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def print_peak(engine: str, batch: int) -> None:
    """Render at 128 x 128 and print this process's peak memory, kilobytes."""
    model = jrecon.at_level(jrecon.load_model("body"), LEVEL)
    # Posing hundreds of bodies at once would take more memory than rendering them.
    few = frames(model, min(batch, 16))
    meshes, camera = np.concatenate([few] * (batch // len(few))), camera_of(GROWTH_SIZE)
    if engine in OURS:
        made, _ = compiled(OURS[engine], camera, meshes, model.faces)
        jax.block_until_ready(made(meshes, model.faces))
    elif engine in PEERS:
        render_one = PEERS[engine](np.asarray(model.faces), camera)
        for mesh in meshes:
            render_one(mesh)
    # Not `ru_maxrss`, which a process takes over from the one that starts it.
    status = Path("/proc/self/status").read_text()
    print(status.partition("VmHWM:")[2].split()[0])


def same_bits(model: jrecon.ParametricModel, runs: int = 10) -> dict[str, bool]:
    """Whether so many runs of one batch agree bit by bit."""
    meshes = jnp.asarray(frames(model, 16))
    same = {}
    for name, function in OURS.items():
        made, _ = compiled(function, camera_of(GROWTH_SIZE), meshes, model.faces)

        def bits(made: Any = made) -> list[bytes]:
            return [np.asarray(x).tobytes() for x in jax.tree.leaves(made(meshes, model.faces))]

        first = bits()
        same[name] = all(bits() == first for _ in range(runs - 1))
    return same


def measure(rounds: int, seconds: float, save: Callable[[dict[str, Any]], None]) -> None:
    """All of it, saved after every step: a run that is cut off keeps what it has."""
    model = jrecon.at_level(jrecon.load_model("body"), LEVEL)
    report: dict[str, Any] = provenance("experiments/bench_render.py") | {
        "load_average": os.getloadavg()[0],
        "mesh": f"body, level {LEVEL}, {len(model.faces)} faces",
        "ten_runs_agree_bitwise": same_bits(model),
    }
    report["command"] += f" --rounds {rounds} --seconds {seconds}"
    for name in ("open3d", "embreex", "warp-lang", "nvdiffrast", "drtk"):
        try:
            report["versions"][name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu:
        report["gpu"] = "not run: JAX had no GPU"
        for size in SIZES:
            report[f"turns_{size}"] = compare(model, size, rounds)
            save(report)
    for size in SIZES:
        for batch in BATCHES:
            row = throughput(model, size, batch, seconds)
            if not on_cpu:
                row |= time_gpu_peers(model, camera_of(size), frames(model, batch), seconds)
            report[f"throughput_{size}_batch_{batch}"] = row
            save(report)
    report["growth_ms_per_image"] = growth(seconds)
    save(report)
    if on_cpu:
        report["peak_memory_mb"] = {
            f"{name}, batch {batch}": peak_memory_mb(name, batch)
            for name in (*OURS, *PEERS)
            for batch in (BATCHES if name in OURS else (1,))
        }
    save(report | {"load_average_at_the_end": os.getloadavg()[0]})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--rounds", type=int, default=200, help="frames that engines take turns in")
    parser.add_argument("--seconds", type=float, default=1.5, help="for each other number")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        return print_peak(args.memory_of[0], int(args.memory_of[1]))

    def save(report: dict[str, Any]) -> None:
        last = next(reversed(report))
        print(last, json.dumps(report[last]), flush=True)
        if args.out:
            args.out.write_text(json.dumps(report, indent=1) + "\n")
        if args.plot and last == "growth_ms_per_image":
            faces = len(jrecon.load_model("body", level=LEVEL).faces)
            plot(report[last], faces, args.plot)

    measure(args.rounds, args.seconds, save)


if __name__ == "__main__":
    main()
