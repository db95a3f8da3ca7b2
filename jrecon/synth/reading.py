"""Read a database of examples: any examples in any order, with every byte checked.

Reading touches NumPy and tensorstore only; nothing is put on a device. What was damaged on disk is
an error that names the shard: every chunk carries a crc32c, and a lost file is never read as zeros.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jrecon.synth.example import Example
from jrecon.synth.manifest import Shard, read_manifest, read_record, shards_of
from jrecon.synth.records import decode, is_described, open_arrays, stored_fields

# The index of a shard is 16 bytes per chunk: 64 MiB keep those of a million examples at hand.
CACHE_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class Database:
    """An open database: `len(db)` examples, `db[i]` one of them, `read(db, indices)` many.

    It can be pickled and sent to other processes, and is a random access source as Grain wants it:
    `grain.MapDataset.source(db)`.
    """

    path: Path
    manifest: Mapping[str, Any]
    starts: np.ndarray
    """Number of the first example of each shard that can be read, ascending."""
    ends: np.ndarray
    """Examples in the shards up to and including each, cumulative."""
    arrays: Mapping[str, Any]
    """The open tensorstore arrays by field name."""

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Example:
        return jax.tree.map(lambda leaf: leaf[0], read(self, [index]))


def open_database(
    path: str | os.PathLike[str], *, partial: bool = False, cache_bytes: int = CACHE_BYTES
) -> Database:
    """Opens a database to read.

    Args:
      partial: accept one that is still being written; its finished shards are read.
      cache_bytes: memory for shard indices and the like.

    Raises:
      FileNotFoundError: no database there.
      ValueError: it is incomplete, or its manifest or a record is damaged.
    """
    root = Path(path)
    manifest = read_manifest(root)
    shards = shards_of(manifest)
    counts = [record["count"] if (record := read_record(root, s)) else 0 for s in shards]
    missing = [s.index for s, count in zip(shards, counts, strict=True) if count < s.count]
    if missing and not partial:
        raise ValueError(
            f"{root}: {len(missing)} of {len(shards)} shards are not finished ({_some(missing)}); "
            "write it again with the same settings to complete it, or open it with partial=True."
        )
    if not any(counts):
        raise ValueError(f"{root}: no shard is finished yet; nothing to read.")
    kept = [(s.start, count) for s, count in zip(shards, counts, strict=True) if count]
    starts, kept_counts = np.array(kept, np.int64).T
    arrays = open_arrays(root, manifest, cache_bytes)
    return Database(root, manifest, starts, np.cumsum(kept_counts), arrays)


def _some(numbers: list[int]) -> str:
    listed = ", ".join(str(number) for number in numbers[:8])
    return listed + (", ..." if len(numbers) > 8 else "")


def read(db: Database, indices: Any) -> Example:
    """The examples at `indices` (n,), 0 <= index < len(db), in NumPy arrays with a batch axis n.

    Raises:
      IndexError: an index out of range.
      ValueError: damaged data; the message names the shard and the file.
    """
    return decode(db.manifest, _read_rows(db, _numbers(db, indices), tuple(db.arrays)))


def read_numbers(db: Database, indices: Any) -> np.ndarray:
    """The numbers (n,) that the examples at `indices` were made from, as stored with them.

    They equal `indices` unless some shards are missing.
    """
    return _read_rows(db, _numbers(db, indices), ("number",))["number"]


def _numbers(db: Database, indices: Any) -> np.ndarray:
    """Rows of the arrays; differs from the indices only in an incomplete database."""
    indices = np.asarray(indices)
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise IndexError(
            f"indices: got {indices.dtype} of shape {indices.shape}, need whole numbers (n,)."
        )
    indices = indices.astype(np.int64)
    if indices.size and not (0 <= indices.min() and indices.max() < len(db)):
        raise IndexError(
            f"indices: got {indices.min()} to {indices.max()}, the database has {len(db)} examples."
        )
    run = np.searchsorted(db.ends, indices, side="right")
    before = np.concatenate([[0], db.ends])[run]
    return db.starts[run] + indices - before


def _read_rows(db: Database, numbers: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    # In ascending order tensorstore reads each chunk once and neighbours together.
    order = np.argsort(numbers, kind="stable")
    place = np.argsort(order, kind="stable")
    pending = {name: db.arrays[name][numbers[order]].read() for name in names}
    try:
        return {name: future.result()[place] for name, future in pending.items()}
    except ValueError as error:
        raise ValueError(f"{_blame(db, numbers, names)}\n{error}") from error


def _blame(db: Database, numbers: np.ndarray, names: tuple[str, ...]) -> str:
    """Which shards the rows cannot be read from: once something is wrong, each is tried alone."""
    shards = numbers // db.manifest["shard_size"]
    damaged = []
    for shard in np.unique(shards).tolist():
        rows = numbers[shards == shard]
        try:
            for name in names:
                db.arrays[name][rows].read().result()
        except ValueError:
            damaged.append(shard)
    listed = ", ".join(str(shard) for shard in damaged) or "none when read again"
    return f"{db.path}: damaged shards: {listed}. {_remedy(damaged)}"


def _remedy(shards: list[int]) -> str:
    records = ", ".join(Shard(shard, 0, 0).record for shard in shards[:8])
    return (
        f"Copy them again; or delete {records or 'their records'} and write the database again "
        "with the same settings: they are made anew."
    )


@dataclasses.dataclass(frozen=True)
class Verification:
    """What `verify_database` found."""

    examples: int
    """That the database should have."""
    shards: int
    bytes: int
    """Of the finished shards."""
    missing: tuple[int, ...]
    """Shards that are not finished."""
    damaged: tuple[str, ...]
    """One line per damaged file: where, what was got, what is needed."""

    @property
    def ok(self) -> bool:
        return not self.missing and not self.damaged


def verify_database(
    path: str | os.PathLike[str],
    *,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Checks every byte of a database against the sha256 in its records.

    Args:
      progress: called with the number of shards checked and to check.

    Raises:
      FileNotFoundError: no database there.
      ValueError: its manifest is damaged: then nothing else can be checked.
    """
    root = Path(path)
    manifest = read_manifest(root)
    shards = shards_of(manifest)
    damaged = []
    for field in stored_fields(manifest):
        if not is_described(root, field, manifest["shard_size"], manifest["count"]):
            damaged.append(f"{field.name}/zarr.json: missing or damaged; write again to restore it")
    missing, size = [], 0
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda shard: _verify_shard(root, shard), shards)
        for done, (shard, (bytes_found, problems)) in enumerate(zip(shards, found, strict=True), 1):
            if bytes_found is None:
                missing.append(shard.index)
            size += bytes_found or 0
            damaged += problems
            if progress:
                progress(done, len(shards))
    return Verification(manifest["count"], len(shards), size, tuple(missing), tuple(damaged))


def _verify_shard(root: Path, shard: Shard) -> tuple[int | None, list[str]]:
    """The bytes of a shard, None if it is not finished, and what is wrong with it."""
    try:
        record = read_record(root, shard)
    except ValueError as error:
        return 0, [str(error)]
    if record is None or record["count"] < shard.count:
        return None, []
    problems, size = [], 0
    for name, needed in record["files"].items():
        where = f"shard {shard.index}: {name}"
        try:
            with open(root / name, "rb") as file:
                got = os.fstat(file.fileno()).st_size
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            problems.append(f"{where}: {error.strerror}")
            continue
        size += got
        if got != needed["bytes"]:
            problems.append(f"{where}: got {got} bytes, need {needed['bytes']}")
        elif digest != needed["sha256"]:
            problems.append(f"{where}: sha256 {digest[:12]}..., need {needed['sha256'][:12]}...")
    return size, problems
