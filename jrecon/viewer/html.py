"""A reconstruction as one file to look at: turnable, with pictures and numbers, without a network.

The page carries everything in itself, and its content security policy forbids it to load anything,
so it can be sent to a colleague, and opened from a disk. Names from outside are escaped.
"""

from __future__ import annotations

import base64
import html
import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from jrecon.geometry.camera import Camera
from jrecon.io.files import encode_image
from jrecon.overlay import CAPTIONS, difference, views
from jrecon.pictures import Image, color_map, plot_lines
from jrecon.reconstructor import Reconstruction, Reconstructor
from jrecon.viewer.arrays import (
    COLORINGS,
    OTHER,
    OWN,
    UNSURE_M,
    bones,
    colors_of,
    frustum,
    gaps,
    make_cloud,
)

_BONES = (0, 60, 120)
# Points farther than this do not fit into whole millimetres of 16 bits.
_FARTHEST_M = 32.0
# Sections of a record that have a table of their own, and how they are called.
_TABLES = {
    "measures_m": "Measures, m",
    "camera": "Camera",
    "seconds": "Time, s",
    "versions": "Made with",
}
# What the title and other parts of the page say already.
_ELSEWHERE = ("file", "verdict", "why", "notes", "written", "parameters", "measures_std_m")


def html_report(
    recon: Reconstructor,
    result: Reconstruction,
    depth: Float[np.ndarray, "h w"],
    camera: Camera,
    mask: Bool[np.ndarray, "h w"],
    record: Mapping[str, Any],
    title: str,
) -> str:
    """The page.

    Args:
      result: of one image, in the frame of `camera`.
      depth, mask: what it was reconstructed from.
      record: figures, see `jrecon.report.summary`; any JSON values.
    """
    result = jax.tree.map(np.asarray, result)
    panels = views(recon, result, depth, camera, mask)
    figures = [_figure(image, text) for image, text in zip(panels, CAPTIONS, strict=True)]
    figures.append(_figure(energy_picture(np.asarray(result.fit.history)), "", wide=True))
    word = str(record.get("verdict", ""))
    files = importlib.resources.files("jrecon.viewer") / "assets"
    parts = {
        "title": html.escape(title),
        "word": word if word.isalpha() else "",
        "verdict": html.escape("; ".join([word, *map(str, record.get("why", ()))])),
        "style": (files / "report.css").read_text("utf-8"),
        "script": (files / "report.js").read_text("utf-8"),
        "pictures": "\n".join(figures),
        "numbers": "\n".join(_sections(record)),
        # In a script element only "<" could end it.
        "scene": json.dumps(_scene(recon, result, depth, camera, mask)).replace("<", "\\u003c"),
    }
    page = (files / "report.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda name: parts[name[1]], page)


def energy_picture(history: Float[np.ndarray, " i"], width: int = 520, height: int = 300) -> Image:
    """How the energy of a fit fell. It jumps where the robust functions become narrower."""
    energy = np.asarray(history, np.float64)
    curve = {"": (np.arange(1, len(energy) + 1), energy)}
    return plot_lines(
        curve, x_label="iteration", y_label="energy", title="Refinement", width=width, height=height
    )


def _scene(
    recon: Reconstructor,
    result: Reconstruction,
    depth: Float[np.ndarray, "h w"],
    camera: Camera,
    mask: Bool[np.ndarray, "h w"],
) -> dict[str, Any]:
    """What the script draws; arrays are bytes in base64, positions in the frame of the camera."""
    model, std = recon.model, np.asarray(result.fit.vertex_std)
    gap = np.asarray(gaps(result.vertices, model.faces, depth, camera, mask))
    cloud = make_cloud(depth, camera, mask)
    near = cloud.points[:, 2] < _FARTHEST_M
    wide = len(result.vertices) > np.iinfo(np.uint16).max
    return {
        "vertices": _packed(result.vertices, np.float32),
        "faces": _packed(model.faces, np.uint32 if wide else np.uint16),
        "wide": wide,
        "colors": {name: _packed(colors_of(name, gap, std), np.uint8) for name in COLORINGS},
        "own": _packed(1e3 * cloud.points[cloud.own & near], np.int16),
        "other": _packed(1e3 * cloud.points[~cloud.own & near], np.int16),
        "bones": _packed(bones(np.asarray(result.joints), model.parents), np.float32),
        "camera": _packed(frustum(camera), np.float32),
        "tones": {"own": OWN, "other": OTHER, "bones": _BONES},
        "legends": _legends(),
    }


def _legends() -> dict[str, Any]:
    steps = np.linspace(-0.1, 0.1, 9)[None]
    apart = difference(steps, np.ones(steps.shape, bool))[0]
    unsure = color_map(np.linspace(0, UNSURE_M, 9)[None], 0.0, UNSURE_M)[0]
    return {
        "residual": {
            "low": "100 mm behind", "high": "before", "colors": _css(apart),
            "text": "Along the optical axis; grey where the depth map does not show the model.",
        },
        "uncertainty": {
            "low": "0", "high": f"{1e3 * UNSURE_M:.0f} mm", "colors": _css(unsure),
            "text": "Standard deviation of each point, by the curvature of the fit.",
        },
    }  # fmt: skip


def _css(colors: Any) -> list[str]:
    return ["rgb({},{},{})".format(*color) for color in np.asarray(colors).tolist()]


def _packed(values: Any, dtype: Any) -> str:
    values = np.asarray(values)
    values = np.rint(values) if np.dtype(dtype).kind in "iu" else values
    little = np.ascontiguousarray(values.astype(np.dtype(dtype).newbyteorder("<")))
    return base64.b64encode(little.tobytes()).decode("ascii")


def _figure(image: Image, caption: str, *, wide: bool = False) -> str:
    """A picture in the page itself."""
    data = base64.b64encode(encode_image(image, ".png")).decode("ascii")
    text = html.escape(caption)
    return (
        f'<figure{" class=wide" if wide else ""}><img src="data:image/png;base64,{data}" '
        f'width="{image.shape[1]}" height="{image.shape[0]}" alt="{text or "energy of the fit"}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _sections(record: Mapping[str, Any]) -> list[str]:
    """Tables of a record: its plain figures, then each part of it."""
    figures = {
        name: value
        for name, value in record.items()
        if name not in _ELSEWHERE and not isinstance(value, Mapping)
    }
    sections = [_table("Result", figures)] if figures else []
    for name, title in _TABLES.items():
        values = record.get(name)
        if isinstance(values, Mapping):
            std = record.get("measures_std_m", {}) if name == "measures_m" else {}
            sections.append(_table(title, values, std))
    notes = [str(note) for note in record.get("notes", ())]
    if "file" in record:
        # The name alone: who gets the page need not know the folders of this machine.
        notes.insert(0, PurePath(str(record["file"])).name)
    if notes:
        entries = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
        sections.append(f"<div><h2>Input</h2><ul>{entries}</ul></div>")
    return sections


def _table(title: str, values: Mapping[str, Any], std: Mapping[str, Any] | None = None) -> str:
    rows = []
    for name, value in values.items():
        text = _text(value)
        if std and name in std:
            text += f" ± {_text(std[name])}"
        rows.append(f"<tr><th>{html.escape(_label(name))}</th><td>{html.escape(text)}</td></tr>")
    return f"<div><h2>{html.escape(title)}</h2><table>{''.join(rows)}</table></div>"


def _label(name: str) -> str:
    """`vertex_std_mm` as `vertex std, mm`."""
    words = name.split("_")
    if len(words) > 1 and words[-1] in ("mm", "m", "s", "px"):
        return f"{' '.join(words[:-1])}, {words[-1]}"
    return " ".join(words)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return ", ".join(_text(entry) for entry in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
