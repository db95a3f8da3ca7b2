"""A whole training run: step after step, with checkpoints, a log, and stopping in good order.

A run lives in a folder:

    run.json          its settings; the folder is refused to runs with others
    metrics.jsonl     a line for each `log_every` steps: mean loss and errors, rate, speed
    checkpoints/      the newest states (`jrecon.learn.checkpoint`)

Started again, it goes on from the newest sound checkpoint, with the losses that it would have had
without the interruption.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jrecon.learn.checkpoint import Checkpoints
from jrecon.learn.regressor import Regressor
from jrecon.learn.supply import Supply
from jrecon.learn.train import Metrics, TrainConfig, TrainState, make_step, start
from jrecon.synth.lock import locked
from jrecon.synth.manifest import model_entry

SETTINGS, LOG, CHECKPOINTS = "run.json", "metrics.jsonl", "checkpoints"
# Steps that the host may be ahead of the devices: each holds a batch of examples in memory.
_AHEAD = 2
# Seconds between two calls of `report`.
_REPORT_S = 1.0


@dataclasses.dataclass(frozen=True)
class Progress:
    """How a run is going, for the line that is shown."""

    step: int
    steps: int
    examples_per_s: float
    seconds_left: float
    metrics: Mapping[str, float]
    """Means since the last line of the log."""


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """What came of a run."""

    function: Regressor
    """With the averaged weights."""
    step: int
    seconds: float
    """Of training, over all interruptions."""
    metrics: Mapping[str, float]
    """Of the last line of the log."""
    stopped: Literal["", "time", "signal"]
    """Why the run ended before its last step."""


def run(
    supply: Supply,
    function: Regressor,
    config: TrainConfig,
    folder: str | Path,
    *,
    mesh: Mesh | None = None,
    log_every: int = 50,
    save_every_s: float = 300.0,
    stop_after_s: float | None = None,
    report: Callable[[Progress], None] | None = None,
    record: Callable[[Mapping[str, float], Regressor], None] | None = None,
    note: Mapping[str, Any] | None = None,
    amend: bool = False,
) -> Trained:
    """Train to `config.steps`, from the newest checkpoint in the folder if there is one.

    The run ends early, with a checkpoint, on SIGTERM or Ctrl-C or after `stop_after_s`. On several
    hosts all call this alike, with one folder that all of them reach.

    Args:
      supply: of batches of `config.batch` examples, on the same mesh.
      report: called about once a second, on the first host.
      record: called there with each line of the log and the function as it is then.
      note: plain JSON that belongs to the settings of the run.
      amend: go on in a folder that was begun with other settings.

    Raises:
      ValueError: the folder belongs to a run with other settings; they are named.
      BlockingIOError: another process trains in it.
      FloatingPointError: the loss or its gradient is not finite: at which step, and which
        checkpoint is sound.
    """
    folder = Path(folder)
    first_host = jax.process_index() == 0
    # Before anything is written: batches that cannot be divided are refused here.
    step, state = make_step(function, config, mesh), start(function, config, mesh)
    with contextlib.ExitStack() as stack:
        if first_host:
            message = f"{folder}: another run is there; wait for it, stop it, or choose another."
            stack.enter_context(locked(folder, message))
            _claim(folder, _settings(supply, function, config, note), amend)
        checkpoints = Checkpoints(folder / CHECKPOINTS)
        stack.callback(checkpoints.close)
        state, seconds = _restore(checkpoints, state)
        done, began = int(state.step), time.monotonic()
        spent = lambda: seconds + time.monotonic() - began
        save = lambda wait: checkpoints.save(done, vars(state), {"seconds": spent()}, wait=wait)
        log = stack.enter_context(_Log(folder / LOG, done) if first_host else _NoLog())
        stop = stack.enter_context(_Stop())
        examples = stack.enter_context(contextlib.closing(supply.batches(done)))
        meter = _Meter(config)
        means: Mapping[str, float] = log.last
        saved = time.monotonic()
        stopped: Literal["", "time", "signal"] = ""
        while done < config.steps and not stopped:
            state, metrics = step(state, next(examples))
            done += 1
            meter.add(metrics)
            due = done % log_every == 0 or done == config.steps
            if due or (stop.asked and jax.process_count() == 1):
                means = meter.close(done, checkpoints)
                line = {"step": done, "examples": done * config.batch, **means}
                log.write(line)
                if record and first_host:
                    record(line, dataclasses.replace(function, weights=state.average))
                    meter.begin()
                now = time.monotonic()
                late = stop_after_s is not None and now - began > stop_after_s
                asked, late, old = _agree(stop.asked, late, now - saved > save_every_s)
                stopped = "signal" if asked else "time" if late else ""
                if old:
                    save(False)
                    saved = now
            if report and first_host and meter.progress_due():
                report(meter.progress(done))
        save(True)
        return Trained(
            dataclasses.replace(function, weights=state.average),
            done, spent(), means, "" if done == config.steps else stopped,
        )  # fmt: skip


def _restore(checkpoints: Checkpoints, state: TrainState) -> tuple[TrainState, float]:
    """The newest sound state on the devices of a new one, and how long it was trained; or that."""
    found = checkpoints.latest(vars(state))
    if found is None:
        return state, 0.0
    # What was read comes in plain containers.
    leaves = jax.tree.leaves(found[1])
    restored = jax.tree.unflatten(jax.tree.structure(vars(state)), leaves)
    return TrainState(**restored), float(found[2].get("seconds", 0.0))


def _agree(*flags: bool) -> list[bool]:
    """Each flag, if any host has raised it: all hosts have to leave a run at the same step."""
    if jax.process_count() == 1:
        return list(flags)
    return np.any(multihost_utils.process_allgather(np.array(flags)), axis=0).tolist()


def _settings(
    supply: Supply, function: Regressor, config: TrainConfig, note: Mapping[str, Any] | None
) -> dict[str, Any]:
    found = {
        "train": dataclasses.asdict(config),
        "network": dataclasses.asdict(function.network),
        "model": model_entry(function.model),
        "data": supply.about,
        "note": note or {},
    }
    return json.loads(json.dumps(found))


def _claim(folder: Path, settings: Mapping[str, Any], amend: bool) -> None:
    """Write down the settings of a run, or see that they are those of the run that is there."""
    path = folder / SETTINGS
    if path.exists() and not amend:
        before, after = (dict(_flat(x)) for x in (json.loads(path.read_text()), settings))
        other = [
            f"{name}: {before.get(name)!r} there, {after.get(name)!r} here"
            for name in sorted(before.keys() | after.keys())
            if before.get(name) != after.get(name)
        ]
        if other:
            raise ValueError(
                f"{folder}: holds a run with other settings ({'; '.join(other[:6])}"
                f"{f'; and {len(other) - 6} more' if other[6:] else ''}). Pass the settings that "
                "it was begun with, or another folder; or --amend (amend=True), to go on from its "
                "newest checkpoint with the settings given now."
            )
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(settings, indent=1) + "\n")
    os.replace(draft, path)


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, value


class _Meter:
    """Metrics since the last line of the log, and how fast steps are."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self.begin()
        self._reported = self._began
        self._warm = False

    def begin(self) -> None:
        """Forget the steps so far; time counts from here."""
        self._steps: list[Metrics] = []
        self._untimed, self._began = 0, time.monotonic()

    def add(self, metrics: Metrics) -> None:
        self._steps.append(metrics)
        if not self._warm:
            # The first step is compiled, which says nothing of the speed of others.
            jax.block_until_ready(metrics)
            self._warm, self._untimed, self._began = True, 1, time.monotonic()
        elif len(self._steps) > _AHEAD:
            jax.block_until_ready(self._steps[-1 - _AHEAD])

    def close(self, done: int, checkpoints: Checkpoints) -> dict[str, float]:
        """Means since the last call.

        Raises:
          FloatingPointError: a loss or its gradient is not finite.
        """
        # A gradient that is not finite has spoilt the weights, which the loss tells a step later.
        healthy = [
            bool(np.isfinite(float(each["loss"])) and np.isfinite(float(each["gradient"])))
            for each in self._steps
        ]
        if not all(healthy):
            raise FloatingPointError(self._explain(done, healthy, checkpoints.newest()))
        count = len(healthy)
        means = {"examples_per_s": round(self._rate(count), 2), **self._means(count)}
        self.begin()
        return means

    def progress_due(self) -> bool:
        return time.monotonic() - self._reported > _REPORT_S and len(self._steps) > _AHEAD

    def progress(self, done: int) -> Progress:
        self._reported = time.monotonic()
        count = len(self._steps) - _AHEAD
        rate, steps = self._rate(count), self._config.steps
        left = (steps - done) * self._config.batch / rate if rate else float("inf")
        return Progress(done, steps, rate, left, self._means(count))

    def _means(self, count: int) -> dict[str, float]:
        """Of the first so many steps, which are done."""
        steps = self._steps[:count]
        return {name: float(np.mean([each[name] for each in steps])) for name in steps[0]}

    def _rate(self, count: int) -> float:
        """Examples per second; 0 if nothing was timed."""
        seconds = time.monotonic() - self._began
        return max(count - self._untimed, 0) * self._config.batch / max(seconds, 1e-9)

    def _explain(self, done: int, healthy: list[bool], sound: int | None) -> str:
        first = healthy.index(False)
        norms = [float(each["gradient"]) for each in self._steps[: first + 1]]
        there = "There is no checkpoint yet" if sound is None else (
            f"The last sound checkpoint is that of step {sound}"
        )  # fmt: skip
        at, last = done - len(healthy) + first + 1, [f"{norm:.3g}" for norm in norms[-4:]]
        return (
            f"the loss or its gradient is not finite at step {at} (norms of the gradients up to "
            f"it: {last}). {there}; go on with a lower learning rate or a smaller clip (--amend), "
            "or check the examples of that step."
        )


class _NoLog:
    """The log of hosts other than the first."""

    last: Mapping[str, float] = {}

    def __enter__(self) -> _NoLog:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def write(self, line: Mapping[str, Any]) -> None:
        pass


class _Log(_NoLog):
    """The lines of a run up to a step; what was logged after it is made again."""

    def __init__(self, path: Path, done: int) -> None:
        kept = []
        for line in path.read_text().splitlines() if path.exists() else []:
            # A kill may have left half a line.
            with contextlib.suppress(ValueError):
                kept.append(json.loads(line))
        kept = [line for line in kept if line["step"] <= done]
        self.last = kept[-1] if kept else {}
        draft = path.with_suffix(".part")
        draft.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(draft, path)
        self._file = path.open("a")

    def __exit__(self, *error: Any) -> None:
        self._file.close()

    def write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


class _Stop:
    """Set when the process is asked to end; a second request ends it at once."""

    asked = False

    def __enter__(self) -> _Stop:
        self._before = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._ask)
            except ValueError:
                # Not the main thread: whoever owns that takes care of signals.
                break
        return self

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True
        signal.signal(number, self._before.get(number, signal.SIG_DFL))

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
