"""Small ROS bags, written by the library that `jrecon.io.bag` reads with."""

from typing import Any

import numpy as np
from rosbags import rosbag1, rosbag2
from rosbags.typesys import Stores, get_typestore

K = np.array([60.0, 0, 11.5, 0, 61, 7.5, 0, 0, 1])
SECOND = 10**9


class Recorder:
    """A bag that is being written: ROS 1 (`suffix` .bag) or ROS 2 (a folder)."""

    def __init__(self, path, storage="sqlite3", chunks=None):
        self.ros1 = path.suffix == ".bag"
        self.store = get_typestore(Stores.ROS1_NOETIC if self.ros1 else Stores.ROS2_HUMBLE)
        plugin = rosbag2.StoragePlugin.MCAP if storage == "mcap" else rosbag2.StoragePlugin.SQLITE3
        self.writer: Any = (
            rosbag1.Writer(path)
            if self.ros1
            else rosbag2.Writer(path, version=9, storage_plugin=plugin)
        )
        if chunks and self.ros1:
            self.writer.set_compression(rosbag1.Writer.CompressionFormat[chunks.upper()])
        elif chunks:
            self.writer.set_compression(
                rosbag2.CompressionMode.STORAGE, rosbag2.CompressionFormat.ZSTD
            )
        self.connections: dict[str, Any] = {}

    def __enter__(self):
        self.writer.open()
        return self

    def __exit__(self, *_):
        self.writer.close()

    def write(self, topic, kind, time_s, **fields):
        types = self.store.types
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(topic, kind, typestore=self.store)
        if kind != "std_msgs/msg/Float32":
            seq = {"seq": 0} if self.ros1 else {}
            stamp = types["builtin_interfaces/msg/Time"](sec=0, nanosec=0)
            header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="", **seq)
            fields["header"] = header
        message = types[kind](**fields)
        ros1, cdr = self.store.serialize_ros1, self.store.serialize_cdr
        raw = ros1(message, kind) if self.ros1 else cdr(message, kind)
        self.writer.write(self.connections[topic], round(time_s * SECOND), raw)

    def image(self, topic, time_s, values, encoding="16UC1", padding=0, big=False):
        height, width = values.shape
        rows = np.ascontiguousarray(values.astype(values.dtype.newbyteorder(">" if big else "<")))
        flat = rows.view(np.uint8).reshape(height, -1)
        data = np.pad(flat, ((0, 0), (0, padding)), constant_values=7)
        self.write(
            topic, "sensor_msgs/msg/Image", time_s, height=height, width=width, encoding=encoding,
            is_bigendian=int(big), step=data.shape[1], data=data.reshape(-1),
        )  # fmt: skip

    def packed(self, topic, time_s, format, data):
        kind = "sensor_msgs/msg/CompressedImage"
        self.write(topic, kind, time_s, format=format, data=np.frombuffer(data, np.uint8))

    def camera(self, topic, size, distortion=(0.0,) * 5, model="plumb_bob"):
        roi = dict(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
        region = self.store.types["sensor_msgs/msg/RegionOfInterest"](**roi)
        values = dict(d=np.array(distortion), k=K, r=np.eye(3).ravel(), p=np.zeros(12))
        named = {name.upper() if self.ros1 else name: value for name, value in values.items()}
        self.write(
            topic, "sensor_msgs/msg/CameraInfo", 0, height=size[1], width=size[0],
            distortion_model=model, binning_x=0, binning_y=0, roi=region, **named,
        )  # fmt: skip
