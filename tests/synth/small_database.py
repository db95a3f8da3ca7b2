"""Databases of a few small random examples, for the tests of writing and reading."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jrecon.geometry.camera import Camera
from jrecon.model.parametric import Params
from jrecon.synth.database import write_database
from jrecon.synth.example import Example
from jrecon.synth.manifest import make_manifest

WIDTH, HEIGHT, JOINTS, SHAPE = 18, 16, 3, 2
MODEL = {"name": "random", "digest": "0" * 64, "joints": JOINTS, "shape": SHAPE}
CONFIG: dict[str, Any] = {"distance_m": [1.0, 4.0], "noise": {"axial": 0.01}}


def describe(**changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = dict(
        model=MODEL, config=CONFIG, generator="test 1", width=WIDTH, height=HEIGHT, seed=0,
        unit_mm=0.1, shard_size=8,
    )  # fmt: skip
    return make_manifest(**{**settings, **changes})


def make_example(number: int) -> Example:
    rng: Any = np.random.default_rng(number)
    draw: Any = lambda *size: rng.normal(size=size).astype(np.float32)
    depth = rng.uniform(0.5, 6.5, (HEIGHT, WIDTH)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.3] = 0
    return Example(
        depth=depth,
        mask=(depth > 0) & (rng.random(depth.shape) < 0.5),
        camera=Camera(100 + draw(2), 8 + draw(2), WIDTH, HEIGHT),
        params=Params(draw(SHAPE), draw(JOINTS, 3), draw(3)),
        joints=draw(JOINTS, 3),
        sensor=draw(1)[0].astype(np.int32),
        visible=draw(1)[0],
    )


def make_batch(start: int, count: int) -> Example:
    examples = [make_example(number) for number in range(start, start + count)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)


def write(path: Path, count: int = 20, **options: Any) -> int:
    return write_database(path, make_batch, describe(), count, batch_size=4, **options)


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def assert_same(got: Example, want: Example, depth_tolerance: float) -> None:
    np.testing.assert_allclose(got.depth, want.depth, rtol=0, atol=depth_tolerance)
    np.testing.assert_array_equal(got.depth == 0, want.depth == 0)
    exact = [dataclasses.replace(example, depth=np.zeros(0)) for example in (got, want)]
    assert jax.tree.structure(exact[0]) == jax.tree.structure(exact[1])
    for a, b in zip(*map(jax.tree.leaves, exact), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def copy_folder(source: Path, target: Path) -> None:
    for name, data in contents(source).items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data)
