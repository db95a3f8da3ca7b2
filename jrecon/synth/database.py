"""Write examples to disk: shard by shard, resumable after a kill at any point.

A shard is made in `.staging`, its files are renamed to their place, and then its record appears, by
a rename as well: from then on, and not before, the shard exists, and it is not written again. No
byte depends on time, host or process: an interrupted, resumed, extended or split run leaves the
files of an uninterrupted one. `jrecon.synth.manifest` has the layout, `jrecon.synth.reading` reads.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jrecon.synth.example import Example
from jrecon.synth.lock import locked
from jrecon.synth.manifest import (
    MANIFEST,
    STAGING,
    Shard,
    json_bytes,
    manifest_bytes,
    read_manifest,
    read_record,
    require_same,
    shards_of,
)
from jrecon.synth.records import (
    array_metadata,
    encode,
    encode_shard,
    is_described,
    stored_fields,
)

MakeBatch = Callable[[int, int], Example]
"""(start, count) -> examples start .. start + count - 1, batched; example i depends only on i."""


def write_database(
    path: str | os.PathLike[str],
    make_batch: MakeBatch,
    manifest: Mapping[str, Any],
    count: int,
    *,
    batch_size: int = 64,
    part: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes those of the examples 0 .. count - 1 that are not there yet, or a part of them.

    A database that was interrupted is resumed; one with fewer examples is extended (an incomplete
    last shard is made anew); one that is complete, or holds more, is left alone.

    Args:
      make_batch: always asked for `batch_size` examples, so that it compiles once; also for some
        beyond `count`, which are dropped. Compiled code may round differently in batches of
        another size: identical bytes need the same `batch_size`.
      manifest: from `make_manifest`.
      part: (i, n): this process makes the shards i, i + n, i + 2n, ... Processes need not know of
        each other, and may run one after another; all must be given the same `count`.
      progress: called with the number of examples done and to do, of this part; those that were
        there before count as done in the first call.

    Returns:
      The number of examples written now.

    Raises:
      ValueError: the folder holds something else, or a database of another model, config,
        generator or layout: the message names what differs. Or `make_batch` returned something
        that cannot be stored.
      BlockingIOError: another process is writing the same shard.
    """
    number, parts = part
    if not 0 <= number < parts:
        raise ValueError(f"part: got {number} of {parts}, need (i, n) with 0 <= i < n.")
    if count < 1 or batch_size < 1:
        raise ValueError(f"count, batch_size: got {count}, {batch_size}; need both >= 1.")
    root = Path(path)
    manifest = _prepare(root, manifest, count)
    shards = shards_of(manifest)
    mine = shards[number::parts]
    total = sum(shard.count for shard in mine)
    done = sum(shard.count for shard in mine if _finished(root, shard))
    report = progress or (lambda done, total: None)
    report(done, total)
    written = 0
    for shard in mine:
        if _finished(root, shard):
            continue
        with _claim(root, shard) as staging:
            batches = []
            for batch in _batches(make_batch, manifest, shard, batch_size):
                batches.append(batch)
                written += len(batch["number"])
                report(done + written, total)
            rows = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
            _commit(root, staging, manifest, shard, rows)
    if all(_finished(root, shard) for shard in shards):
        shutil.rmtree(root / STAGING, ignore_errors=True)
    return written


def _prepare(root: Path, manifest: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Creates or checks a database's manifest and array descriptions; returns the manifest."""
    if (root / MANIFEST).exists():
        found = read_manifest(root)
        require_same(root, found, manifest)
        count = max(count, found["count"])
    elif root.exists() and any(entry.name != STAGING for entry in root.iterdir()):
        raise ValueError(
            f"{root}: the folder is not empty and holds no {MANIFEST}; write to a new folder."
        )
    full = {**manifest, "count": count}
    # The manifest first: whatever comes after it can be made again from it.
    _replace(root, MANIFEST, manifest_bytes(full))
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"manifest": MANIFEST}}
    _replace(root, "zarr.json", json_bytes(group))
    for field in stored_fields(full):
        if not is_described(root, field, full["shard_size"], count):
            metadata = array_metadata(field, full["shard_size"], count)
            _replace(root, f"{field.name}/zarr.json", metadata)
    return full


def _replace(root: Path, name: str, data: bytes) -> None:
    """Makes a file hold `data`, atomically; does nothing if it does already."""
    target = root / name
    if target.is_file() and target.read_bytes() == data:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    (root / STAGING).mkdir(exist_ok=True)
    owner = f"{socket.gethostname()}-{os.getpid()}"
    draft = root / STAGING / f"{name.replace('/', '-')}-{owner}"
    _write(draft, data)
    os.replace(draft, target)
    _sync(target.parent)


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Makes renames in a folder survive a power cut, before what relies on them."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _finished(root: Path, shard: Shard) -> bool:
    """Whether the shard is there, with all the examples that it should have."""
    record = read_record(root, shard)
    return record is not None and record["count"] >= shard.count


@contextlib.contextmanager
def _claim(root: Path, shard: Shard) -> Iterator[Path]:
    """An empty folder to make a shard in, locked against other processes.

    What a killed process left is removed; its lock died with it.
    """
    staging = root / STAGING / f"{shard.index:06d}"
    message = (
        f"{root}: another process is writing shard {shard.index}; give every process its "
        "own part (i, n), or wait until it has finished."
    )
    with locked(staging, message):
        for leftover in staging.iterdir():
            leftover.unlink()
        yield staging
        # A process that sees the database complete may remove it first.
        shutil.rmtree(staging, ignore_errors=True)


def _batches(
    make_batch: MakeBatch, manifest: Mapping[str, Any], shard: Shard, batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
    """The rows of a shard, batch by batch; batches start at the same numbers in every run."""
    end = shard.start + shard.count
    for start in range(shard.start, end, batch_size):
        rows = encode(manifest, make_batch(start, batch_size), start)
        made = len(rows["number"])
        if made != batch_size:
            raise ValueError(
                f"make_batch({start}, {batch_size}): returned {made} examples, need {batch_size}."
            )
        yield {name: values[: end - start] for name, values in rows.items()}


def _commit(
    root: Path,
    staging: Path,
    manifest: Mapping[str, Any],
    shard: Shard,
    rows: Mapping[str, np.ndarray],
) -> None:
    """Puts a shard's files in place and then says so."""
    files, drafts = {}, {}
    for field in stored_fields(manifest):
        data = encode_shard(field, manifest["shard_size"], rows[field.name])
        name = f"{field.name}/{field.key(shard.index)}"
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        drafts[name] = staging / field.name
        _write(drafts[name], data)
    # An incomplete last shard that is extended: it does not exist while its files are exchanged.
    (root / shard.record).unlink(missing_ok=True)
    for name, draft in drafts.items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(draft, target)
        _sync(target.parent)
    record = {"shard": shard.index, "start": shard.start, "count": shard.count, "files": files}
    _replace(root, shard.record, json_bytes(record))
