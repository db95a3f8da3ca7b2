"""The glTF importer against the specification."""

import copy

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from jrecon.model import gltf_file
from jrecon.model.formats import load_model
from jrecon.model.gltf import read_gltf
from tests.gltf_reference import Reference, Writer
from tests.model.small_gltf import JOINTS, MORPHS, PARENTS, VERTICES, random_quaternion, read, rig
from tests.model.small_models import reference_pose


def shown(model):
    """The vertices of the pose and the morph weights that the file shows."""
    pose = model.named_poses["default"]
    return reference_pose(model, model.prior_mean[0], pose, np.zeros(3))[0]


def assert_equal_up_to_shift(got, want, atol=1e-5):
    """Named poses hold no translation."""
    size = np.abs(want - want.mean(0)).max()
    np.testing.assert_allclose(got - got.mean(0), want - want.mean(0), atol=atol * size)


@pytest.mark.parametrize("scale", (1.0, 0.01))
def test_rig_shows_and_poses_like_the_file(tmp_path, rng, scale):
    writer = rig(rng, scale)
    model = read(tmp_path, writer)
    want = Reference(writer.glb()).vertices()
    assert_equal_up_to_shift(shown(model), want)
    assert sorted(model.joint_names) == [f"node_{i}" for i in range(1, 6)]
    assert model.joint_names[0] == "node_1" and model.parents[0] == -1
    above = dict(zip(model.joint_names, model.parents, strict=True))
    assert model.joint_names[above["node_3"]] == "node_2"
    assert model.shape_names == MORPHS

    # Turn the joints in the file: the same turns, about world axes, pose the imported rest.
    turned = copy.deepcopy(writer)
    for j in JOINTS:
        turn = Rotation.from_rotvec(rng.normal(size=3))
        old = Rotation.from_quat(turned.tree["nodes"][j]["rotation"])
        turned.tree["nodes"][j]["rotation"] = (old * turn).as_quat().tolist()
    turned.tree["meshes"][0]["weights"] = [0.7, -0.4]
    other = read(tmp_path, turned)
    want = Reference(turned.glb()).vertices()
    assert_equal_up_to_shift(shown(other), want)
    posed, _ = reference_pose(model, other.prior_mean[0], other.named_poses["default"], np.zeros(3))
    assert_equal_up_to_shift(posed, want)


def test_turn_about_world_axes(tmp_path, rng):
    """theta_world = R_rest theta_local R_rest^T, with R_rest from the node tree."""
    writer = rig(rng)
    rest = Rotation.from_matrix(Reference(writer.glb()).world()[4][:3, :3])
    model = read(tmp_path, writer)
    local = np.array([0.3, -0.2, 0.5])
    node = writer.tree["nodes"][4]
    node["rotation"] = (
        (Rotation.from_quat(node["rotation"]) * Rotation.from_rotvec(local)).as_quat().tolist()
    )
    theta = np.zeros((5, 3))
    theta[model.joint_names.index("node_4")] = rest.apply(local)
    got, _ = reference_pose(model, model.prior_mean[0], theta, np.zeros(3))
    np.testing.assert_allclose(got, Reference(writer.glb()).vertices(), atol=1e-5)


def test_joints_and_limits_are_sane(tmp_path, rng):
    writer = rig(rng)
    model = read(tmp_path, writer)
    worlds = Reference(writer.glb()).world()
    for name, position in zip(model.joint_names, model.joints, strict=True):
        np.testing.assert_allclose(position, worlds[int(name[-1])][:3, 3], atol=1e-5)
    np.testing.assert_allclose(model.prior_mean, [[0.25, 0.0]])
    np.testing.assert_allclose(model.shape_limits, [[0, 0], [1, 1]])


def test_containers_agree(tmp_path, rng):
    writer = rig(rng)
    want = read(tmp_path, writer)
    embedded, beside = tmp_path / "embedded.gltf", tmp_path / "beside.gltf"
    embedded.write_text(writer.gltf())
    beside.write_text(writer.gltf("some%20buffer.bin"))
    (tmp_path / "some buffer.bin").write_bytes(writer.content)
    for path in (embedded, beside):
        got = load_model(path)
        assert got.name == path.stem
        np.testing.assert_array_equal(got.vertices, want.vertices)
        np.testing.assert_array_equal(got.shape_basis, want.shape_basis)


@pytest.mark.parametrize(
    "uri",
    ("../secret.bin", "/etc/passwd", "file:///etc/passwd", "https://x.y/z", "link.bin", "a\0b"),
)
def test_buffers_outside_the_folder_are_refused(tmp_path, rng, uri):
    writer = rig(rng)
    (tmp_path / "secret.bin").write_bytes(writer.content)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "x.gltf").write_text(writer.gltf(uri))
    with pytest.raises(ValueError, match="uri"):
        read_gltf(folder / "x.gltf")


def test_accessor_forms_agree(tmp_path, rng):
    """Interleaved, quantised and sparse storage of the same numbers."""
    plain = rig(rng)
    primitive = plain.tree["meshes"][0]["primitives"][0]
    reference = Reference(plain.glb())
    weights = np.round(255 * reference.values(primitive["attributes"]["WEIGHTS_0"]))
    primitive["attributes"]["WEIGHTS_0"] = plain.accessor(weights / 255, "VEC4")
    want = read(tmp_path, plain)

    other = copy.deepcopy(plain)
    primitive = other.tree["meshes"][0]["primitives"][0]
    position = reference.values(primitive["attributes"]["POSITION"]).astype("<f4")
    joints = reference.values(primitive["attributes"]["JOINTS_0"]).astype("<u2")
    rows = b"".join(p.tobytes() + j.tobytes() for p, j in zip(position, joints, strict=True))
    view = other.view(b"\0" * 4 + rows, byteStride=20)
    common = dict(bufferView=view, count=VERTICES)
    other.tree["accessors"] += [
        common | dict(byteOffset=4, componentType=5126, type="VEC3"),
        common | dict(byteOffset=16, componentType=5123, type="VEC4"),
    ]
    last = len(other.tree["accessors"])
    primitive["attributes"] = dict(
        POSITION=last - 2,
        JOINTS_0=last - 1,
        WEIGHTS_0=other.accessor(weights, "VEC4", "<u1", normalized=True),
    )
    delta = reference.values(primitive["targets"][0]["POSITION"])
    everywhere = np.arange(VERTICES)
    sparse = dict(
        count=VERTICES,
        indices=dict(bufferView=other.view(everywhere.astype("<u2").tobytes()), componentType=5123),
        values=dict(bufferView=other.view(delta.astype("<f4").tobytes())),
    )
    other.tree["accessors"].append(
        dict(count=VERTICES, type="VEC3", componentType=5126, sparse=sparse)
    )
    primitive["targets"][0] = {"POSITION": len(other.tree["accessors"]) - 1}
    got = read(tmp_path, other)
    np.testing.assert_array_equal(got.vertices, want.vertices)
    np.testing.assert_array_equal(got.weight_joints, want.weight_joints)
    np.testing.assert_allclose(got.weights, want.weights, atol=1e-6)
    np.testing.assert_array_equal(got.shape_basis, want.shape_basis)


@pytest.mark.parametrize(
    ("dtype", "values"),
    (
        ("<i1", [-1.0, -1.0, 0.0, 1.0]),
        ("<u1", [128 / 255, 129 / 255, 0.0, 127 / 255]),
        ("<i2", [-128 / 32767, -127 / 32767, 0.0, 127 / 32767]),
        ("<u2", [65408 / 65535, 65409 / 65535, 0.0, 127 / 65535]),
    ),
)
def test_normalised_integers(dtype, values):
    writer = Writer()
    stored = np.array([-128, -127, 0, 127]).astype(dtype)
    writer.accessor(stored, "SCALAR", dtype, normalized=True)
    tree = writer.tree | {"buffers": [{}]}
    got = gltf_file.read_accessor(gltf_file.GltfFile(tree, (writer.content,)), 0, ("SCALAR",))
    np.testing.assert_allclose(got[:, 0], values, rtol=1e-12)


def test_strips_and_fans(tmp_path):
    writer = Writer(nodes=[{"mesh": 0}])
    position = writer.accessor(np.random.default_rng(1).normal(size=(5, 3)), "VEC3")
    shape = dict(attributes=dict(POSITION=position))
    writer.tree["meshes"] = [
        {"primitives": [shape | {"mode": 5}, shape | {"mode": 6}, shape | {"mode": 1}]}
    ]
    model = read(tmp_path, writer)
    strip = [[0, 1, 2], [1, 3, 2], [2, 3, 4]]
    fan = [[6, 7, 5], [7, 8, 5], [8, 9, 5]]
    np.testing.assert_array_equal(model.faces, strip + fan)
    assert "lines and points left out" in model.provenance


def test_without_a_skin_it_is_a_rigid_class(tmp_path):
    writer = Writer(nodes=[{"children": [1], "scale": [1, 1, -1]}, {"mesh": 0}])
    writer.tree["nodes"][1]["translation"] = [1.0, 2.0, 3.0]
    corners = np.eye(3)
    primitive = dict(attributes=dict(POSITION=writer.accessor(corners, "VEC3")))
    writer.tree["meshes"] = [{"primitives": [primitive]}]
    model = read(tmp_path, writer)
    assert model.parents == (-1,) and "rigid" in model.provenance
    want = (corners + [1, 2, 3]) * [1, 1, -1]
    np.testing.assert_allclose(model.vertices, want)
    np.testing.assert_array_equal(model.faces, [[2, 1, 0]])  # mirrored: wound the other way


def test_rigid_parts_follow_the_joint_above_them(tmp_path, rng):
    writer = rig(rng)
    hat = dict(attributes=dict(POSITION=writer.accessor(rng.normal(size=(3, 3)), "VEC3")))
    writer.tree["meshes"].append({"primitives": [hat]})
    writer.tree["nodes"] += [
        {"mesh": 1, "scale": [0.5, 2.0, 1.0], "rotation": [0.6, 0.0, 0.0, 0.8]},
        {"mesh": 1, "name": "floor"},
    ]
    writer.tree["nodes"][5]["children"] = [8]
    writer.tree["scenes"][0]["nodes"].append(9)
    writer.tree["nodes"][5]["rotation"] = [0.0, 0.6, 0.0, 0.8]
    model = read(tmp_path, writer)
    assert_equal_up_to_shift(shown(model), Reference(writer.glb()).vertices()[:-3])
    joint = np.asarray(model.weight_joints)[-1, 0]
    assert model.joint_names[joint] == "node_5" and "floor left out" in model.provenance
    # What the default scene does not show is not imported.
    writer.tree["nodes"][5].pop("children")
    writer.tree["scenes"] = [{"nodes": [9]}, {"nodes": [0, 7]}]
    assert len(read(tmp_path, writer).vertices) == 3


def test_several_roots_get_a_common_one(tmp_path, rng):
    writer = rig(rng, parents=PARENTS | {4: 0})
    model = read(tmp_path, writer)
    assert model.joint_names[0] == "common_root" and model.parents.count(0) == 2
    assert_equal_up_to_shift(shown(model), Reference(writer.glb()).vertices())
    assert "2 root joints" in model.provenance


def test_skins_that_share_joints_become_one(tmp_path, rng):
    """A second mesh in other units (its own bind matrices) on two of the joints."""
    writer = rig(rng)
    reference = Reference(writer.glb())
    skin = writer.tree["skins"][0]
    unbind = reference.values(skin["inverseBindMatrices"]).reshape(-1, 4, 4).swapaxes(1, 2)
    other = unbind[[2, 4]] @ np.diag([0.1, 0.1, 0.1, 1.0])
    columns = other.swapaxes(1, 2).reshape(-1, 16)
    writer.tree["skins"].append(
        dict(joints=[4, 5], inverseBindMatrices=writer.accessor(columns, "MAT4"))
    )
    attributes = dict(
        POSITION=writer.accessor(rng.normal(size=(3, 3)), "VEC3"),
        JOINTS_0=writer.accessor([[0, 1, 0, 0]] * 3, "VEC4", "<u1"),
        WEIGHTS_0=writer.accessor([[0.25, 0.75, 0, 0]] * 3, "VEC4"),
    )
    writer.tree["meshes"].append({"primitives": [{"attributes": attributes}]})
    writer.tree["nodes"].append({"mesh": 1, "skin": 1})
    writer.tree["scenes"][0]["nodes"].append(8)
    for j in JOINTS:
        writer.tree["nodes"][j]["rotation"] = random_quaternion(rng)
    model = read(tmp_path, writer)
    assert_equal_up_to_shift(shown(model), Reference(writer.glb()).vertices())
    assert model.num_joints == 5 and "another pose" not in model.provenance


def test_skin_without_bind_matrices_rests_as_shown(tmp_path, rng):
    writer = rig(rng)
    del writer.tree["skins"][0]["inverseBindMatrices"]
    model = read(tmp_path, writer)
    np.testing.assert_allclose(model.named_poses["default"], 0.0, atol=1e-6)
    assert_equal_up_to_shift(shown(model), Reference(writer.glb()).vertices())


def test_vertices_without_weights_and_duplicate_names(tmp_path, rng):
    writer = rig(rng)
    attributes = writer.tree["meshes"][0]["primitives"][0]["attributes"]
    weights = Reference(writer.glb()).values(attributes["WEIGHTS_0"])
    weights[3] = 0.0
    attributes["WEIGHTS_0"] = writer.accessor(3 * weights, "VEC4")
    for node in writer.tree["nodes"]:
        node["name"] = "bone"
    model = read(tmp_path, writer)
    assert model.joint_names == ("bone", "bone_2", "bone_3", "bone_4", "bone_5")
    np.testing.assert_allclose(np.asarray(model.weights).sum(1), 1.0, atol=1e-6)


def test_welding_closes_seams(tmp_path):
    ball = trimesh.creation.icosphere(subdivisions=1)
    writer = Writer(nodes=[{"mesh": 0}])
    corners = ball.vertices[ball.faces].reshape(-1, 3)
    primitive = dict(attributes=dict(POSITION=writer.accessor(corners, "VEC3")))
    writer.tree["meshes"] = [{"primitives": [primitive]}]
    split = read(tmp_path, writer)
    assert len(split.vertices) == 240 and "240 vertices at 42 places" in split.provenance
    welded = read(tmp_path, writer, weld=True)
    mesh = trimesh.Trimesh(welded.vertices, welded.faces, process=False)
    assert len(mesh.vertices) == 42 and mesh.is_watertight
    np.testing.assert_array_equal(
        np.asarray(welded.vertices)[welded.faces], np.asarray(split.vertices)[split.faces]
    )
