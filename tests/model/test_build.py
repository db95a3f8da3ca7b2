"""A model built from meshes finds the shape space that made them, whatever else differs."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import subspace_angles
from scipy.spatial.transform import Rotation

from jrecon.model.build import build_model, make_meshes, make_skeleton
from jrecon.model.formats import load_model, save_model
from jrecon.model.parametric import Params, pose
from tests.quick import quick_jit

fast_pose = quick_jit(pose)

SPREADS = np.array([0.03, 0.015, 0.007])


def make_space(rng, num_vertices=40, modes=3):
    """Template, faces and orthonormal modes (d, modes) that no rigid motion can imitate."""
    template = rng.normal(size=(num_vertices, 3))
    faces = rng.integers(0, num_vertices, size=(60, 3))
    centred = template - template.mean(0)
    turns = np.stack([np.cross(axis, centred).ravel() for axis in np.eye(3)], -1)
    moves = np.stack([np.tile(axis, num_vertices) for axis in np.eye(3)], -1)
    random = rng.normal(size=(template.size, modes))
    q, _ = np.linalg.qr(np.concatenate([turns, moves, random], axis=1))
    return template, faces, q[:, 6:]


def draw(rng, template, modes, count, noise=0.0):
    scale = SPREADS * np.sqrt(len(template))
    coefficients = rng.normal(size=(count, len(SPREADS))) * scale
    flat = template.ravel() + coefficients @ modes.T
    return (flat + noise * rng.normal(size=flat.shape)).reshape(count, -1, 3)


def move(rng, vertices, keep_first=True):
    rotation = Rotation.random(len(vertices), rng=rng).as_matrix()
    shift = rng.normal(size=(len(vertices), 1, 3))
    if keep_first:
        rotation[0], shift[0] = np.eye(3), 0.0
    return vertices @ rotation.transpose(0, 2, 1) + shift


def flat_basis(model):
    basis = np.asarray(model.shape_basis, np.float64)
    return basis.reshape(-1, basis.shape[-1])


@pytest.mark.parametrize("align", ["none", "rigid"])
def test_recovers_a_known_shape_space(rng, align):
    template, faces, modes = make_space(rng)
    meshes = make_meshes(draw(rng, template, modes, 60), faces)
    model, report = build_model(meshes, align_by=align, components=3)
    # Aligned finite shapes leave the linear space by the square of their amplitude.
    limit = 1e-5 if align == "none" else 0.02
    assert subspace_angles(flat_basis(model), modes).max() < limit
    np.testing.assert_allclose(report.coefficients.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(np.cov(report.coefficients.T), np.eye(3), atol=1e-9)
    np.testing.assert_allclose(report.component_rms_mm[:3], 1e3 * SPREADS, rtol=0.3)


def test_parameters_reproduce_the_meshes(rng):
    template, faces, modes = make_space(rng)
    vertices = draw(rng, template, modes, 12)
    model, report = build_model(make_meshes(vertices, faces), align_by="none", variance=1.0)
    params = Params(jnp.array(report.coefficients), jnp.zeros((12, 1, 3)), jnp.zeros((12, 3)))
    np.testing.assert_allclose(fast_pose(model, params).vertices, vertices, atol=1e-5)


def test_held_out_error_falls_to_the_noise(rng):
    noise = 0.002
    template, faces, modes = make_space(rng)
    meshes = make_meshes(draw(rng, template, modes, 80, noise), faces)
    _, report = build_model(meshes, align_by="none", components=3)
    errors = [report.error_at(k).rms_mm for k in range(4)]
    assert all(a > b for a, b in zip(errors, errors[1:], strict=False))
    assert errors[3] == pytest.approx(1e3 * noise * np.sqrt(3), rel=0.15)
    assert errors[0] == pytest.approx(1e3 * np.sqrt((SPREADS**2).sum()), rel=0.3)
    # More components than there are cannot find more than the noise they were given.
    assert report.held_out[-1].rms_mm > 0.4 * errors[3]


def test_held_out_error_is_that_of_leaving_out_by_hand(rng):
    template, faces, modes = make_space(rng)
    vertices = draw(rng, template, modes, 6, 0.003)
    _, report = build_model(make_meshes(vertices, faces), align_by="none", components=2, folds=6)
    distances = []
    for i in range(6):
        train = np.delete(vertices, i, axis=0).reshape(5, -1)
        centre = train.mean(0)
        axes = np.linalg.svd(train - centre, full_matrices=False)[2][:2]
        residual = vertices[i].ravel() - centre
        residual -= axes.T @ (axes @ residual)
        distances.append(1e3 * np.linalg.norm(residual.reshape(-1, 3), axis=-1))
    row = report.error_at(2)
    expected = (np.mean(distances), np.sqrt(np.mean(np.square(distances))), np.max(distances))
    np.testing.assert_allclose((row.mean_mm, row.rms_mm, row.max_mm), expected, rtol=1e-9)


def test_moved_meshes_give_the_same_model(rng):
    template, faces, modes = make_space(rng)
    vertices = draw(rng, template, modes, 15)
    still, still_report = build_model(make_meshes(vertices, faces), components=3)
    moved, moved_report = build_model(make_meshes(move(rng, vertices), faces), components=3)
    np.testing.assert_allclose(moved.vertices, still.vertices, atol=1e-6)
    np.testing.assert_allclose(moved.shape_basis, still.shape_basis, atol=1e-6)
    np.testing.assert_allclose(moved_report.coefficients, still_report.coefficients, atol=1e-6)
    # The first mesh sets the frame: where it goes, the model goes.
    turn = Rotation.from_rotvec([0.3, -0.7, 0.2]).as_matrix()
    turned, _ = build_model(make_meshes(vertices @ turn.T + 1.0, faces), components=3)
    np.testing.assert_allclose(turned.vertices, still.vertices @ turn.T + 1.0, atol=1e-5)
    basis = np.einsum("ab,vbs->vas", turn, still.shape_basis)
    np.testing.assert_allclose(turned.shape_basis, basis, atol=1e-6)


def test_similarity_removes_size_and_rigid_keeps_it(rng):
    template, faces, modes = make_space(rng)
    vertices = draw(rng, template, modes, 20)
    sizes = rng.uniform(0.7, 1.4, size=(20, 1, 1))
    by_size = make_meshes(move(rng, vertices * sizes), faces)
    _, rigid = build_model(by_size, align_by="rigid")
    _, similar = build_model(by_size, align_by="similarity")
    _, reference = build_model(make_meshes(vertices, faces), align_by="similarity")
    assert abs(np.corrcoef(rigid.coefficients[:, 0], sizes.ravel())[0, 1]) > 0.99
    assert rigid.spread_mm > 3 * similar.spread_mm
    # The common size that stays is the mean size of the meshes.
    np.testing.assert_allclose(similar.spread_mm, reference.spread_mm, rtol=0.1)


def test_positive_coefficients_make_the_object_larger(rng):
    template, faces, _ = make_space(rng)
    sizes = 1 + 0.1 * rng.normal(size=(9, 1, 1))
    for order in (slice(None), slice(None, None, -1)):
        model, report = build_model(make_meshes((template * sizes)[order], faces), components=1)
        assert np.corrcoef(report.coefficients[:, 0], sizes[order].ravel())[0, 1] > 0.999
        assert np.einsum("va,va->", model.vertices, model.shape_basis[..., 0]) > 0


def test_a_rigid_class_turns_about_its_centroid(rng):
    template, faces, modes = make_space(rng)
    model, _ = build_model(make_meshes(5.0 + draw(rng, template, modes, 5), faces), components=2)
    assert model.num_joints == 1 and model.parents == (-1,)
    np.testing.assert_allclose(model.joints[0], np.mean(model.vertices, axis=0), atol=1e-5)
    turned = Params(jnp.ones(2), jnp.array([[0.0, jnp.pi, 0.0]]), jnp.zeros(3))
    posed = fast_pose(model, turned)
    np.testing.assert_allclose(np.mean(posed.vertices, axis=0), model.joints[0], atol=1e-5)


def test_two_meshes_are_enough(rng):
    template, faces, modes = make_space(rng)
    vertices = draw(rng, template, modes, 2)
    model, report = build_model(make_meshes(vertices, faces), align_by="none")
    assert report.num_components == model.num_shape == 1
    assert [row.components for row in report.held_out] == [0]
    gap = 1e3 * np.linalg.norm(vertices[1] - vertices[0], axis=-1)
    assert report.held_out[0].mean_mm == pytest.approx(gap.mean())
    np.testing.assert_allclose(np.abs(report.coefficients), np.sqrt(0.5), rtol=1e-6)
    assert any("2 meshes" in text for text in report.warnings)


def test_meshes_that_do_not_differ(rng):
    template, faces, modes = make_space(rng)
    same = move(rng, np.tile(template, (4, 1, 1)))
    model, report = build_model(make_meshes(same.astype(np.float32), faces))
    assert model.num_shape == report.num_components == 0
    assert any("do not differ" in text for text in report.warnings)
    np.testing.assert_allclose(model.vertices, template, atol=1e-5)
    with pytest.raises(ValueError, match="at most 0"):
        build_model(make_meshes(same, faces), components=1)


def test_moved_copies_are_reported(rng):
    template, faces, modes = make_space(rng)
    vertices = draw(rng, template, modes, 5)
    copied = np.concatenate([vertices, move(rng, vertices[:2], keep_first=False)])
    _, report = build_model(make_meshes(copied.astype(np.float32), faces))
    assert any("2 pairs of meshes" in text for text in report.warnings)


def test_number_of_components(rng):
    template, faces, modes = make_space(rng)
    meshes = make_meshes(draw(rng, template, modes, 30, 1e-4), faces)
    with pytest.raises(ValueError, match="measured were 0, 1, 2"):
        build_model(meshes)[1].error_at(99)
    for variance in (0.5, 0.9, 0.999):
        _, report = build_model(meshes, align_by="none", variance=variance)
        k = report.num_components
        assert report.explained[k - 1] >= variance
        assert k == 1 or report.explained[k - 2] < variance
    with pytest.raises(ValueError, match="got 30, need at most 29: 30 meshes vary"):
        build_model(meshes, align_by="none", components=30)


def test_save_and_load(rng, tmp_path):
    template, faces, modes = make_space(rng)
    meshes = make_meshes(draw(rng, template, modes, 12), faces)
    model, _ = build_model(meshes, name="blob", license="CC0-1.0", provenance="random numbers")
    save_model(tmp_path / "blob.npz", model)
    again = load_model(tmp_path / "blob.npz")
    assert (again.name, again.license, again.provenance) == ("blob", "CC0-1.0", "random numbers")
    assert again.shape_names[0] == "component_01" and again.prior_names == ("all",)
    for key in ("vertices", "faces", "shape_basis", "joints", "joint_basis", "prior_cov"):
        np.testing.assert_array_equal(getattr(again, key), getattr(model, key))


def test_the_result_does_not_depend_on_the_run(rng):
    template, faces, modes = make_space(rng)
    meshes = make_meshes(draw(rng, template, modes, 12), faces)
    (first, first_report), (second, second_report) = (build_model(meshes, seed=3) for _ in "ab")
    np.testing.assert_array_equal(first.shape_basis, second.shape_basis)
    assert first_report.held_out == second_report.held_out
    assert build_model(meshes, seed=4)[1].held_out != first_report.held_out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(align_by="affine"), "got 'affine', need one of rigid, similarity, none"),
        (dict(components=-1), "components: got -1"),
        (dict(variance=98.0), "variance: got 98.0"),
        (dict(folds=1), "folds: got 1"),
    ],
)
def test_arguments_that_make_no_sense(rng, arguments, message):
    template, faces, modes = make_space(rng)
    meshes = make_meshes(draw(rng, template, modes, 5), faces)
    with pytest.raises(ValueError, match=message):
        build_model(meshes, **arguments)


def test_a_skeleton_of_other_meshes(rng):
    template, faces, modes = make_space(rng)
    meshes = make_meshes(draw(rng, template, modes, 5), faces)
    small = make_skeleton(["a"], [-1], np.ones((7, 1)), joint_regressor=np.ones((1, 7)) / 7)
    with pytest.raises(ValueError, match="weights for 7 vertices, the meshes have 40"):
        build_model(meshes, skeleton=small)
    many = make_skeleton(["a"], [-1], np.ones((40, 1)), joint_positions=np.ones((9, 1, 3)))
    with pytest.raises(ValueError, match="joint_positions for 9 meshes, need 5"):
        build_model(meshes, skeleton=many)
