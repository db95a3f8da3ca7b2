"""Silhouette derivatives: against a boundary integral, against differences of area-averaged
images, by how many discontinuities they miss, and by whether they lead anywhere."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trimesh
from scipy.spatial.transform import Rotation

import jrecon
from jrecon.geometry import rotation
from jrecon.geometry.camera import make_camera, resize
from jrecon.render import rasterize, render
from jrecon.render.silhouette import find_pairs, find_rims
from tests.quick import quick_jit
from tests.render.boundary import boundary_integral
from tests.render.programs import HEIGHT, WIDTH, draw, padded, rates, slopes

# Metres: behind everything, so that background differs from a surface by a bounded amount.
FAR = 3.0
# Images rendered finer, to be averaged, have this many times the pixels of `WIDTH` along a side.
FINE = 8


def camera_of(scale=1, focal=1.1):
    """An image of `WIDTH` x `HEIGHT` pixels, or `scale` times as many along each side."""
    width, height, f = scale * WIDTH, scale * HEIGHT, focal * scale * WIDTH
    return make_camera(f, 1.07 * f, 0.49 * width, 0.47 * height, width, height)


def smooth_weights(rng):
    v, u = np.mgrid[:HEIGHT, :WIDTH] / WIDTH
    waves = rng.normal(size=(6, 4)) * 3
    return np.sum([np.sin(a * u + b * v + c) * d for a, b, c, d in waves], axis=0)


def icosphere(subdivisions, radius=0.3):
    made = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return np.asarray(made.vertices), np.asarray(made.faces)


def two_ellipsoids(subdivisions):
    """A tilted one before a larger one: a function of seven numbers that moves, turns and scales
    the one in front, the faces, and where those of the other begin."""
    unit, faces = icosphere(subdivisions)
    behind = unit * [2.0, 2.0, 0.5] + [-0.1, 0.0, 2.6]

    def move(theta):
        turn = Rotation.from_rotvec(np.array([0.1, 0.2, 0.3]) + theta[3:6]).as_matrix()
        front = unit * [1.0, 0.6, 0.8] * (1 + theta[6]) @ turn.T
        return np.concatenate([front + [0.35, 0.1, 1.7] + theta[:3], behind])

    return move, np.concatenate([faces, faces + len(unit)]), len(unit)


def motions(move, theta, step=1e-5):
    """How vertices move with each parameter, for a function in float64."""
    steps = step * np.eye(len(theta))
    return [(move(theta + each) - move(theta - each)) / (2 * step) for each in steps]


JOINTS = "left_shoulder", "right_elbow", "left_hip", "spine2", "right_knee"


def body(level):
    """A person with a forearm before the trunk: a function of eleven numbers that moves it as a
    whole and bends five joints, the faces, and the function's derivatives."""
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

    jacobian = jax.jit(jax.jacfwd(move))
    compiled = jax.jit(move)
    as_floats = lambda theta: jnp.asarray(theta, jnp.float32)
    return (
        lambda theta: np.asarray(compiled(as_floats(theta)), float),
        np.asarray(model.faces),
        lambda theta: np.moveaxis(np.asarray(jacobian(as_floats(theta))), -1, 0),
    )


@pytest.mark.parametrize("subdivisions", [1, 2])
def test_derivative_equals_the_boundary_integral(rng, subdivisions):
    move, faces, _ = two_ellipsoids(subdivisions)
    camera, weights = camera_of(), smooth_weights(rng)
    vertices, velocities = move(np.zeros(7)), motions(move, np.zeros(7))
    got, expected = [], []
    for velocity in velocities:
        depth, coverage, interior = rates(vertices, faces, camera, velocity)
        got.append([np.vdot(weights, depth - interior), np.vdot(weights, coverage)])
        expected.append(boundary_integral(vertices, faces, velocity, camera, weights))
    error = np.linalg.norm(np.subtract(got, expected), axis=0) / np.linalg.norm(expected, axis=0)
    assert (error < 0.03).all(), error


def averaged(vertices, faces, camera):
    """Depth before a background, and coverage, averaged over the area of pixels."""
    fine = FINE * WIDTH // camera.width
    view = draw(vertices, faces, resize(camera, fine * camera.width, fine * camera.height))
    depth = np.where(view.mask, view.depth, FAR).astype(np.float64)
    blocks = camera.height, fine, camera.width, fine
    return tuple(x.reshape(blocks).mean((1, 3)) for x in (depth, np.asarray(view.mask, float)))


def pulled(vertices, faces, camera, target):
    """Gradient with respect to vertices of half the squared difference from a target image."""
    view = draw(vertices, faces, camera)
    off = np.asarray(view.depth + (1 - view.coverage) * FAR) - target
    return slopes(vertices, faces, camera, off, -FAR * off)[0]


PLACES = np.array([[0.0, 0.0], [0.9, 1.5], [0.4, 0.7], [0.6, 0.2]])


def compare_with_differences(move, faces, camera, scales, velocities=None):
    """Cosine and ratio of lengths between gradients and differences of the quadratic loss of
    area-averaged images, in units of `scales`, at several places."""
    gradients, differences = [], []
    velocities = velocities or (lambda theta: motions(move, theta))
    for shift in PLACES:
        place = np.concatenate([shift * np.abs(scales[:2]), np.zeros(len(scales) - 2)])
        target = averaged(move(place + 4 * scales), faces, camera)[0]
        pull = pulled(move(place), faces, camera, target)
        gradients.append([np.vdot(pull, velocity) for velocity in velocities(place)] * scales)

        def exact(theta, target=target):
            return 0.5 * np.sum((averaged(move(theta), faces, camera)[0] - target) ** 2)

        for step in np.diag(scales):
            differences.append((exact(place + step) - exact(place - step)) / 2)
    a, b = np.concatenate(gradients), np.asarray(differences)
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b), np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize("scale", [1, 2], ids=["64", "128"])
@pytest.mark.parametrize("subdivisions", [0, 3])
def test_gradient_equals_differences_of_averaged_images(subdivisions, scale):
    move, faces, _ = two_ellipsoids(subdivisions)
    assert len(faces) in (40, 2560)
    camera = camera_of(scale)
    pixel = 0.4 * 1.7 / (1.1 * camera.width)
    scales = pixel * np.array([1, 1, 3, 3, -3, 3, 3])
    cosine, ratio = compare_with_differences(move, faces, camera, scales)
    assert cosine > 0.99
    assert abs(ratio - 1) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "wall"), [(1, True), (2, False)])
def test_gradient_of_a_body_equals_differences(scale, wall):
    """14,000 faces, also where every silhouette is before another surface."""
    pose, faces, velocities = body("7k")
    move, moves = pose, velocities
    if wall:
        square = np.array([[-3, -3, 2.7], [3, -3, 2.7], [3, 3, 2.7], [-3, 3, 2.7]])
        faces = np.concatenate([faces, np.array([[0, 2, 1], [0, 3, 2]]) + faces.max() + 1])
        move = lambda theta: np.concatenate([pose(theta), square])
        moves = lambda theta: np.pad(velocities(theta), ((0, 0), (0, 4), (0, 0)))
    camera = camera_of(scale, 1.2)
    pixel = 0.4 * 2.3 / (1.2 * camera.width)
    scales = pixel * np.array([1, -1, 5, 4, 4, 4, -4, -4, 4, 4, 4])
    cosine, ratio = compare_with_differences(move, faces, camera, scales, moves)
    assert cosine > 0.97
    assert abs(ratio - 1) < 0.15


@jax.jit
def outlines(vertices, faces, camera):
    """Fragments, and which pairs of pixels along u and along v receive a derivative."""
    fragments = rasterize(vertices, faces, camera)
    pairs = find_pairs(vertices, faces, fragments.face_id, camera)
    rims = find_rims(vertices, faces, pairs, camera)
    return fragments, [pair.split & rim.found for pair, rim in zip(pairs, rims, strict=True)]


@pytest.mark.parametrize("scale", [1, 2], ids=["64", "128"])
def test_nearly_all_discontinuities_get_a_derivative(scale):
    """Where triangles are as small as pixels, too: 10,240 of them."""
    move, faces, of_front = two_ellipsoids(4)
    vertices = np.asarray(move(np.zeros(7)), np.float32)
    fragments, along = outlines(vertices, faces, camera_of(scale))
    # Which of the two ellipsoids, if any.
    seen = np.where(fragments.mask, faces[np.asarray(fragments.face_id), 0] >= of_front, -1)
    found = {"background": [], "surface": []}
    for axis, served in enumerate(map(np.asarray, along)):
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


def test_forward_is_the_transpose_of_reverse(rng):
    """For the vertices, the focal length and the principal point."""
    move, faces, _ = two_ellipsoids(1)
    vertices, camera = move(np.zeros(7)), camera_of()
    pulls = rng.normal(size=(2, HEIGHT, WIDTH))
    reverse = slopes(vertices, faces, camera, *pulls)
    still, none = np.zeros_like(vertices), (0, 0)
    directions = [(v, none, none) for v in motions(move, np.zeros(7))]
    directions += [(still, axis, none) for axis in np.eye(2)]
    directions += [(still, none, axis) for axis in np.eye(2)]
    for direction in directions:
        depth, coverage, _ = rates(vertices, faces, camera, *direction)
        forward = np.vdot(pulls[0], depth) + np.vdot(pulls[1], coverage)
        transposed = sum(np.vdot(a, b) for a, b in zip(reverse, direction, strict=True))
        np.testing.assert_allclose(forward, transposed, rtol=2e-3, atol=2e-3)
        assert abs(forward) > 1e-2


def test_moving_the_camera_is_moving_the_image(rng):
    """A shift of the principal point moves every silhouette by as much."""
    move, faces, _ = two_ellipsoids(2)
    camera, weights = camera_of(), smooth_weights(rng)
    vertices = move(np.zeros(7))
    got = slopes(vertices, faces, camera, 0, weights)[2]
    mask = np.asarray(draw(vertices, faces, camera).mask, float)
    # Summation by parts: the sum of weights * (-d mask / du) is that of mask * d weights / du.
    expected = [np.sum(mask * np.gradient(weights, axis=axis)) for axis in (1, 0)]
    np.testing.assert_allclose(got, expected, rtol=0.03)


@pytest.mark.parametrize("offset", [0.0, 0.37])
@pytest.mark.parametrize("cells", [(1, 1), (7, 9)])
def test_outlines_through_pixel_centres(cells, offset):
    """A rectangle with vertices on pixel centres, exactly and up to rounding."""
    camera = make_camera(32.0 + offset, 32.0, offset, 0.0, WIDTH, HEIGHT)
    u, v = np.meshgrid(np.linspace(4, 11, cells[0] + 1), np.linspace(3, 12, cells[1] + 1))
    flat = (np.stack([u.ravel(), v.ravel()], 1) - [offset, 0.0]) / [32.0 + offset, 32.0]
    vertices = np.pad(flat, ((0, 0), (0, 1)), constant_values=1.0)
    index = np.arange(u.size).reshape(u.shape)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.stack([a, d, c, a, c, b], -1).reshape(-1, 3)
    by_vertex = slopes(vertices, faces, camera, 0, 1)[0]
    slope = (by_vertex * vertices).sum(0)[:2]
    mask = draw(vertices, faces, camera).mask
    # As many lines of pixels as are covered, along which it grows by 7 and by 9 pixels.
    rows, columns = mask.any(1).sum(), mask.any(0).sum()
    np.testing.assert_allclose(slope, [7 * rows, 9 * columns], rtol=1e-4)


def test_edges_through_the_near_plane(rng):
    """A strip of floor, seen at a slant, that reaches behind the camera."""
    strip = np.array([[-0.5, 0.6, -1.0], [0.4, 0.6, -1.0], [0.4, 0.6, 3.0], [-0.5, 0.6, 3.0]])
    strip = strip @ Rotation.from_rotvec([0, 0, 0.3]).as_matrix().T
    faces, camera, weights = np.array([[0, 1, 2], [0, 2, 3]]), camera_of(), smooth_weights(rng)
    got = slopes(strip, faces, camera, 0, weights)[0].sum(0) * 0.02
    area = lambda shift: np.vdot(weights, averaged(strip + shift, faces, camera)[1])
    expected = [(area(step) - area(-step)) / 2 for step in 0.02 * np.eye(3)]
    assert np.linalg.norm(got - expected) < 0.05 * np.linalg.norm(expected)


def test_broken_meshes_have_finite_derivatives():
    move, faces, _ = two_ellipsoids(1)
    vertices = move(np.zeros(7))
    vertices[3], vertices[5], vertices[8:10] = np.nan, np.inf, 0.0
    aside = make_camera(20.0, 20.0, 60.0, 8.0, WIDTH, HEIGHT)
    vertices, faces = padded(vertices, faces)
    for camera in (camera_of(), aside):
        for slope in slopes(vertices, faces, camera, 1, 1):
            assert np.isfinite(slope).all()


def test_batch_equals_loop():
    """A batch, and `vmap`, of an image that needs both parts of the derivative."""
    move, faces, _ = two_ellipsoids(1)
    camera, places = camera_of(), (-0.05, 0.0, 0.05)
    meshes = [move(np.full(7, place)) for place in places]
    pulls = [np.cos(draw(mesh, faces, camera).depth) for mesh in meshes]
    alone = [slopes(mesh, faces, camera, pull) for mesh, pull in zip(meshes, pulls, strict=True)]
    batch = np.stack([padded(mesh, faces)[0] for mesh in meshes])
    faces = padded(meshes[0], faces)[1]
    slope = jax.grad(lambda v: jnp.sum(jnp.sin(render(v, faces, camera).depth)))
    for together in (slope, jax.vmap(slope)):
        for got, expected in zip(quick_jit(together)(batch), alone, strict=True):
            np.testing.assert_allclose(got[: len(meshes[0])], expected[0], atol=1e-4)


def descend(move, faces, start, place, rate, steps, velocities=None):
    """Adam on half the squared difference of depth images, with a rate that falls to nothing."""
    camera = camera_of()
    velocities = velocities or (lambda theta: motions(move, theta))
    view = draw(move(place), faces, camera)
    target = np.asarray(view.depth + (1 - view.coverage) * FAR)
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    update = jax.jit(optimizer.update)
    theta, memory = np.asarray(start, float), optimizer.init(jnp.asarray(start, jnp.float32))
    for _ in range(steps):
        pull = pulled(move(theta), faces, camera, target)
        slope = np.array([np.vdot(pull, v) for v in velocities(theta)], np.float32)
        change, memory = update(slope, memory)
        theta = theta + np.asarray(change)
    return theta


@pytest.mark.parametrize("pixels", [5.0, 14.0])
def test_a_sphere_finds_its_place(pixels):
    """Its radius is 10 pixels: displaced by 14 it overlaps the target by less than a fifth."""
    unit, faces = icosphere(3)
    move = lambda center: unit + center
    place = np.array([-0.1, 0.05, 2.0])
    start = place + [pixels * 2.0 / 70.0 * 0.8, pixels * 2.0 / 75.0 * 0.6, 0.1]
    found = descend(move, faces, start, place, rate=0.02, steps=150)
    # A tenth of a pixel; the size by as much.
    np.testing.assert_allclose(found[:2], place[:2], atol=0.003)
    assert abs(found[2] - place[2]) < 0.02


def test_an_arm_before_a_trunk_finds_its_place():
    """Its end is off by 5 pixels, more than the width of the arm."""
    unit, faces = icosphere(2, radius=1.0)
    trunk = unit * [0.3, 0.5, 0.15] + [0.0, 0.1, 2.3]

    def move(angles):
        turn = Rotation.from_euler("zx", angles).as_matrix()
        arm = unit * [0.05, 0.3, 0.05] + [0.0, 0.3, 0.0]
        return np.concatenate([arm @ turn.T + [0.25, -0.3, 2.0], trunk])

    both = np.concatenate([faces, faces + len(unit)])
    place, start = np.array([0.1, 0.1]), np.array([0.45, -0.3])
    moved = (move(start) - move(place))[:, :2] / 2.0 * np.asarray(camera_of().focal)
    assert np.linalg.norm(moved, axis=1).max() > 5
    found = descend(move, both, start, place, rate=0.03, steps=150)
    assert np.abs(found - place).max() < 0.02


@pytest.mark.slow
def test_a_limb_finds_its_place():
    """Two arms, one before the trunk; the hands are off by 5 pixels, more than their width."""
    pose, faces, velocities = body("2k")
    joints = lambda angles: np.concatenate([np.zeros(6), angles, np.zeros(3)])
    move, moves = lambda a: pose(joints(a)), lambda a: velocities(joints(a))[6:8]
    place, start = np.array([0.1, 0.1]), np.array([0.45, 0.6])
    moved = (move(start) - move(place))[:, :2] / 2.3 * np.asarray(camera_of().focal)
    assert np.linalg.norm(moved, axis=1).max() > 5
    found = descend(move, faces, start, place, rate=0.03, steps=80, velocities=moves)
    assert np.abs(found - place).max() < 0.02


def test_depth_and_mask_keep_their_values():
    move, faces, _ = two_ellipsoids(2)
    mesh, camera = padded(move(np.zeros(7)), faces), camera_of()
    view, fragments = render(*mesh, camera), rasterize(*mesh, camera)
    np.testing.assert_array_equal(view.depth, fragments.depth)
    np.testing.assert_array_equal(view.coverage, fragments.mask)
