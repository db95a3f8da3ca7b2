"""Databases of examples: round trips, kills at every stage, damage found and named."""

import dataclasses
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jrecon.geometry.camera import Camera
from jrecon.model.parametric import Params, make_model
from jrecon.synth import database
from jrecon.synth.database import write_database
from jrecon.synth.example import Example
from jrecon.synth.manifest import make_manifest, model_entry
from jrecon.synth.reading import open_database, read, read_numbers, verify_database

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


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "db"
    assert write(root) == 20
    return root


def assert_same(got: Example, want: Example, depth_tolerance: float) -> None:
    np.testing.assert_allclose(got.depth, want.depth, rtol=0, atol=depth_tolerance)
    np.testing.assert_array_equal(got.depth == 0, want.depth == 0)
    exact = [dataclasses.replace(example, depth=np.zeros(0)) for example in (got, want)]
    assert jax.tree.structure(exact[0]) == jax.tree.structure(exact[1])
    for a, b in zip(*map(jax.tree.leaves, exact), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_round_trip_within_half_a_step(uninterrupted):
    db = open_database(uninterrupted)
    assert len(db) == 20
    indices = np.array([19, 3, 3, 0, 8, 7])
    got = read(db, indices)
    assert isinstance(got.depth, np.ndarray)
    want = jax.tree.map(lambda leaf: leaf[indices], make_batch(0, 20))
    # float32 rounds depths of several metres to a few tenths of a micrometre.
    assert_same(got, want, 0.5e-4 + 1e-6)
    np.testing.assert_array_equal(read_numbers(db, indices), indices)


def test_model_without_shape_coefficients(tmp_path):
    def rigid(start: int, count: int) -> Example:
        example = make_batch(start, count)
        params = dataclasses.replace(example.params, shape=example.params.shape[:, :0])
        return dataclasses.replace(example, params=params)

    manifest = describe(model={**MODEL, "shape": 0})
    write_database(tmp_path / "db", rigid, manifest, 9, batch_size=4)
    assert read(open_database(tmp_path / "db"), [8]).params.shape.shape == (1, 0)
    assert verify_database(tmp_path / "db").ok


def test_jax_arrays_are_stored_as_numpy_arrays_are(tmp_path, uninterrupted):
    on_device = lambda start, count: jax.tree.map(jax.numpy.asarray, make_batch(start, count))
    write_database(tmp_path / "db", on_device, describe(), 20, batch_size=4)
    assert contents(tmp_path / "db") == contents(uninterrupted)


def test_single_examples_and_pickles(uninterrupted):
    db = pickle.loads(pickle.dumps(open_database(uninterrupted)))  # noqa: TID251
    assert_same(db[5], make_example(5), 0.5e-4 + 1e-6)
    with pytest.raises(IndexError, match="20 examples"):
        db[20]
    with pytest.raises(IndexError, match="got -1"):
        db[-1]
    with pytest.raises(IndexError, match="whole numbers"):
        read(db, [0.5])


def test_batches_have_one_size_and_nothing_is_written_twice(tmp_path):
    asked = []

    def counted(start: int, count: int) -> Example:
        asked.append((start, count))
        return make_batch(start, count)

    options: dict[str, Any] = dict(manifest=describe(), count=20, batch_size=3)
    assert write_database(tmp_path / "db", counted, **options) == 20
    # A shard of 8 in batches of 3; the surplus is dropped.
    assert asked == [(start, 3) for start in (0, 3, 6, 8, 11, 14, 16, 19)]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "db").rglob("*")}
    assert write_database(tmp_path / "db", counted, **options) == 0
    assert write_database(tmp_path / "db", counted, **{**options, "count": 5}) == 0
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "db").rglob("*")}
    assert len(asked) == 8
    assert {path for path in after if path.is_file() and after[path] != before[path]} == set()
    assert len(open_database(tmp_path / "db")) == 20


def test_progress_counts_examples_of_the_part(tmp_path):
    seen = []
    write(tmp_path / "db", part=(1, 2), progress=lambda *args: seen.append(args))
    assert seen == [(0, 8), (4, 8), (8, 8)]
    seen.clear()
    write(tmp_path / "db", progress=lambda *args: seen.append(args))
    assert seen[0] == (8, 20)
    assert seen[-1] == (20, 20)


class Killed(BaseException):
    """Not an Exception: nothing may catch it and clean up."""


def kill_at(step: int, monkeypatch) -> None:
    """Everything that touches the disk counts as a step; the one of that number never happens."""
    steps = itertools.count()

    def killing(function):
        def wrapped(*args, **kwargs):
            if next(steps) == step:
                raise Killed
            return function(*args, **kwargs)

        return wrapped

    for owner, name in (
        (os, "replace"),
        (Path, "unlink"),
        (database, "_write"),
        (database, "_claim"),
        (database.shutil, "rmtree"),
    ):
        monkeypatch.setattr(owner, name, killing(getattr(owner, name)))


@pytest.mark.parametrize("existing", (0, 10), ids=("new", "extended"))
def test_kill_at_every_step(existing, tmp_path, monkeypatch):
    """After a kill anywhere what can be read is right, and the rest is made as if never killed."""
    # Waiting for the disk would be most of the time; a kill does not lose what was written.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    few = lambda root, count=15: write(root, count)
    few(tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    start = tmp_path / "start"
    if existing:
        write(start, existing)
    else:
        start.mkdir()
    for step in itertools.count():
        root = tmp_path / f"step{step}"
        copy_folder(start, root)
        with monkeypatch.context() as patch:
            kill_at(step, patch)
            try:
                few(root)
                break
            except Killed:
                pass
        if any((root / "shards").glob("*.json")):
            db = open_database(root, partial=True)
            got = read(db, np.arange(len(db)))
            want = jax.tree.map(lambda leaf, db=db: leaf[read_numbers(db, np.arange(len(db)))],
                                make_batch(0, 15))  # fmt: skip
            assert_same(got, want, 0.5e-4 + 1e-6)
        few(root)
        assert contents(root) == whole, f"killed at step {step}"
        assert not (root / ".staging").exists()
    assert step > (30 if existing else 50)


def copy_folder(source: Path, target: Path) -> None:
    for name, data in contents(source).items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data)


SLOW_WRITER = """
import sys, time
sys.path.insert(0, {tests!r})
import test_database as t

def slow(start, count):
    time.sleep(0.05)
    return t.make_batch(start, count)

t.write_database({root!r}, slow, t.describe(), 80, batch_size=4, part=({part}, 2))
"""


def start_writer(root: Path, part: int) -> subprocess.Popen:
    script = SLOW_WRITER.format(tests=str(Path(__file__).parent), root=str(root), part=part)
    return subprocess.Popen([sys.executable, "-c", script])


def test_killed_processes_are_resumed(tmp_path):
    root = tmp_path / "db"
    processes = [start_writer(root, part) for part in range(2)]
    deadline = time.monotonic() + 60
    for shard, process in enumerate(processes):
        while not (root / "shards" / f"{shard:06d}.json").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert (root / ".staging").exists()
    with pytest.raises(ValueError, match="of 10 shards are not finished .*same settings"):
        open_database(root)
    assert not verify_database(root).ok
    processes = [start_writer(root, part) for part in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert write(root, 80) == 0
    write(tmp_path / "whole", 80)
    assert contents(root) == contents(tmp_path / "whole")


@pytest.mark.parametrize("counts", ((8, 20), (3, 20), (3, 4, 17, 20)))
def test_extended_database_is_that_of_one_run(counts, tmp_path, uninterrupted):
    for count in counts:
        write(tmp_path / "db", count)
        assert len(open_database(tmp_path / "db")) == count
    assert contents(tmp_path / "db") == contents(uninterrupted)


def test_parts_of_several_processes_are_those_of_one(tmp_path, uninterrupted):
    for part in (2, 0, 1):
        assert write(tmp_path / "db", part=(part, 3)) == (8, 8, 4)[part]
    assert contents(tmp_path / "db") == contents(uninterrupted)


def test_part_of_a_database_is_read(tmp_path):
    write(tmp_path / "db", part=(1, 2))
    db = open_database(tmp_path / "db", partial=True)
    assert len(db) == 8
    np.testing.assert_array_equal(read_numbers(db, [0, 7]), [8, 15])
    assert_same(db[7], make_example(15), 0.5e-4 + 1e-6)
    report = verify_database(tmp_path / "db")
    assert (report.ok, report.missing, report.damaged) == (False, (0, 2), ())


def test_two_processes_cannot_write_one_shard(tmp_path):
    write(tmp_path / "db", part=(1, 2))
    shard = database.Shard(0, 0, 8)
    with database._claim(tmp_path / "db", shard):
        with pytest.raises(BlockingIOError, match="writing shard 0.*own part"):
            write(tmp_path / "db")
    assert write(tmp_path / "db") == 12
    assert verify_database(tmp_path / "db").ok


def test_verify_counts(uninterrupted):
    seen = []
    report = verify_database(uninterrupted, progress=lambda *args: seen.append(args))
    assert report.ok
    assert (report.examples, report.shards) == (20, 3)
    assert report.bytes == sum(path.stat().st_size for path in uninterrupted.glob("*/c/**/*")
                               if path.is_file())  # fmt: skip
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_flipped_bytes_are_found_and_named(tmp_path, uninterrupted, rng):
    root = tmp_path / "db"
    copy_folder(uninterrupted, root)
    for file in sorted(path for path in root.glob("*/c/1/**/*") if path.is_file()):
        data = file.read_bytes()
        for place in (0, *rng.integers(0, len(data), 4), len(data) - 1):
            damaged = bytearray(data)
            damaged[place] ^= 1 << rng.integers(8)
            file.write_bytes(damaged)
            db = open_database(root)
            with pytest.raises(ValueError, match=r"damaged shards: 1\. Copy.*shards/000001\.json"):
                read(db, np.arange(20))
            read(db, [0, 19])
            report = verify_database(root)
            assert len(report.damaged) == 1
            assert f"shard 1: {file.relative_to(root)}" in report.damaged[0]
        file.write_bytes(data)
    (root / "shards/000001.json").unlink()
    file.write_bytes(b"")
    assert write(root) == 8
    assert contents(root) == contents(uninterrupted)


def test_lost_and_truncated_files_are_errors_not_zeros(tmp_path, uninterrupted):
    root = tmp_path / "db"
    copy_folder(uninterrupted, root)
    (root / "mask/c/2/0/0").unlink()
    (root / "pose/c/0/0/0").write_bytes((root / "pose/c/0/0/0").read_bytes()[:-5])
    with pytest.raises(ValueError, match="damaged shards: 0, 2"):
        read(open_database(root), [1, 10, 17])
    size = (uninterrupted / "pose/c/0/0/0").stat().st_size
    assert verify_database(root).damaged == (
        f"shard 0: pose/c/0/0/0: got {size - 5} bytes, need {size}",
        "shard 2: mask/c/2/0/0: No such file or directory",
    )


def test_damaged_descriptions_are_named(tmp_path, uninterrupted):
    root = tmp_path / "db"
    copy_folder(uninterrupted, root)

    def change(name: str, old: bytes, new: bytes) -> None:
        copy_folder(uninterrupted, root)
        data = (root / name).read_bytes()
        assert old in data
        (root / name).write_bytes(data.replace(old, new, 1))

    change("manifest.json", b"0.01", b"0.02")
    with pytest.raises(ValueError, match=r"manifest.json: its sha256 does not match"):
        open_database(root)
    change("manifest.json", b"{", b"[")
    with pytest.raises(ValueError, match="not JSON"):
        verify_database(root)
    change("shards/000001.json", b'"count": 8', b'"count":8')
    with pytest.raises(ValueError, match="record of shard 1; delete this file"):
        open_database(root)
    assert "shard 1" in verify_database(root).damaged[0]
    for old, new in ((b'"count": 8', b'"count": 9'), (b'"start": 8', b'"start": 9')):
        change("shards/000001.json", old, new)
        with pytest.raises(ValueError, match="record of shard 1; delete this file"):
            open_database(root)
    change("depth/zarr.json", b"20", b"21")
    assert verify_database(root).damaged[0].startswith("depth/zarr.json")
    write(root)
    assert contents(root) == contents(uninterrupted)


def test_refuses_another_kind_of_examples(tmp_path, uninterrupted):
    before = contents(uninterrupted)
    noise = {"noise": {"axial": 0.02}, "distance_m": [1.0, 4.0]}
    for changes, expected in (
        ({"config": noise}, r"config\.noise\.axial: the database has 0\.01, now 0\.02"),
        ({"config": {**CONFIG, "new": 1}}, r'config\.new: the database has "nothing", now 1'),
        ({"model": {**MODEL, "digest": "1" * 64}}, r'model\.digest: .*"000.*now "111'),
        ({"generator": "test 2"}, r'generator: the database has "test 1", now "test 2"'),
        ({"unit_mm": 1.0}, r"depth_unit_mm: the database has 0\.1, now 1\.0"),
        ({"seed": 1, "width": 20}, r"image\.width: .*18, now 20\n  seed: the database has 0"),
    ):
        with pytest.raises(ValueError, match=expected) as error:
            write_database(uninterrupted, make_batch, describe(**changes), 20)
        assert "write to a new folder" in str(error.value)
    assert contents(uninterrupted) == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty and holds no manifest"):
        write(tmp_path)
    assert contents(tmp_path) == {"notes.txt": b"mine"}
    with pytest.raises(FileNotFoundError, match="not a database"):
        open_database(tmp_path)


@pytest.mark.parametrize(
    "field, change, expected",
    (
        ("depth", lambda x: x[:, :8], r"depth: got shape \(4, 8, 18\), need \(4, 16, 18\)"),
        ("depth", lambda x: np.where(x > 6, np.nan, x), "example 0 holds NaN"),
        ("depth", lambda x: x + 1, r"to 7\.\d+ m; 16 bits in steps of 0.1 mm hold 0 to 6.553"),
        ("depth", lambda x: x - 1, "example 0 spans -1 to"),
        ("joints", lambda x: x[:, :2], r"joints: got shape \(4, 2, 3\)"),
        ("visible", lambda x: x / 0, "visible: example 0 holds NaN or infinity"),
    ),
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_refuses_what_cannot_be_stored(field, change, expected, tmp_path):
    def bad(start: int, count: int) -> Example:
        example = make_batch(start, count)
        return dataclasses.replace(example, **{field: change(getattr(example, field))})

    with pytest.raises(ValueError, match=expected):
        write_database(tmp_path / "db", bad, describe(), 4, batch_size=4)
    with pytest.raises(ValueError, match="no shard is finished"):
        open_database(tmp_path / "db", partial=True)


def test_explains_wrong_arguments(tmp_path):
    short = lambda start, count: make_batch(start, count - 1)
    with pytest.raises(ValueError, match=r"make_batch\(0, 4\): returned 3 examples, need 4"):
        write_database(tmp_path / "db", short, describe(), 20, batch_size=4)
    with pytest.raises(ValueError, match="part: got 2 of 2"):
        write(tmp_path / "db", part=(2, 2))
    with pytest.raises(ValueError, match="need both >= 1"):
        write(tmp_path / "db", count=0)
    with pytest.raises(ValueError, match="camera: got 18 x 16 pixels, .* 18 x 20"):
        write_database(tmp_path / "tall", make_batch, describe(height=20), 4)
    with pytest.raises(ValueError, match="convert arrays with tolist"):
        describe(config={"range": np.zeros(2)})
    with pytest.raises(ValueError, match="finite"):
        describe(config={"range": float("nan")})
    with pytest.raises(ValueError, match="shard_size: got 0"):
        describe(shard_size=0)
    with pytest.raises(ValueError, match="unit_mm: got 0"):
        describe(unit_mm=0)


def test_tensorstore_is_imported_by_its_first_use():
    script = """
import sys
import jrecon.synth.database, jrecon.synth.epochs, jrecon.synth.exchange, jrecon.synth.reading
sys.exit("tensorstore" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


def test_model_digest_sees_numbers_and_names_not_texts():
    rng = np.random.default_rng(0)
    vertices = rng.normal(size=(4, 3)).astype(np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    entry = lambda vertices=vertices, **fields: model_entry(make_model(vertices, faces, **fields))
    assert entry() == entry() == entry(license="CC0", provenance="here")
    assert entry()["joints"] == 1
    moved = vertices.copy()
    moved[2, 1] = np.nextafter(moved[2, 1], np.float32(9))
    digests = {entry()["digest"], entry(moved)["digest"], entry(joint_names=["hip"])["digest"]}
    assert len(digests) == 3
    assert json.loads(json.dumps(entry())) == entry()
