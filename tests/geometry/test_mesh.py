"""Meshes against closed forms, brute force and trimesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from scipy.optimize import minimize

from jrecon.geometry import mesh
from jrecon.geometry.mesh import closest_on_surface, make_topology
from tests.derivatives import check_derivatives


@pytest.fixture(scope="module")
def sphere():
    made = trimesh.creation.icosphere(subdivisions=2, radius=1.0)
    vertices = np.asarray(made.vertices) * [1.0, 1.5, 0.7] + [0.3, 5.0, -2.0]
    return vertices.astype(np.float32), np.asarray(made.faces, np.int32)


@pytest.fixture(scope="module")
def open_strip():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 2, 0]], np.float32)
    return vertices, np.array([[0, 1, 2], [1, 3, 2], [2, 3, 4]], np.int32)


def test_topology_lists_every_edge_once_with_its_faces(sphere):
    vertices, faces = sphere
    table = make_topology(faces, len(vertices))
    assert len(table.edges) == len(faces) * 3 // 2 and mesh.is_watertight(table)
    for (a, b), sides in zip(np.asarray(table.edges), np.asarray(table.edge_faces), strict=True):
        assert a < b
        for face, (start, end) in zip(sides, ((a, b), (b, a)), strict=True):
            ring = faces[face].tolist()
            assert ring[(ring.index(start) + 1) % 3] == end


def test_topology_lists_the_faces_around_each_vertex(sphere):
    vertices, faces = sphere
    table = make_topology(faces, len(vertices))
    for vertex in range(len(vertices)):
        around = np.asarray(table.vertex_faces[vertex])
        corner = np.asarray(table.vertex_corners[vertex])[around >= 0]
        around = around[around >= 0]
        np.testing.assert_array_equal(around, np.flatnonzero((faces == vertex).any(1)))
        np.testing.assert_array_equal(faces[around, corner], vertex)


def test_topology_of_a_boundary(open_strip):
    vertices, faces = open_strip
    table = make_topology(faces, len(vertices) + 1)
    assert len(table.edges) == 7 and not mesh.is_watertight(table)
    assert int((np.asarray(table.edge_faces) < 0).sum()) == 5
    assert (np.asarray(table.vertex_faces[5]) == -1).all()


@pytest.mark.parametrize(
    "faces, message",
    [
        ([[0, 1, 2], [0, 1, 2]], "several faces on one side"),
        ([[0, 1, 2], [0, 1, 3]], "wound alike"),
        ([[0, 1, 9]], "need 0..3"),
        ([[0.0, 1.0, 2.0]], "integers"),
        ([[0, 1, 2, 3]], "triangulate"),
    ],
)
def test_bad_faces_are_explained(faces, message):
    with pytest.raises(ValueError, match=message):
        make_topology(faces, 4)


def test_areas_normals_and_volume_equal_trimesh(sphere):
    vertices, faces = sphere
    truth = trimesh.Trimesh(vertices, faces, process=False)
    np.testing.assert_allclose(mesh.face_areas(vertices, faces), truth.area_faces, rtol=1e-4)
    np.testing.assert_allclose(mesh.face_normals(vertices, faces), truth.face_normals, atol=1e-4)
    np.testing.assert_allclose(mesh.volume(vertices, faces), truth.volume, rtol=1e-5)


def test_vertex_normals_are_area_weighted_and_batched(sphere):
    vertices, faces = sphere
    table = make_topology(faces, len(vertices))
    total = np.zeros_like(vertices)
    for face in faces:
        a, b, c = vertices[face]
        total[face] += np.cross(b - a, c - a)
    want = total / np.linalg.norm(total, axis=1, keepdims=True)
    batch = jnp.stack([vertices, 2 * vertices])[None]
    got = mesh.vertex_normals(batch, faces, table)
    assert got.shape == (1, 2, *vertices.shape)
    for one in got[0]:
        np.testing.assert_allclose(one, want, atol=1e-5)


def test_facing_is_positive_towards_the_eye(sphere):
    vertices, faces = sphere
    eye = jnp.array([0.3, 5.0, -9.0])
    cosine = np.asarray(mesh.facing(vertices, faces, eye))
    middles = vertices[faces].mean(1)
    assert (cosine[middles[:, 2] < -2.4] > 0).all() and (cosine[middles[:, 2] > -1.8] < 0).all()


def test_a_degenerate_face_is_harmless():
    vertices = jnp.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0]])
    faces = jnp.array([[0, 1, 2], [1, 1, 3]])
    for function in (mesh.face_areas, mesh.face_normals):
        assert (np.asarray(function(vertices, faces)) == 0).all()
        check_derivatives(lambda v, f=function: f(v, faces), vertices, numerical=False)


def test_derivatives(sphere):
    vertices, faces = sphere
    small, some = vertices[faces[:2].ravel()], jnp.arange(6).reshape(2, 3)
    table = make_topology(some, 6)
    check_derivatives(lambda v: mesh.face_normals(v, some), small)
    check_derivatives(lambda v: mesh.vertex_normals(v, some, table), small)
    check_derivatives(lambda v: mesh.volume(v, some), small)


def test_samples_are_even_and_on_the_surface(open_strip, key):
    vertices, faces = open_strip
    vertices = vertices * np.array([1, 1, 1], np.float32)
    vertices[4] = [0, 3, 0]
    points = mesh.sample_surface(key, vertices, faces, 4000)
    share = np.bincount(points.face_id, minlength=3) / 4000
    np.testing.assert_allclose(share, [0.25, 0.25, 0.5], atol=0.03)
    positions = np.asarray(mesh.surface_positions(points, vertices, faces))
    assert np.abs(positions[:, 2]).max() == 0
    inside = positions[np.asarray(points.face_id) == 0]
    np.testing.assert_allclose(inside.mean(0), vertices[faces[0]].mean(0), atol=0.02)
    moved = mesh.surface_positions(points, jnp.stack([vertices, vertices + 1]), faces)
    np.testing.assert_allclose(moved[1], positions + 1, atol=1e-6)


def test_closest_point_by_brute_force(rng):
    """Against a constrained minimisation over barycentric coordinates of every face."""
    vertices = rng.normal(size=(9, 3))
    faces = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    queries = 2 * rng.normal(size=(12, 3))
    got = closest_on_surface(queries, vertices, faces)
    for i, query in enumerate(queries):
        best = np.inf
        for face in faces:
            a, b, c = vertices[face]
            gap = lambda st, a=a, b=b, c=c, q=query: np.sum(  # noqa: E731
                (a + st[0] * (b - a) + st[1] * (c - a) - q) ** 2
            )
            found = minimize(
                gap,
                [0.3, 0.3],
                bounds=[(0, 1), (0, 1)],
                constraints={"type": "ineq", "fun": lambda st: 1 - st[0] - st[1]},
                options={"ftol": 1e-14},
            )
            best = min(best, np.sqrt(found.fun))
        assert got.distance[i] == pytest.approx(best, abs=1e-5)
        assert got.distance[i] == pytest.approx(np.linalg.norm(query - got.points[i]))


def test_closest_point_is_exact_with_faces_of_every_size(rng):
    """One huge face among tiny ones: its centroid is far from its nearest point."""
    tiny = trimesh.creation.icosphere(subdivisions=3, radius=0.05)
    vertices = np.concatenate([tiny.vertices, [[-50, -50, 0.2], [50, -50, 0.2], [0, 80, 0.2]]])
    last = len(tiny.vertices)
    faces = np.concatenate([tiny.faces, [[last, last + 1, last + 2]]])
    queries = rng.uniform(-0.3, 0.3, size=(60, 3))
    got = closest_on_surface(queries, vertices, faces)
    corners = vertices[faces]
    for query, distance in zip(queries, got.distance, strict=True):
        repeated = np.broadcast_to(query, (len(faces), 3))
        points = trimesh.triangles.closest_point(corners, repeated)
        assert distance == pytest.approx(np.linalg.norm(points - query, axis=1).min(), abs=1e-12)


def test_closest_point_refuses_nothing_and_nan(open_strip):
    vertices, faces = open_strip
    with pytest.raises(ValueError, match="at least one"):
        closest_on_surface(vertices, vertices, np.zeros((0, 3), int))
    with pytest.raises(ValueError, match="NaN"):
        closest_on_surface(np.full((1, 3), np.nan), vertices, faces)


def test_jit_equals_no_jit(sphere):
    vertices, faces = sphere
    for function in (mesh.face_areas, mesh.face_normals, mesh.volume):
        np.testing.assert_allclose(
            jax.jit(function)(vertices, faces), function(vertices, faces), rtol=1e-5, atol=1e-6
        )
