"""A small rigged glTF file, written from the specification."""

import numpy as np
from scipy.spatial.transform import Rotation

from jrecon.model.gltf import read_gltf
from tests.gltf_reference import Reference, Writer

VERTICES = 14
# Nodes: 0 armature, 1..5 joints (3 below a plain node 6), 7 the mesh.
PARENTS = {1: 0, 2: 1, 6: 2, 3: 6, 4: 1, 5: 4}
JOINTS = (2, 1, 4, 3, 5)  # not parents first
MORPHS = ("smile", "wide")


def random_quaternion(rng):
    return Rotation.from_quat(rng.normal(size=4)).as_quat().tolist()


def rig(rng, scale=1.0, parents=PARENTS):
    """A skinned tree in bind pose: oriented joints, a scaled and turned armature, two morphs."""
    nodes: list[dict] = [{"name": f"node_{i}"} for i in range(8)]
    for node, entry in enumerate(nodes[:7]):
        entry["rotation"] = random_quaternion(rng)
        entry["translation"] = rng.normal(size=3).tolist()
        children = [child for child, parent in parents.items() if parent == node]
        if children:
            entry["children"] = children
    nodes[0]["scale"] = [scale] * 3
    writer = Writer(nodes=nodes, scene=0, scenes=[{"nodes": [0, 7]}])
    writer.tree["nodes"][7] |= {"mesh": 0, "skin": 0}
    worlds = Reference(writer.glb()).world()
    # The mesh lives in the frame of the armature, as modelling programs export it.
    mesh_to_world = worlds[0]
    unbind = [np.linalg.inv(worlds[j]) @ mesh_to_world for j in JOINTS]
    weights = rng.dirichlet(np.ones(4), size=VERTICES).astype(np.float32)
    slots = np.argsort(rng.uniform(size=(VERTICES, 5)), axis=1)[:, :4]
    attributes = dict(
        POSITION=writer.accessor(rng.normal(size=(VERTICES, 3)), "VEC3"),
        JOINTS_0=writer.accessor(slots, "VEC4", "<u1"),
        WEIGHTS_0=writer.accessor(weights, "VEC4"),
    )
    targets = [{"POSITION": writer.accessor(rng.normal(size=(VERTICES, 3)), "VEC3")} for _ in "ab"]
    indices = writer.accessor(rng.integers(0, VERTICES, size=30), "SCALAR", "<u2")
    primitive = dict(attributes=attributes, indices=indices, targets=targets)
    extras = {"targetNames": list(MORPHS)}
    columns = np.stack(unbind).swapaxes(1, 2).reshape(-1, 16)
    writer.tree |= dict(
        meshes=[dict(primitives=[primitive], weights=[0.25, 0.0], extras=extras)],
        skins=[dict(joints=list(JOINTS), inverseBindMatrices=writer.accessor(columns, "MAT4"))],
    )
    return writer


def read(tmp_path, writer, **options):
    path = tmp_path / "rig.glb"
    path.write_bytes(writer if isinstance(writer, bytes) else writer.glb())
    return read_gltf(path, **options)
