"""What a database says about itself: its manifest, and the records of its finished shards.

DIR/manifest.json         what the examples are: model digest, config, generator, units, count
DIR/<field>/zarr.json     one Zarr v3 array per field (`jrecon.synth.records`) ...
DIR/<field>/c/<shard>/..  ... with one file per shard
DIR/shards/<shard>.json   the record of a finished shard: sizes and sha256 of its files
DIR/.staging/             work in progress; gone when the database is complete
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jrecon.model.parametric import ParametricModel

FORMAT = "jrecon-database"
# To be raised with every change of the layout: of manifests, records or `records.array_spec`.
VERSION = 1
MANIFEST = "manifest.json"
STAGING = ".staging"

# About 20 MB of 128 x 128 images: a kill loses seconds of work, and a million examples are some
# five thousand files.
SHARD_SIZE = 2048


class Shard(NamedTuple):
    """A run of examples that is written and read as files of its own."""

    index: int
    start: int
    count: int

    @property
    def record(self) -> str:
        """Its record, relative to the database."""
        return f"shards/{self.index:06d}.json"


def shards_of(manifest: Mapping[str, Any]) -> list[Shard]:
    """All shards that a database consists of, finished or not; only the last may be smaller."""
    size, count = manifest["shard_size"], manifest["count"]
    return [
        Shard(index, start, min(size, count - start))
        for index, start in enumerate(range(0, count, size))
    ]


def model_entry(model: ParametricModel) -> dict[str, Any]:
    """What a manifest says about a model: name, size, and a sha256 over everything that matters.

    The digest covers the arrays and what gives them meaning (parents, names, correctives), not the
    licence and the provenance, which are text.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(model):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    meaning = ("parents", "joint_names", "shape_names", "corrective", "corrective_joints")
    digest.update(json.dumps([getattr(model, name) for name in meaning]).encode())
    return {
        "name": model.name,
        "digest": digest.hexdigest(),
        "joints": model.num_joints,
        "shape": model.num_shape,
    }


def make_manifest(
    *,
    model: Mapping[str, Any],
    config: Mapping[str, Any],
    generator: str,
    width: int,
    height: int,
    seed: int | None = None,
    unit_mm: float = 1.0,
    shard_size: int = SHARD_SIZE,
) -> dict[str, Any]:
    """The description of a database, all but the number of examples.

    Args:
      model: `model_entry(model)`.
      config: all settings of the generator, as JSON (`jrecon.synth.settings`).
      generator: program and version that make the examples.
      seed: of the key that example i folds its number into.
      unit_mm: one step of stored depth; 16 bits reach 65.5 m with 1.0 and 6.55 m with 0.1.
      shard_size: examples per shard; a power of two makes small fields compact.

    Raises:
      ValueError: a size or unit that is not positive, or a config that JSON cannot hold.
    """
    for name, value in (("width", width), ("height", height), ("shard_size", shard_size)):
        if int(value) != value or value < 1:
            raise ValueError(f"{name}: got {value}, need a whole number >= 1.")
    if not 0 < unit_mm < 1000:
        raise ValueError(f"unit_mm: got {unit_mm}, need the step of depth in mm, as 0.1 or 1.0.")
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "generator": generator,
        "model": dict(model),
        "config": dict(config),
        "seed": seed,
        "image": {"width": int(width), "height": int(height)},
        "depth_unit_mm": float(unit_mm),
        "shard_size": int(shard_size),
    }
    try:
        return json.loads(json.dumps(manifest, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"config: {error}; need what JSON can hold: finite numbers, strings, lists, "
            "dictionaries; convert arrays with tolist()."
        ) from error


def read_manifest(root: Path) -> dict[str, Any]:
    """The checked manifest of a database.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged, or of another format or version.
    """
    path = root / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{root}: no {MANIFEST}, so this is not a database of examples; check the path, or "
            "write one there."
        )
    try:
        manifest = json.loads(path.read_bytes())
        digest = manifest.pop("sha256", None) if isinstance(manifest, dict) else None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); it is damaged, copy it again.") from error
    if digest is None or manifest.get("format") != FORMAT:
        raise ValueError(f"{path}: not the manifest of a {FORMAT}; check the path.")
    if manifest.get("version") != VERSION:
        raise ValueError(
            f"{path}: got version {manifest.get('version')}, this jrecon reads version {VERSION}; "
            "use the jrecon that wrote it."
        )
    if digest != _digest(manifest):
        raise ValueError(
            f"{path}: its sha256 does not match: it was damaged or changed by hand; copy it again."
        )
    return manifest


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """The contents of `manifest.json`, with a digest of itself."""
    return json_bytes({**manifest, "sha256": _digest(manifest)})


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json_bytes(manifest)).hexdigest()


def json_bytes(value: Any) -> bytes:
    """JSON whose bytes depend on the value alone."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def require_same(root: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises ValueError if two manifests differ in more than the number of examples."""
    differences = list(_differences("", found, wanted))
    if differences:
        listed = "".join(f"\n  {line}" for line in differences[:20])
        more = f"\n  and {len(differences) - 20} more" if len(differences) > 20 else ""
        raise ValueError(
            f"{root}: holds examples of another kind:{listed}{more}\n"
            "Use the settings it was made with, or write to a new folder."
        )


def _differences(name: str, found: Any, wanted: Any) -> Iterator[str]:
    """Lines `a.b: the database has 1, now 2`; the number of examples may differ."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in sorted({*found, *wanted} - ({"count"} if not name else set())):
            inner = f"{name}.{key}" if name else key
            missing = "nothing"
            yield from _differences(inner, found.get(key, missing), wanted.get(key, missing))
    elif found != wanted or type(found) is not type(wanted):
        yield f"{name}: the database has {_short(found)}, now {_short(wanted)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else text[:97] + "..."


def read_record(root: Path, shard: Shard) -> dict[str, Any] | None:
    """The record of a shard; None if it is not finished.

    Raises:
      ValueError: the record is damaged.
    """
    path = root / shard.record
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    record = None
    try:
        record = json.loads(data)
        sound = json_bytes(record) == data and _describes(record, shard)
    except (ValueError, TypeError, KeyError):
        sound = False
    if not sound:
        raise ValueError(
            f"{path}: damaged record of shard {shard.index}; delete this file and write the "
            "database again with the same settings: the shard is made anew."
        )
    return record


def _describes(record: Any, shard: Shard) -> bool:
    """Whether a record is of this shard, with no more examples than it can have."""
    place = record["shard"], record["start"]
    return (
        place == (shard.index, shard.start)
        and 0 < record["count"] <= shard.count
        and isinstance(record["files"], dict)
    )
