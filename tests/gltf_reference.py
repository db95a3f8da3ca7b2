"""A slow float64 reading of the glTF 2.0 specification, to hold exporter and importer against.

It shares no code with the package: its own container parser, accessors by `struct`, recursion over
nodes, and the skinning formula of section 3.7.3.3 vertex by vertex. It trusts its input.
"""

import base64
import json
import struct

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

FORMATS = {5120: "b", 5121: "B", 5122: "h", 5123: "H", 5125: "I", 5126: "f"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


class Reference:
    """One GLB file (or tree and buffer), evaluated at a time of its animation or as it stands."""

    def __init__(self, data):
        length = struct.unpack_from("<I", data, 12)[0]
        self.tree = json.loads(data[20 : 20 + length])
        self.buffer = data[28 + length :]
        assert struct.unpack_from("<I", data, 8)[0] == len(data)

    def values(self, index):
        """The elements of an accessor as floats, (n, components)."""
        entry = self.tree["accessors"][index]
        width, form = WIDTHS[entry["type"]], FORMATS[entry["componentType"]]
        view = self.tree["bufferViews"][entry["bufferView"]]
        start = view.get("byteOffset", 0) + entry.get("byteOffset", 0)
        stride = view.get("byteStride", width * struct.calcsize(form))
        rows = [
            struct.unpack_from(f"<{width}{form}", self.buffer, start + i * stride)
            for i in range(entry["count"])
        ]
        array = np.array(rows, np.float64)
        if entry.get("normalized"):
            array = np.maximum(array / (2 ** (8 * struct.calcsize(form) - form.islower()) - 1), -1)
        return array

    def local(self, node, time):
        """Local transform of a node, animated if a time is given."""
        entry = self.tree["nodes"][node]
        if "matrix" in entry:
            return np.array(entry["matrix"], np.float64).reshape(4, 4).T
        parts = dict(
            translation=np.array(entry.get("translation", [0, 0, 0]), np.float64),
            rotation=np.array(entry.get("rotation", [0, 0, 0, 1]), np.float64),
            scale=np.array(entry.get("scale", [1, 1, 1]), np.float64),
        )
        for path in parts:
            if (keyed := self.animated(node, path, time)) is not None:
                parts[path] = keyed
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_quat(parts["rotation"]).as_matrix() * parts["scale"]
        matrix[:3, 3] = parts["translation"]
        return matrix

    def animated(self, node, path, time):
        if time is None:
            return None
        for animation in self.tree.get("animations", []):
            for channel in animation["channels"]:
                if channel["target"] != {"node": node, "path": path}:
                    continue
                sampler = animation["samplers"][channel["sampler"]]
                assert sampler["interpolation"] == "LINEAR"
                times = self.values(sampler["input"])[:, 0]
                keys = self.values(sampler["output"]).reshape(len(times), -1)
                # Beyond the last key the last key holds.
                now = np.clip(time, times[0], times[-1])
                if path == "rotation":
                    return Slerp(times, Rotation.from_quat(keys))(now).as_quat()
                return np.array([np.interp(now, times, column) for column in keys.T])
        return None

    def world(self, time=None):
        """World transforms of all nodes."""
        worlds = {}

        def visit(node, above):
            worlds[node] = above @ self.local(node, time)
            for child in self.tree["nodes"][node].get("children", []):
                visit(child, worlds[node])

        children = {c for entry in self.tree["nodes"] for c in entry.get("children", [])}
        for node in set(range(len(self.tree["nodes"]))) - children:
            visit(node, np.eye(4))
        return worlds

    def vertices(self, time=None):
        """What a viewer shows: all vertices of all mesh nodes, in the order of nodes."""
        worlds, result = self.world(time), []
        for node, entry in enumerate(self.tree["nodes"]):
            if "mesh" in entry:
                mesh = self.tree["meshes"][entry["mesh"]]
                for primitive in mesh["primitives"]:
                    local = self.morphed(node, entry, mesh, primitive, time)
                    result.append(self.skinned(worlds, node, entry, primitive, local))
        return np.concatenate(result)

    def morphed(self, node, entry, mesh, primitive, time):
        position = self.values(primitive["attributes"]["POSITION"])
        weights = self.animated(node, "weights", time)
        if weights is None:
            weights = entry.get("weights", mesh.get("weights", []))
        targets = primitive.get("targets", [])[: len(weights)]
        for weight, target in zip(weights, targets, strict=True):
            position = position + weight * self.values(target["POSITION"])
        return position

    def skinned(self, worlds, node, entry, primitive, local):
        points = np.concatenate([local, np.ones((len(local), 1))], axis=1)
        if "skin" not in entry:
            return (points @ worlds[node].T)[:, :3]
        skin = self.tree["skins"][entry["skin"]]
        unbind = np.tile(np.eye(4), (len(skin["joints"]), 1, 1))
        if "inverseBindMatrices" in skin:
            flat = self.values(skin["inverseBindMatrices"])
            unbind = flat.reshape(-1, 4, 4).transpose(0, 2, 1)
        matrices = [worlds[j] @ unbind[i] for i, j in enumerate(skin["joints"])]
        joints = self.values(primitive["attributes"]["JOINTS_0"]).astype(int)
        weights = self.values(primitive["attributes"]["WEIGHTS_0"])
        posed = np.zeros_like(local)
        for v, point in enumerate(points):
            blend = sum(w * matrices[j] for w, j in zip(weights[v], joints[v], strict=True))
            posed[v] = (blend @ point)[:3]
        return posed


class Writer:
    """A glTF tree under construction, one accessor at a time."""

    def __init__(self, **tree):
        self.tree = {"asset": {"version": "2.0"}, "accessors": [], "bufferViews": [], **tree}
        self.content = b""

    def view(self, data, **options):
        self.content += bytes(-len(self.content) % 4)
        entry = dict(buffer=0, byteOffset=len(self.content), byteLength=len(data))
        self.tree["bufferViews"].append(entry | options)
        self.content += data
        return len(self.tree["bufferViews"]) - 1

    def accessor(self, values, kind, dtype="<f4", **options):
        values = np.asarray(values)
        types = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
        entry = dict(
            bufferView=self.view(values.astype(dtype).tobytes()),
            componentType=types[dtype[-2:]],
            count=len(values),
            type=kind,
        )
        self.tree["accessors"].append(entry | options)
        return len(self.tree["accessors"]) - 1

    def glb(self):
        tree = self.tree | {"buffers": [{"byteLength": len(self.content)}]}
        return glb_bytes(json.dumps(tree).encode(), self.content)

    def gltf(self, uri=None):
        """JSON text with the buffer embedded, or referred to by a uri."""
        uri = uri or "data:application/octet-stream;base64," + base64.b64encode(
            self.content
        ).decode("ascii")
        buffers = [{"byteLength": len(self.content), "uri": uri}]
        return json.dumps(self.tree | {"buffers": buffers})


def glb_bytes(text, content):
    """The GLB container of JSON text and a binary chunk."""
    text += b" " * (-len(text) % 4)
    content += bytes(-len(content) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    chunks += struct.pack("<I4s", len(content), b"BIN\0") + content
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
