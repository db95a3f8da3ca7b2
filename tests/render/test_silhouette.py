"""Silhouette derivatives: against a boundary integral, against differences of area-averaged
images, by how many discontinuities they miss, and by whether they lead anywhere."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trimesh

import jrecon
from jrecon.geometry import rotation
from jrecon.geometry.camera import make_camera, resize
from jrecon.render import rasterize, render
from jrecon.render.silhouette import find_pairs, find_rims
from tests.render.boundary import boundary_integral

# Metres: behind everything, so that background differs from a surface by a bounded amount.
FAR = 3.0


def camera_of(size, focal=1.1):
    return make_camera(focal * size, 1.07 * focal * size, 0.49 * size, 0.51 * size, size, size)


def smooth_weights(rng, size):
    v, u = np.mgrid[:size, :size] / size
    waves = rng.normal(size=(6, 4)) * 3
    return np.sum([np.sin(a * u + b * v + c) * d for a, b, c, d in waves], axis=0)


def two_ellipsoids(subdivisions):
    """A tilted one before a larger one, as (vertices, faces) and a function of seven numbers that
    moves, turns and scales the one in front."""
    made = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.3)
    unit, faces = jnp.asarray(made.vertices, jnp.float32), jnp.asarray(made.faces, jnp.int32)
    behind = unit * jnp.array([[2.0, 2.0, 0.5]]) + jnp.array([[-0.1, 0.0, 2.6]])

    def move(theta):
        turn = rotation.exp(jnp.array([0.1, 0.2, 0.3]) + theta[3:6])
        front = unit * jnp.array([[1.0, 0.6, 0.8]]) * (1 + theta[6]) @ turn.T
        front += (jnp.array([0.35, 0.1, 1.7]) + theta[:3])[None]
        return jnp.concatenate([front, behind])

    return move, jnp.concatenate([faces, faces + len(unit)]), len(unit)


JOINTS = "left_shoulder", "right_elbow", "left_hip", "spine2", "right_knee"


def body(level):
    """A person with a forearm before the trunk, and a function of eleven numbers that moves it as a
    whole and bends five joints."""
    model = jrecon.load_model("body", level=level)
    rest = jnp.zeros((model.num_joints, 3)).at[0].set(jnp.array([jnp.pi, 0, 0]))
    names = list(model.joint_names)
    rest = rest.at[names.index("left_shoulder")].set(jnp.array([0.2, -0.9, -0.9]))
    rest = rest.at[names.index("left_elbow")].set(jnp.array([0, -1.2, 0.0]))

    def move(theta):
        turned = rotation.log(rotation.exp(theta[3:6]) @ rotation.exp(rest[0]))
        pose = rest.at[0].set(turned)
        for k, joint in enumerate(JOINTS):
            pose = pose.at[names.index(joint), 2].add(theta[6 + k])
        params = dataclasses.replace(
            jrecon.zeros(model), pose=pose, translation=theta[:3] + jnp.array([0, 0.05, 2.3])
        )
        return jrecon.pose(model, params).vertices

    return jax.jit(move), model.faces


@pytest.mark.parametrize("subdivisions", [1, 2])
def test_derivative_equals_the_boundary_integral(rng, subdivisions):
    move, faces, _ = two_ellipsoids(subdivisions)
    camera, theta = camera_of(96), jnp.zeros(7)
    weights = smooth_weights(rng, 96)
    pull = jnp.asarray(weights, jnp.float32)

    def sums(theta):
        vertices = move(theta)
        view = render(vertices, faces, camera)
        inner = rasterize(vertices, faces, camera).depth
        return jnp.vdot(pull, view.depth) - jnp.vdot(pull, inner), jnp.vdot(pull, view.coverage)

    got = np.stack(jax.jit(jax.jacfwd(sums))(theta))
    tangents = jax.jacfwd(move)(theta)
    expected = np.stack(
        [
            boundary_integral(move(theta), faces, tangents[..., i], camera, weights)
            for i in range(7)
        ],
        axis=1,
    )
    error = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert (error < 0.03).all(), error


def averaged(vertices, faces, camera, fine=8):
    """The image averaged over the area of its pixels."""
    view = render(vertices, faces, resize(camera, fine * camera.width, fine * camera.height))
    image = np.where(view.mask, view.depth, FAR).astype(np.float64)
    return image.reshape(camera.height, fine, camera.width, fine).mean((1, 3))


def compare_with_differences(move, faces, camera, scales, places):
    """Cosine and ratio of lengths between gradients and differences of the quadratic loss of
    area-averaged images, in units of `scales`, at several places."""
    image = jax.jit(lambda theta: with_background(render(move(theta), faces, camera)))
    loss = lambda theta, target: 0.5 * jnp.sum((image(theta) - target) ** 2)
    slope = jax.jit(jax.grad(loss))
    gradients, differences = [], []
    for place in places:
        target = averaged(move(place + 4 * scales), faces, camera)
        gradients.append(slope(place, target.astype(np.float32)) * scales)

        def exact(theta, target=target):
            return 0.5 * np.sum((averaged(move(theta), faces, camera) - target) ** 2)

        for step in np.diag(scales):
            differences.append((exact(place + step) - exact(place - step)) / 2)
    a, b = np.concatenate(gradients), np.asarray(differences)
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b), np.linalg.norm(a) / np.linalg.norm(b)


def with_background(view):
    return view.depth + (1 - view.coverage) * FAR


PLACES = np.array([[0.0, 0.0], [0.9, 1.5]])


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("subdivisions", [0, 3])
def test_gradient_equals_differences_of_averaged_images(subdivisions, size):
    move, faces, _ = two_ellipsoids(subdivisions)
    assert len(faces) in (40, 2560)
    pixel = np.float32(0.4 * 1.7 / (1.1 * size))
    scales = pixel * np.array([1, 1, 3, 3, -3, 3, 3], np.float32)
    places = [np.concatenate([pixel * place, np.zeros(5)]).astype(np.float32) for place in PLACES]
    cosine, ratio = compare_with_differences(jax.jit(move), faces, camera_of(size), scales, places)
    assert cosine > 0.99
    assert abs(ratio - 1) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("size", "wall"), [(64, True), (128, False)])
def test_gradient_of_a_body_equals_differences(size, wall):
    """14,000 faces, also where every silhouette is before another surface."""
    pose, faces = body("7k")
    move = pose
    if wall:
        square = jnp.array([[-3, -3, 2.7], [3, -3, 2.7], [3, 3, 2.7], [-3, 3, 2.7]])
        ahead = pose(jnp.zeros(11)).shape[0]
        faces = jnp.concatenate([faces, jnp.array([[0, 2, 1], [0, 3, 2]]) + ahead])
        move = lambda theta: jnp.concatenate([pose(theta), square])
    pixel = np.float32(0.4 * 2.3 / (1.2 * size))
    scales = pixel * np.array([1, -1, 5, 4, 4, 4, -4, -4, 4, 4, 4], np.float32)
    places = [np.concatenate([pixel * place, np.zeros(9)]).astype(np.float32) for place in PLACES]
    cosine, ratio = compare_with_differences(move, faces, camera_of(size, 1.2), scales, places)
    assert cosine > 0.97
    assert abs(ratio - 1) < 0.15


@pytest.mark.parametrize("size", [64, 128])
def test_nearly_all_discontinuities_get_a_derivative(size):
    """Where triangles are as small as pixels, too: 10,240 of them."""
    move, faces, of_front = two_ellipsoids(4)
    vertices, camera = move(jnp.zeros(7)), camera_of(size)
    fragments = rasterize(vertices, faces, camera)
    pairs = jax.jit(find_pairs)(vertices, faces, fragments.face_id, camera)
    rims = jax.jit(find_rims)(vertices, faces, pairs, camera)
    # Which of the two ellipsoids, if any.
    seen = np.where(fragments.mask, np.asarray(faces)[fragments.face_id, 0] >= of_front, -1)
    found = {"background": [], "surface": []}
    for axis, (pair, rim) in enumerate(zip(pairs, rims, strict=True)):
        served = np.asarray(pair.split & rim.found)
        here = seen[:, :-1] if axis == 0 else seen[:-1]
        there = seen[:, 1:] if axis == 0 else seen[1:]
        served = served[:, :-1] if axis == 0 else served[:-1]
        nothing = np.minimum(here, there) < 0
        found["background"] += list(served[(here != there) & nothing])
        found["surface"] += list(served[(here != there) & ~nothing])
        # One convex surface has no silhouette before itself.
        assert not served[here == there].any()
    for kind, each in found.items():
        assert len(each) > 20 and np.mean(each) > 0.95, (kind, np.mean(each))


def test_forward_equals_reverse(rng):
    move, faces, _ = two_ellipsoids(1)
    camera = camera_of(48)
    weights = jnp.asarray(rng.normal(size=(2, 48, 48)), jnp.float32)

    def loss(theta, focal, center):
        moved = dataclasses.replace(camera, focal=focal, center=center)
        view = render(move(theta), faces, moved)
        return jnp.vdot(weights[0], view.depth) + jnp.vdot(weights[1], view.coverage)

    at = jnp.zeros(7), camera.focal, camera.center
    forward = jax.jit(jax.jacfwd(loss, (0, 1, 2)))(*at)
    reverse = jax.jit(jax.grad(loss, (0, 1, 2)))(*at)
    for a, b in zip(forward, reverse, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3)
        assert np.abs(a).min() > 1e-2


def test_moving_the_camera_is_moving_the_image(rng):
    """A shift of the principal point moves every silhouette by as much."""
    move, faces, _ = two_ellipsoids(2)
    camera = camera_of(64)
    weights = jnp.asarray(smooth_weights(rng, 64), jnp.float32)
    covers = lambda center: jnp.vdot(
        weights,
        render(move(jnp.zeros(7)), faces, dataclasses.replace(camera, center=center)).coverage,
    )
    got = jax.jit(jax.grad(covers))(camera.center)
    mask = np.asarray(render(move(jnp.zeros(7)), faces, camera).mask, float)
    # Summation by parts: the sum of weights * (-d mask / du) is that of mask * d weights / du.
    expected = [np.sum(mask * np.gradient(np.asarray(weights), axis=axis)) for axis in (1, 0)]
    np.testing.assert_allclose(got, expected, rtol=0.03)


@pytest.mark.parametrize("offset", [0.0, 0.37])
@pytest.mark.parametrize("cells", [(1, 1), (7, 9)])
def test_outlines_through_pixel_centres(cells, offset):
    """A rectangle with vertices on pixel centres, exactly and up to rounding."""
    camera = make_camera(32.0 + offset, 32.0, offset, 0.0, 16, 16)
    u, v = np.meshgrid(np.linspace(4, 11, cells[0] + 1), np.linspace(3, 12, cells[1] + 1))
    flat = jnp.stack([u.ravel(), v.ravel()], 1) - camera.center[None]
    flat = flat / camera.focal[None]
    index = np.arange(u.size).reshape(u.shape)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = jnp.asarray(np.stack([a, d, c, a, c, b], -1).reshape(-1, 3))

    def covered(grow):
        vertices = jnp.concatenate([flat * (1 + grow)[None], jnp.ones((len(flat), 1))], 1)
        view = render(vertices, faces, camera)
        return view.coverage.sum(), view.mask

    slope, mask = jax.jit(jax.grad(covered, has_aux=True))(jnp.zeros(2))
    # As many lines of pixels as are covered, along which it grows by 7 and by 9 pixels.
    rows, columns = mask.any(1).sum(), mask.any(0).sum()
    np.testing.assert_allclose(slope, [7 * rows, 9 * columns], rtol=1e-4)


def test_edges_through_the_near_plane(rng):
    """A strip of floor, seen at a slant, that reaches behind the camera."""
    strip = jnp.array([[-0.5, 0.6, -1.0], [0.4, 0.6, -1.0], [0.4, 0.6, 3.0], [-0.5, 0.6, 3.0]])
    strip = strip @ rotation.exp(jnp.array([0.0, 0.0, 0.3])).T
    faces, camera = jnp.array([[0, 1, 2], [0, 2, 3]]), camera_of(64)
    move = lambda theta: strip + theta[None]
    weights = smooth_weights(rng, 64)
    pull = jnp.asarray(weights, jnp.float32)
    covers = lambda theta: jnp.vdot(pull, render(move(theta), faces, camera).coverage)
    got = jax.jit(jax.grad(covers))(jnp.zeros(3)) * 0.02
    expected = [
        np.sum(weights * (area(move(step), faces, camera) - area(move(-step), faces, camera))) / 2
        for step in np.eye(3, dtype=np.float32) * 0.02
    ]
    assert np.linalg.norm(got - np.asarray(expected)) < 0.05 * np.linalg.norm(expected)


def area(vertices, faces, camera, fine=8):
    mask = render(vertices, faces, resize(camera, fine * camera.width, fine * camera.height)).mask
    return np.asarray(mask, float).reshape(camera.height, fine, camera.width, fine).mean((1, 3))


def test_broken_meshes_have_finite_derivatives():
    move, faces, _ = two_ellipsoids(1)
    vertices = move(jnp.zeros(7)).at[3].set(jnp.nan).at[5].set(jnp.inf).at[8:10].set(0.0)
    for camera in (camera_of(16), make_camera(20.0, 20.0, 60.0, 8.0, 16, 16, far_center=True)):
        slope = jax.jit(jax.grad(lambda v, c=camera: render(v, faces, c).depth.sum()))(vertices)
        assert np.isfinite(slope).all()


def test_batch_equals_loop():
    move, faces, _ = two_ellipsoids(1)
    thetas = jnp.linspace(-0.05, 0.05, 3)[:, None] * jnp.ones((1, 7))
    camera = camera_of(32)
    loss = lambda vertices: jnp.sum(jnp.sin(render(vertices, faces, camera).depth))
    vertices = jnp.stack([move(theta) for theta in thetas])
    slope = jax.jit(jax.grad(loss))
    each = jnp.stack([slope(v) for v in vertices])
    np.testing.assert_allclose(slope(vertices), each, atol=1e-4)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(loss)))(vertices), each, atol=1e-4)


def descend(image, start, target, rate, steps):
    """Adam on the squared difference of depth images."""
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))

    @jax.jit
    def run(start):
        def step(state, _):
            theta, memory = state
            slope = jax.grad(lambda theta: jnp.mean((image(theta) - target) ** 2))(theta)
            update, memory = optimizer.update(slope, memory)
            return (optax.apply_updates(theta, update), memory), None

        return jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[0][0]

    return run(start)


@pytest.mark.parametrize("pixels", [5.0, 14.0])
def test_a_sphere_finds_its_place(pixels):
    """Its radius is 10 pixels: displaced by 14 it overlaps the target by less than a fifth."""
    made = trimesh.creation.icosphere(subdivisions=3, radius=0.3)
    unit, faces = jnp.asarray(made.vertices, jnp.float32), jnp.asarray(made.faces, jnp.int32)
    camera = make_camera(66.0, 66.0, 32.0, 32.0, 64, 64)
    image = lambda center: with_background(render(unit + center[None], faces, camera))
    place = jnp.array([-0.1, 0.05, 2.0])
    start = place + jnp.array([pixels * 2.0 / 66.0 * 0.8, pixels * 2.0 / 66.0 * 0.6, 0.1])
    found = descend(image, start, image(place), rate=0.02, steps=150)
    # A tenth of a pixel; the size by as much.
    np.testing.assert_allclose(found[:2], place[:2], atol=0.003)
    assert abs(found[2] - place[2]) < 0.02


@pytest.mark.slow
def test_a_limb_finds_its_place():
    """Two arms, one before the trunk; the hands are off by 5 pixels, more than their width."""
    pose, faces = body("2k")
    camera = camera_of(64, 1.2)
    bend = lambda theta: pose(jnp.zeros(11).at[6].set(theta[0]).at[7].set(theta[1]))
    image = lambda theta: with_background(render(bend(theta), faces, camera))
    place, start = jnp.array([0.1, 0.1]), jnp.array([0.45, 0.6])
    moved = jnp.linalg.norm((bend(start) - bend(place))[:, :2], axis=1) / 2.3 * camera.focal[0]
    assert moved.max() > 5
    found = descend(image, start, image(place), rate=0.03, steps=80)
    assert jnp.abs(found - place).max() < 0.02


def test_depth_and_mask_keep_their_values():
    move, faces, _ = two_ellipsoids(2)
    vertices, camera = move(jnp.zeros(7)), camera_of(40)
    view, fragments = render(vertices, faces, camera), rasterize(vertices, faces, camera)
    np.testing.assert_array_equal(view.depth, fragments.depth)
    np.testing.assert_array_equal(view.coverage, fragments.mask)
