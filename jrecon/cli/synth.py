"""`jrecon synth`: make examples, store them, look at them, check what is stored."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from tyro.conf import arg

from jrecon.cli.command import Command, Report, require_free, require_suffix

if TYPE_CHECKING:
    import jax

    from jrecon.model.parametric import ParametricModel
    from jrecon.synth.example import Example
    from jrecon.synth.generate import Source, SynthConfig

# Examples that are made at once. Stored bytes may depend on it: not a setting.
_BATCH = 64
_PREVIEWED = 32
_COLUMNS = 8
_STEPS = 2**16 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synth(Command):
    """Make examples, depth maps with the truth behind them, and store them as a database.

    Run the same command again to go on after an interruption, or with a larger --count to extend
    a database; what is there is never replaced. Several processes share the work by --shard.

    Example: jrecon synth --count 100000 --out people --preview people.png
    """

    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of the database; created, resumed or extended."""
    count: int = 1000
    """How many examples the database shall have."""
    preview: Annotated[Path | None, arg(metavar="FILE")] = None
    """Draw the first examples beside the truth: .png, .jpg. With or without --out."""
    verify: Annotated[Path | None, arg(metavar="DIR")] = None
    """Check every byte of this database instead of making one."""
    model: str = "body"
    """`body`, or a model file: .npz, .pkl, .glb, .gltf."""
    level: Annotated[str | None, arg(metavar="NAME")] = None
    """Level of detail; the coarsest if left out (`2k` of the body)."""
    size: Annotated[int | None, arg(metavar="PIXELS")] = None
    """Height and width of the images; 128 if neither this nor --config says otherwise."""
    sensors: Annotated[tuple[str, ...] | None, arg(metavar="NAME ...")] = None
    """Sensors that take the images, in equal shares; all if left out."""
    config: Annotated[Path | None, arg(metavar="FILE")] = None
    """JSON with any of the settings; the rest stays at its default."""
    write_config: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write all settings as JSON, to be edited, and make nothing."""
    seed: int = 0
    """Another seed, other examples."""
    shard: Annotated[str, arg(metavar="I/N")] = "0/1"
    """Make part I of N only, I from 0 to N - 1, with the same --count for all."""
    unit_mm: float = 1.0
    """Step of the stored depth; what is beyond 65,535 steps is stored as no return."""
    shard_size: int = 2048
    """Examples per file: what a kill loses at most, and the least that is extended."""
    overwrite: bool = False
    """Replace existing files of --preview and --write-config; never a database."""

    def run(self) -> Report:
        if self.verify is not None:
            return _verify(self.verify)
        from jrecon.synth.settings import settings

        part = _part(self.shard)
        if self.count < 1:
            raise ValueError(f"count: got {self.count}, need at least 1.")
        if self.out is self.preview is self.write_config is None:
            raise ValueError(
                "synth: got nothing to do, need --out, --preview, --write-config or --verify."
            )
        config = self._settings()
        if self.write_config is not None:
            require_suffix(self.write_config, (".json",))
            require_free(self.write_config, self.overwrite)
            self.write_config.write_text(json.dumps(settings(config), indent=2) + "\n")
            return {"written": [str(self.write_config)]}
        if self.preview is not None:
            require_suffix(self.preview, (".png", ".jpg", ".jpeg"))
            require_free(self.preview, self.overwrite)
        return self._make(config, part)

    def _settings(self) -> SynthConfig:
        from jrecon.synth.generate import SynthConfig
        from jrecon.synth.settings import config_from

        config = SynthConfig()
        if self.config is not None:
            try:
                config = config_from(json.loads(self.config.read_bytes()))
            except ValueError as error:
                raise ValueError(f"{self.config}: {error}") from error
        if self.size is not None:
            config = dataclasses.replace(config, height=self.size, width=self.size)
        if self.sensors is not None:
            config = dataclasses.replace(config, sensors=self.sensors, sensor_shares=())
        return config

    def _make(self, config: SynthConfig, part: tuple[int, int]) -> Report:
        import jax

        from jrecon.synth.generate import make_source

        model = _load(self.model, self.level)
        source = make_source(model, config)
        batch_of = _batch_maker(source, jax.random.key(self.seed), self.unit_mm)
        report: dict[str, Any] = {}
        if self.out is not None:
            report = self._write(source, batch_of, part)
        if self.preview is not None:
            _draw(self.preview, source, batch_of, min(self.count, _PREVIEWED), self.overwrite)
            report["look_at"] = str(self.preview)
        return report

    def _write(
        self, source: Source, batch_of: Callable[[int, int], Example], part: tuple[int, int]
    ) -> dict[str, Any]:
        from jrecon.synth.database import write_database
        from jrecon.synth.generate import VERSION
        from jrecon.synth.manifest import make_manifest, model_entry
        from jrecon.synth.settings import settings

        assert self.out is not None
        manifest = make_manifest(
            model=model_entry(source.model),
            config=settings(source.config),
            generator=f"jrecon.synth {VERSION}",
            seed=self.seed,
            width=source.config.width,
            height=source.config.height,
            unit_mm=self.unit_mm,
            shard_size=self.shard_size,
        )
        try:
            with _progress("examples") as progress:
                written = write_database(
                    self.out, batch_of, manifest, self.count,
                    batch_size=_BATCH, part=part, progress=progress,
                )  # fmt: skip
        except KeyboardInterrupt:
            sys.stderr.write(f"jrecon: {_interrupted(self.out)}\n")
            raise
        return {"database": str(self.out), "examples_made": written, **_stock(self.out)}


def _load(name: str, level: str | None) -> ParametricModel:
    """The model at a level of detail, the coarsest if none is given."""
    from jrecon.model.formats import load_model
    from jrecon.model.parametric import at_level

    model = load_model(name, level=level)
    return at_level(model, model.levels[-1][0]) if level is None and model.levels else model


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    number, parts = (int(group) for group in match.groups()) if match else (0, 0)
    if not 0 <= number < parts:
        raise ValueError(f"shard: got {text!r}, need I/N with I from 0 to N - 1, as 0/4.")
    return number, parts


def _batch_maker(source: Source, key: jax.Array, unit_mm: float) -> Callable[[int, int], Example]:
    """(start, count) -> examples that the stored depth can hold, in NumPy arrays."""
    import jax
    import numpy as np

    from jrecon.synth.generate import make_batch

    # Half a step less: what is rounded up fits, too.
    farthest = (_STEPS - 0.5) * unit_mm / 1000

    def batch_of(start: int, count: int) -> Example:
        batch = jax.tree.map(np.asarray, make_batch(source, key, start, count))
        held = batch.depth < farthest
        return dataclasses.replace(
            batch, depth=np.where(held, batch.depth, 0), mask=batch.mask & held
        )

    return batch_of


def _draw(
    path: Path,
    source: Source,
    batch_of: Callable[[int, int], Example],
    count: int,
    overwrite: bool,
) -> None:
    """The contact sheet of the first examples."""
    import jax

    from jrecon.pictures import sheet, write_image
    from jrecon.synth.preview import captions, example_images

    examples = jax.tree.map(lambda leaf: leaf[:count], batch_of(0, _BATCH))
    texts = captions(source.config.sensors, examples)
    drawn = sheet(example_images(source.model, examples), columns=_COLUMNS, captions=texts)
    write_image(path, drawn, overwrite=overwrite)


def _stock(path: Path) -> Mapping[str, Any]:
    """How much of a database is there."""
    from jrecon.synth.manifest import read_manifest, read_record, shards_of

    manifest = read_manifest(path)
    records = [read_record(path, shard) for shard in shards_of(manifest)]
    found = [record for record in records if record is not None]
    size = sum(file["bytes"] for record in found for file in record["files"].values())
    examples = sum(record["count"] for record in found)
    return {
        "examples": examples,
        "examples_wanted": manifest["count"],
        "shards": len(found),
        "shards_wanted": len(records),
        "bytes": size,
        "bytes_per_example": round(size / max(examples, 1), 1),
    }


def _interrupted(path: Path) -> str:
    from jrecon.synth.manifest import MANIFEST

    if not (path / MANIFEST).exists():
        return "interrupted before anything was written; run the same command again."
    stock = _stock(path)
    return (
        f"interrupted; {path} holds {stock['examples']} of {stock['examples_wanted']} examples. "
        "Run the same command again to go on from there."
    )


def _verify(path: Path) -> Report:
    from jrecon.synth.reading import verify_database

    with _progress("shards") as progress:
        found = verify_database(path, progress=progress)
    if not found.ok:
        lines = [*found.damaged[:20]]
        lines += [f"{len(found.damaged) - 20} more damaged files"] if found.damaged[20:] else []
        lines += [f"{len(found.missing)} shards not finished"] if found.missing else []
        first = "delete the records shards/NUMBER.json of the damaged ones and "
        raise ValueError(
            f"{path}: {len(found.damaged)} damaged files, {len(found.missing)} of {found.shards} "
            f"shards not finished. To make them anew, {first if found.damaged else ''}run the "
            "command that wrote the database.\n  " + "\n  ".join(lines)
        )
    return {
        "database": str(path),
        "result": "ok",
        "examples": found.examples,
        "shards": found.shards,
        "bytes": found.bytes,
    }


class _Rate(ProgressColumn):
    """How many are done per second, lately."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and time left, on standard error where that is a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks = []

        def report(done: int, total: int) -> None:
            if not tasks:
                # What was there before is no speed.
                tasks.append(bar.add_task(what, total=total, completed=done))
            bar.update(tasks[0], completed=done)

        yield report
