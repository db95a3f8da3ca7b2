"""Depth images in ROS bags (extra `ros`): ROS 1 and RealSense (.bag), ROS 2 (.db3, .mcap).

Of the topics with `sensor_msgs/Image` (16UC1, mono16: millimetres; 32FC1: metres) or
`CompressedImage` (PNG, or `compressedDepth` as PNG) the one is taken that is most surely depth.
Its camera is the `CameraInfo` beside it, its unit what RealSense writes as the option "Depth
Units". Message types are ROS' own, never those that a bag defines: definitions become code.

Messages are read one by one; what a compressed chunk may grow to is limited.
"""

from __future__ import annotations

import bisect
import bz2
import contextlib
import dataclasses
import io
import itertools
import re
import struct
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jrecon.images import MAX_PIXELS, decode_grey

SUFFIXES = (".bag", ".db3", ".mcap")
# Half an hour at 30 frames a second; topics that are looked into; bytes of one unpacked chunk.
MAX_FRAMES, _MAX_TOPICS, _MAX_CHUNK = 2**16, 256, 2**28
# Of ROS' encodings those that may be depth.
_ENCODINGS = {"16uc1": np.dtype("u2"), "mono16": np.dtype("u2"), "32fc1": np.dtype("f4")}
_IMAGE, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_CAMERA = "sensor_msgs/msg/CameraInfo"
# What messages begin with that rosbag2 compressed one by one.
_ZSTD = b"\x28\xb5\x2f\xfd"
# RealSense's name of what ROS calls plumb_bob.
_LENSES = {"Brown Conrady": "plumb_bob"}


@dataclasses.dataclass(frozen=True)
class Bag:
    """One depth topic of a recording; its frames are read as they are asked for."""

    path: Path
    topic: str
    times_ns: tuple[int, ...]
    """Of each message, ascending."""
    unit: float | None
    """Metres per count, if the recording says it."""
    camera: Mapping[str, Any] | None
    """As `jrecon.io.intrinsics.lens_of_record` takes it."""
    notes: tuple[str, ...]
    messages: _Messages = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.times_ns)

    @property
    def times_s(self) -> tuple[float, ...]:
        """Since the first frame."""
        return tuple((time - self.times_ns[0]) / 1e9 for time in self.times_ns)

    def name(self, index: int) -> str:
        return f"{self.path.stem}_{index:06d}"

    def counts(self, index: int) -> np.ndarray:
        """The numbers of one frame (h, w), as the bag holds them.

        Raises:
          ValueError: damaged, too large, or of an encoding that is no depth.
        """
        time = self.times_ns[index]
        skipped = index - bisect.bisect_left(self.times_ns, time)
        with _explained(self.path):
            found = self.messages.read(self.topic, time, time + 1)
            _, kind, message = next(itertools.islice(found, skipped, None))
            return _numbers(kind, message)


def open_bag(path: Path) -> Bag:
    """The depth of a bag, or of a folder of ROS 2 files that follow each other.

    Raises:
      ImportError: the reader is not installed.
      ValueError: not a bag, damaged, or without depth; the message says what is in it.
      OSError: it cannot be opened.
    """
    try:
        messages = _Messages(bag_files(path))
    except ImportError as error:
        raise ImportError(f"{path}: reading bags needs: pip install 'jrecon[ros]'") from error
    with _explained(path):
        ranked = _depth_topics(messages)
        if not ranked:
            raise ValueError(f"no topic has depth images; {messages.describe()}")
        topic, others = ranked[0], ranked[1:]
        times = []
        for time, _, _ in messages.read(topic, parse=False):
            times.append(time)
            if len(times) > MAX_FRAMES:
                raise ValueError(f"got more than {MAX_FRAMES} frames; cut the recording")
        if not times:
            raise ValueError(f"topic {topic} is listed, but has no messages")
        notes = [f"topic {topic}" + (f", not {', '.join(others[:4])}" if others else "")]
        return Bag(
            path, topic, tuple(sorted(times)), _unit(messages), _camera(messages, topic),
            tuple(notes), messages,
        )  # fmt: skip


def bag_files(path: Path) -> tuple[Path, ...]:
    """The file itself, or the ROS 2 files of a folder in order; nothing if there are none."""
    if not path.is_dir():
        return (path,) if path.suffix.lower() in SUFFIXES else ()
    files = [file for file in path.iterdir() if file.suffix.lower() in (".db3", ".mcap")]
    number = lambda file: [int(part) for part in re.findall(r"\d{1,18}", file.stem)][-1:]
    return tuple(sorted(files, key=lambda file: (number(file), file.name)))


class _Messages:
    """Messages of the files of one recording, by topic, in their types."""

    def __init__(self, files: Sequence[Path]) -> None:
        from rosbags import rosbag1, rosbag2
        from rosbags.typesys import Stores, get_typestore

        _limit_chunks()
        self._ros1 = files[0].suffix.lower() == ".bag"
        self._store = get_typestore(Stores.ROS1_NOETIC if self._ros1 else Stores.ROS2_HUMBLE)
        self._readers: list[Any] = []
        for file in files:
            # The library's own message is less plain.
            open(file, "rb").close()
            with _explained(file):
                reader: Any = rosbag1.Reader(file) if self._ros1 else rosbag2.Reader(file)
                reader.open()
            self._readers.append(reader)
            weakref.finalize(self, reader.close)

    def topics(self, *kinds: str) -> list[str]:
        """Names of the topics of some types, those with most messages first."""
        counts: dict[str, int] = {}
        for connection in self._connections():
            if connection.msgtype in kinds:
                counts[connection.topic] = counts.get(connection.topic, 0) + connection.msgcount
        filled = [name for name, count in counts.items() if count]
        return sorted(filled, key=lambda name: (-counts[name], name))

    def describe(self) -> str:
        named = sorted({f"{one.topic} ({one.msgtype})" for one in self._connections()})
        more = f" and {len(named) - 8} more" if len(named) > 8 else ""
        return f"got the topics {', '.join(named[:8]) or 'none'}{more}"

    def read(
        self, topic: str, start: int | None = None, stop: int | None = None, *, parse: bool = True
    ) -> Iterator[tuple[int, str, Any]]:
        """Time in nanoseconds, type and message of a topic; the message is None without `parse`."""
        for reader in self._readers:
            chosen = [one for one in reader.connections if one.topic == topic]
            if not chosen:
                continue
            for one, time, raw in reader.messages(connections=chosen, start=start, stop=stop):
                yield time, one.msgtype, self._parse(raw, one.msgtype) if parse else None

    def first(self, topic: str) -> tuple[str, Any]:
        return next(self.read(topic))[1:]

    def _connections(self) -> Iterator[Any]:
        return (one for reader in self._readers for one in reader.connections)

    def _parse(self, raw: bytes, kind: str) -> Any:
        if self._ros1:
            return self._store.deserialize_ros1(raw, kind)
        if raw[:4] == _ZSTD:
            raise ValueError("its messages are compressed one by one; unpack it: ros2 bag convert")
        return self._store.deserialize_cdr(raw, kind)


def _limit_chunks() -> None:
    """Have the library unpack no chunk beyond a bound; it has none of its own."""
    import lz4.frame
    from rosbags.rosbag1 import reader as ros1
    from rosbags.rosbag2 import storage_mcap as mcap

    # Of Python's library from 3.14 on, of a package before: the reader knows which.
    zstd: Any = getattr(mcap, "zstd")  # noqa: B009
    makers: dict[str, Any] = {
        "bz2": bz2.BZ2Decompressor,
        "lz4": lz4.frame.LZ4FrameDecompressor,
        "zstd": zstd.ZstdDecompressor,
    }

    def unpack(name: str, data: bytes, *_: int) -> bytes:
        unpacker = makers[name]()
        unpacked = unpacker.decompress(data, max_length=_MAX_CHUNK)
        if not unpacker.eof:
            raise ValueError(f"a chunk is cut off, or unpacks to more than {_MAX_CHUNK} bytes")
        return unpacked

    tables: tuple[Any, ...] = (ros1.decompressors, mcap.DECOMPRESSORS)
    for table in tables:
        for name in table.keys() & makers.keys():
            table[name] = lambda data, *size, name=name: unpack(name, data, *size)


def _depth_topics(messages: _Messages) -> list[str]:
    """Topics whose first message is depth: those named so first, then raw before compressed."""
    rows = []
    for topic in messages.topics(_IMAGE, _COMPRESSED)[:_MAX_TOPICS]:
        kind, message = messages.first(topic)
        named = "depth" in topic.lower()
        encoding = _encoding(kind, message)
        # Infrared images have 16 bits, too.
        if encoding in _ENCODINGS and (named or encoding != "mono16"):
            rows.append((not named, kind != _IMAGE, len(rows), topic))
    return [topic for *_, topic in sorted(rows)]


def _encoding(kind: str, message: Any) -> str:
    """Of CompressedImage: what precedes "; compressedDepth png"."""
    text = message.encoding if kind == _IMAGE else message.format.partition(";")[0]
    return text.strip().lower()


def _numbers(kind: str, message: Any) -> np.ndarray:
    encoding = _encoding(kind, message)
    if encoding not in _ENCODINGS:
        raise ValueError(f"got the encoding {encoding[:40]!r}, need one of {', '.join(_ENCODINGS)}")
    if kind == _COMPRESSED:
        return _unpacked(message, _ENCODINGS[encoding])
    dtype = _ENCODINGS[encoding].newbyteorder(">" if message.is_bigendian else "<")
    height, width, step = message.height, message.width, message.step
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"got {width} x {height} pixels, need 1 to {MAX_PIXELS}")
    row = width * dtype.itemsize
    if step < row or len(message.data) < step * height:
        raise ValueError(f"{width} x {height} pixels do not fit in {len(message.data)} bytes")
    rows = np.asarray(message.data, np.uint8)[: step * height].reshape(height, step)[:, :row]
    return np.ascontiguousarray(rows).view(dtype).astype(_ENCODINGS[encoding])


def _unpacked(message: Any, dtype: np.dtype) -> np.ndarray:
    """PNG; of `compressedDepth` after a header (format, a, b), which says how metres are counted:
    a / (count - b) (compressed_depth_image_transport, codec.cpp)."""
    data, header = bytes(message.data), None
    if "compresseddepth" in message.format.lower():
        if "rvl" in message.format.lower():
            raise ValueError("its depth is packed as RVL, need PNG; record the raw topic")
        header = struct.unpack_from("<iff", data)
        data = data[12:]
    counts = decode_grey(io.BytesIO(data), kind="counts")
    if dtype.kind == "u":
        return counts.astype(dtype)
    if header is None:
        raise ValueError("got floats as plain PNG, need compressedDepth")
    _, a, b = header
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(counts > 0, np.float32(a) / (counts - np.float32(b)), 0).astype(dtype)


def _camera(messages: _Messages, topic: str) -> dict[str, Any] | None:
    """The CameraInfo in the folder of the image's name, or in `info` beside it (RealSense)."""
    there = messages.topics(_CAMERA)
    above, over = topic.rpartition("/")[0], topic.rpartition("/")[0].rpartition("/")[0]
    beside = [f"{above}/camera_info", f"{over}/info/camera_info", f"{over}/camera_info"]
    found = next((name for name in beside if name in there), None)
    if found is None:
        return None
    message = messages.first(found)[1]
    return {
        "width": int(message.width),
        "height": int(message.height),
        "K": np.asarray(_field(message, "k")).tolist(),
        "D": np.asarray(_field(message, "d")).tolist(),
        "distortion_model": _LENSES.get(message.distortion_model, message.distortion_model),
    }


def _field(message: Any, name: str) -> Any:
    """ROS 1 writes these names in upper case."""
    return getattr(message, name) if hasattr(message, name) else getattr(message, name.upper())


def _unit(messages: _Messages) -> float | None:
    pattern = re.compile(r"/option/Depth[_ ]Units/value$", re.I)
    found = next(filter(pattern.search, messages.topics("std_msgs/msg/Float32")), None)
    return float(messages.first(found)[1].data) if found else None


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Whatever the library stumbles over as a ValueError that names the file."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise ValueError(f"{path}: not a readable bag: {reason}.") from error
