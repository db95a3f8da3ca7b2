"""Point clouds from PLY and PCD files, and the depth maps that a camera would see of them.

A cloud is *organised* if its points are the pixels of an image, row by row; such a cloud also says
its camera. Coordinates are those of the camera: x right, y down, z forward, or, as OpenGL and glTF
have it, x right, y up, z backward, which is recognised by where the points are.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jrecon.geometry.camera import Camera, make_camera
from jrecon.io.depth import PLAUSIBLE_M, UNITS, DepthImage, parse_unit

# A PCD or PLY file of a sensor takes some 20 MB. Numbers in text are taken apart one by one, which
# takes about 50 bytes each.
MAX_BYTES, MAX_POINTS, _MAX_WORDS = 2**28, 2**23, 2**24
SUFFIXES = (".ply", ".pcd")
_MAX_HEADER = 2**16


@dataclasses.dataclass(frozen=True)
class PointCloud:
    """Points in the camera frame, metres."""

    points: Float[np.ndarray, "n 3"]
    """float32; NaN where an organised cloud has no measurement."""
    size: tuple[int, int] | None
    """Width and height of an organised cloud."""
    path: str
    notes: tuple[str, ...]
    """What was found, in sentences for people."""


def read_point_cloud(
    path: str | os.PathLike[str], *, unit: float | str | None = None
) -> PointCloud:
    """Reads a .ply or .pcd file.

    Args:
      unit: metres per unit of the file, or one of `jrecon.io.depth.UNITS`; None: metres.

    Raises:
      ValueError: not such a file, damaged, too large, without points, or in a unit or frame in
        which the points are not before a camera.
      OSError: the file cannot be opened.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{file}: got the suffix {file.suffix!r}, need {' or '.join(SUFFIXES)}.")
    with open(file, "rb") as stream:
        if os.fstat(stream.fileno()).st_size > MAX_BYTES:
            raise ValueError(f"{file}: larger than {MAX_BYTES} bytes; thin the cloud out.")
        data = stream.read(MAX_BYTES)
    try:
        points, size = _parse_ply(data) if suffix == ".ply" else _parse_pcd(data)
    except Exception as error:  # Damaged numbers fail in many ways, here and in trimesh.
        reason = str(error).rstrip(".") or type(error).__name__
        raise ValueError(f"{file}: not a readable {suffix[1:].upper()} file: {reason}.") from error
    try:
        points, notes = _placed(points, UNITS["m"] if unit is None else parse_unit(unit))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    count = int(np.isfinite(points[:, 2]).sum())
    shape = f"organised, {size[0]} x {size[1]}" if size else "not organised"
    return PointCloud(points, size, os.fspath(path), (f"{count} points, {shape}", *notes))


def _placed(
    points: Float[np.ndarray, "n 3"], metres: float
) -> tuple[Float[np.ndarray, "n 3"], list[str]]:
    """The points in metres, in the camera frame, NaN where there is no measurement."""
    known = np.all(np.isfinite(points) & (np.abs(points) < 1e9), axis=1)
    known &= np.any(points != 0, axis=1)
    if not known.any():
        raise ValueError(f"no points: none of {len(points)} is finite and away from the origin.")
    points = np.where(known[:, None], points.astype(np.float64) * metres, np.nan)
    notes = []
    z = points[known, 2]
    if np.mean(z < 0) > 0.9:
        points = points * [1, -1, -1]
        notes.append("y up, z backward: turned to y down, z forward")
    elif np.mean(z > 0) < 0.9:
        raise ValueError(
            f"got z from {z.min():.3g} to {z.max():.3g}: the camera is inside the cloud; need the "
            "points in the frame of a camera that sees them (z forward, or all of it backward)."
        )
    middle = float(np.median(np.abs(z)))
    if not PLAUSIBLE_M[0] <= middle <= PLAUSIBLE_M[1]:
        millimetres = PLAUSIBLE_M[0] <= middle / metres * 1e-3 <= PLAUSIBLE_M[1]
        advice = "pass the unit mm" if millimetres else "pass the metres per unit of the file"
        raise ValueError(
            f"got a median depth of {middle:.3g} m at {metres:g} m per unit, need "
            f"{PLAUSIBLE_M[0]:g} to {PLAUSIBLE_M[1]:g} m; {advice}, if the origin is a camera."
        )
    return points.astype(np.float32), notes


def camera_of(cloud: PointCloud) -> Camera:
    """The pinhole camera that an organised cloud was computed with.

    Raises:
      ValueError: not organised, or its points are not on the rays of a pinhole's pixels.
    """
    if cloud.size is None:
        raise ValueError(
            f"{cloud.path}: the cloud is not organised, so it does not say its camera; give one "
            "(fx,fy,cx,cy and the size of the image to project to)."
        )
    width, height = cloud.size
    v, u = np.divmod(np.arange(len(cloud.points)), width)
    known = cloud.points[:, 2] > 0
    figures = []
    for axis, pixel in ((0, u), (1, v)):
        slope = cloud.points[known, axis].astype(float) / cloud.points[known, 2]
        terms = np.stack([slope, np.ones_like(slope)], -1)
        if np.ptp(slope) < 1e-6:
            raise ValueError(f"{cloud.path}: the points are on one line of sight; give a camera.")
        fit = np.linalg.lstsq(terms, pixel[known].astype(float), rcond=None)[0]
        if np.abs(terms @ fit - pixel[known]).max() > 1:
            raise ValueError(
                f"{cloud.path}: the points are up to {np.abs(terms @ fit - pixel[known]).max():.1f}"
                " pixels off the rays of a pinhole camera; give the camera, and they are projected."
            )
        figures.append(fit)
    (fx, cx), (fy, cy) = figures
    return make_camera(fx, fy, cx, cy, width, height)


def project_cloud(cloud: PointCloud, camera: Camera) -> DepthImage:
    """The depth map that the camera sees of a cloud: at each pixel its nearest point.

    Raises:
      ValueError: no point is in the image.
    """
    (fx, fy), (cx, cy) = np.asarray(camera.focal, float), np.asarray(camera.center, float)
    points = cloud.points[np.isfinite(cloud.points).all(axis=1) & (cloud.points[:, 2] > 0)]
    z = points[:, 2].astype(float)
    u = np.rint(points[:, 0] / z * fx + cx)
    v = np.rint(points[:, 1] / z * fy + cy)
    inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    if not inside.any():
        raise ValueError(
            f"{cloud.path}: none of {len(points)} points is in the image of {camera.width} x "
            f"{camera.height} pixels; are they in this camera's frame?"
        )
    depth = np.full(camera.width * camera.height, np.inf, np.float32)
    pixel = (v[inside] * camera.width + u[inside]).astype(np.int64)
    np.minimum.at(depth, pixel, points[inside, 2])
    depth = np.where(np.isfinite(depth), depth, 0).reshape(camera.height, camera.width)
    share = np.count_nonzero(depth) / depth.size
    notes = [*cloud.notes, f"{np.count_nonzero(inside)} in the image, on {share:.1%} of its pixels"]
    sparse = _sparseness(depth)
    if sparse > 1.5:
        notes.append(
            f"sparse: neighbouring points are {sparse:.1f} pixels apart; a camera with "
            f"{camera.width / sparse:.0f} x {camera.height / sparse:.0f} pixels would fit better"
        )
    return DepthImage(depth, 1.0, cloud.path, tuple(notes))


def _sparseness(depth: Float[np.ndarray, "h w"]) -> float:
    """Typical distance of neighbouring measurements, pixels."""
    rows, columns = (np.flatnonzero((depth > 0).any(axis=axis)) for axis in (1, 0))
    part = depth[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] > 0
    # Where blocks hold anything at all, the share of pixels that do.
    block = 8
    padded = np.pad(part, [(0, -length % block) for length in part.shape])
    blocks = padded.reshape(padded.shape[0] // block, block, -1, block).mean(axis=(1, 3))
    return 1 / math.sqrt(float(np.median(blocks[blocks > 0])))


def _parse_ply(data: bytes) -> tuple[Float[np.ndarray, "n 3"], None]:
    import io

    import trimesh

    header = data[:_MAX_HEADER].partition(b"end_header")[0].decode("ascii", "replace")
    if not header.startswith("ply"):
        raise ValueError("it does not start with 'ply'")
    counts = [int(count) for count in re.findall(r"element\s+\S+\s+(\d{1,12})", header)]
    vertices = re.search(r"element\s+vertex\s+(\d{1,12})", header)
    if vertices is None or int(vertices[1]) == 0:
        raise ValueError("it has no vertices; need points")
    # Each element takes a byte at least.
    if max(counts) > min(MAX_POINTS, len(data)):
        raise ValueError(f"its header claims {max(counts)} elements; at most {MAX_POINTS} are read")
    loaded = trimesh.load(io.BytesIO(data), file_type="ply", process=False)
    points = np.asarray(getattr(loaded, "vertices", ()), np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise ValueError("it has no vertices; need points")
    return points, None


_PCD_TYPES: Mapping[tuple[str, str], str] = {
    (kind, size): f"<{letter}{size}"
    for kind, letter, sizes in (("F", "f", "48"), ("I", "i", "1248"), ("U", "u", "1248"))
    for size in sizes
}


def _parse_pcd(data: bytes) -> tuple[Float[np.ndarray, "n 3"], tuple[int, int] | None]:
    """PCD 0.7: a header of lines KEY VALUES, then ASCII or packed little-endian records."""
    header: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in header:
        end = data.find(b"\n", start, _MAX_HEADER)
        if end < 0:
            raise ValueError("its header does not end in a line DATA")
        line = data[start:end].decode("ascii").split("#")[0].split()
        start = end + 1
        if line:
            header[line[0].upper()] = line[1:]
    missing = {"FIELDS", "SIZE", "TYPE", "WIDTH", "HEIGHT"} - header.keys()
    if missing:
        raise ValueError(f"its header lacks {', '.join(sorted(missing))}")
    names, sizes, kinds = header["FIELDS"], header["SIZE"], header["TYPE"]
    repeats = [int(count) for count in header.get("COUNT", ["1"] * len(names))]
    if not len(names) == len(sizes) == len(kinds) == len(repeats) or not {"x", "y", "z"} <= {
        *names
    }:
        raise ValueError(f"it has the fields {names[:12]}, need x, y, z, with a size and type each")
    if not all(1 <= repeat <= 4096 for repeat in repeats) or len(names) > 64:
        raise ValueError("its records are too long")
    width, height = int(header["WIDTH"][0]), int(header["HEIGHT"][0])
    count = width * height
    if width < 1 or height < 1 or count > MAX_POINTS:
        raise ValueError(f"it has {width} x {height} points, need 1 to {MAX_POINTS}")
    unknown = {*zip(kinds, sizes, strict=True)} - _PCD_TYPES.keys()
    if unknown:
        raise ValueError(f"its fields have the types {sorted(unknown)[:4]}, need F, I, U of 1 to 8")
    # Names may repeat (PCL pads with "_"), so fields are told apart by their place.
    places = [str(index) for index in range(len(names))]
    formats = [
        (_PCD_TYPES[kind, size], repeat)
        for kind, size, repeat in zip(kinds, sizes, repeats, strict=True)
    ]
    record = np.dtype(list(zip(places, *zip(*formats, strict=True), strict=True)))
    axes = [names.index(axis) for axis in "xyz"]
    body = data[start:]
    if header["DATA"] == ["binary"]:
        if len(body) < count * record.itemsize:
            raise ValueError(f"it ends after {len(body)} bytes of {count * record.itemsize}")
        table = np.frombuffer(body, record, count)
        points = np.stack([table[places[axis]].reshape(count, -1)[:, 0] for axis in axes], -1)
    elif header["DATA"] == ["ascii"]:
        points = _parse_ascii(body, count, sum(repeats), [sum(repeats[:axis]) for axis in axes])
    else:
        raise ValueError(
            f"its data are {' '.join(header['DATA'])[:40]!r}, need ascii or binary; convert it "
            "with pcl_convert_pcd_ascii_binary IN.pcd OUT.pcd 1"
        )
    return points.astype(np.float64), (width, height) if height > 1 else None


def _parse_ascii(body: bytes, count: int, columns: int, axes: list[int]) -> np.ndarray:
    # Every number takes two bytes at least: a short file cannot claim many.
    if len(body) < 2 * count * columns - 1:
        raise ValueError(f"it ends after {len(body)} bytes: too few for {count} points")
    if count * columns > _MAX_WORDS:
        raise ValueError(f"it has {count * columns} numbers as text, at most {_MAX_WORDS} are read")
    words = body.split(None, count * columns)[: count * columns]
    if len(words) < count * columns:
        raise ValueError(f"it has {len(words)} numbers, need {count} points of {columns}")
    return np.stack([np.array(words[axis::columns]).astype(np.float64) for axis in axes], -1)
