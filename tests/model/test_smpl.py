"""Import of the SMPL family, against the published forward formula of each model."""

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

from jrecon.model.formats import load_model, save_model
from jrecon.model.parametric import Params, pose
from jrecon.model.smpl import read_smpl_family
from tests.model.family_files import NUM_SHAPE, PARENTS, make_arrays, published_forward
from tests.quick import quick_jit

fast_pose = quick_jit(pose)

FAMILIES = sorted(PARENTS)


def write_npz(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


def assert_forward_equal(model, family, arrays, atol=1e-5):
    rng = np.random.default_rng(5)
    shape = rng.normal(size=model.num_shape)
    angles = 0.4 * rng.normal(size=(model.num_joints, 3))
    translation = rng.normal(size=3)
    want = published_forward(family, arrays, shape, angles, translation)
    params = Params(*(jnp.asarray(value, jnp.float32) for value in (shape, angles, translation)))
    got = fast_pose(model, params).vertices
    np.testing.assert_allclose(got, want, atol=atol)


@pytest.mark.parametrize("family", FAMILIES)
def test_npz_files_give_the_published_vertices(tmp_path, family):
    arrays = make_arrays(family)
    # Official .npz files hold objects besides the arrays; they are left alone.
    write_npz(tmp_path / "m.npz", arrays | {"joint2num": np.array({"pelvis": 0}, dtype=object)})
    model = load_model(tmp_path / "m.npz")
    assert model.num_joints == len(PARENTS[family]) and model.num_shape == NUM_SHAPE[family]
    assert_forward_equal(model, family, arrays)


def legacy_pickle(path, arrays):
    """As the authors published: protocol 2, chumpy objects, a sparse regressor."""
    module = types.ModuleType("chumpy.ch")
    wrapper = type("Ch", (), {"__module__": "chumpy.ch"})
    module.__dict__["Ch"] = wrapper
    content: dict[str, Any] = dict(arrays)
    for key in ("v_template", "shapedirs", "posedirs", "weights"):
        content[key] = wrapper()
        content[key].__dict__.update(x=arrays[key], _dirty_vars=set())
    content["J_regressor"] = sparse.csc_matrix(arrays["J_regressor"])
    content |= dict(
        bs_style="lbs", bs_type="lrotmin", J=arrays["J_regressor"] @ arrays["v_template"]
    )
    sys.modules |= {"chumpy": types.ModuleType("chumpy"), "chumpy.ch": module}
    try:
        path.write_bytes(pickle.dumps(content, protocol=2))
    finally:
        del sys.modules["chumpy"], sys.modules["chumpy.ch"]


@pytest.mark.parametrize("family", ["smpl", "smplh", "mano", "flame", "smal"])
def test_legacy_pickles_give_the_published_vertices(tmp_path, family):
    arrays = make_arrays(family)
    legacy_pickle(tmp_path / "m.pkl", arrays)
    assert_forward_equal(load_model(tmp_path / "m.pkl"), family, arrays)


def test_native_copy_is_the_same_model(tmp_path):
    arrays = make_arrays("star")
    write_npz(tmp_path / "m.npz", arrays)
    save_model(tmp_path / "native.npz", load_model(tmp_path / "m.npz"))
    assert_forward_equal(load_model(tmp_path / "native.npz"), "star", arrays)


@pytest.mark.parametrize(
    "family, joint, index",
    [("smpl", "right_hand", 23), ("smplh", "left_thumb3", 36), ("smplx", "jaw", 22)],
)
def test_joints_have_names(tmp_path, family, joint, index):
    write_npz(tmp_path / "m.npz", make_arrays(family))
    model = load_model(tmp_path / "m.npz")
    assert model.joint_names[index] == joint and "non-commercial" in model.license


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_told_by_their_skeleton_not_their_name(family):
    names = dict(smpl="SMPL", smplh="SMPL+H", smplx="SMPL-X", mano="MANO", flame="FLAME")
    names |= dict(star="STAR", smal="SMAL")
    model = read_smpl_family(make_arrays(family, num_vertices=8), "whatever")
    assert names[family] in model.provenance.split() and model.name == "whatever"


def test_another_skeleton_with_as_many_joints_is_not_given_names():
    arrays = make_arrays("flame", num_vertices=8)
    arrays["kintree_table"] = np.array([[-1, 0, 1, 2, 3], [0, 1, 2, 3, 4]])
    model = read_smpl_family(arrays, "snake")
    assert "SMPL layout" in model.provenance and "unknown" in model.license
    assert model.joint_names[0] == "root" and model.num_shape == 400


@pytest.mark.parametrize("root", [-1, 2**32 - 1, 2**64 - 1, -1.0])
def test_every_spelling_of_no_parent(root):
    arrays = make_arrays("mano", num_vertices=8)
    kind = np.uint64 if root == 2**64 - 1 else type(root)
    table = arrays["kintree_table"].astype(kind)
    table[0, 0] = root
    model = read_smpl_family(arrays | {"kintree_table": table}, "m")
    assert model.parents == tuple(PARENTS["mano"])


def test_joint_numbers_in_the_tree_may_be_any():
    arrays = make_arrays("flame", num_vertices=8)
    table = np.array([[99, 70, 30, 30, 30], [70, 30, 10, 20, 40]])
    model = read_smpl_family(arrays | {"kintree_table": table}, "m")
    assert model.parents == tuple(PARENTS["flame"])


NEIGHBOURS = {
    "MHR": dict(corrective_blendshapes=np.zeros((3, 4, 3))),
    "SKEL": dict(make_arrays("smpl", 8), J_regressor_osim=np.zeros((24, 8))),
    "DMPL": dict(eigvec=np.zeros((8, 3, 300))),
    "SUPR": dict(make_arrays("smpl", 8), J_regressor=np.zeros((72, 25))),
}


@pytest.mark.parametrize("model", NEIGHBOURS)
def test_models_that_cannot_be_read_are_named(model):
    with pytest.raises(ValueError, match=rf"m: .*{model}"):
        read_smpl_family(NEIGHBOURS[model], "m")


def test_expression_follows_shape(tmp_path):
    write_npz(tmp_path / "m.npz", make_arrays("flame", num_vertices=8))
    names = load_model(tmp_path / "m.npz").shape_names
    assert names[299] == "shape_299" and names[300] == "expression_00" and len(names) == 400


@pytest.mark.parametrize("family, first", [("smplh", 22), ("smplx", 25), ("mano", 1)])
def test_mean_hands_become_a_named_pose(tmp_path, family, first):
    arrays = make_arrays(family)
    write_npz(tmp_path / "m.npz", arrays)
    hands = np.asarray(load_model(tmp_path / "m.npz").named_poses["hands_mean"])
    key = "hands_mean" if family == "mano" else "hands_meanl"
    np.testing.assert_allclose(hands[first : first + 15].ravel(), arrays[key].ravel(), atol=1e-6)
    assert (hands[:first] == 0).all()


def bad(family="smpl", **changes):
    arrays = make_arrays(family) | changes
    return {key: value for key, value in arrays.items() if value is not None}


def cycle():
    table = make_arrays("smpl")["kintree_table"].astype(np.int64)
    table[0, 4] = 7
    return table


BAD = {
    "missing key": (dict(weights=None), "also needs weights"),
    "other keys": (dict.fromkeys(make_arrays("smpl")), "found the keys"),
    "cut template": (dict(v_template=np.zeros((30, 3))), "shapedirs: got shape"),
    "flat shapedirs": (dict(shapedirs=np.zeros((40, 30))), "shapedirs: got shape"),
    "foreign posedirs": (dict(posedirs=np.zeros((40, 3, 99))), "got 99 features, need 207"),
    "foreign weights": (dict(weights=np.ones((40, 16))), "weights: got shape"),
    "NaN weights": (dict(weights=np.full((40, 24), np.nan)), "weights: 960 of 960 values are NaN"),
    "weight sums": (dict(weights=np.full((40, 24), 0.1)), "sums to 2.4, need 1"),
    "cycle": (dict(kintree_table=cycle()), "break any cycle"),
    "flat tree": (dict(kintree_table=np.arange(24)), r"need \(2, j\)"),
    "faces": (dict(f=np.array([[0, 1, 40]], np.uint32)), "point outside"),
    "text": (dict(weights=np.array("weights")), "weights: got <U7, need an array of numbers"),
    "a number": (dict(v_template=np.array(3.0)), r"v_template: got shape \(\)"),
    "NaN tree": (dict(kintree_table=np.full((2, 24), np.nan)), "kintree_table: got NaN"),
    "joint twice": (dict(kintree_table=np.zeros((2, 24))), "names a joint twice"),
    "lost parent": (dict(kintree_table=np.arange(48).reshape(2, 24)), "row 0 has the parents"),
    "centimetres": (dict(v_template=100 * make_arrays("smpl")["v_template"]), "need metres"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_explained(tmp_path, case):
    changes, message = BAD[case]
    write_npz(tmp_path / "m.npz", bad(**changes) or {"empty": np.zeros(1)})
    with pytest.raises(ValueError, match=f"m: .*{message}"):
        load_model(tmp_path / "m.npz")


def test_hand_means_of_another_length_are_explained(tmp_path):
    write_npz(tmp_path / "m.npz", bad("mano", hands_mean=np.zeros(6)))
    with pytest.raises(ValueError, match="got 6 numbers, need 45"):
        load_model(tmp_path / "m.npz")
