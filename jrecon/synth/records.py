"""How examples are stored: one sharded Zarr v3 array per field, in exact and compact types.

Depth becomes uint16 in steps of `depth_unit_mm`, the mask one bit per pixel (`numpy.packbits` along
rows), the rest stays float32. Every chunk is compressed on its own and carries a crc32c. A chunk
holds one image, so that examples can be read in any order without reading their neighbours; fields
of a few numbers share a chunk of at most `CHUNK_BYTES`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jrecon.geometry.camera import Camera
from jrecon.model.parametric import Params
from jrecon.synth.example import Example

# Small fields: large enough that the 16 bytes of index per chunk do not matter, small enough that
# reading one row costs microseconds.
CHUNK_BYTES = 8192
MAX_CHUNK_ROWS = 256

# Measured on rendered bodies with sensor noise (docs/database.md): 5 % smaller than level 1, within
# 2 % of level 6; reading does not depend on the level.
COMPRESSION_LEVEL = 3

MAX_STEPS = np.iinfo(np.uint16).max


@dataclasses.dataclass(frozen=True)
class Field:
    """One array of a database; its first axis counts examples."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """Of one example."""
    axes: tuple[str, ...]
    unit: str

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def chunk_rows(self, shard_size: int) -> int:
        """Examples per chunk: a power of two that divides the shard."""
        rows = 1
        while (
            rows < MAX_CHUNK_ROWS
            and shard_size % (2 * rows) == 0
            and 2 * rows * self.row_bytes <= CHUNK_BYTES
        ):
            rows *= 2
        return rows

    def key(self, shard: int) -> str:
        """The file of a shard, relative to the folder of the array."""
        return "/".join(["c", str(shard), *["0"] * len(self.shape)])


def stored_fields(manifest: Mapping[str, Any]) -> tuple[Field, ...]:
    """The arrays of a database. What has no numbers (no shape coefficients) is not stored."""
    width, height = manifest["image"]["width"], manifest["image"]["height"]
    joints, shape = manifest["model"]["joints"], manifest["model"]["shape"]
    table = (
        Field("depth", "uint16", (height, width), ("y", "x"), f"{manifest['depth_unit_mm']:g} mm"),
        Field("mask", "uint8", (height, -(-width // 8)), ("y", "x8"), "8 pixels, first = 128"),
        Field("camera", "float32", (4,), ("fx_fy_cx_cy",), "px"),
        Field("shape", "float32", (shape,), ("coefficient",), "1"),
        Field("pose", "float32", (joints, 3), ("joint", "axis_angle"), "rad"),
        Field("translation", "float32", (3,), ("xyz",), "m"),
        Field("joints", "float32", (joints, 3), ("joint", "xyz"), "m"),
        Field("sensor", "int32", (), (), "index"),
        Field("visible", "float32", (), (), "share"),
        Field("number", "int64", (), (), "index"),
    )
    return tuple(field for field in table if field.row_bytes)


def encode(manifest: Mapping[str, Any], example: Example, first: int) -> dict[str, np.ndarray]:
    """The rows to store of a batch of examples whose numbers start at `first`.

    Raises:
      ValueError: another shape than the manifest says, a value that is not finite, or a depth that
        is negative or too large for the unit.
    """
    image, model = manifest["image"], manifest["model"]
    depth = np.asarray(example.depth)
    rows = len(depth) if depth.ndim else 0
    size = (rows, image["height"], image["width"])
    joints = (rows, model["joints"], 3)
    camera = example.camera
    if (camera.width, camera.height) != (image["width"], image["height"]):
        raise ValueError(
            f"camera: got {camera.width} x {camera.height} pixels, but the manifest says "
            f"{image['width']} x {image['height']}; generate at that size or make another manifest."
        )
    focal = _checked("camera.focal", camera.focal, (rows, 2), first)
    center = _checked("camera.center", camera.center, (rows, 2), first)
    return {
        "depth": quantize(_checked("depth", depth, size, first), manifest["depth_unit_mm"], first),
        "mask": np.packbits(_checked("mask", example.mask, size, first).astype(bool), axis=-1),
        "camera": np.concatenate([focal, center], axis=-1),
        "shape": _checked("params.shape", example.params.shape, (rows, model["shape"]), first),
        "pose": _checked("params.pose", example.params.pose, joints, first),
        "translation": _checked("params.translation", example.params.translation, (rows, 3), first),
        "joints": _checked("joints", example.joints, joints, first),
        "sensor": _checked("sensor", example.sensor, (rows,), first).astype(np.int32),
        "visible": _checked("visible", example.visible, (rows,), first),
        "number": first + np.arange(rows, dtype=np.int64),
    }


def _checked(name: str, values: Any, shape: tuple[int, ...], first: int) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != shape:
        raise ValueError(
            f"{name}: got shape {array.shape}, need {shape}, the first axis counting examples; the "
            "generator and the manifest disagree about image size, joints or shape coefficients."
        )
    if array.dtype.kind != "f":
        return array
    bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{name}: example {first + int(np.argmax(bad))} holds NaN or infinity, need finite "
            "numbers; mark missing depth with 0."
        )
    return array.astype(np.float32)


def quantize(depth: np.ndarray, unit_mm: float, first: int) -> np.ndarray:
    """Depth in metres (n, h, w) as uint16 steps of `unit_mm`; an error names the example.

    Raises:
      ValueError: depth that is negative, too large or not a number; a unit that is not positive.
    """
    if not unit_mm > 0:
        raise ValueError(f"unit_mm: got {unit_mm}, need the step of depth in mm, as 0.1 or 1.0.")
    steps = np.rint(depth.astype(np.float64) * (1000 / unit_mm))
    # NaN is outside, too.
    bad = ~((steps >= 0) & (steps <= MAX_STEPS)).reshape(len(depth), -1).all(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"depth: example {first + row} spans {depth[row].min():.4g} to {depth[row].max():.4g} "
            f"m; 16 bits in steps of {unit_mm:g} mm hold 0 to {MAX_STEPS * unit_mm / 1000:.4g} m. "
            "Bound the range of the sensor, or use unit_mm=1.0, which reaches 65 m."
        )
    return steps.astype(np.uint16)


def decode(manifest: Mapping[str, Any], rows: Mapping[str, Any]) -> Example:
    """The examples of stored rows, in NumPy arrays."""
    image, camera, sensor = manifest["image"], rows["camera"], rows["sensor"]
    no_shape: Any = np.zeros((*sensor.shape, 0), np.float32)
    bits: Any = np.unpackbits(rows["mask"], axis=-1, count=image["width"])
    return Example(
        depth=rows["depth"].astype(np.float32) * np.float32(manifest["depth_unit_mm"] / 1000),
        mask=bits.view(bool),
        camera=Camera(camera[..., :2], camera[..., 2:], image["width"], image["height"]),
        params=Params(rows.get("shape", no_shape), rows["pose"], rows["translation"]),
        joints=rows["joints"],
        sensor=sensor,
        visible=rows["visible"],
    )


def array_spec(field: Field, shard_size: int, count: int, kvstore: Any) -> dict[str, Any]:
    """What tensorstore needs to create the array of a field.

    An absent chunk is never read as zeros, and zeros are stored: a lost shard is an error.
    """
    typesize = np.dtype(field.dtype).itemsize
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    blosc = {
        "cname": "zstd",
        "clevel": COMPRESSION_LEVEL,
        "shuffle": "shuffle" if typesize > 1 else "noshuffle",
        "typesize": typesize,
        "blocksize": 0,
    }
    checksum = {"name": "crc32c"}
    sharding = {
        "chunk_shape": [field.chunk_rows(shard_size), *field.shape],
        "codecs": [little, {"name": "blosc", "configuration": blosc}, checksum],
        "index_codecs": [little, checksum],
        "index_location": "end",
    }
    return {
        "driver": "zarr3",
        "kvstore": kvstore,
        "metadata": {
            "shape": [count, *field.shape],
            "data_type": field.dtype,
            "fill_value": 0,
            "dimension_names": ["example", *field.axes],
            "attributes": {"unit": field.unit},
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [shard_size, *field.shape]},
            },
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        },
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": False,
    }


def array_metadata(field: Field, shard_size: int, count: int) -> bytes:
    """The contents of `zarr.json` of a field's array."""
    return _contents(_new_array(field, shard_size, count), "zarr.json")


def encode_shard(field: Field, shard_size: int, rows: np.ndarray) -> bytes:
    """The contents of the file of a shard with these rows; the same wherever the shard stands."""
    array = _new_array(field, shard_size, len(rows))
    array.write(rows).result()
    return _contents(array, field.key(0))


def _new_array(field: Field, shard_size: int, count: int) -> Any:
    """An array of its own in memory."""
    import tensorstore

    spec = array_spec(field, shard_size, count, {"driver": "memory", "path": "array/"})
    return tensorstore.open(spec, create=True).result()


def _contents(array: Any, key: str) -> bytes:
    return bytes(array.kvstore.read(key).result().value)


def is_described(path: Path, field: Field, shard_size: int, count: int) -> bool:
    """Whether a field's `zarr.json` says what `array_metadata` does, in whatever formatting."""
    import tensorstore

    store = {"driver": "file", "path": f"{path / field.name}/"}
    try:
        tensorstore.open(array_spec(field, shard_size, count, store), open=True).result()
    except ValueError:
        return False
    return True


def open_arrays(path: Path, manifest: Mapping[str, Any], cache_bytes: int) -> dict[str, Any]:
    """The open arrays of a database, to be read.

    Raises:
      ValueError: a `zarr.json` is missing or damaged.
    """
    import tensorstore

    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": cache_bytes}})
    fields = stored_fields(manifest)
    # Shards are not changed: what is in the cache need not be checked again. The number of examples
    # is not asked for: an extension that was interrupted says more in the manifest than here.
    opened = [
        tensorstore.open(
            {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": f"{path / field.name}/"},
                "recheck_cached_metadata": "open",
                "recheck_cached_data": "open",
                "fill_missing_data_reads": False,
            },
            read=True,
            context=context,
        )
        for field in fields
    ]
    arrays = {}
    for field, future in zip(fields, opened, strict=True):
        where = f"{path / field.name}/zarr.json"
        fix = "write the database again with the same settings to restore it."
        try:
            array: Any = future.result()
        except ValueError as error:
            raise ValueError(f"{where}: missing or damaged; {fix}\n{error}") from error
        if array.dtype.name != field.dtype or array.shape[1:] != field.shape:
            raise ValueError(
                f"{where}: got {array.dtype.name} {array.shape[1:]}, need {field.dtype} "
                f"{field.shape}; {fix}"
            )
        arrays[field.name] = array
    return arrays
