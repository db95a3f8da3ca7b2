"""glTF 2.0 files as data: the JSON tree, its buffers, and accessors as NumPy arrays.

A file comes from elsewhere and may hold anything. Every read of the tree names the type it needs,
every index is checked against its list, every array against its buffer, and sizes are bounded
before anything is allocated; what does not fit raises `ValueError` and nothing else.

Source: Khronos, "glTF 2.0 Specification", sections 3.6 (buffers, accessors) and 4.4 (GLB).
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import struct
import urllib.parse
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

MAX_FILE_BYTES = 1 << 30
MAX_ELEMENTS = 1 << 23
"""Most elements (vertices, indices, matrices) of one accessor."""

_MAGIC = b"glTF"
_JSON_CHUNK, _BINARY_CHUNK = 0x4E4F534A, 0x004E4942

# Required extensions that leave geometry readable by the rules of the core specification.
_HARMLESS = ("KHR_materials_", "KHR_texture_", "EXT_texture_", "KHR_lights_", "VRM")
_READABLE = ("KHR_mesh_quantization", "KHR_animation_pointer", "KHR_node_visibility")

_DTYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}

Tree = dict[str, Any]
Kind = TypeVar("Kind", bound="bool | int | str | list[Any] | Tree")


@dataclasses.dataclass(frozen=True, eq=False)
class GltfFile:
    """A parsed file. Make it with `read_file`."""

    tree: Tree
    buffers: tuple[bytes, ...]


def read_file(path: Path) -> GltfFile:
    """The tree and the buffers of a `.glb` file, or of a `.gltf` file and what it refers to.

    Raises:
      ValueError: the file is no glTF 2.0, damaged, too large, or refers to files outside its
        folder.
    """
    data = _read_bytes(path)
    content, binary = _split_glb(data) if data[:4] == _MAGIC else (data, None)
    tree = _parse_json(content)
    version = member(member(tree, "asset", dict, {}), "version", str, "missing")
    if version.split(".")[0] != "2":
        raise ValueError(f"got glTF version {version[:20]!r}, need 2.x; export it again as 2.0.")
    _check_extensions(tree)
    buffers = [
        _read_buffer(path.parent, as_tree(entry, "buffers"), binary if i == 0 else None)
        for i, entry in enumerate(member(tree, "buffers", list, []))
    ]
    return GltfFile(tree, tuple(buffers))


def _read_bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise ValueError(f"{path.name}: no such file beside the .gltf; copy it there.")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(
                f"{path.name}: {path.stat().st_size / 1e9:.1f} GB, the limit is "
                f"{MAX_FILE_BYTES / 1e9:.1f} GB; export without textures and animations."
            )
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path.name}: cannot be read ({error}).") from error


def _split_glb(data: bytes) -> tuple[bytes, bytes | None]:
    """The JSON and the binary chunk of a GLB container."""
    truncated = "the GLB container is truncated or damaged; copy or export the file again."
    if len(data) < 20:
        raise ValueError(f"got {len(data)} bytes: {truncated}")
    _, version, length = struct.unpack_from("<4sII", data)
    if version != 2:
        raise ValueError(f"got GLB container version {version}, need 2; export it as glTF 2.0.")
    if length > len(data):
        raise ValueError(f"the header announces {length} bytes, got {len(data)}: {truncated}")
    chunks: dict[int, bytes] = {}
    start = 12
    while start + 8 <= length:
        size, kind = struct.unpack_from("<II", data, start)
        start += 8
        if start + size > length:
            raise ValueError(f"a chunk of {size} bytes reaches beyond the end: {truncated}")
        # Only the first chunk of a kind counts, and unknown kinds are to be skipped (4.4.3).
        if kind in (_JSON_CHUNK, _BINARY_CHUNK):
            chunks.setdefault(kind, data[start : start + size])
        start += size
    if _JSON_CHUNK not in chunks:
        raise ValueError(f"no JSON chunk: {truncated}")
    return chunks[_JSON_CHUNK], chunks.get(_BINARY_CHUNK)


def _parse_json(content: bytes) -> Tree:
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError) as error:
        kind = type(error).__name__
        raise ValueError(
            f"not readable as glTF: neither a GLB container nor JSON ({kind}); the file is damaged "
            "or of another format."
        ) from error
    return as_tree(tree, "the file")


def _check_extensions(tree: Tree) -> None:
    required = member(tree, "extensionsRequired", list, [])
    unknown = [
        str(name)[:80]
        for name in required
        if name not in _READABLE and not str(name).startswith(_HARMLESS)
    ]
    if unknown:
        raise ValueError(
            f"the file needs {', '.join(unknown)}, which is not supported; export it without "
            "(compression can be switched off in Blender and undone by gltf-transform)."
        )


def _read_buffer(folder: Path, entry: Tree, binary: bytes | None) -> bytes:
    uri = member(entry, "uri", str, "")
    need = member(entry, "byteLength", int)
    if not uri and binary is None:
        raise ValueError("a buffer has neither a uri nor a binary chunk; export the file again.")
    if not uri and binary is not None:
        data = binary
    elif uri.startswith("data:"):
        data = _decode_data_uri(uri)
    else:
        data = _read_bytes(_inside(folder, uri))
    if not 0 <= need <= len(data):
        raise ValueError(f"a buffer has {len(data)} bytes, need {need}; its file is truncated.")
    return data


def _decode_data_uri(uri: str) -> bytes:
    head, comma, body = uri.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ValueError("a buffer has a data uri that is not base64; export as .glb.")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"a buffer has damaged base64 data ({error}).") from error


def _inside(folder: Path, uri: str) -> Path:
    """The file that a relative uri names; never one outside the folder, links resolved."""
    name = urllib.parse.unquote(uri)
    if "\0" in name or ":" in name or "\\" in name or name.startswith("/"):
        raise ValueError(f"a buffer has the uri {uri[:80]!r}, need a file name relative to .gltf.")
    try:
        path = (folder / name).resolve()
        outside = not path.is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:
        raise ValueError(f"a buffer has the uri {uri[:80]!r}, which is no file.") from error
    if outside:
        raise ValueError(
            f"a buffer has the uri {uri[:80]!r}, which leads outside the folder of the .gltf and "
            "is not followed; move the file into the folder."
        )
    return path


_REQUIRED: Any = object()


def member(tree: Tree, key: str, kind: type[Kind], default: Kind = _REQUIRED) -> Kind:
    """The value of a key, which must be of the given type; `default` where there is no such key."""
    if key not in tree and default is not _REQUIRED:
        return default
    value = tree.get(key)
    # JSON true is an int in Python, and no index.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        got = type(value).__name__ if key in tree else "nothing"
        raise ValueError(f"{key}: got {got}, need {kind.__name__}; the glTF tree is damaged.")
    return value


def as_tree(value: Any, what: str) -> Tree:
    """The value, which must be a JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"{what}: got {type(value).__name__}, need a JSON object.")
    return value


def numbers(tree: Tree, key: str, count: int) -> np.ndarray | None:
    """A list of finite numbers as float64, or None where there is no such key."""
    if key not in tree:
        return None
    values = member(tree, key, list)
    plain = sum(isinstance(x, int | float) and not isinstance(x, bool) for x in values)
    if len(values) != count or plain != count:
        raise ValueError(
            f"{key}: got {len(values)} entries, {plain} of them numbers, need {count} numbers."
        )
    try:
        array = np.array(values, np.float64)
    except OverflowError as error:
        raise ValueError(f"{key}: a number is too large.") from error
    if not np.isfinite(array).all():
        raise ValueError(f"{key}: got NaN or infinite values, need finite numbers.")
    return array


def item(file: GltfFile, group: str, index: Any) -> Tree:
    """Entry `index` of one of the tree's lists (`accessors`, `nodes`, ...)."""
    entries = member(file.tree, group, list, [])
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(entries):
        need = f"0..{len(entries) - 1}" if entries else "one of them, but the file has none"
        raise ValueError(f"{group}: got index {repr(index)[:40]}, need {need}.")
    return as_tree(entries[index], group)


def accessor_count(file: GltfFile, index: Any) -> int:
    """The number of elements of an accessor, checked against the limit."""
    count = member(item(file, "accessors", index), "count", int)
    if not 0 < count <= MAX_ELEMENTS:
        raise ValueError(f"accessor {index}: got count {count}, need 1..{MAX_ELEMENTS}.")
    return count


def read_accessor(file: GltfFile, index: Any, types: tuple[str, ...]) -> np.ndarray:
    """The elements of an accessor, (count, components).

    Integers stay integers, normalised integers become float64 in 0..1 or -1..1, floats float64.

    Args:
      file: where the accessor is.
      index: which one.
      types: accepted element types (`VEC3`, ...).

    Raises:
      ValueError: it has another type, reaches outside its buffer, or holds NaN or infinity.
    """
    entry = item(file, "accessors", index)
    kind = member(entry, "type", str)
    if kind not in types:
        raise ValueError(f"accessor {index}: got type {kind[:20]!r}, need {' or '.join(types)}.")
    count, width = accessor_count(file, index), _COMPONENTS[kind]
    dtype = _component_type(entry, index)
    if "bufferView" in entry:
        offset = member(entry, "byteOffset", int, 0)
        values = _view(file, entry["bufferView"], offset, count, width, dtype).copy()
    else:
        values = np.zeros((count, width), dtype)
    if "sparse" in entry:
        _put_sparse(file, member(entry, "sparse", dict), values)
    if member(entry, "normalized", bool, False) and dtype.kind in "iu":
        # -128/127 is clamped (3.11, equations for int-to-float conversion).
        return np.maximum(values / np.float64(np.iinfo(dtype).max), -1.0)
    if dtype.kind != "f":
        return values.astype(np.int64)
    if not np.isfinite(values).all():
        raise ValueError(f"accessor {index}: got NaN or infinite values; the file is damaged.")
    return values.astype(np.float64)


def _component_type(entry: Tree, label: Any) -> np.dtype[Any]:
    code = member(entry, "componentType", int)
    if code not in _DTYPES:
        raise ValueError(f"accessor {label}: got componentType {code}, need one of {[*_DTYPES]}.")
    return np.dtype(_DTYPES[code])


def _view(
    file: GltfFile, index: Any, offset: int, count: int, width: int, dtype: np.dtype[Any]
) -> np.ndarray:
    """Elements in a buffer view, as an array over the buffer's own memory."""
    view = item(file, "bufferViews", index)
    start = member(view, "byteOffset", int, 0)
    size = member(view, "byteLength", int)
    element = width * dtype.itemsize
    stride = member(view, "byteStride", int, element)
    source = member(view, "buffer", int)
    item(file, "buffers", source)
    data = file.buffers[source]
    end = offset + stride * (count - 1) + element
    if min(start, size, offset) < 0 or not element <= stride <= 255 + element:
        raise ValueError(f"bufferView {index}: got a negative size or the stride {stride}.")
    if end > size or start + size > len(data):
        raise ValueError(
            f"bufferView {index}: {count} elements end at byte {start + end}, the buffer has "
            f"{len(data)} bytes; the file is truncated or damaged."
        )
    return np.ndarray(
        (count, width), dtype, buffer=data, offset=start + offset, strides=(stride, dtype.itemsize)
    )


def _put_sparse(file: GltfFile, sparse: Tree, values: np.ndarray) -> None:
    """Replace the elements that a sparse accessor lists."""
    count = member(sparse, "count", int)
    if not 0 < count <= len(values):
        raise ValueError(f"sparse: got count {count}, need 1..{len(values)}.")
    where, what = member(sparse, "indices", dict), member(sparse, "values", dict)
    kind = _component_type(where, "sparse")
    if kind.kind != "u":
        raise ValueError("sparse: indices must be unsigned integers.")
    at = _view(file, where.get("bufferView"), member(where, "byteOffset", int, 0), count, 1, kind)
    rows = at[:, 0].astype(np.int64)
    if rows.max() >= len(values):
        raise ValueError(f"sparse: got index {rows.max()}, need 0..{len(values) - 1}.")
    start = member(what, "byteOffset", int, 0)
    width = values.shape[1]
    values[rows] = _view(file, what.get("bufferView"), start, count, width, values.dtype)
