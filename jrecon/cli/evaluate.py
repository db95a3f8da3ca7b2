"""`jrecon evaluate`: how far a function is off, and when."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from jrecon.cli.command import Command, Report, require_free, require_suffix
from jrecon.cli.train import read_config

if TYPE_CHECKING:
    from jrecon.model.parametric import ParametricModel
    from jrecon.synth.example import Example

# Examples made at once.
_BATCH = 50
_COLUMNS = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Measure a reconstruction function on examples that it has not seen.

    Errors are millimetres, means with 95 % intervals: over the surface, of joints, both also after
    rigid alignment; by part of the object, sensor, distance, visible share and side.

    Example: jrecon evaluate --function mug.recon --count 500 --sheet mug.png
    """

    function: str = "body"
    """`body`, or a file that `jrecon train` wrote."""
    data: str = "synth"
    """`synth`: examples are made like those that the function learned from; or the folder of a
    database."""
    count: int = 200
    """How many examples."""
    seed: int = 2**20
    """Of the examples that are made; not that of the training."""
    config: Annotated[Path | None, arg(metavar="FILE")] = None
    """JSON with other settings of the examples that are made."""
    size: Annotated[int | None, arg(metavar="PIXELS")] = None
    """Height and width of the images that are made."""
    level: Annotated[str | None, arg(metavar="NAME")] = None
    """Level of detail; the coarsest if left out."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write the report there, .json."""
    sheet: Annotated[Path | None, arg(metavar="FILE")] = None
    """Draw depth, truth and prediction of the first examples: .png, .jpg."""
    drawn: int = 24
    """How many of them."""
    overwrite: bool = False
    """Replace existing files."""

    def run(self) -> Report:
        if self.out is not None:
            require_suffix(self.out, (".json",))
            require_free(self.out, self.overwrite)
        if self.sheet is not None:
            require_suffix(self.sheet, (".png", ".jpg", ".jpeg"))
            require_free(self.sheet, self.overwrite)
        if self.count < 1:
            raise ValueError(f"count: got {self.count}, need at least 1.")
        from jrecon.cli.train import coarsest
        from jrecon.learn.evaluation import evaluate, labels, predictor, summary
        from jrecon.learn.weights import load_regressor

        function, card = load_regressor(self.function, self.level)
        if self.level is None:
            function = dataclasses.replace(function, model=coarsest(function.model))
        examples, sensors, about = self._examples(function.model, card, function.network.image)
        errors, found = evaluate(function.model, predictor(function), examples)
        report = {
            "function": self.function,
            "class": function.model.name,
            "data": about,
            "examples": len(errors.vertices),
            **summary(errors, labels(examples, sensors)),
        }
        if self.sheet is not None:
            self._draw(function.model, examples, found.params, errors, sensors)
            report["look_at"] = str(self.sheet)
        if self.out is not None:
            self.out.write_text(json.dumps(report, indent=1) + "\n")
            report["written"] = [str(self.out)]
        return report if self.json else _brief(report)

    def _examples(
        self, model: ParametricModel, card: dict[str, Any], image: int
    ) -> tuple[Example, tuple[str, ...], dict[str, Any]]:
        """Examples, the names of their sensors, and where they are from."""
        import numpy as np

        if self.data != "synth":
            from jrecon.learn.supply import require_class
            from jrecon.synth.reading import open_database, read

            db = open_database(self.data)
            require_class(db, model)
            count = min(self.count, len(db))
            sensors = tuple(db.manifest["config"].get("sensors", ()))
            about = {"kind": "database", "folder": self.data, "examples": [0, count]}
            return read(db, np.arange(count)), sensors, about
        import jax

        from jrecon.learn.evaluation import join
        from jrecon.synth.generate import make_batch, make_source
        from jrecon.synth.settings import config_from, settings

        data = card.get("data")
        learned = data.get("config") if isinstance(data, dict) else None
        if learned and self.config is None and self.size is None:
            config = config_from(learned)
        else:
            config = read_config(self.config, self.size, otherwise=9 * image // 8)
        source, key = make_source(model, config), jax.random.key(self.seed)
        starts = range(0, self.count, _BATCH)
        made = join([make_batch(source, key, start, _BATCH) for start in starts])
        examples = jax.tree.map(lambda x: x[: self.count], made)
        about = {"kind": "synthesis", "seed": self.seed, "config": settings(config)}
        return examples, config.sensors, about

    def _draw(
        self,
        model: ParametricModel,
        examples: Example,
        found: Any,
        errors: Any,
        sensors: tuple[str, ...],
    ) -> None:
        import jax

        from jrecon.learn.evaluation import comparison_captions, comparison_images
        from jrecon.pictures import sheet, write_image

        assert self.sheet is not None
        examples, found, errors = jax.tree.map(lambda x: x[: self.drawn], (examples, found, errors))
        images = comparison_images(model, examples, found)
        texts = comparison_captions(examples, errors, sensors)
        drawn = sheet(images, columns=_COLUMNS, captions=texts)
        write_image(self.sheet, drawn, overwrite=self.overwrite)


def _brief(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report for people: an interval in one line, no settings of the examples."""
    short: dict[str, Any] = {}
    for name, value in report.items():
        if name == "data":
            value = {key: each for key, each in value.items() if key != "config"}
        elif isinstance(value, Mapping):
            value = _interval(value) if "mean" in value else {
                key: _interval(each) for key, each in value.items()
            }  # fmt: skip
        short[name] = value
    return short


def _interval(found: Mapping[str, float]) -> str:
    return (
        f"{found['mean']:.1f} ({found['low']:.1f} to {found['high']:.1f}), "
        f"median {found['median']:.1f}, n = {found['count']}"
    )
