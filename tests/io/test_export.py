"""Exported files against the posing formula, through readers that share no code with the writer."""

import dataclasses
import os
import pathlib
import shutil
import struct
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
import trimesh

from jrecon.io import export
from jrecon.io.export import export_glb, export_obj, export_ply
from jrecon.io.rig import posed_vertices
from jrecon.model.gltf import read_gltf
from jrecon.model.parametric import ParametricModel, Params, make_model
from tests.gltf_reference import Reference
from tests.model.small_models import random_model, random_params, reference_pose

ROOT = pathlib.Path(__file__).resolve().parents[2]
UPRIGHT = np.array([1.0, -1.0, -1.0])
FRAMES = 5


def still(model, seed=1):
    return Params(*(jax.numpy.asarray(one) for one in random_params(model, seed)))


def motion(model, seed=1, frames=FRAMES):
    """One shape, a pose that turns far in both directions, a path."""
    shape, turns, path = random_params(model, seed, batch=(frames,))
    return Params(*map(jax.numpy.asarray, (shape[0], np.cumsum(turns, axis=0), path)))


def file_vertices(path, time=None):
    return Reference(path.read_bytes()).vertices(time)


@pytest.mark.parametrize("corrective", ("none", "rotation", "quaternion"))
@pytest.mark.parametrize("frame", ("model", "camera"))
def test_file_shows_the_pose(tmp_path, corrective, frame):
    model = random_model(corrective=corrective)
    params = still(model)
    path = tmp_path / "still.glb"
    report = export_glb(path, model, params, frame=frame)
    want, _ = reference_pose(model, params.shape, params.pose, params.translation)
    if frame == "camera":
        want = want * UPRIGHT
    np.testing.assert_allclose(file_vertices(path), want, atol=1e-5)
    assert (report.frames, report.targets) == (1, 0)
    assert report.lost_weight < 1e-6 and report.error_mm < 0.01


@pytest.mark.parametrize("corrective", ("none", "rotation"))
def test_animation_shows_every_frame(tmp_path, corrective):
    model = random_model(corrective=corrective)
    params = motion(model)
    path = tmp_path / "motion.glb"
    report = export_glb(path, model, params, frame="camera", fps=25.0)
    for i in range(FRAMES):
        want, _ = reference_pose(model, params.shape, params.pose[i], params.translation[i])
        got = file_vertices(path, time=i / 25.0)
        np.testing.assert_allclose(got, want * UPRIGHT, atol=2e-5)
    np.testing.assert_allclose(file_vertices(path), file_vertices(path, time=0.0), atol=1e-6)
    assert report.frames == FRAMES and report.error_mm < 0.02
    # Centred features of 5 frames span 4 dimensions.
    assert report.targets == (0 if corrective == "none" else FRAMES - 1)


def test_error_of_baked_correctives_is_what_the_file_shows(tmp_path):
    model = random_model()
    params = motion(model)
    errors = []
    for count in (0, 2, FRAMES - 1):
        path = tmp_path / f"{count}.glb"
        report = export_glb(path, model, params, corrective_targets=count, fps=1.0)
        want = np.asarray(posed_vertices(model, params))
        got = np.stack([file_vertices(path, time=float(i)) for i in range(FRAMES)])
        shown = np.linalg.norm(got - want, axis=-1)
        assert report.targets == count
        assert report.error_mm == pytest.approx(1e3 * shown.max(), rel=1e-3, abs=0.02)
        errors.append(np.sqrt((shown**2).mean()))
        assert report.rms_error_mm == pytest.approx(1e3 * errors[-1], rel=1e-2, abs=0.01)
    assert all(more < less for less, more in zip(errors, errors[1:], strict=False))
    assert errors[0] > 0.05 and errors[-1] < 1e-5


@pytest.mark.parametrize("corrective", ("none", "rotation"))
def test_round_trip_through_the_importer(tmp_path, corrective):
    model = random_model(corrective=corrective)
    params = still(model)
    path = tmp_path / "still.glb"
    export_glb(path, model, params)
    back = read_gltf(path)
    assert (back.parents, back.joint_names) == (model.parents, model.joint_names)
    np.testing.assert_array_equal(back.faces, model.faces)
    shown = Params(jax.numpy.zeros(0), back.named_poses["default"], params.translation)
    np.testing.assert_allclose(
        posed_vertices(back, shown), posed_vertices(model, params), atol=1e-5
    )
    if corrective == "none":
        other = still(model, seed=7)
        want = posed_vertices(model, dataclasses.replace(other, shape=params.shape))
        moved = dataclasses.replace(other, shape=jax.numpy.zeros(0))
        np.testing.assert_allclose(posed_vertices(back, moved), want, atol=1e-5)


def test_camera_frame_only_turns_the_root(tmp_path):
    """A person upright before the camera: the importer finds the same rest mesh either way."""
    model = random_model(corrective="none")
    params = still(model)
    upright = jax.numpy.array([np.pi - 0.2, 0.1, 0.1])
    params = dataclasses.replace(params, pose=params.pose.at[0].set(upright))
    export_glb(tmp_path / "a.glb", model, params)
    export_glb(tmp_path / "b.glb", model, params, frame="camera")
    a, b = read_gltf(tmp_path / "a.glb"), read_gltf(tmp_path / "b.glb")
    np.testing.assert_array_equal(a.vertices, b.vertices)
    np.testing.assert_allclose(a.named_poses["default"][1:], b.named_poses["default"][1:])
    assert np.linalg.norm(b.named_poses["default"][0]) < 0.3


def test_trimesh_loads_the_rest_mesh(tmp_path):
    model = random_model(corrective="none")
    params = still(model)
    export_glb(tmp_path / "x.glb", model, params)
    mesh = trimesh.load_mesh(tmp_path / "x.glb", process=False)
    rest = np.asarray(model.vertices) + np.asarray(model.shape_basis) @ np.asarray(params.shape)
    np.testing.assert_allclose(mesh.vertices, rest, atol=1e-6)
    np.testing.assert_array_equal(mesh.faces, model.faces)


@pytest.mark.parametrize(("write", "suffix"), ((export_ply, "ply"), (export_obj, "obj")))
@pytest.mark.parametrize("frame", ("model", "camera"))
def test_surface_files_hold_the_posed_mesh(tmp_path, write, suffix, frame):
    model = random_model()
    params = still(model)
    path = tmp_path / f"x.{suffix}"
    write(path, model, params, frame=frame)
    mesh = trimesh.load_mesh(path, process=False, maintain_order=True)
    want = np.asarray(posed_vertices(model, params)) * (UPRIGHT if frame == "camera" else 1.0)
    np.testing.assert_allclose(mesh.vertices[mesh.faces], want[model.faces], atol=1e-6)
    with pytest.raises(ValueError, match="5 frames"):
        write(tmp_path / f"y.{suffix}", model, motion(model), frame=frame)
    with pytest.raises(FileExistsError, match="overwrite"):
        write(path, model, params)


def many_influences(rng):
    """A chain whose vertices follow all of its six joints."""
    return make_model(
        rng.normal(size=(12, 3)),
        rng.integers(0, 12, size=(8, 3)),
        joints=rng.normal(size=(6, 3)),
        parents=range(-1, 5),
        weights=rng.dirichlet(np.ones(6), size=12),
    )


def test_four_strongest_weights_stay(tmp_path, rng):
    model = many_influences(rng)
    params = still(model)
    report = export_glb(tmp_path / "x.glb", model, params)
    dense = np.sort(np.asarray(model.weights), axis=1)
    assert report.lost_weight == pytest.approx(dense[:, :2].sum(1).max(), abs=1e-6)
    distance = np.linalg.norm(
        file_vertices(tmp_path / "x.glb") - posed_vertices(model, params), axis=1
    )
    assert report.error_mm == pytest.approx(1e3 * distance.max(), rel=1e-3)
    back = read_gltf(tmp_path / "x.glb")
    assert back.weights.shape == (12, 4)
    np.testing.assert_allclose(np.asarray(back.weights).sum(1), 1.0, atol=1e-6)


def grid_model(side: int, joints: int) -> ParametricModel:
    """A flat sheet that follows the last of many joints below the root."""
    x, z = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    vertices = np.stack([x, 0 * x, z], axis=-1).reshape(-1, 3) * 0.01
    corner = (side * x + z)[:-1, :-1].reshape(-1)
    faces = np.stack([corner, corner + 1, corner + side + 1], axis=1)
    return make_model(
        vertices,
        faces,
        joints=np.zeros((joints, 3)),
        parents=(-1, *[0] * (joints - 1)),
        weights=np.ones((len(vertices), 1)),
        weight_joints=np.full((len(vertices), 1), joints - 1),
    )


@pytest.mark.parametrize(
    ("side", "joints", "index_type", "joint_type"),
    ((3, 256, 5123, 5121), (3, 257, 5123, 5123), (257, 2, 5125, 5121)),
)
def test_integer_types_follow_the_counts(tmp_path, side, joints, index_type, joint_type):
    model = grid_model(side, joints)
    params = still(model)
    export_glb(tmp_path / "x.glb", model, params)
    tree = Reference((tmp_path / "x.glb").read_bytes()).tree
    primitive = tree["meshes"][0]["primitives"][0]
    types = [
        tree["accessors"][i]["componentType"]
        for i in (primitive["indices"], primitive["attributes"]["JOINTS_0"])
    ]
    assert types == [index_type, joint_type]
    back = read_gltf(tmp_path / "x.glb")
    np.testing.assert_array_equal(back.faces, model.faces)
    np.testing.assert_array_equal(back.weight_joints[:, 0], model.weight_joints[:, 0])


def test_unused_entries_and_signs(tmp_path):
    model = random_model(corrective="none")
    export_glb(tmp_path / "x.glb", model, motion(model))
    reference = Reference((tmp_path / "x.glb").read_bytes())
    attributes = reference.tree["meshes"][0]["primitives"][0]["attributes"]
    weights = reference.values(attributes["WEIGHTS_0"])
    assert (reference.values(attributes["JOINTS_0"])[weights == 0] == 0).all()
    lengths = np.linalg.norm(reference.values(attributes["NORMAL"]), axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-6)
    for channel in reference.tree["animations"][0]["channels"]:
        if channel["target"]["path"] == "rotation":
            sampler = reference.tree["animations"][0]["samplers"][channel["sampler"]]
            keys = reference.values(sampler["output"])
            assert (np.sum(keys[1:] * keys[:-1], axis=1) >= 0).all()


def test_motion_of_one_frame_is_a_pose_and_still_joints_have_no_channel(tmp_path):
    model = random_model(corrective="none")
    params = still(model)
    one = jax.tree.map(lambda leaf: leaf[None], params)
    assert export_glb(tmp_path / "a.glb", model, one).frames == 1
    assert "animations" not in Reference((tmp_path / "a.glb").read_bytes()).tree
    path = np.arange(3.0 * FRAMES).reshape(FRAMES, 3)
    export_glb(tmp_path / "b.glb", model, dataclasses.replace(params, translation=path))
    animation = Reference((tmp_path / "b.glb").read_bytes()).tree["animations"][0]
    assert [channel["target"]["path"] for channel in animation["channels"]] == [
        "rotation",
        "translation",
    ]


def test_rigid_class(tmp_path):
    box = trimesh.creation.box()
    model = make_model(box.vertices, box.faces, license="CC0-1.0")
    params = still(model)
    export_glb(tmp_path / "x.glb", model, params)
    np.testing.assert_allclose(
        file_vertices(tmp_path / "x.glb"), posed_vertices(model, params), atol=1e-6
    )
    assert read_gltf(tmp_path / "x.glb").license == "CC0-1.0"


def test_nothing_is_overwritten_or_half_written(tmp_path, monkeypatch):
    model = random_model()
    path = tmp_path / "x.glb"
    export_glb(path, model, still(model))
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="--overwrite"):
        export_glb(path, model, still(model, seed=2))
    replace = os.replace

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        export_glb(path, model, still(model, seed=2), overwrite=True)
    monkeypatch.setattr(export.os, "replace", replace)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    export_glb(path, model, still(model, seed=2), overwrite=True)
    assert path.read_bytes() != before and list(tmp_path.iterdir()) == [path]


def test_refusals_say_what_to_do(tmp_path):
    model = random_model()
    good, path = still(model), tmp_path / "x.glb"
    nan = jax.numpy.full(3, np.nan)
    changing = motion(model)
    changing = dataclasses.replace(
        changing, shape=jax.numpy.arange(FRAMES * 4.0).reshape(FRAMES, 4)
    )
    cases = (
        (dataclasses.replace(good, translation=nan), "3 values are NaN"),
        (dataclasses.replace(good, pose=good.pose[1:]), r"params.pose: got shape \(6, 3\)"),
        (dataclasses.replace(good, pose=good.pose[None, None]), "one file for each instance"),
        (jax.tree.map(lambda leaf: leaf[None][:0], good), "no frames"),
        (changing, r"params.shape.mean\(0\)"),
    )
    for params, message in cases:
        with pytest.raises(ValueError, match=message):
            export_glb(path, model, params)
    frame: Any = "world"
    with pytest.raises(ValueError, match="'model' or 'camera'"):
        export_glb(path, model, good, frame=frame)
    with pytest.raises(ValueError, match="fps"):
        export_glb(path, model, good, fps=0.0)
    with pytest.raises(ValueError, match="corrective_targets"):
        export_glb(path, model, good, corrective_targets=-1)
    with pytest.raises(ValueError, match="need '.glb'"):
        export_glb(tmp_path / "x.gltf", model, good)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        export_glb(tmp_path / "no" / "x.glb", model, good)
    (tmp_path / "folder.glb").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        export_glb(tmp_path / "folder.glb", model, good, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder.glb"]


def test_khronos_validator_finds_nothing(tmp_path):
    script = ROOT / "experiments" / "validate_glb.py"
    if not os.environ.get("GLTF_VALIDATOR") or not script.exists() or not shutil.which("node"):
        pytest.skip("needs Node.js, and GLTF_VALIDATOR: a node_modules folder with gltf-validator")
    model = random_model()
    export_glb(tmp_path / "still.glb", model, still(model))
    export_glb(tmp_path / "motion.glb", model, motion(model), frame="camera")
    export_glb(tmp_path / "joints.glb", grid_model(3, 257), still(grid_model(3, 257)))
    files = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run([sys.executable, script, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" 0 errors, 0 warnings") == 3


def test_container_lengths(tmp_path):
    model = random_model()
    export_glb(tmp_path / "x.glb", model, still(model))
    data = (tmp_path / "x.glb").read_bytes()
    assert struct.unpack_from("<4sII", data) == (b"glTF", 2, len(data)) and len(data) % 4 == 0
