"""Meshes against closed forms, brute force and trimesh."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from hypothesis import given, settings, strategies as st

from jrecon.geometry import mesh
from jrecon.geometry.mesh import closest_on_surface, make_topology
from tests.derivatives import check_derivatives

FACING = jax.jit(mesh.facing)
POSITIONS = jax.jit(mesh.surface_positions)


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


def test_neighbours_share_the_side(sphere):
    vertices, faces = sphere
    table = make_topology(faces, len(vertices))
    for face, neighbours in enumerate(np.asarray(table.face_faces)):
        for side, other in enumerate(neighbours):
            shared = {int(faces[face, side]), int(faces[face, (side + 1) % 3])}
            assert other != face and shared <= set(faces[other].tolist())


def test_topology_of_a_boundary(open_strip):
    vertices, faces = open_strip
    table = make_topology(faces, len(vertices) + 1)
    assert len(table.edges) == 7 and not mesh.is_watertight(table)
    assert int((np.asarray(table.edge_faces) < 0).sum()) == 5
    assert (np.asarray(table.vertex_faces[5]) == -1).all()
    np.testing.assert_array_equal(table.face_faces, [[-1, 1, -1], [-1, 2, 0], [1, -1, -1]])


@pytest.mark.parametrize(
    "faces, edge_faces",
    [
        # Three faces at the edge (0, 1): two of them pair up, the third has a side of its own.
        ([[0, 1, 2], [1, 0, 3], [0, 1, 4]], {(0, 1): [(0, 1), (2, -1)]}),
        # Neighbours wound in opposite directions do not pair up.
        ([[0, 1, 2], [0, 1, 3]], {(0, 1): [(0, -1), (1, -1)]}),
        ([[0, 1, 2], [0, 1, 2]], {(0, 1): [(0, -1), (1, -1)], (0, 2): [(-1, 0), (-1, 1)]}),
        # A face without area: its side of no length is no edge.
        ([[0, 1, 1], [0, 1, 2]], {(0, 1): [(0, 0), (1, -1)]}),
    ],
)
def test_an_edge_with_too_many_faces_is_split_when_asked(faces, edge_faces):
    table = make_topology(faces, 5, split=True)
    found = {}
    for edge, sides in zip(table.edges.tolist(), table.edge_faces.tolist(), strict=True):
        found.setdefault(tuple(edge), []).append(tuple(sides))
    assert {edge: found[edge] for edge in edge_faces} == edge_faces
    sides = [side for pair in table.edge_faces.tolist() for side in pair if side >= 0]
    proper = sum(len(set(face)) if len(set(face)) == 3 else 2 for face in faces)
    assert len(sides) == proper
    with pytest.raises(ValueError, match="split=True"):
        make_topology(faces, 5)


def test_outward_looks_at_every_closed_piece(sphere, open_strip):
    vertices, faces = sphere
    inside_out = faces[:, ::-1]

    def outward(*pieces):
        points = np.concatenate([vertices + 3.0 * i for i in range(len(pieces))])
        joined = np.concatenate([piece + i * len(vertices) for i, piece in enumerate(pieces)])
        return mesh.is_outward(points, joined, make_topology(joined, len(points)))

    assert outward(faces) and outward(faces, faces)
    assert not outward(inside_out) and not outward(faces, inside_out)
    # An open piece has no inside.
    assert outward(faces, inside_out[1:])
    assert mesh.is_outward(open_strip[0], open_strip[1], make_topology(open_strip[1], 5))


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
    got = jax.jit(mesh.vertex_normals)(batch, faces, table)
    assert got.shape == (1, 2, *vertices.shape)
    for one in got[0]:
        np.testing.assert_allclose(one, want, atol=1e-5)


def test_facing_is_positive_towards_the_eye(sphere):
    vertices, faces = sphere
    eye = jnp.array([0.3, 5.0, -9.0])
    cosine = np.asarray(FACING(vertices, faces, eye))
    middles = vertices[faces].mean(1)
    assert (cosine[middles[:, 2] < -2.4] > 0).all() and (cosine[middles[:, 2] > -1.8] < 0).all()


def test_facing_serves_batches_of_eyes_and_of_meshes(sphere):
    vertices, faces = sphere
    eyes = jnp.array([[0.3, 5.0, -9.0], [4.0, 5.0, 1.0]])
    meshes = jnp.stack([vertices, vertices + 0.1])
    both = jax.jit(mesh.facing)(meshes, faces, eyes)
    for i in range(2):
        np.testing.assert_allclose(both[i], FACING(meshes[i], faces, eyes[i]), atol=1e-5)
    assert FACING(vertices, faces, eyes).shape == FACING(meshes, faces, eyes[0]).shape == both.shape


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_the_sum_at_vertices_is_the_transpose_of_the_corners(sphere, rng, batch):
    vertices, faces = sphere
    table = make_topology(faces, len(vertices))
    values = rng.normal(size=(*batch, len(faces), 3, 3)).astype(np.float32)
    points = jnp.zeros((*batch, len(vertices), 3))
    (scattered,) = jax.linear_transpose(lambda v: mesh.triangles(v, faces), points)(values)
    np.testing.assert_allclose(mesh.sum_at_vertices(values, table), scattered, atol=1e-5)


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
    points = jax.jit(mesh.sample_surface, static_argnums=3)(key, vertices, faces, 4000)
    share = np.bincount(points.face_id, minlength=3) / 4000
    np.testing.assert_allclose(share, [0.25, 0.25, 0.5], atol=0.03)
    positions = np.asarray(POSITIONS(points, vertices, faces))
    assert np.abs(positions[:, 2]).max() == 0
    inside = positions[np.asarray(points.face_id) == 0]
    np.testing.assert_allclose(inside.mean(0), vertices[faces[0]].mean(0), atol=0.02)
    moved = POSITIONS(points, jnp.stack([vertices, vertices + 1]), faces)
    np.testing.assert_allclose(moved[1], positions + 1, atol=1e-6)


def test_samples_avoid_faces_without_area(key):
    vertices = jnp.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0]])
    faces: Any = np.array([[0, 1, 2], [0, 1, 3], [1, 1, 3]])
    points = jax.jit(lambda v: mesh.sample_surface(key, v, faces, 200))(vertices)
    assert (np.asarray(points.face_id) == 1).all()
    moved = jax.jit(lambda p, v: mesh.surface_positions(p, v, faces))(points, vertices)
    np.testing.assert_allclose(moved[:, :2], points.barycentrics[:, 1:], atol=1e-6)


def distance_to_triangle(query, corners):
    """In extended precision: to the plane where it is met inside, else to the nearest side."""
    query, (a, b, c) = query.astype(np.longdouble), corners.astype(np.longdouble)
    sides = [(a, b), (b, c), (c, a)]
    best = np.inf
    for start, end in sides:
        along = end - start
        share = np.clip((query - start) @ along / max(along @ along, 1e-300), 0, 1)
        best = min(best, np.linalg.norm((start + share * along - query).astype(float)))
    normal = np.cross(b - a, c - a)
    if normal @ normal > 0:
        height = (query - a) @ normal / np.sqrt(normal @ normal)
        foot = query - height * normal / np.sqrt(normal @ normal)
        if all(np.cross(end - start, foot - start) @ normal >= 0 for start, end in sides):
            best = min(best, abs(float(height)))
    return best


@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from([1e-5, 1e-3, 1.0, 1e3]),
    shape=st.sampled_from(["any", "sliver", "segment", "two corners alike", "point"]),
)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_distance_to_triangles_of_any_size_and_shape(seed, size, shape):
    rng = np.random.default_rng(seed)
    vertices = rng.normal(size=(6, 3))
    if shape in ("sliver", "segment"):
        vertices[2] = vertices[0] + rng.uniform(-0.5, 1.5) * (vertices[1] - vertices[0])
        vertices[2] += 1e-3 * rng.normal(size=3) if shape == "sliver" else 0.0
    elif shape == "two corners alike":
        vertices[rng.integers(3)] = vertices[rng.integers(3)]
    elif shape == "point":
        vertices[:3] = vertices[0]
    vertices *= size
    queries = size * rng.normal(size=(4, 3)) * 10 ** rng.uniform(-3, 1, size=(4, 1))
    faces = np.array([[0, 1, 2], [3, 4, 5]])
    got = closest_on_surface(queries, vertices, faces)
    for i, query in enumerate(queries):
        want = [distance_to_triangle(query, vertices[face]) for face in faces]
        assert got.distance[i] == pytest.approx(min(want), abs=1e-11 * size)
        assert want[got.face_id[i]] == pytest.approx(min(want), abs=1e-11 * size)
        assert np.linalg.norm(query - got.points[i]) == pytest.approx(got.distance[i])
        on_face = distance_to_triangle(got.points[i], vertices[faces[got.face_id[i]]])
        assert on_face == pytest.approx(0, abs=1e-11 * size)


@pytest.mark.parametrize("far", [0.0, 2.0])
def test_closest_point_equals_the_search_over_all_faces(sphere, rng, far):
    """Far from the surface every face is a candidate: the search has to widen to the end."""
    vertices, faces = sphere
    queries = rng.normal(size=(40, 3)) * 0.3 + [0.3 + far, 5.0, -2.0]
    got = closest_on_surface(queries, vertices, faces)
    corners = np.repeat(vertices[faces][None].astype(np.float64), len(queries), axis=0)
    repeated = np.repeat(queries[:, None], len(faces), axis=1)
    points = trimesh.triangles.closest_point(corners.reshape(-1, 3, 3), repeated.reshape(-1, 3))
    want = np.linalg.norm(points.reshape(repeated.shape) - repeated, axis=2).min(axis=1)
    np.testing.assert_allclose(got.distance, want, atol=1e-12)


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
        points = trimesh.triangles.closest_point(corners * 100, repeated * 100) / 100
        assert distance == pytest.approx(np.linalg.norm(points - query, axis=1).min(), abs=1e-9)


def test_a_near_edge_is_found_though_many_centroids_are_nearer():
    """Ten small faces at 0.5 m; the corner of a larger one at 0.1 m, its centroid beyond them."""
    small = np.array([[0.0, 0, 0], [1e-3, 0, 0], [0, 1e-3, 0]]) + [0, 0, 0.5]
    large = np.array([[0.1, 0, 0], [1.2, 0.5, 0], [1.2, -0.5, 0]])
    triangles = np.concatenate(
        [np.tile(small, (10, 1)), large, *(large + 9.0 + i for i in range(10))]
    )
    faces = np.arange(len(triangles)).reshape(-1, 3)
    got = closest_on_surface(np.zeros((1, 3)), triangles, faces)
    assert got.face_id[0] == 10 and got.distance[0] == pytest.approx(0.1)


def test_closest_point_refuses_nothing_and_nan(open_strip):
    vertices, faces = open_strip
    with pytest.raises(ValueError, match="at least one"):
        closest_on_surface(vertices, vertices, np.zeros((0, 3), int))
    with pytest.raises(ValueError, match="queries: got NaN"):
        closest_on_surface(np.full((1, 3), np.nan), vertices, faces)
    with pytest.raises(ValueError, match=r"queries: got shape \(3,\), need \(n, 3\)"):
        closest_on_surface(vertices[0], vertices, faces)


def test_jit_equals_no_jit(sphere):
    vertices, faces = sphere
    for function in (mesh.face_areas, mesh.face_normals, mesh.volume):
        np.testing.assert_allclose(
            jax.jit(function)(vertices, faces), function(vertices, faces), rtol=1e-5, atol=1e-6
        )
