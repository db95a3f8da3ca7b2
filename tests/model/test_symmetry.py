"""Mirror images of classes, poses and points."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import KDTree

from jrecon.geometry import rotation
from jrecon.model import symmetry
from jrecon.model.formats import load_model
from jrecon.model.parametric import Params, pose
from tests.model.small_models import random_model, random_params


@pytest.fixture(scope="module")
def body():
    return load_model("body", level="2k")


def test_people_are_symmetric_and_heaps_of_points_are_not(body):
    assert symmetry.is_symmetric(body)
    assert not symmetry.is_symmetric(random_model())


@pytest.mark.parametrize("field", ["vertices", "shape_basis", "joints", "joint_basis"])
def test_what_breaks_a_symmetry(body, field):
    values = np.array(getattr(body, field))
    values[3, 0] += 0.01
    assert not symmetry.is_symmetric(dataclasses.replace(body, **{field: values}))


def test_opposite_joints_are_opposite(body):
    opposite = symmetry.opposite_joints(body)
    names = body.joint_names
    assert names[opposite[names.index("left_knee")]] == "right_knee"
    assert opposite[0] == 0
    assert [opposite[i] for i in opposite] == list(range(len(names)))


def test_a_mirrored_pose_is_the_mirror_image(body):
    """Of the surface, and as matrices as well as in axis angles."""
    shape, turns, place = map(jnp.asarray, random_params(body))
    shape, turns = 0.3 * shape, 0.3 * turns
    opposite = symmetry.opposite_joints(body)
    other = symmetry.mirrored_pose(opposite, turns)
    one = pose(body, Params(shape, turns, place))
    two = pose(body, Params(shape, other, symmetry.mirrored_points(place)))
    flipped = symmetry.mirrored_points(one.vertices)
    _, twins = KDTree(body.vertices).query(np.asarray(body.vertices) * [-1, 1, 1])
    np.testing.assert_allclose(flipped[twins], two.vertices, atol=2e-5)
    np.testing.assert_allclose(
        symmetry.mirrored_rotations(opposite, rotation.exp(turns)),
        rotation.exp(other),
        atol=1e-6,
    )
    np.testing.assert_array_equal(symmetry.mirrored_pose(opposite, other), turns)
