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
    from jrecon.pictures import Image
    from jrecon.synth.example import Example

# Conditions with a chart of their own: key of the report, title.
_CHARTS = {
    "parts_mm": "By part of the object",
    "vertices_by_sensor_mm": "By sensor",
    "vertices_by_distance_mm": "By distance",
    "vertices_by_visible_mm": "By visible share of the object",
    "vertices_by_off_front_mm": "By angle between the front and the camera",
}
# Examples made at once.
_BATCH = 50
_COLUMNS = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Measure a reconstruction function on examples that it has not seen.

    Errors are millimetres, means with 95 % intervals: over the surface, of joints, both also after
    rigid alignment; by part of the object, sensor, distance, visible share and side.

    Example: jrecon evaluate --function mug.recon --count 500 --plot mug.png
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
    plot: Annotated[Path | None, arg(metavar="FILE")] = None
    """Draw the errors by condition with their intervals: .png, .jpg."""
    overwrite: bool = False
    """Replace existing files."""

    def run(self) -> Report:
        if self.out is not None:
            require_suffix(self.out, (".json",))
            require_free(self.out, self.overwrite)
        for picture in (self.sheet, self.plot):
            if picture is not None:
                require_suffix(picture, (".png", ".jpg", ".jpeg"))
                require_free(picture, self.overwrite)
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
        if self.plot is not None:
            from jrecon.pictures import write_image

            write_image(self.plot, error_chart(report), overwrite=self.overwrite)
        drawn = [str(path) for path in (self.sheet, self.plot) if path is not None]
        if drawn:
            report["look_at"] = drawn
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
        if learned and self.config is None:
            size = {"height": self.size, "width": self.size} if self.size else {}
            config = config_from(learned | size)
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


def error_chart(report: Mapping[str, Any]) -> Image:
    """Errors by condition, a chart for each, all on one scale: means over the surface with 95 %
    intervals; the vertical line is the mean of all examples."""
    from jrecon.pictures import plot_intervals, sheet

    groups = {title: report[key] for key, title in _CHARTS.items() if report.get(key)}
    errors = ("surface, aligned", "joints", "joints, aligned")
    keys = ("vertices_aligned_mm", "joints_mm", "joints_aligned_mm")
    whole = {"surface": report["vertices_mm"]}
    whole |= {name: report[key] for name, key in zip(errors, keys, strict=True)}
    groups = {"All examples": whole, **groups}
    limit = max(row["high"] for rows in groups.values() for row in rows.values())
    charts = [
        plot_intervals(
            {name: (row["low"], row["mean"], row["high"], row["count"]) for name, row in each},
            x_label="mean error, mm", title=title, reference=whole["surface"]["mean"], limit=limit,
        )
        for title, each in ((title, rows.items()) for title, rows in groups.items())
    ]  # fmt: skip
    title = f"{report['class']}: {report['examples']} examples, means with 95 % intervals"
    return sheet(charts, columns=2, title=title, gap=14)


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
