"""How fast examples are made and what each stage costs; and a database that survives kills.

    python experiments/bench_synth.py stages [--size 128] [--batch 64]
    python experiments/bench_synth.py database --count 100000 [--size 32] [--kills 3]
        [--shard-size 2048]

`stages` times the body at 2,000 vertices with the default config, each stage compiled by itself and
fed by the one before it. Both the time of a clock and that of the processor are given: on a machine
that does other work, examples per second of processor time are what one core makes.

`database` makes a database by `jrecon synth` in one go, and another one with kills (SIGKILL) after
a quarter, a half and so on; then compares all files, and has the second one verified: as it is, and
with one bit of one file flipped.

Results: experiments/results/bench_synth.json, one entry per part.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jrecon
from experiments.provenance import provenance
from jrecon.geometry.camera import Camera
from jrecon.model.parametric import pose
from jrecon.render import render
from jrecon.synth import generate
from jrecon.synth.devices import choose
from jrecon.synth.segmentation import drop_regions, segment
from jrecon.synth.sensor import sense
from jrecon.synth.surroundings import surround

RESULTS = Path(__file__).parent / "results" / "bench_synth.json"


def timed(function: Callable, *args: Any, rounds: int) -> tuple[Any, float, float]:
    """The result, and the least seconds by the clock and by the processor of several rounds."""
    result = jax.block_until_ready(function(*args))
    walls, cores = [], []
    for _ in range(rounds):
        wall, core = time.perf_counter(), time.process_time()
        jax.block_until_ready(function(*args))
        walls.append(time.perf_counter() - wall)
        cores.append(time.process_time() - core)
    return result, min(walls), min(cores)


def stages(source: generate.Source, batch: int, rounds: int) -> dict[str, Any]:
    """Milliseconds per example of the whole and of each stage."""
    config, model, key = source.config, source.model, jax.random.key(0)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(batch))
    costs: dict[str, Any] = {}

    def stage(name: str, function: Callable, *args: Any) -> Any:
        result, wall, core = timed(jax.jit(function), *args, rounds=rounds)
        costs[name] = {"wall_ms": 1e3 * wall / batch, "cpu_ms": 1e3 * core / batch}
        print(f"{name:10} {costs[name]['wall_ms']:.3f} ms, {costs[name]['cpu_ms']:.3f} ms of CPU",
              flush=True)  # fmt: skip
        return result

    def each(function: Callable) -> Callable:
        """One image after another, as on a CPU."""
        return lambda *args: jax.lax.map(lambda one: function(*one), args)

    draw = jax.vmap(functools.partial(generate._draw, source))
    subjects = stage("draw", draw, keys, jnp.arange(batch))
    posed = stage("pose", lambda params: pose(model, params), subjects.params)

    def seen(key: Any, view: Any, vertices: Any) -> tuple[Camera, Any]:
        camera, _ = generate._frame(config, key, view.camera, vertices)
        view = render(vertices, model.faces, camera)
        return camera, (view.depth, view.normals)

    camera, (depth, normals) = stage("render", each(seen), keys, subjects.view, posed.vertices)

    def around(key: Any, view: Any, vertices: Any, depth: Any, normals: Any, camera: Any) -> Any:
        floor = jnp.min(jnp.matmul(vertices, view.up))
        return surround(config.surroundings, key, depth, normals, camera, view.up, floor)

    arguments = keys, subjects.view, posed.vertices, depth, normals, camera
    scene = stage("surround", each(around), *arguments)

    def take(key: Any, depth: Any, normals: Any, camera: Any) -> Any:
        _, sensor = choose(source.sensors, key)
        return sense(sensor, key, depth, normals, camera)

    sensed = stage("sense", each(take), keys, scene.depth, scene.normals, camera)

    def cut(key: Any, depth: Any, truth: Any, camera: Any) -> Any:
        depth = drop_regions(config.regions, key, depth)
        return segment(config.segmentation, key, depth, truth, camera)

    stage("segment", each(cut), keys, sensed, scene.object, camera)
    _, wall, core = timed(lambda: generate.make_batch(source, key, 0, batch), rounds=rounds)
    return {
        "image": [config.height, config.width],
        "vertices": len(model.vertices),
        "batch": batch,
        "examples_per_second": batch / wall,
        "examples_per_cpu_second": batch / core,
        "cores_busy": core / wall,
        "stages": costs,
    }


def make(folder: Path, options: list[str], kill_at: int | None = None) -> None:
    """Runs `jrecon synth` to its end, or until so many shards are there and a moment longer."""
    command = [sys.executable, "-m", "jrecon", "synth", "--out", str(folder), "--json", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    while kill_at is not None and process.poll() is None:
        time.sleep(0.05)
        if shards_in(folder) >= kill_at:
            time.sleep(random.Random(kill_at).uniform(0.0, 1.5))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return
    if process.wait():
        raise RuntimeError(f"jrecon synth ended with code {process.returncode}")


def shards_in(folder: Path) -> int:
    return len(list(folder.glob("shards/*.json")))


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def verify(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "jrecon", "synth", "--verify", str(folder), "--json"]
    return subprocess.run(command, capture_output=True, text=True)


def flip_a_bit(folder: Path) -> Path:
    """Damages one file of some shard; returns which."""
    draw = random.Random(0)
    file = draw.choice(sorted(path for path in folder.glob("*/c/**/*") if path.is_file()))
    data = bytearray(file.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)
    return file


def database(count: int, size: int, kills: int, shard_size: int) -> dict[str, Any]:
    """Makes a database twice, once with kills, and compares the files."""
    options = ["--count", str(count), "--size", str(size), "--shard-size", str(shard_size)]
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(folder) / "cache"))
        started = time.perf_counter()
        make(whole, options)
        seconds = time.perf_counter() - started
        print(f"{count} examples in {seconds:.0f} s", flush=True)
        left, shards = [], shards_in(whole)
        for kill in range(1, kills + 1):
            make(broken, options, kill * shards // (kills + 1))
            left.append(shards_in(broken))
            print(f"killed with {left[-1]} of {shards} shards there", flush=True)
        make(broken, options)
        first, second = digests(whole), digests(broken)
        verified = verify(broken)
        file = flip_a_bit(broken)
        damaged = verify(broken)
        said = (verified.stdout or verified.stderr).replace(f"{folder}/", "")
        return {
            "examples": count,
            "image": [size, size],
            "shard_size": shard_size,
            "seconds_uninterrupted": seconds,
            "kills": kills,
            "shards_after_each_kill": left,
            "files": len(first),
            "files_that_differ": sum(first.get(k) != second.get(k) for k in {*first, *second}),
            "verify": json.loads(said) if verified.returncode == 0 else said,
            "flipped": str(file.relative_to(broken)),
            "verify_flipped": [damaged.returncode, damaged.stderr.replace(f"{folder}/", "")],
            "bytes_per_example": sum(p.stat().st_size for p in whole.rglob("*") if p.is_file())
            / count,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("stages", "database"))
    parser.add_argument("--size", type=int)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--shard-size", type=int, default=2048)
    parser.add_argument("--kills", type=int, default=3)
    args = parser.parse_args()
    if args.part == "stages":
        size = args.size or 128
        model = jrecon.load_model("body", level="2k")
        config = generate.SynthConfig(height=size, width=size)
        entry = stages(generate.make_source(model, config), args.batch, args.rounds)
    else:
        entry = database(args.count, args.size or 32, args.kills, args.shard_size)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found[args.part] = provenance(f"experiments/bench_synth.py {' '.join(sys.argv[1:])}") | entry
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(entry, indent=1))


if __name__ == "__main__":
    main()
