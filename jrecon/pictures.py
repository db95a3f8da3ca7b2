"""Pictures of meshes, maps and curves, drawn with NumPy and Pillow alone.

An image is a uint8 array (h, w, 3), sRGB, so pictures compose: `shade` turns a rendered view into
an image, `color_map` a map of numbers, `plot_lines` curves; `sheet` puts images into a grid with
captions and `write_image` saves any of them. Lengths in pictures are pixels.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image as pil, ImageDraw, ImageFont

from jrecon.geometry.camera import Camera, make_camera

Image = UInt8[np.ndarray, "h w 3"]
Color = tuple[float, float, float]

# Okabe and Ito (2008), "Color Universal Design": told apart with any colour vision.
PALETTE: tuple[tuple[int, int, int], ...] = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (0, 0, 0),
)
# Eleven even samples of matplotlib's viridis (CC0): even steps in value look even, in grey too.
_VIRIDIS = np.array(
    "440154 482475 414487 355f8d 2a788e 21918c 22a884 44bf70 7ad151 bddf26 fde725".split()
)
# Height of a line of a legend, half pixels.
_LEGEND_ROW = 34
_INK, _GREY, _GRID = (30, 30, 30), (110, 110, 110), (225, 225, 225)
CLAY: Color = (0.62, 0.66, 0.72)
WHITE: Color = (1.0, 1.0, 1.0)

# From the surface towards the light, camera frame (x right, y down, z forward): above the left
# shoulder of the viewer. The fill light keeps what faces away from the key light readable.
_KEY_LIGHT = np.array([-0.45, -0.60, -0.66])
_FILL_LIGHT = np.array([0.60, -0.10, -0.79])


class View(Protocol):
    """What pictures need of a rendered view (h, w); `jrecon.render` returns one."""

    @property
    def mask(self) -> Any: ...
    @property
    def normals(self) -> Any: ...
    @property
    def face_id(self) -> Any: ...
    @property
    def barycentrics(self) -> Any: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Viewpoint:
    """A camera and the rigid motion that takes the model frame into its frame."""

    camera: Camera
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, " 3"]

    def place(self, vertices: Any) -> Float[np.ndarray, "*batch v 3"]:
        """Vertices of the model frame (y up, +z front) in the camera frame."""
        placed = np.asarray(vertices, np.float64) @ self.rotation.T + self.translation
        return placed.astype(np.float32)


def look_at(
    vertices: Any,
    *,
    width: int = 256,
    height: int = 256,
    azimuth: float = 0.0,
    elevation: float = 0.0,
    field_of_view: float = 0.35,
    margin: float = 0.05,
) -> Viewpoint:
    """The viewpoint on a turntable from which all vertices just fit into the image.

    Args:
      vertices: (..., 3) in the model frame, metres; pass several meshes to frame them all alike.
      width, height: image size.
      azimuth: 0 sees the front (+z), positive angles go round to the model's left (+x), radians.
      elevation: positive looks down on the model, radians.
      field_of_view: vertical opening angle, radians; the default hardly distorts.
      margin: part of the image that stays free on each side.

    Raises:
      ValueError: there are no vertices, or they are not finite.
    """
    points = np.asarray(vertices, np.float64).reshape(-1, 3)
    if not len(points) or not np.isfinite(points).all():
        raise ValueError(f"vertices: got {len(points)} points, need at least one, all finite.")
    if not 0.0 <= margin < 0.5:
        raise ValueError(f"margin: got {margin}, need a part of the image in 0 .. 0.5.")
    sin_a, cos_a = math.sin(azimuth), math.cos(azimuth)
    sin_e, cos_e = math.sin(elevation), math.cos(elevation)
    forward = -np.array([sin_a * cos_e, sin_e, cos_a * cos_e])
    right = np.array([cos_a, 0.0, -sin_a])
    rotation = np.stack([right, np.cross(forward, right), forward])
    turned = points @ rotation.T
    low, high = turned.min(0), turned.max(0)
    turned = turned - (low + high) / 2
    focal = 0.5 * height / math.tan(field_of_view / 2)
    half = (0.5 - margin) * np.array([width, height])
    # |x| focal / (z + distance) <= half, solved for the distance.
    distance = (np.abs(turned[:, :2]) * focal / half - turned[:, 2:]).max()
    distance = max(distance, 1e-3 - turned[:, 2].min())
    translation = np.array([0.0, 0.0, distance]) - (low + high) / 2
    camera = make_camera(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)
    return Viewpoint(camera, rotation, translation)


def shade(
    view: View, color: Any = CLAY, *, normals: Any = None, background: Color = WHITE
) -> Image:
    """A rendered view as an image: Lambert shading by a key and a fill light at the viewer.

    Args:
      view: `mask` (h, w) and unit `normals` (h, w, 3) in the camera frame; both sides of a surface
        are lit.
      color: linear RGB in 0..1 of the surface, (3,) or (h, w, 3).
      normals: take these instead of the view's, which show the facets (see `smooth_normals`).
      background: linear RGB in 0..1 where the mask is false.

    Raises:
      ValueError: mask and normals are not those of one image.
    """
    mask = np.asarray(view.mask, bool)
    normals = np.asarray(view.normals if normals is None else normals, np.float64)
    if mask.ndim != 2 or normals.shape != (*mask.shape, 3):
        raise ValueError(
            f"view: got mask {mask.shape} and normals {normals.shape}, need (h, w) and (h, w, 3); "
            "shade one view at a time."
        )
    toward = np.where(normals[..., 2:] > 0, -normals, normals)
    key, fill = (np.clip(toward @ light, 0, None) for light in (_KEY_LIGHT, _FILL_LIGHT))
    light = 0.07 + 0.88 * key + 0.20 * fill
    surface = np.asarray(color, np.float64) * light[..., None]
    return _to_srgb(np.where(mask[..., None], surface, np.asarray(background, np.float64)))


def interpolate(view: View, faces: Any, values: Any) -> Float[np.ndarray, "h w c"]:
    """Values of the vertices (v, c) at the points that each pixel sees; 0 where it sees nothing."""
    corners = np.asarray(values)[np.asarray(faces)[np.maximum(np.asarray(view.face_id), 0)]]
    return (corners * np.asarray(view.barycentrics)[..., None]).sum(axis=-2)


def smooth_normals(view: View, faces: Any, vertices: Any) -> Float[np.ndarray, "h w 3"]:
    """Normals for `shade` that hide the facets: those of the vertices, interpolated.

    Args:
      view: the rendered view.
      faces: (f, 3).
      vertices: (v, 3) as they were rendered, camera frame.
    """
    vertices, faces = np.asarray(vertices, np.float64), np.asarray(faces)
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    areas = np.repeat(np.cross(b - a, c - a), 3, axis=0)
    at_vertices = [np.bincount(faces.ravel(), axis, len(vertices)) for axis in areas.T]
    normals = interpolate(view, faces, np.stack(at_vertices, axis=-1))
    return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)


def color_map(
    values: Any, low: float, high: float, mask: Bool[np.ndarray, "h w"] | None = None
) -> Image:
    """Numbers (h, w) as colours from dark blue (`low`) to yellow (`high`); white outside the mask.

    Values that are not finite are white, too.
    """
    values = np.asarray(values, np.float64)
    known = np.isfinite(values) & (True if mask is None else np.asarray(mask, bool))
    scaled = np.clip((np.where(known, values, low) - low) / max(high - low, 1e-12), 0, 1)
    table = np.array([[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in _VIRIDIS])
    steps = np.linspace(0, 1, len(table))
    image = np.stack([np.interp(scaled, steps, channel) for channel in table.T], axis=-1)
    return np.where(known[..., None], np.rint(image), 255).astype(np.uint8)


def downsample(image: Image, factor: int) -> Image:
    """An image smaller by a whole factor: every pixel the mean of `factor` x `factor` pixels."""
    h, w = image.shape[0] // factor, image.shape[1] // factor
    blocks = image[: h * factor, : w * factor].reshape(h, factor, w, factor, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def sheet(
    images: Sequence[Image],
    *,
    columns: int,
    captions: Sequence[str] | None = None,
    title: str = "",
    gap: int = 6,
) -> Image:
    """Images in a grid, row by row, each with a caption below it.

    Images may differ in size: a column is as wide as its widest image, a row as high as its
    highest. A caption that is too long for its column is cut.

    Raises:
      ValueError: there are no images, or the captions do not match them.
    """
    if not images or columns < 1:
        raise ValueError(f"sheet: got {len(images)} images, {columns} columns; need at least one.")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"sheet: got {len(captions)} captions for {len(images)} images.")
    font, title_font = _font(13), _font(18)
    line = 20 if captions is not None else 0
    rows = [range(i, min(i + columns, len(images))) for i in range(0, len(images), columns)]
    widths = [max(image.shape[1] for image in images[c::columns]) for c in range(len(rows[0]))]
    heights = [max(images[i].shape[0] for i in row) + line for row in rows]
    left = gap + np.cumsum([0, *[w + gap for w in widths]])
    top = gap + (32 if title else 0) + np.cumsum([0, *[h + gap for h in heights]])
    canvas = pil.new("RGB", (int(left[-1]), int(top[-1])), "white")
    pen = ImageDraw.Draw(canvas)
    if title:
        pen.text((gap + 2, gap), title, _INK, title_font)
    for y, height, row in zip(top, heights, rows, strict=False):
        for x, width, i in zip(left, widths, row, strict=False):
            inset = (width - images[i].shape[1]) // 2
            canvas.paste(pil.fromarray(images[i]), (int(x + inset), int(y)))
            if captions is not None:
                text = _shorten(captions[i], font, width)
                pen.text((int(x + width / 2), int(y + height - 2)), text, _INK, font, anchor="ms")
    return np.asarray(canvas)


def stack(images: Sequence[Image]) -> Image:
    """Images below each other, left-aligned on white."""
    width = max(image.shape[1] for image in images)
    padded = [
        np.pad(image, ((0, 0), (0, width - image.shape[1]), (0, 0)), constant_values=255)
        for image in images
    ]
    return np.concatenate(padded, axis=0)


def plot_lines(
    series: Mapping[str, tuple[Any, Any]],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    width: int = 520,
    height: int = 320,
    from_zero: bool = True,
) -> Image:
    """Curves in one chart with labelled axes and a legend.

    Args:
      series: name -> (x, y), drawn in order with colours of the palette and a dot on each point;
        points that are not finite are left out.
      x_label, y_label: name and unit of the axes.
      from_zero: the y axis begins at zero (honest for amounts); otherwise it fits the data.

    Raises:
      ValueError: there is no finite point, or x and y differ in length.
    """
    curves = {name: _finite_points(name, x, y) for name, (x, y) in series.items()}
    points = np.concatenate([*curves.values(), np.zeros((0, 2))])
    if not len(points):
        raise ValueError("plot_lines: no finite point to draw.")
    x_ticks = _ticks(points[:, 0].min(), points[:, 0].max())
    y_ticks = _ticks(min(points[:, 1].min(), 0 if from_zero else np.inf), points[:, 1].max())
    # Drawn at twice the size and scaled down: Pillow's lines have no antialiasing of their own.
    canvas = pil.new("RGB", (2 * width, 2 * height), "white")
    # The legend stands above the chart, where it hides no curve.
    top = 2 * (34 if title else 14) + (_LEGEND_ROW * len(curves) if _has_legend(curves) else 0)
    box = (2 * 62, top, 2 * (width - 16), 2 * (height - 48))
    pen = ImageDraw.Draw(canvas)
    _draw_axes(pen, box, x_ticks, y_ticks)
    if title:
        pen.text((width, 14), title, _INK, _font(30), anchor="ma")
    pen.text(((box[0] + box[2]) / 2, 2 * height - 12), x_label, _INK, _font(26), anchor="ms")
    _draw_sideways(canvas, y_label, (10, (box[1] + box[3]) // 2))
    low = np.array([x_ticks[0], y_ticks[0]])
    span = np.array([x_ticks[-1], y_ticks[-1]]) - low
    for (_, curve), color in zip(curves.items(), _colors(), strict=False):
        unit = (curve - low) / span
        path = [(box[0] + u * (box[2] - box[0]), box[3] - v * (box[3] - box[1])) for u, v in unit]
        pen.line(path, color, 5, joint="curve")
        for x, y in path:
            pen.ellipse((x - 7, y - 7, x + 7, y + 7), color)
    _draw_legend(pen, box, list(curves))
    return np.asarray(canvas.resize((width, height), pil.Resampling.LANCZOS))


def plot_intervals(
    rows: Mapping[str, tuple[float, float, float, int]],
    *,
    x_label: str,
    title: str = "",
    reference: float | None = None,
    limit: float | None = None,
    width: int = 480,
) -> Image:
    """Means with their intervals, one row below the other, from zero on.

    Args:
      rows: name -> (low, mean, high, count of what the mean is of), drawn from top to bottom.
      x_label: name and unit.
      reference: a value that rows are compared with, drawn as a line through all of them.
      limit: the axis reaches so far, so that several charts compare; else as far as the rows do.

    Raises:
      ValueError: there are no rows, or they are not finite.
    """
    values = np.array([row[:3] for row in rows.values()], np.float64).reshape(-1, 3)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"plot_intervals: got {len(values)} rows, need at least one, all finite.")
    ticks = _ticks(0.0, limit or values.max())
    top, step = (36 if title else 10), 24
    height = top + step * len(rows) + 50
    canvas = pil.new("RGB", (2 * width, 2 * height), "white")
    pen = ImageDraw.Draw(canvas)
    # Of one width where names are not long, so that charts above each other line up.
    names = max(0.56 * width, 2 * 12 + max(_font(24).getlength(name) for name in rows))
    box = (names, 2 * top, 2 * (width - 70), 2 * (height - 50))
    _draw_axes(pen, box, ticks, ())
    place = lambda value: box[0] + value / ticks[-1] * (box[2] - box[0])
    if title:
        pen.text((width, 14), title, _INK, _font(30), anchor="ma")
    pen.text(((box[0] + box[2]) / 2, 2 * height - 12), x_label, _INK, _font(26), anchor="ms")
    if reference is not None:
        pen.line((place(reference), box[1], place(reference), box[3]), PALETTE[1], 3)
    for i, (name, (low, mean, high, count)) in enumerate(rows.items()):
        y = box[1] + 2 * step * (i + 0.5)
        pen.text((box[0] - 12, y), name, _INK, _font(24), anchor="rm")
        pen.text((2 * width - 12, y), f"n = {count}", _GREY, _font(22), anchor="rm")
        pen.line((place(low), y, place(high), y), PALETTE[0], 6)
        pen.ellipse((place(mean) - 9, y - 9, place(mean) + 9, y + 9), PALETTE[0])
    return np.asarray(canvas.resize((width, height), pil.Resampling.LANCZOS))


def write_image(path: str | os.PathLike[str], image: Image, *, overwrite: bool = False) -> None:
    """Save an image; the suffix chooses the format (.png, .jpg).

    Raises:
      FileExistsError: the file exists and `overwrite` is false.
    """
    if Path(path).exists() and not overwrite:
        raise FileExistsError(f"{path} exists; pass overwrite=True (--overwrite) to replace it.")
    pil.fromarray(image).save(path)


def _to_srgb(linear: Float[np.ndarray, "h w 3"]) -> Image:
    """Linear light in 0..1 to sRGB bytes, by the power 1/2.2 that is close to the standard."""
    return np.rint(255 * np.clip(linear, 0, 1) ** (1 / 2.2)).astype(np.uint8)


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _shorten(text: str, font: Any, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _colors() -> Any:
    while True:
        yield from PALETTE


def _finite_points(name: str, x: Any, y: Any) -> Float[np.ndarray, "n 2"]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"series {name!r}: got x {x.shape} and y {y.shape}, need equal (n,).")
    points = np.stack([x, y], axis=-1)
    return points[np.isfinite(points).all(-1)]


def _ticks(low: float, high: float) -> Float[np.ndarray, " n"]:
    """About six round numbers (1, 2 or 5 times a power of ten apart) that enclose the range."""
    if high <= low:
        low, high = low - 0.5 * max(abs(low), 1.0), high + 0.5 * max(abs(high), 1.0)
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = power * next(m for m in (1, 2, 5, 10) if m * power * 5 >= (high - low) * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return step * np.arange(first, last + 1)


def _draw_axes(pen: ImageDraw.ImageDraw, box: Any, x_ticks: Any, y_ticks: Any) -> None:
    x0, y0, x1, y1 = box
    for tick in x_ticks:
        x = x0 + (tick - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (x1 - x0)
        pen.line((x, y0, x, y1), _GRID, 2)
        pen.text((x, y1 + 10), f"{tick:g}", _GREY, _font(24), anchor="ma")
    for tick in y_ticks:
        y = y1 - (tick - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (y1 - y0)
        pen.line((x0, y, x1, y), _GRID, 2)
        pen.text((x0 - 10, y), f"{tick:g}", _GREY, _font(24), anchor="rm")
    pen.line((x0, y0, x0, y1, x1, y1), _GREY, 3)


def _draw_sideways(canvas: pil.Image, text: str, position: tuple[int, int]) -> None:
    font = _font(26)
    label = pil.new("RGB", (int(font.getlength(text)) + 4, 34), "white")
    ImageDraw.Draw(label).text((2, 2), text, _INK, font)
    turned = label.rotate(90, expand=True)
    canvas.paste(turned, (position[0], position[1] - turned.height // 2))


def _has_legend(names: Collection[str]) -> bool:
    return len(names) > 1 or any(names)


def _draw_legend(pen: ImageDraw.ImageDraw, box: Any, names: Sequence[str]) -> None:
    if not _has_legend(names):
        return
    for i, (name, color) in enumerate(zip(names, _colors(), strict=False)):
        middle = box[1] - _LEGEND_ROW * (len(names) - i - 0.5) - 4
        pen.line((box[0], middle, box[0] + 30, middle), color, 6)
        pen.text((box[0] + 40, middle), name, _INK, _font(24), anchor="lm")
