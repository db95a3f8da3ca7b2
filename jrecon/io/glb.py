"""A rig as a binary glTF 2.0 file (GLB): mesh, skeleton, skin and, for a motion, animation.

The mesh is stored in its rest pose, with the identity as rest orientation of every joint, so an
inverse bind matrix is a shift. The nodes carry the pose: a single pose is what a viewer shows when
it opens the file, the first frame of a motion likewise. Key frames are slerped in between, so
quaternions keep their sign from frame to frame.

Source: Khronos, "glTF 2.0 Specification"; section numbers are given where a rule is not obvious.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from trimesh import Trimesh

from jrecon import __version__
from jrecon.io.rig import INFLUENCES, Rig
from jrecon.model.parametric import ParametricModel

Frame = Literal["model", "camera"]

# Half a turn about x takes the camera frame (y down, z forward) to glTF's (y up, z backward).
_CAMERA_TO_GLTF = [1.0, 0.0, 0.0, 0.0]

_ARRAY_BUFFER, _ELEMENT_BUFFER = 34962, 34963
_COMPONENT_TYPES = {"|u1": 5121, "<u2": 5123, "<u4": 5125, "<f4": 5126}
_MATERIAL = {
    "name": "surface",
    "pbrMetallicRoughness": {
        "baseColorFactor": [0.7, 0.72, 0.75, 1.0],
        "metallicFactor": 0.0,
        "roughnessFactor": 0.8,
    },
}


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """The content of one accessor."""

    values: np.ndarray
    """(n, components), or (n,) for scalars."""
    kind: str
    target: int | None = None
    bounds: bool = False
    """Whether to state minimum and maximum (required of positions and key times)."""


def encode_glb(rig: Rig, *, frame: Frame, fps: float) -> bytes:
    """The file's bytes. `frame` is the frame that the rig's parameters are in."""
    model = rig.model
    blocks: list[Block] = []

    def add(block: Block) -> int:
        blocks.append(block)
        return len(blocks) - 1

    translations, quaternions = _local_motion(rig)
    moving = rig.params.pose.ndim == 3
    nodes, root = _nodes(model, translations[0], quaternions[0], frame)
    joints = [root + (frame == "camera") + i for i in range(model.num_joints)]
    unbind = np.tile(np.eye(4), (model.num_joints, 1, 1))
    unbind[:, :3, 3] = -np.asarray(model.joints)
    # Column by column (3.6.2.4).
    matrices = add(Block(unbind.swapaxes(1, 2).reshape(-1, 16).astype("<f4"), "MAT4"))
    tree: dict[str, Any] = {
        "asset": {
            "version": "2.0",
            "generator": f"jrecon {__version__}",
            "copyright": model.license,
        },
        "scene": 0,
        "scenes": [{"nodes": [0, root]}],
        "nodes": nodes,
        "meshes": [_mesh(rig, add)],
        "materials": [_MATERIAL],
        "skins": [{"joints": joints, "inverseBindMatrices": matrices, "skeleton": joints[0]}],
    }
    if moving:
        tree["animations"] = [_animation(rig, translations, quaternions, joints, fps, add)]
    return _pack(tree, blocks)


def _local_motion(rig: Rig) -> tuple[Float[np.ndarray, "t 3"], Float[np.ndarray, "t j 4"]]:
    """Root translation and joint rotations (x, y, z, w) of every frame; t = 1 for a single pose."""
    joints = rig.model.num_joints
    pose = np.asarray(rig.params.pose, np.float64).reshape(-1, joints, 3)
    translation = np.asarray(rig.params.translation, np.float64).reshape(-1, 3)
    quaternions = Rotation.from_rotvec(pose.reshape(-1, 3)).as_quat().reshape(-1, joints, 4)
    turns = np.sum(quaternions[1:] * quaternions[:-1], axis=-1, keepdims=True) < 0
    quaternions[1:] *= np.cumprod(np.where(turns, -1.0, 1.0), axis=0)
    return np.asarray(rig.model.joints[0]) + translation, quaternions


def _nodes(
    model: ParametricModel, translation: np.ndarray, quaternions: np.ndarray, frame: Frame
) -> tuple[list[dict[str, Any]], int]:
    """The mesh node, then the skeleton; and the node at the skeleton's top.

    A skinned mesh stands beside its skeleton, not below it: only the joints may move it (3.7.3.3).
    """
    nodes: list[dict[str, Any]] = [{"name": model.name, "mesh": 0, "skin": 0}]
    if frame == "camera":
        nodes.append({"name": "camera_to_gltf", "rotation": _CAMERA_TO_GLTF, "children": [2]})
    start = len(nodes)
    rest = np.asarray(model.joints, np.float64)
    for joint, parent in enumerate(model.parents):
        offset = translation if parent < 0 else rest[joint] - rest[parent]
        node = {
            "name": model.joint_names[joint],
            "translation": _floats(offset),
            "rotation": _floats(quaternions[joint]),
        }
        children = [start + i for i, above in enumerate(model.parents) if above == joint]
        nodes.append(node | ({"children": children} if children else {}))
    return nodes, 1


def _floats(values: np.ndarray) -> list[float]:
    return [round(float(value), 9) for value in values]


def _mesh(rig: Rig, add: Any) -> dict[str, Any]:
    model = rig.model
    vertices = np.asarray(model.vertices, "<f4")
    faces = np.asarray(model.faces)
    pad = INFLUENCES - model.weights.shape[1]
    weights = np.pad(np.asarray(model.weights, np.float64), ((0, 0), (0, pad)))
    joints = np.pad(np.asarray(model.weight_joints), ((0, 0), (0, pad)))
    # 65535 is the restart value and no index (3.7.2.1).
    index_type = "<u2" if len(vertices) <= 65535 else "<u4"
    joint_type = "|u1" if model.num_joints <= 256 else "<u2"
    attributes = {
        "POSITION": Block(vertices, "VEC3", _ARRAY_BUFFER, bounds=True),
        "NORMAL": Block(_normals(vertices, faces), "VEC3", _ARRAY_BUFFER),
        "JOINTS_0": Block(joints.astype(joint_type), "VEC4", _ARRAY_BUFFER),
        "WEIGHTS_0": Block(
            (weights / weights.sum(1, keepdims=True)).astype("<f4"), "VEC4", _ARRAY_BUFFER
        ),
    }
    primitive: dict[str, Any] = {
        "attributes": {name: add(block) for name, block in attributes.items()},
        "indices": add(Block(faces.reshape(-1).astype(index_type), "SCALAR", _ELEMENT_BUFFER)),
        "material": 0,
    }
    if not model.num_shape:
        return {"name": model.name, "primitives": [primitive]}
    basis = np.asarray(model.shape_basis, "<f4")
    primitive["targets"] = [
        {"POSITION": add(Block(basis[:, :, i].copy(), "VEC3", _ARRAY_BUFFER, bounds=True))}
        for i in range(model.num_shape)
    ]
    first = np.asarray(rig.params.shape).reshape(-1, model.num_shape)[0]
    return {
        "name": model.name,
        "primitives": [primitive],
        "weights": _floats(first),
        "extras": {"targetNames": list(model.shape_names)},
    }


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals; up where a vertex has none, because zero is not allowed (3.7.2.1)."""
    normals = np.array(Trimesh(vertices, faces, process=False).vertex_normals)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    missing = ~(lengths[:, 0] > 0.5)
    normals[missing], lengths[missing] = [0.0, 1.0, 0.0], 1.0
    return (normals / lengths).astype("<f4")


def _animation(
    rig: Rig,
    translations: np.ndarray,
    quaternions: np.ndarray,
    joints: list[int],
    fps: float,
    add: Any,
) -> dict[str, Any]:
    """Channels for what changes; what does not stays in the nodes."""
    times = add(Block((np.arange(len(translations)) / fps).astype("<f4"), "SCALAR", bounds=True))
    samplers: list[dict[str, Any]] = []
    channels: list[dict[str, Any]] = []

    def animate(node: int, path: str, values: np.ndarray, kind: str) -> None:
        output = add(Block(np.ascontiguousarray(values, "<f4"), kind))
        channels.append({"sampler": len(samplers), "target": {"node": node, "path": path}})
        samplers.append({"input": times, "interpolation": "LINEAR", "output": output})

    for joint, node in enumerate(joints):
        if np.ptp(quaternions[:, joint], axis=0).max() > 0 or joint == 0:
            animate(node, "rotation", quaternions[:, joint], "VEC4")
    if np.ptp(translations, axis=0).max() > 0:
        animate(joints[0], "translation", translations, "VEC3")
    if rig.model.num_shape:
        animate(0, "weights", np.asarray(rig.params.shape).reshape(-1), "SCALAR")
    return {"name": "motion", "samplers": samplers, "channels": channels}


def _pack(tree: dict[str, Any], blocks: list[Block]) -> bytes:
    """The GLB container (4.4) of a tree whose accessors are the blocks."""
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    content = bytearray()
    for i, block in enumerate(blocks):
        data = block.values.tobytes()
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(content), "byteLength": len(data)}
        views.append(view | ({"target": block.target} if block.target else {}))
        accessor: dict[str, Any] = {
            "bufferView": i,
            "componentType": _COMPONENT_TYPES[block.values.dtype.str],
            "count": len(block.values),
            "type": block.kind,
        }
        if block.bounds:
            flat = block.values.reshape(len(block.values), -1)
            accessor |= {"min": flat.min(0).tolist(), "max": flat.max(0).tolist()}
        accessors.append(accessor)
        content += data + bytes(-len(data) % 4)
    tree = tree | {
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(content)}],
    }
    text = json.dumps(tree, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    chunks += struct.pack("<I4s", len(content), b"BIN\0") + bytes(content)
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
