"""Reading keeps the registration of meshes, and what does not fit together is explained."""

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from jrecon.model.alignment import best_rotation, procrustes
from jrecon.model.registered import make_meshes, read_meshes


@pytest.fixture
def boxes(rng):
    """Three boxes of one topology, with an order of vertices that no reader would choose."""
    box = trimesh.creation.box((0.2, 0.3, 0.4))
    order = rng.permutation(8)
    faces = np.argsort(order)[np.asarray(box.faces)]
    vertices = np.asarray(box.vertices)[order] * rng.uniform(0.8, 1.2, size=(3, 1, 3))
    return vertices, faces


def write(folder, vertices, faces, suffix=".ply"):
    paths = [folder / f"box_{i}{suffix}" for i in range(len(vertices))]
    for path, mesh in zip(paths, vertices, strict=True):
        trimesh.Trimesh(mesh, faces, process=False).export(path)
    return paths


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".off", ".glb"])
def test_files_keep_the_order_of_vertices(boxes, tmp_path, suffix):
    vertices, faces = boxes
    paths = write(tmp_path, vertices, faces, suffix)
    meshes = read_meshes(paths)
    np.testing.assert_allclose(meshes.vertices, vertices, atol=1e-6)
    np.testing.assert_array_equal(meshes.faces, faces)
    assert meshes.names == tuple(map(str, paths)) and len(meshes) == 3


def test_obj_with_texture_seams_keeps_its_vertices(tmp_path):
    """Corners with several texture coordinates must not become several vertices."""
    for i in range(2):
        lines = [f"v {x + 0.1 * i} {y} 0" for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
        lines += [f"vt {u} 0" for u in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)]
        lines += ["f 1/1 2/2 3/3", "f 1/4 3/5 4/6"]
        (tmp_path / f"{i}.obj").write_text("\n".join(lines))
    meshes = read_meshes([tmp_path / "0.obj", tmp_path / "1.obj"])
    np.testing.assert_allclose(meshes.vertices[0], [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    np.testing.assert_array_equal(meshes.faces, [[0, 1, 2], [0, 2, 3]])


def test_stl_corners_are_joined_where_they_coincide_in_every_mesh(boxes, tmp_path):
    vertices, faces = boxes
    # Vertices 0 and 1 touch in one mesh only: they stay two.
    vertices[1, 1] = vertices[1, 0]
    meshes = read_meshes(write(tmp_path, vertices, faces, ".stl"))
    assert meshes.vertices.shape == (3, 8, 3)
    np.testing.assert_allclose(meshes.vertices[:, meshes.faces], vertices[:, faces], atol=1e-6)


def test_units(boxes, tmp_path):
    vertices, faces = boxes
    paths = write(tmp_path, 1000 * vertices, faces)
    with pytest.raises(ValueError, match=r"are they in millimetres \(0.001\)\? Pass .* \(--unit\)"):
        read_meshes(paths)
    np.testing.assert_allclose(read_meshes(paths, unit=1e-3).vertices, vertices, atol=1e-6)
    np.testing.assert_allclose(read_meshes(paths, unit=1).vertices, 1000 * vertices, atol=1e-3)
    with pytest.raises(ValueError, match="is not plausible"):
        make_meshes(vertices / 100, faces)
    with pytest.raises(ValueError, match="unit: got -1"):
        make_meshes(vertices, faces, unit=-1)
    mixed = vertices * np.array([1, 1, 1000]).reshape(3, 1, 1)
    with pytest.raises(ValueError, match="mesh_002: .* do the files have different units"):
        make_meshes(mixed, faces)


def test_meshes_that_do_not_fit_together(boxes, tmp_path):
    vertices, faces = boxes
    a, b, c = write(tmp_path, vertices, faces)
    trimesh.Trimesh(vertices[1, :7], faces[(faces < 7).all(1)], process=False).export(b)
    with pytest.raises(
        ValueError, match=r"box_1.ply: got 7 vertices .* need 8 and 12 as in .*box_0"
    ):
        read_meshes([a, b])
    trimesh.Trimesh(vertices[2], np.roll(faces, 1, axis=1), process=False).export(c)
    with pytest.raises(ValueError, match="box_2.ply: 12 of 12 faces differ"):
        read_meshes([a, c])
    with pytest.raises(ValueError, match="got 1 mesh files, need at least 2"):
        read_meshes([a])
    with pytest.raises(ValueError, match="box_0.ply and .*box_0.ply are identical"):
        read_meshes([a, a])


def test_files_that_are_no_meshes(boxes, tmp_path):
    good = write(tmp_path, *boxes)[0]
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_meshes([good, tmp_path / "missing.ply"])
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(ValueError, match="got the suffix '.txt', need one of .ply"):
        read_meshes([good, text])
    broken = tmp_path / "broken.ply"
    broken.write_bytes(b"ply\nformat binary_little_endian 1.0\nelement vertex 9\n")
    with pytest.raises(ValueError, match="broken.ply: cannot be read as a mesh"):
        read_meshes([good, broken])
    points = tmp_path / "points.ply"
    trimesh.PointCloud(boxes[0][0]).export(points)
    with pytest.raises(ValueError, match="points.ply: got no faces"):
        read_meshes([good, points])


def test_values_that_are_no_shape(boxes):
    vertices, faces = boxes
    bad = vertices.copy()
    bad[1, 3, 0] = np.nan
    with pytest.raises(ValueError, match="b: 1 of 8 vertices are NaN"):
        make_meshes(bad, faces, names=["a", "b", "c"])
    with pytest.raises(ValueError, match="mesh_001: all vertices lie in one point"):
        make_meshes(vertices * np.array([1, 0, 1]).reshape(3, 1, 1), faces)
    with pytest.raises(ValueError, match=r"vertices: got shape \(8, 3\), need \(n, v, 3\)"):
        make_meshes(vertices[0], faces)
    with pytest.raises(ValueError, match="faces: got indices 1..8, need 0..7"):
        make_meshes(vertices, faces + 1)
    with pytest.raises(ValueError, match=r"faces: got shape \(12, 4\)"):
        make_meshes(vertices, np.zeros((12, 4), int))
    with pytest.raises(ValueError, match="names: got 1 for 3 meshes"):
        make_meshes(vertices, faces, names=["a"])


def test_best_rotation_is_a_rotation_even_of_a_mirror_image(rng):
    points = rng.normal(size=(5, 9, 3))
    turns = Rotation.random(5, rng=rng).as_matrix()
    found = best_rotation(points, points @ turns.transpose(0, 2, 1))
    np.testing.assert_allclose(found, turns, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(best_rotation(points, -points)), 1.0)
    flat = points * [1, 1, 0]
    found = best_rotation(flat, flat @ turns.transpose(0, 2, 1))
    np.testing.assert_allclose(found, turns, atol=1e-12)


def test_alignment_is_the_best_there_is(rng):
    """At the optimum no small turn of any mesh brings it closer to the mean of the others."""
    meshes = rng.normal(size=(20, 3)) + 0.2 * rng.normal(size=(6, 20, 3))
    moved = meshes @ Rotation.random(6, rng=rng).as_matrix() + rng.normal(size=(6, 1, 3))
    aligned = procrustes(moved).move(moved)
    np.testing.assert_allclose(aligned[0], moved[0], atol=1e-12)
    np.testing.assert_allclose(aligned.mean(1), np.tile(moved[0].mean(0), (6, 1)), atol=1e-12)
    mean = aligned.mean(0) - aligned.mean((0, 1))
    for mesh in aligned:
        torque = np.cross(mesh - mesh.mean(0), mean).sum(0)
        np.testing.assert_allclose(torque, 0, atol=1e-8)
