"""Rendering against a float64 ray caster, and the promises of the rasterizer one by one."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from jrecon.geometry.camera import make_camera
from jrecon.render import rasterize, render
from jrecon.render.sweep import sweep
from tests.render.programs import HEIGHT, WIDTH, draw, padded, rates, slopes
from tests.render.reference import cast_rays


@pytest.fixture(scope="module")
def camera():
    """Pixels that are not square and a principal point that is not central."""
    return make_camera(80.0, 88.0, 28.3, 38.6, WIDTH, HEIGHT)


def soup(rng, count, spread=1.0, size=0.4):
    centres = rng.normal(size=(count, 1, 3)) * [spread, spread, 0.5] + [0, 0, 2.5]
    corners = centres + size * rng.normal(size=(count, 3, 3))
    return corners.reshape(-1, 3).astype(np.float32), np.arange(3 * count).reshape(-1, 3)


def sphere(subdivisions=2, distance=2.5):
    made = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.7)
    return np.asarray(made.vertices + [0.05, -0.02, distance], np.float32), np.asarray(made.faces)


def assert_equals_reference(vertices, faces, camera):
    view = draw(vertices, faces, camera)
    depth, face_id, doubtful = cast_rays(vertices, faces, camera)
    assert doubtful.mean() < 0.05
    mask = np.asarray(view.mask)
    np.testing.assert_array_equal((mask == (face_id >= 0)) | doubtful, True)
    both = mask & (face_id >= 0) & ~doubtful
    assert both.sum() > 50
    np.testing.assert_allclose(np.asarray(view.depth)[both], depth[both], rtol=1e-5, atol=1e-5)
    same = (np.asarray(view.face_id) == face_id)[both]
    assert same.mean() > 0.999
    return view


@pytest.mark.parametrize("size", [0.1, 0.5, 3.0])
def test_random_triangles_of_every_size_equal_the_reference(rng, camera, size):
    vertices, faces = soup(rng, 60, size=size)
    vertices[:, 2] = 2.5 + 0.3 * rng.normal(size=len(vertices))
    assert_equals_reference(vertices, faces, camera)


@pytest.mark.parametrize(("subdivisions", "distance"), [(0, 2.5), (1, 2.5), (2, 2.5), (3, 5.0)])
def test_closed_meshes_equal_the_reference(camera, subdivisions, distance):
    """From 20 faces over the whole image to 1,280 that are smaller than a pixel."""
    assert_equals_reference(*sphere(subdivisions, distance), camera)


def test_triangles_through_the_near_plane_and_behind(rng, camera):
    vertices, faces = soup(rng, 40, size=1.5)
    vertices[:, 2] -= 2.0
    assert (vertices[:, 2] < 0).any() and (vertices[:, 2] > 0).any()
    assert_equals_reference(vertices, faces, camera)


def test_the_camera_inside_a_mesh_sees_it_everywhere(camera):
    vertices, faces = sphere(2, distance=0.0)
    view = assert_equals_reference(vertices, faces, camera)
    assert view.mask.all()


def grid_mesh(cells, step, offset):
    """A flat square grid whose vertices fall on pixel centres."""
    line = np.arange(cells + 1) * step + offset
    x, y = np.meshgrid(line, line)
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    index = np.arange((cells + 1) ** 2).reshape(cells + 1, cells + 1)
    a, b, c, d = (
        i.ravel() for i in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1])
    )
    faces = np.concatenate([np.stack([a, d, c], 1), np.stack([a, c, b], 1)])
    return points, faces


def covering(triangles):
    """How many of the triangles (n, 3, 3) cover each pixel, each of them an image of its own."""
    camera = make_camera(64.0, 64.0, 0.0, 0.0, 32, 32)
    # 900 at once, filled up with triangles behind the camera: one program serves all tests.
    images = np.full((-(-len(triangles) // 900) * 900, 3, 3), -1, np.float32)
    images[: len(triangles)] = triangles
    parts = images.reshape(-1, 900, 3, 3)
    return np.sum(
        [rasterize(part, np.array([[0, 1, 2]]), camera).mask for part in parts], axis=(0, 1)
    )


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_vertices_on_pixel_centres_are_covered_exactly_once(step):
    cells = 21 // step
    points, faces = grid_mesh(cells, step, 3)
    vertices = np.concatenate([points / 64, np.ones((len(points), 1))], 1)
    count, last = covering(vertices[faces]), 3 + cells * step
    np.testing.assert_array_equal(count[3:last, 3:last], 1)
    assert count.sum() == (cells * step) ** 2


def test_every_pixel_of_a_closed_fan_is_covered_once(rng):
    """A random star of triangles around one vertex: no hole along its spokes."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, size=40))
    ring = np.stack([2 * np.cos(angles), 2 * np.sin(angles), np.zeros(40)], axis=1)
    fan = np.stack([np.zeros_like(ring), ring, np.roll(ring, -1, 0)], axis=1)
    np.testing.assert_array_equal(covering(fan + [0.5, 0.5, 2.0]), 1)


def test_a_vertex_on_a_pixel_centre_is_shared_out_exactly_once(rng):
    """Many triangles of all slants meet there, and round their edges differently."""
    fans, spokes = 100, 24
    angles = 2 * np.pi * (np.arange(spokes) + rng.uniform(0, 0.9, (fans, spokes))) / spokes
    lengths = rng.uniform(50, 100, (fans, spokes))
    rim = np.array([7, 8]) + lengths[..., None] * np.stack([np.cos(angles), np.sin(angles)], -1)
    hub = np.broadcast_to([7, 8], rim.shape)
    pixels = np.stack([hub, rim, np.roll(rim, -1, 1)], 2)
    triangles = np.concatenate([pixels / 64, np.ones((*pixels.shape[:-1], 1))], -1)
    turn = (np.arange(3) + rng.integers(3, size=(fans, spokes, 1))) % 3
    triangles = np.take_along_axis(triangles, turn[..., None], 2)
    np.testing.assert_array_equal(covering(triangles.reshape(-1, 3, 3)), fans)


def test_order_of_faces_and_vertices_does_not_matter(rng, camera):
    vertices, faces = sphere(2)
    view = draw(vertices, faces, camera)
    order = rng.permutation(len(faces))
    turned = np.stack([np.roll(face, rng.integers(3)) for face in faces[order]])
    other = draw(vertices, turned, camera)
    np.testing.assert_array_equal(other.mask, view.mask)
    seen = np.asarray(view.mask)
    np.testing.assert_array_equal(order[np.asarray(other.face_id)[seen]], view.face_id[seen])
    np.testing.assert_array_equal(other.depth, view.depth)


def test_the_dense_sweep_equals_the_scatter(rng, camera):
    swept_of = jax.jit(lambda vertices, faces: sweep(vertices, faces, camera))
    for mesh in (padded(*soup(rng, 70, size=0.3)), padded(*sphere(2))):
        found = rasterize(*mesh, camera)
        swept, depth, _ = swept_of(*mesh)
        np.testing.assert_array_equal(found.face_id, swept)
        np.testing.assert_allclose(found.depth, depth, rtol=1e-6)


def test_broken_triangles_are_harmless(camera):
    vertices, faces = sphere(1)
    view = draw(vertices, faces, camera)
    extra = np.array(
        [
            [np.nan, 0, 1], [np.inf, 0, 1], [0, 0, 1], [0, 0, 1], [0.5, 0, 1], [1, 0, 1],
            [1e30, 1e30, 1], [-1e30, 0, 1e-30], [0, 0, -1], [1, 0, -1], [0, 1, -1], [0, 0, 0],
        ],
        np.float32,
    )  # fmt: skip
    n = len(vertices)
    bad = n + np.array([[0, 2, 4], [1, 2, 4], [2, 3, 4], [2, 4, 5], [8, 9, 10], [11, 11, 11]])
    both = np.concatenate([vertices, extra]), np.concatenate([bad, faces, bad])
    np.testing.assert_array_equal(rasterize(*padded(*both), camera).depth, view.depth)
    slope = slopes(*both, camera, 1)[0]
    assert np.isfinite(slope).all() and (slope[n:] == 0).all()


@pytest.mark.parametrize("scale", [1e-3, 1e6, 3e7])
def test_meshes_of_any_scale_look_the_same(camera, scale):
    vertices, faces = sphere(1)
    view, scaled = draw(vertices, faces, camera), draw(vertices * scale, faces, camera)
    assert np.mean(np.asarray(view.face_id) == scaled.face_id) > 0.999
    both = np.asarray(view.mask & scaled.mask)
    np.testing.assert_allclose(scaled.depth[both] / scale, view.depth[both], rtol=1e-5)
    np.testing.assert_allclose(scaled.barycentrics[both], view.barycentrics[both], atol=1e-3)


def test_what_float32_cannot_compute_with_is_never_seen(camera):
    vertices, faces = sphere(1)
    view = rasterize(*padded(vertices * 1e14, faces), camera)
    assert not view.mask.any() and (view.depth == 0).all() and (view.barycentrics == 0).all()
    with pytest.raises(ValueError, match=r"42 are NaN, infinite, or beyond 1e\+08 m"):
        render(vertices * 1e14, faces, camera)


def test_numpy_arrays_and_lists_are_taken(camera):
    mesh = padded(*sphere(0))
    expected = rasterize(jnp.asarray(mesh[0]), jnp.asarray(mesh[1]), camera).face_id
    of_numpy = mesh[0].astype(np.float64), mesh[1].astype(np.int64)
    of_lists = mesh[0].tolist(), mesh[1].tolist()
    pairs: tuple[Any, ...] = of_numpy, of_lists
    for points, corners in pairs:
        np.testing.assert_array_equal(rasterize(points, corners, camera).face_id, expected)
        np.testing.assert_array_equal(render(points, corners, camera).face_id, expected)


def test_an_empty_image_is_empty_with_zero_gradient(camera):
    vertices, faces = sphere(1, distance=-3.0)
    view = draw(vertices, faces, camera)
    assert not view.mask.any() and (view.depth == 0).all() and (view.face_id == -1).all()
    for factor in (1, np.nan, 1e30, 0):
        assert (slopes(vertices * np.float32(factor), faces, camera, 1)[0] == 0).all()


def test_batch_equals_loop(camera, rng):
    """Of two batch axes, and under `vmap`."""
    vertices, faces = padded(*sphere(1))
    many = (vertices + 0.2 * rng.normal(size=(1, 2, 1, 3))).astype(np.float32)
    together = render(many, faces, camera)
    for index in np.ndindex(1, 2):
        one = render(many[index], faces, camera)
        np.testing.assert_array_equal(together.face_id[index], one.face_id)
        np.testing.assert_allclose(together.depth[index], one.depth, atol=1e-6)
    mapped = jax.vmap(lambda v: rasterize(v, faces, camera))(many[0])
    np.testing.assert_array_equal(mapped.face_id, together.face_id[0])


def test_a_batch_of_cameras_sees_one_mesh(camera):
    vertices, faces = sphere(1)
    focal = jnp.array([[60.0, 60.0], [80.0, 80.0]])
    cameras = dataclasses.replace(camera, focal=focal, center=jnp.full((2, 2), 20.0))
    view = rasterize(vertices, faces, cameras)
    assert view.depth.shape == (2, HEIGHT, WIDTH) and view.mask[1].sum() > view.mask[0].sum()


def test_barycentrics_and_normals_belong_to_the_point_seen(camera):
    vertices, faces = sphere(2)
    view = draw(vertices, faces, camera)
    seen = np.asarray(view.mask)
    corners = vertices[faces[np.asarray(view.face_id)[seen]]]
    weights = np.asarray(view.barycentrics)[seen]
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=2e-4)
    points = np.einsum("nca,nc->na", corners, weights)
    np.testing.assert_allclose(points[:, 2], np.asarray(view.depth)[seen], atol=2e-4)
    normals = np.asarray(view.normals)[seen]
    assert (np.sum(normals * points, axis=1) < 0).all()


def test_interior_gradient_equals_float64_differences(rng, camera):
    vertices, faces = sphere(1)
    weights = rng.normal(size=(HEIGHT, WIDTH))
    view = draw(vertices, faces, camera)
    _, face_id, doubtful = cast_rays(vertices, faces, camera)
    keep = np.asarray(view.mask) & ~doubtful & (np.asarray(view.face_id) == face_id)
    pull = jnp.asarray(weights * keep, jnp.float32)
    loss = lambda v: jnp.vdot(rasterize(v, faces, camera).depth, pull)
    slope = np.asarray(jax.jit(jax.grad(loss))(vertices), np.float64)
    tangent = rng.normal(size=vertices.shape)
    forward = np.vdot(pull, rates(vertices, faces, camera, tangent)[2])
    (fx, fy), (cx, cy) = np.asarray(camera.focal, float), np.asarray(camera.center, float)
    v, u = np.nonzero(keep)
    rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(len(u))], axis=1)

    def exact(points):
        a, b, c = (points[faces[face_id[keep]]][:, i] for i in range(3))
        normal = np.cross(b - a, c - a)
        return np.sum(weights[keep] * np.sum(a * normal, 1) / np.sum(rays * normal, 1))

    points, step = np.asarray(vertices, np.float64), 1e-6
    numerical = (exact(points + step * tangent) - exact(points - step * tangent)) / (2 * step)
    assert np.sum(slope * tangent) == pytest.approx(numerical, rel=1e-4)
    assert float(forward) == pytest.approx(numerical, rel=1e-4)


def test_depth_is_exact_where_surfaces_graze(rng):
    """Triangles of 3 cm at 3 m, seen at a tenth of a degree to three: to a few micrometres, though
    the last bit of their places in the image is worth ten times as much."""
    camera, count = make_camera(60.0, 66.0, 28.3, 38.6, WIDTH, HEIGHT), 400
    focal, center = np.asarray(camera.focal, float), np.asarray(camera.center, float)
    place = rng.permutation(WIDTH * HEIGHT)[:count]
    v, u = np.divmod(place, WIDTH)
    rays = np.concatenate([(np.stack([u, v], 1) - center) / focal, np.ones((count, 1))], axis=1)
    ahead = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    aside = np.cross(ahead, rng.normal(size=(count, 3)))
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    grazing = np.geomspace(0.002, 0.05, count)[:, None]
    along = np.sqrt(1 - grazing**2) * ahead + grazing * np.cross(ahead, aside)
    angle = rng.uniform(0, 2 * np.pi, (count, 1, 1)) + 2 * np.pi / 3 * np.arange(3)[:, None]
    around = np.cos(angle) * aside[:, None] + np.sin(angle) * along[:, None]
    vertices = (3 * rays[:, None] + 0.015 * around).reshape(-1, 3).astype(np.float32)
    faces = np.arange(3 * count).reshape(-1, 3)
    view = draw(vertices, faces, camera)
    seen = np.asarray(view.face_id)[v, u]
    assert (seen == np.arange(count)).mean() > 0.95
    a, b, c = vertices.astype(float)[faces[seen]].transpose(1, 0, 2)
    normal = np.cross(b - a, c - a)
    expected = np.sum(a * normal, 1) / np.sum(rays * normal, 1)
    assert np.abs(np.asarray(view.depth)[v, u] - expected).max() < 4e-6


def test_too_many_tiles_are_loud_on_the_host_and_counted_inside_jit(camera):
    vertices, faces = sphere(0)
    with pytest.raises(ValueError, match="of 20 faces do not fit max_tiles=300; raise it"):
        render(vertices, faces, camera, max_tiles=300)
    view = jax.jit(lambda v: rasterize(v, faces, camera, max_tiles=300))(vertices)
    assert 0 < int(view.overflow) < 20 and view.mask.any()


def test_ten_runs_are_bitwise_equal(rng, camera):
    """Images, and derivatives with silhouettes, where triangles cross each other."""
    vertices, faces = soup(rng, 60, size=0.5)
    pull = rng.normal(size=(HEIGHT, WIDTH))

    def bits():
        found = draw(vertices, faces, camera), slopes(vertices, faces, camera, pull, pull)
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(found)]

    first = bits()
    for _ in range(9):
        assert bits() == first


def test_nothing_is_compiled_anew_for_other_values(camera):
    vertices, faces = sphere(0)
    traces = []

    @jax.jit
    def mask(moved):
        traces.append(1)
        return rasterize(moved, faces, camera).mask

    assert mask(vertices).any() and not mask(vertices + 1e3).any()
    assert len(traces) == 1


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_lowers_for_every_platform(camera, platform):
    vertices, faces = sphere(0)
    forward = jax.jit(lambda v: rasterize(v, faces, camera).face_id)
    text = jax.export.export(forward, platforms=[platform])(vertices).mlir_module()
    assert ("stablehlo.scatter" in text) == (platform != "tpu")
    backward = jax.jit(jax.grad(lambda v: jnp.sum(render(v, faces, camera).depth)))
    jax.export.export(backward, platforms=[platform])(vertices)


@pytest.mark.parametrize(
    "vertices, faces, message",
    [
        (np.zeros((4, 2)), [[0, 1, 2]], r"vertices: got shape \(4, 2\)"),
        (np.zeros((0, 3)), [[0, 1, 2]], "vertices: got shape"),
        (np.ones((4, 3)), [[0, 1, 4]], "indices 0..4, need 0..3"),
        (np.ones((4, 3)), [[0.0, 1.0, 2.0]], "need integers"),
        (np.ones((4, 3)), np.zeros((0, 3), int), "at least one triangle"),
        (np.full((4, 3), np.nan), [[0, 1, 2]], "4 are NaN, infinite, or"),
    ],
)
def test_bad_input_is_explained(camera, vertices, faces, message):
    with pytest.raises(ValueError, match=message):
        render(jnp.asarray(vertices), jnp.asarray(faces), camera)
