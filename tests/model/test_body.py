"""The shipped body: what its documentation promises, checked on the file itself."""

import time
from importlib import resources

import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.model import formats, parametric
from jrecon.model.parametric import Params
from tests.quick import quick_jit

fast_pose = quick_jit(parametric.pose)

ASSET = resources.files("jrecon.model") / "assets" / "body.npz"


@pytest.fixture(scope="module")
def body() -> parametric.ParametricModel:
    return formats.load_model("body")


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with resources.as_file(ASSET) as path:
        return formats.read_npz(path)


def place(model, shape=None, pose=None) -> np.ndarray:
    """Vertices (v, 3) of one body."""
    zero = parametric.zeros(model)
    params = Params(
        shape=zero.shape if shape is None else jnp.asarray(shape, jnp.float32),
        pose=zero.pose if pose is None else jnp.asarray(pose, jnp.float32),
        translation=zero.translation,
    )
    return np.asarray(fast_pose(model, params).vertices, np.float64)


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    return float(np.einsum("fi,fi->", np.cross(a, b), c) / 6)


def joint_pose(model, **joints) -> np.ndarray:
    """Axis-angle in degrees by joint; the right side repeats the left."""
    pose = np.zeros((model.num_joints, 3))
    for name, (x, y, z) in joints.items():
        pose[model.joint_names.index(f"left_{name}")] = np.radians([x, y, z])
        pose[model.joint_names.index(f"right_{name}")] = np.radians([x, -y, -z])
    return pose


def test_file_is_small_and_loads_quickly(body):
    with resources.as_file(ASSET) as path:
        assert path.stat().st_size <= 3.5e6
    start = time.process_time()
    formats.load_model("body")
    assert time.process_time() - start < 2.0  # 0.2 s on an idle machine


def test_provenance_and_licence_are_inside(body):
    assert body.license.startswith("CC0")
    for word in ("MakeHuman", "ANSUR II", "build_body.py"):
        assert word in body.provenance


def test_sizes_and_names(body):
    assert [name for name, _ in body.levels] == ["12k", "10k", "7k", "3.5k", "2k"]
    assert all(count != 6890 for _, count in body.levels)  # would be taken for SMPL
    assert body.num_shape == 32 and body.num_joints == 52
    assert body.shape_names[:3] == ("stature", "mass", "feminine")
    assert body.joint_names[:4] == ("pelvis", "left_hip", "right_hip", "spine1")
    assert body.prior_names == ("female", "male", "pooled")
    assert body.weights.shape[1] <= 6


@pytest.mark.parametrize("level", ["12k", "10k", "7k", "3.5k", "2k"])
def test_every_level_is_a_closed_surface_of_genus_zero(body, level):
    faces = np.asarray(body.level_faces[level])
    edges = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    directed = set(map(tuple, edges.tolist()))
    assert len(directed) == len(edges)
    assert all((b, a) in directed for a, b in directed)
    count = dict(body.levels)[level]
    np.testing.assert_array_equal(np.unique(faces), np.arange(count))
    assert count - len(edges) // 2 + len(faces) == 2
    assert volume(np.asarray(body.vertices, np.float64), faces) > 0.05


def test_exactly_mirror_symmetric(body, arrays):
    mirror = arrays["mirror_vertices"].astype(int)
    joints = arrays["mirror_joints"].astype(int)
    flip = np.array([-1.0, 1.0, 1.0])
    np.testing.assert_array_equal(mirror[mirror], np.arange(len(mirror)))
    np.testing.assert_array_equal(np.asarray(body.vertices)[mirror] * flip, body.vertices)
    basis = np.asarray(body.shape_basis)
    np.testing.assert_array_equal(basis[mirror] * flip[:, None], basis)
    for _, count in body.levels:
        np.testing.assert_array_equal(np.sort(mirror[:count]), np.arange(count))
    assert [body.joint_names[i].replace("right", "left") for i in joints] == [
        name.replace("right", "left") for name in body.joint_names
    ]


def test_mirrored_parameters_give_the_mirrored_body(body, arrays, rng):
    pose = 0.4 * rng.normal(size=(52, 3))
    shape = rng.normal(size=32)
    pose[0] = 0
    mirrored = pose[arrays["mirror_joints"].astype(int)] * [1, -1, -1]
    left, right = place(body, shape, pose), place(body, shape, mirrored)
    np.testing.assert_allclose(
        right[arrays["mirror_vertices"].astype(int)] * [-1, 1, 1], left, atol=2e-5
    )


def test_stature_is_the_first_coefficient(body):
    def stature(shape):
        return np.ptp(place(body, shape)[:, 1])

    steps = [stature(np.eye(32)[0] * value) for value in (-2, 0, 2)]
    assert 0.08 < (steps[2] - steps[0]) / 4 < 0.10
    for index in range(1, 32):
        change = stature(np.eye(32)[index]) - steps[1]
        assert abs(change) < 0.01, body.shape_names[index]


def test_mass_and_sex_have_their_sign(body):
    faces = np.asarray(body.faces)
    heavy, light = (place(body, np.eye(32)[1] * sign) for sign in (1, -1))
    assert volume(heavy, faces) > 1.2 * volume(light, faces)
    female, male, _ = np.asarray(body.prior_mean)
    assert female[2] > male[2] and male[0] > female[0]


def test_named_poses_are_within_the_limits_and_do_what_they_say(body):
    low, high = np.asarray(body.pose_limits)
    for name, pose in body.named_poses.items():
        assert (np.asarray(pose) >= low).all() and (np.asarray(pose) <= high).all(), name
    wide = np.ptp(place(body, pose=body.named_poses["t_pose"])[:, 0])
    narrow = np.ptp(place(body, pose=body.named_poses["stand"])[:, 0])
    assert wide > 1.5 and narrow < 0.75


def test_correctives_keep_the_rest_pose_and_the_volume(body):
    assert body.corrective == "rotation" and len(body.corrective_joints) == 8
    np.testing.assert_allclose(place(body), np.asarray(body.vertices), atol=1e-6)
    faces = np.asarray(body.faces)
    rest = volume(place(body), faces)
    sit = joint_pose(body, hip=(-85, 0, -8), knee=(88, 0, 0))
    plain = parametric.make_model(
        body.vertices,
        faces,
        joints=body.joints,
        parents=body.parents,
        weights=body.weights,
        weight_joints=body.weight_joints,
    )
    lost = 1 - volume(place(body, pose=sit), faces) / rest
    lost_plain = 1 - volume(place(plain, pose=sit), faces) / rest
    assert 0 <= lost < 0.75 * lost_plain
