"""The report of a model that was built from meshes, as a file and as a picture.

The picture shows what the first components do (-2, 0 and +2 standard deviations, and where on the
surface they act) and how many of them meshes ask for that the model has not seen.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jrecon.model.build import BuildReport
from jrecon.model.parametric import ParametricModel, Params, pose, zeros
from jrecon.pictures import (
    CLAY,
    Image,
    Viewpoint,
    color_map,
    downsample,
    interpolate,
    look_at,
    plot_lines,
    shade,
    sheet,
    smooth_normals,
    stack,
    write_image,
)
from jrecon.render import View, render

SHOWN = 6
DEVIATIONS = (-2.0, 0.0, 2.0)
# Seen a little from the side and from above, objects show all three dimensions.
AZIMUTH, ELEVATION = 0.5, 0.25
SIZE = 240
# Rendered so many times larger and averaged, for smooth outlines.
SMOOTH = 2


def write_report(
    report: BuildReport,
    model: ParametricModel,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> tuple[Path, Path]:
    """Write the report as JSON to `path` and as a picture beside it (the suffix becomes .png).

    Returns:
      The paths of both files.

    Raises:
      FileExistsError: one of them exists and `overwrite` is false.
      ValueError: `path` does not end in .json.
    """
    text, picture = Path(path), Path(path).with_suffix(".png")
    if text.suffix.lower() != ".json":
        raise ValueError(f"{path}: got the suffix {text.suffix!r}, need .json; rename it.")
    for file in (text, picture):
        if file.exists() and not overwrite:
            raise FileExistsError(f"{file} exists; pass overwrite=True (--overwrite).")
    lines = [
        f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}"
        for key, value in report_json(report).items()
    ]
    text.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    write_image(picture, report_picture(report, model), overwrite=overwrite)
    return text, picture


def report_json(report: BuildReport) -> dict[str, Any]:
    """The report as plain JSON data."""
    fields = {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
    fields["coefficients"] = dict(zip(report.meshes, report.coefficients, strict=True))
    fields["held_out"] = [dataclasses.asdict(row) for row in report.held_out]
    return _plain(fields)


def _plain(value: Any) -> Any:
    """NumPy values as lists and numbers with six decimals (a nanometre where it is millimetres)."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(entry) for entry in value]
    return round(float(value), 6) if isinstance(value, float | np.floating) else value


def report_picture(report: BuildReport, model: ParametricModel) -> Image:
    """The first components of the model, and the curves of the report, as one image."""
    title = (
        f"{report.name}: {len(report.meshes)} meshes of {report.num_vertices} vertices, "
        f"{report.num_components} components"
    )
    shown = min(SHOWN, model.num_shape)
    images, captions = _component_images(model, shown)
    components = sheet(images, columns=len(DEVIATIONS) + 1, captions=captions, title=title)
    return stack([components, _charts(report)])


def _component_images(model: ParametricModel, shown: int) -> tuple[list[Image], list[str]]:
    # Without components there is one row: the mean, next to its (absent) changes.
    shapes = np.zeros((max(shown, 1), len(DEVIATIONS), model.num_shape), np.float32)
    for i in range(shown):
        shapes[i, :, i] = DEVIATIONS
    still = zeros(model)
    flat = jnp.asarray(shapes.reshape(shapes.shape[0] * shapes.shape[1], model.num_shape))
    params = Params(flat, still.pose, still.translation)
    vertices = np.asarray(pose(model, params).vertices)
    vertices = vertices.reshape(*shapes.shape[:2], *vertices.shape[1:])
    viewpoint = look_at(
        vertices,
        width=SMOOTH * SIZE,
        height=SMOOTH * SIZE,
        azimuth=AZIMUTH,
        elevation=ELEVATION,
    )
    placed = viewpoint.place(vertices)
    views = _render(placed, model, viewpoint)
    images, captions = [], []
    for i, row in enumerate(vertices):
        name = model.shape_names[i] if shown else ""
        change_mm = 1e3 * np.linalg.norm(row[-1] - row[0], axis=-1)
        change_mm = change_mm / (DEVIATIONS[-1] - DEVIATIONS[0])
        for k, deviation in enumerate(DEVIATIONS):
            view = jax.tree.map(lambda leaf, at=(i, k): leaf[at], views)
            images.append(_draw(view, model, placed[i, k], None))
            captions.append(f"{name}: {deviation:+g} sd" if deviation and shown else "mean")
            if k == len(DEVIATIONS) // 2:
                where = _draw(view, model, placed[i, k], change_mm)
        images.append(where)
        captions.append(f"blue 0 ... yellow {change_mm.max():.2g} mm per sd")
    return images, captions


def _render(
    vertices: Float[np.ndarray, "n d v 3"], model: ParametricModel, viewpoint: Viewpoint
) -> View:
    """All meshes at once: compiled once."""
    view = render(jnp.asarray(vertices), model.faces, viewpoint.camera)
    return jax.tree.map(np.asarray, view)


def _draw(
    view: View,
    model: ParametricModel,
    vertices: Float[np.ndarray, "v 3"],
    values: Float[np.ndarray, " v"] | None,
) -> Image:
    """The mesh, plain or with colours for one value of each vertex."""
    color: Any = CLAY
    if values is not None:
        seen = interpolate(view, model.faces, values[:, None])[..., 0]
        color = (color_map(seen, 0.0, max(float(values.max()), 1e-9)) / 255.0) ** 2.2
    normals = smooth_normals(view, model.faces, vertices)
    return downsample(shade(view, color, normals=normals), SMOOTH)


def _charts(report: BuildReport) -> Image:
    # The tail of a long curve would squeeze the part that decides.
    last = max(2 * report.num_components, 8)
    rows = [row for row in report.held_out if row.components <= last]
    counts = [row.components for row in rows]
    held_out = plot_lines(
        {
            "mean": (counts, [row.mean_mm for row in rows]),
            "rms": (counts, [row.rms_mm for row in rows]),
        },
        x_label="components",
        y_label="vertex error (mm)",
        title=f"Meshes left out ({report.folds} folds)",
        width=410,
        height=300,
    )
    parts = np.concatenate([[0.0], report.explained])[: last + 1]
    explained = plot_lines(
        {"": (np.arange(len(parts)), 100 * parts)},
        x_label="components",
        y_label="variance (%)",
        title="Variance explained",
        width=410,
        height=300,
    )
    return sheet([held_out, explained], columns=2)
