"""Reading databases: round trips, parts, damage found and named."""

import pickle

import jax
import numpy as np
import pytest

from jrecon.synth.reading import open_database, read, read_numbers, verify_database
from tests.synth.small_database import (
    assert_same,
    contents,
    copy_folder,
    make_batch,
    make_example,
    write,
)


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


def test_single_examples_and_pickles(uninterrupted):
    db = pickle.loads(pickle.dumps(open_database(uninterrupted)))  # noqa: TID251
    assert_same(db[5], make_example(5), 0.5e-4 + 1e-6)
    with pytest.raises(IndexError, match="20 examples"):
        db[20]
    with pytest.raises(IndexError, match="got -1"):
        db[-1]
    with pytest.raises(IndexError, match="whole numbers"):
        read(db, [0.5])


def test_part_of_a_database_is_read(tmp_path):
    write(tmp_path / "db", part=(1, 2))
    db = open_database(tmp_path / "db", partial=True)
    assert len(db) == 8
    np.testing.assert_array_equal(read_numbers(db, [0, 7]), [8, 15])
    assert_same(db[7], make_example(15), 0.5e-4 + 1e-6)
    report = verify_database(tmp_path / "db")
    assert (report.ok, report.missing, report.damaged) == (False, (0, 2), ())


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
