"""What can be looked at while a function learns, written beside the log of its run:

train.png          errors against examples seen
predictions.png    depth, truth and prediction of a few examples, with the newest weights
tensorboard/       the numbers of the log, if asked for (`pip install 'jrecon[tensorboard]'`)
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jrecon.learn.evaluation import (
    comparison_captions,
    comparison_images,
    evaluate,
    predictor,
)
from jrecon.learn.regressor import Regressor
from jrecon.learn.run import LOG
from jrecon.pictures import Image, plot_lines, sheet, write_image
from jrecon.synth.example import Example

CURVE, SHEET, BOARD = "train.png", "predictions.png", "tensorboard"
_COLUMNS = 12


class Record:
    """The pictures of one run, drawn anew at intervals; `run` calls it with each line of the log.

    Args:
      folder: of the run.
      examples: makes the few examples (n,) of the sheet, when it is first drawn.
      sensors: their names.
      every_s: seconds between two drawings; the first comes after so many.
      tensorboard: write its files, too.

    Raises:
      ImportError: TensorBoard's files are asked for, and their writer is not installed.
    """

    def __init__(
        self,
        folder: Path,
        examples: Callable[[], Example],
        sensors: tuple[str, ...],
        *,
        every_s: float,
        tensorboard: bool = False,
    ) -> None:
        self._folder, self._make, self._sensors = folder, examples, sensors
        self._examples: Example | None = None
        self._every_s, self._drawn = every_s, time.monotonic()
        self._board = _board(folder / BOARD) if tensorboard else None

    def __call__(self, line: Mapping[str, float], function: Regressor) -> None:
        if self._board is not None:
            for name in line.keys() - {"step"}:
                self._board.add_scalar(name, line[name], int(line["step"]))
        if time.monotonic() - self._drawn > self._every_s:
            self.draw(function)

    def draw(self, function: Regressor) -> None:
        """The pictures as of now; those of before are replaced."""
        write_image(self._folder / CURVE, learning_curve(self._folder), overwrite=True)
        if self._examples is None:
            self._examples = self._make()
        write_image(self._folder / SHEET, self._sheet(function, self._examples), overwrite=True)
        self._drawn = time.monotonic()

    def _sheet(self, function: Regressor, examples: Example) -> Image:
        # On several hosts, this one draws alone: with weights that are its own.
        function = dataclasses.replace(function, weights=jax.tree.map(np.asarray, function.weights))
        errors, found = evaluate(function.model, predictor(function), examples)
        images = comparison_images(function.model, examples, found.params)
        texts = comparison_captions(examples, errors, self._sensors)
        return sheet(images, columns=_COLUMNS, captions=texts)

    def close(self) -> None:
        """Finish the files of TensorBoard."""
        if self._board is not None:
            self._board.close()


def learning_curve(folder: Path) -> Image:
    """The errors in the log of a run, against the examples that were seen."""
    lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    seen = [line["examples"] for line in lines]
    curves = {
        name: (seen, [line[f"{key}_mm"] for line in lines])
        for name, key in (("surface", "vertices"), ("joints", "joints"))
    }
    return plot_lines(curves, x_label="examples seen", y_label="error while learning, mm")


def _board(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError(
            f"--tensorboard: {error}; install what writes its files with: "
            "pip install 'jrecon[tensorboard]'"
        ) from error
    return SummaryWriter(str(folder))
