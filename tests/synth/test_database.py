"""Writing databases of examples: kills at every stage, extensions, several processes, refusals."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jrecon.model.parametric import make_model
from jrecon.synth import database
from jrecon.synth.database import write_database
from jrecon.synth.example import Example
from jrecon.synth.manifest import model_entry
from jrecon.synth.reading import open_database, read, read_numbers, verify_database
from tests.synth.small_database import (
    CONFIG,
    MODEL,
    assert_same,
    contents,
    copy_folder,
    describe,
    make_batch,
    write,
)


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


SLOW_WRITER = """
import time
from tests.synth import small_database as t

def slow(start, count):
    # The first shard of each process has examples 0 to 15; the next one it never finishes.
    time.sleep({pause} if start >= 16 else 0)
    return t.make_batch(start, count)

t.write_database({root!r}, slow, t.describe(), 80, batch_size=4, part=({part}, 2))
"""


def start_writer(root: Path, part: int, pause: float) -> subprocess.Popen:
    script = SLOW_WRITER.format(root=str(root), part=part, pause=pause)
    return subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])


def test_killed_processes_are_resumed(tmp_path):
    root = tmp_path / "db"
    processes = [start_writer(root, part, pause=900) for part in range(2)]
    deadline = time.monotonic() + 300
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
    processes = [start_writer(root, part, pause=0) for part in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
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


def test_two_processes_cannot_write_one_shard(tmp_path):
    write(tmp_path / "db", part=(1, 2))
    shard = database.Shard(0, 0, 8)
    with database._claim(tmp_path / "db", shard):
        with pytest.raises(BlockingIOError, match="writing shard 0.*own part"):
            write(tmp_path / "db")
    assert write(tmp_path / "db") == 12
    assert verify_database(tmp_path / "db").ok


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
