"""`jrecon train`: learn the reconstruction function of a class."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress as Bar, TextColumn
from tyro.conf import arg

from jrecon.cli.command import Command, Report, require_free, require_suffix

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from jrecon.learn.record import Record
    from jrecon.learn.regressor import Regressor
    from jrecon.learn.run import Progress, Trained
    from jrecon.learn.supply import Supply
    from jrecon.learn.train import TrainConfig
    from jrecon.model.parametric import ParametricModel
    from jrecon.synth.example import Example
    from jrecon.synth.generate import SynthConfig

# Examples that errors are measured on at the end, which nothing was learned from.
_FRESH = 200
_FRESH_SEED = 2**30
# Examples on the sheet of predictions.
_SHOWN = 8
# Seconds between two lines where standard error is no terminal.
_LINE_S = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Command):
    """Learn to reconstruct a class of objects, from examples made on the way or from a database.

    An interrupted run goes on where it was when the same command is run again. On several hosts
    run it on each, with --coordinator and --process, and a --folder that all of them reach.

    Example: jrecon train --model mug.npz --out mug.recon --steps 5000
    """

    out: Annotated[Path, arg(metavar="FILE")]
    """The trained function to write at the end, .recon."""
    model: str = "body"
    """`body`, or a model file: .npz, .pkl, .glb, .gltf."""
    data: str = "synth"
    """`synth`: examples are made while learning, none twice; or the folder of a database."""
    config: Annotated[Path | None, arg(metavar="FILE")] = None
    """JSON with settings of the examples that are made, as `jrecon synth --write-config`."""
    size: Annotated[int | None, arg(metavar="PIXELS")] = None
    """Height and width of the images that are made; 9/8 of what the network sees if neither this
    nor --config says otherwise."""
    steps: int = 20_000
    """Batches to learn from."""
    batch: int = 64
    """Examples in a step, over all devices."""
    accumulate: int = 1
    """Parts that a step's batch is worked off in, to save memory."""
    learning_rate: float = 1.5e-3
    """After the warm-up."""
    warmup: Annotated[int | None, arg(metavar="STEPS")] = None
    """Steps over which the rate rises; 500, but a tenth of all at most, if left out."""
    decay: Annotated[int | None, arg(metavar="STEPS")] = None
    """Steps at the end over which the rate falls to 1 %; all after the warm-up if left out."""
    optimizer: Literal["adamw", "lamb", "muon"] = "adamw"
    """lamb: for batches of many thousands. muon: learns more from each example, in more time."""
    bf16: bool = False
    """The network works in bfloat16, with float32 weights: faster on GPUs and TPUs."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    seed: int = 0
    """Another seed, other examples and other weights to begin with."""
    network: Literal["base", "large"] = "base"
    """Its size. base: real time on two CPU cores. large: for GPUs."""
    image: Annotated[int | None, arg(metavar="PIXELS")] = None
    """Pixels along each side of what the network sees (base: 64)."""
    channels: Annotated[tuple[int, ...] | None, arg(metavar="INT ...")] = None
    """Of each stage of the network (base: 48 96 256)."""
    blocks: Annotated[tuple[int, ...] | None, arg(metavar="INT ...")] = None
    """Residual blocks in each stage (base: 1 2 3)."""
    hidden: Annotated[int | None, arg(metavar="INT")] = None
    """Width of the layers after the last stage (base: 512)."""
    start: Annotated[str | None, arg(name="from", metavar="FUNCTION")] = None
    """Begin with the weights of this function, `body` or a .recon file, not with random ones."""
    folder: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where the run keeps checkpoints and metrics.jsonl; the name of --out, ending in .run, if left
    out."""
    amend: bool = False
    """Go on in a folder that was begun with other settings."""
    stop_after_minutes: Annotated[float | None, arg(metavar="FLOAT")] = None
    """Save and leave after so long; run the same command again to go on."""
    log_every: int = 50
    """Steps between two lines of metrics.jsonl."""
    save_minutes: float = 5.0
    """Between two checkpoints."""
    draw_minutes: float = 10.0
    """Between two drawings of the learning curve and of predictions, which are beside
    metrics.jsonl."""
    tensorboard: bool = False
    """Write the numbers for TensorBoard, too, into the folder of the run."""
    devices: Annotated[int | None, arg(metavar="INT")] = None
    """How many to use; all if left out."""
    coordinator: Annotated[str | None, arg(metavar="HOST:PORT")] = None
    """Several hosts: the address of the first, or `auto` on TPUs, SLURM, Kubernetes and MPI."""
    process: Annotated[str, arg(metavar="I/N")] = "0/1"
    """Several hosts: this is host I of N, I from 0 to N - 1."""
    overwrite: bool = False
    """Replace an existing file."""

    def run(self) -> Report:
        require_suffix(self.out, (".recon",))
        require_free(self.out, self.overwrite)
        _join(self.coordinator, self.process)
        import jax

        from jrecon.learn.mesh import data_mesh
        from jrecon.learn.run import run
        from jrecon.model.formats import load_model

        if self.devices is not None and not 1 <= self.devices <= jax.device_count():
            raise ValueError(
                f"devices: got {self.devices}, need 1 to {jax.device_count()}, which are here."
            )
        full = load_model(self.model)
        model, mesh, config = coarsest(full), data_mesh(self.devices), self._config()
        function = self._function(model)
        supply = self._supply(full, function, config, mesh)
        folder = self.folder or self.out.with_suffix(".run")
        stop = None if self.stop_after_minutes is None else 60 * self.stop_after_minutes
        record = self._record(folder, function, config, mesh)
        try:
            with _live() as report, contextlib.closing(record):
                trained = run(
                    supply, function, config, folder, mesh=mesh, log_every=self.log_every,
                    save_every_s=60 * self.save_minutes, stop_after_s=stop, report=report,
                    record=record, note={"from": self.start}, amend=self.amend,
                )  # fmt: skip
                if jax.process_index() == 0 and trained.metrics:
                    record.draw(trained.function)
        except FloatingPointError as error:
            raise ValueError(str(error)) from error
        head = {"steps": trained.step, "examples": trained.step * config.batch,
                "minutes": round(trained.seconds / 60, 2), "folder": str(folder)}  # fmt: skip
        if trained.stopped:
            return self._stopped(trained, head)
        card = self._card(supply, trained, config, mesh)
        if jax.process_index() == 0:
            self._write(dataclasses.replace(trained.function, model=full), card)
        errors = {
            name: found["mean"] if isinstance(found, dict) else found
            for name, found in card["errors"].items()
        }
        return {"written": [str(self.out)], **head, **errors}

    def _config(self) -> TrainConfig:
        from jrecon.learn.train import TrainConfig

        for name in ("steps", "batch", "accumulate", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, need at least 1.")
        warmup = min(500, self.steps // 10) if self.warmup is None else self.warmup
        return TrainConfig(
            steps=self.steps,
            batch=self.batch,
            accumulate=self.accumulate,
            learning_rate=self.learning_rate,
            warmup=warmup,
            decay=max(1, self.steps - warmup) if self.decay is None else self.decay,
            optimizer=self.optimizer,
            bf16=self.bf16,
            clip=self.clip,
            seed=self.seed,
        )

    def _function(self, model: ParametricModel) -> Regressor:
        """What the run begins with."""
        import jax

        from jrecon.learn.network import SIZES
        from jrecon.learn.regressor import make_regressor
        from jrecon.learn.weights import load_regressor

        named = ("image", "channels", "blocks", "hidden")
        sizes: Any = {n: getattr(self, n) for n in named if getattr(self, n) is not None}
        if self.start is None:
            network = dataclasses.replace(SIZES[self.network], **sizes)
            return make_regressor(model, jax.random.key(self.seed), network)
        if self.network != "base":
            sizes["network"] = self.network
        if sizes:
            raise ValueError(
                f"--from {self.start}: the network has its sizes; leave out {', '.join(sizes)}."
            )
        function = load_regressor(self.start)[0]
        for what in ("joint_names", "shape_names"):
            if getattr(function.model, what) != getattr(model, what):
                raise ValueError(
                    f"--from {self.start}: it is of a class {function.model.name!r} whose {what} "
                    f"differ from those of {model.name!r}; pass a function of the same model."
                )
        return dataclasses.replace(function, model=model)

    def _supply(
        self, full: ParametricModel, function: Regressor, config: TrainConfig, mesh: Mesh
    ) -> Supply:
        from jrecon.learn.supply import require_class, stored, synthesis
        from jrecon.synth.generate import make_source
        from jrecon.synth.reading import open_database

        if self.data == "synth":
            source = make_source(function.model, self._synthesis(function))
            return synthesis(source, config.batch, seed=self.seed, mesh=mesh)
        if self.size is not None or self.config is not None:
            raise ValueError("--size, --config: a database has its images; leave them out.")
        db = open_database(self.data)
        require_class(db, full)
        return stored(db, config.batch, seed=self.seed, mesh=mesh)

    def _record(self, folder: Path, function: Regressor, config: TrainConfig, mesh: Mesh) -> Record:
        from jrecon.learn.record import Record

        if self.data == "synth":
            make = lambda: self._fresh(function, config, mesh, _SHOWN)
            sensors = self._synthesis(function).sensors
        else:
            import numpy as np

            from jrecon.synth.reading import open_database, read

            db = open_database(self.data)
            make = lambda: read(db, np.arange(min(_SHOWN, len(db))))
            sensors = tuple(db.manifest["config"].get("sensors", ()))
        every_s = 60 * self.draw_minutes
        return Record(folder, make, sensors, every_s=every_s, tensorboard=self.tensorboard)

    def _synthesis(self, function: Regressor) -> SynthConfig:
        return read_config(self.config, self.size, otherwise=9 * function.network.image // 8)

    def _fresh(self, function: Regressor, config: TrainConfig, mesh: Mesh, count: int) -> Example:
        """Examples that nothing is learned from, by the program that makes those of training."""
        import jax

        from jrecon.learn.evaluation import join
        from jrecon.learn.mesh import own_mesh
        from jrecon.learn.supply import synthesis
        from jrecon.synth.generate import make_source

        source = make_source(function.model, self._synthesis(function))
        # Whoever draws among several hosts is alone.
        mesh = mesh if jax.process_count() == 1 else own_mesh()
        batches = synthesis(source, config.batch, seed=_FRESH_SEED + self.seed, mesh=mesh).batches(
            0
        )
        made = join([next(batches) for _ in range(-(-count // config.batch))])
        return jax.tree.map(lambda x: x[:count], made)

    def _stopped(self, trained: Trained, head: dict[str, Any]) -> Report:
        again = (
            f"stopped after step {trained.step} of {self.steps}; run the same command again to go "
            "on from there."
        )
        if trained.stopped == "signal":
            sys.stderr.write(f"jrecon: {again}\n")
            raise KeyboardInterrupt
        return {"written": [], **head, "next": again}

    def _card(
        self, supply: Supply, trained: Trained, config: TrainConfig, mesh: Mesh
    ) -> dict[str, Any]:
        """What whoever uses the function should know of it."""
        import jax

        from jrecon import __version__

        model = trained.function.model
        kind = mesh.devices.flat[0].device_kind
        return {
            "class": model.name,
            "license": model.license,
            "data": supply.about,
            "steps": trained.step,
            "batch": config.batch,
            "examples": trained.step * config.batch,
            "settings": dataclasses.asdict(config),
            "from": self.start,
            "hardware": f"{mesh.size} x {kind}, {jax.process_count()} hosts, "
            f"{os.cpu_count()} CPU cores each",
            "minutes": round(trained.seconds / 60, 2),
            "date": datetime.date.today().isoformat(),
            "jrecon": __version__,
            "errors": self._errors(trained, config, mesh),
        }

    def _errors(self, trained: Trained, config: TrainConfig, mesh: Mesh) -> dict[str, Any]:
        """On fresh examples where there are any, else those of training."""
        import jax

        from jrecon.learn.evaluation import evaluate, predictor, summary

        if self.data != "synth" or jax.process_count() > 1:
            names = ("vertices_mm", "joints_mm")
            return {"errors_of": "examples that it learned from, as they came, at the end"} | {
                name: round(trained.metrics[name], 2) for name in names
            }
        function = trained.function
        fresh = self._fresh(function, config, mesh, _FRESH)
        errors, _ = evaluate(function.model, predictor(function), fresh)
        found = summary(errors)
        del found["parts_mm"]
        return {"errors_of": "fresh examples, mean and 95 % interval"} | found

    def _write(self, function: Regressor, card: dict[str, Any]) -> None:
        from jrecon.learn.weights import SHIPPED, save_regressor

        shipped = self.model if self.model in SHIPPED else None
        save_regressor(self.out, function, card, model=shipped, overwrite=self.overwrite)


def coarsest(model: ParametricModel) -> ParametricModel:
    """The model at its coarsest level of detail: what examples are made with."""
    from jrecon.model.parametric import at_level

    return at_level(model, model.levels[-1][0]) if model.levels else model


def read_config(path: Path | None, size: int | None, otherwise: int) -> SynthConfig:
    """Settings of examples: those of a file, or the default, with square images of a size.

    Args:
      otherwise: the size if neither `size` nor the file says it.

    Raises:
      ValueError: the file is not JSON, or a setting does not exist; the message names it.
    """
    from jrecon.synth.settings import config_from

    values: dict[str, Any] = {"height": otherwise, "width": otherwise}
    try:
        values |= json.loads(path.read_bytes()) if path else {}
        return config_from(values | ({"height": size, "width": size} if size else {}))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path or 'settings'}: {error}") from error


def _join(coordinator: str | None, process: str) -> None:
    """Become one of several processes, before JAX looks at the devices."""
    match = re.fullmatch(r"(\d+)/(\d+)", process)
    number, count = (int(group) for group in match.groups()) if match else (0, 0)
    if not 0 <= number < count:
        raise ValueError(f"process: got {process!r}, need I/N with I from 0 to N - 1, as 0/2.")
    if coordinator is None:
        if count > 1:
            raise ValueError("process: several hosts need --coordinator, the address of the first.")
        return
    import jax

    if coordinator == "auto":
        jax.distributed.initialize()
    else:
        jax.distributed.initialize(coordinator, count, number)


@contextlib.contextmanager
def _live() -> Iterator[Callable[[Progress], None]]:
    """A line on standard error that tells how the run goes; on a terminal it stays in place."""
    console = Console(stderr=True)
    columns = (BarColumn(bar_width=20), TextColumn("{task.fields[text]}"))
    last = -_LINE_S
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", text="compiling", total=None)

        def report(progress: Progress) -> None:
            nonlocal last
            text = describe(progress)
            bar.update(task, completed=progress.step, total=progress.steps, text=text)
            if not console.is_terminal and time.monotonic() - last >= _LINE_S:
                last = time.monotonic()
                sys.stderr.write(f"{text}\n")

        yield report


def describe(progress: Progress) -> str:
    """A run in one line."""
    of = progress.metrics
    left = "?" if progress.seconds_left == float("inf") else f"{progress.seconds_left / 60:.0f} min"
    return (
        f"step {progress.step:,}/{progress.steps:,}  {progress.examples_per_s:,.0f} examples/s  "
        f"loss {of['loss']:.4f}  surface {of['vertices_mm']:.1f} mm  joints "
        f"{of['joints_mm']:.1f} mm  {left} left"
    )
