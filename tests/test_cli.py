"""The command line: what it writes, what it prints, how it fails."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import trimesh
from PIL import Image

from jrecon.cli import main, people, synth
from jrecon.cli.models import make_params
from jrecon.model.formats import load_model, save_model
from jrecon.model.parametric import pose, zeros
from jrecon.synth.reading import open_database
from jrecon.synth.settings import config_from, settings
from tests.model.small_models import random_model
from tests.synth import small_source


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "model.npz"
    save_model(path, random_model())
    return path


def run_json(capsys, *arguments):
    main([str(argument) for argument in arguments] + ["--json"])
    return json.loads(capsys.readouterr().out)


def run_failing(capsys, *arguments):
    """The one line of a command that refuses its input."""
    with pytest.raises(SystemExit) as failure:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert failure.value.code == 3
    assert captured.out == ""
    assert captured.err.startswith("jrecon: ") and "Traceback" not in captured.err
    return captured.err


def test_describe_tells_what_the_model_holds(capsys, model_file):
    report = run_json(capsys, "describe", model_file)
    model = load_model(model_file)
    assert report["vertices"] == len(model.vertices)
    assert report["shape_names"] == list(model.shape_names)
    assert list(report["parents"]) == list(model.joint_names)
    assert report["levels"] == dict(model.levels)


def test_describe_for_people_holds_the_same(capsys, model_file):
    main(["describe", str(model_file)])
    text = capsys.readouterr().out
    for joint in load_model(model_file).joint_names:
        assert joint in text


def test_convert_writes_an_equal_model_once(capsys, model_file, tmp_path):
    target = tmp_path / "copy.npz"
    assert run_json(capsys, "convert", model_file, target)["written"] == [str(target)]
    before, after = load_model(model_file), load_model(target)
    np.testing.assert_array_equal(before.shape_basis, after.shape_basis)
    assert before.joint_names == after.joint_names

    content = target.read_bytes()
    assert "--overwrite" in run_failing(capsys, "convert", model_file, target)
    assert target.read_bytes() == content
    run_json(capsys, "convert", model_file, target, "--overwrite")


@pytest.mark.parametrize("suffix", ("ply", "obj", "glb"))
def test_export_writes_the_posed_surface(capsys, model_file, tmp_path, suffix):
    out = tmp_path / f"posed.{suffix}"
    model = load_model(model_file)
    name = model.shape_names[1]
    arguments = ["--shape", name, "1.5", "--pose", "bent", "--level", "coarse"]
    report = run_json(capsys, "export", model_file, "--out", out, *arguments)
    assert report["vertices"] == dict(model.levels)["coarse"]
    mesh = trimesh.load_mesh(out, process=False)
    assert len(mesh.vertices) > 0
    if suffix == "ply":
        model = load_model(model_file, level="coarse")
        params = make_params(model, shape={name: 1.5}, pose="bent")
        np.testing.assert_allclose(mesh.vertices, pose(model, params).vertices, atol=1e-6)


def test_export_refuses_what_the_model_lacks(capsys, model_file, tmp_path):
    out = tmp_path / "x.glb"
    error = run_failing(capsys, "export", model_file, "--out", out, "--shape", "girth", "1")
    assert "girth" in error and "shape_00" in error
    error = run_failing(capsys, "export", model_file, "--out", out, "--pose", "flying")
    assert "flying" in error and "bent" in error
    error = run_failing(capsys, "export", model_file, "--out", tmp_path / "x.fbx")
    assert ".fbx" in error and ".glb" in error
    error = run_failing(capsys, "export", model_file, "--out", tmp_path / "no" / "x.glb")
    assert "no such folder" in error
    assert not out.exists()


def test_build_model_from_meshes(capsys, rng, tmp_path):
    ball = trimesh.creation.icosphere(subdivisions=1, radius=0.2)
    files = [tmp_path / f"{i}.ply" for i in range(8)]
    for file in files:
        stretched = np.asarray(ball.vertices) * rng.uniform(0.8, 1.2, size=3)
        trimesh.Trimesh(stretched, ball.faces, process=False).export(file)
    out = tmp_path / "class.npz"
    report = run_json(capsys, "build-model", *files, "--out", out, "--name", "ellipsoid")
    # Three half axes vary, so three components describe any ellipsoid.
    assert report["components"] == 3
    assert report["held_out_rms_mm"]["3"] < 1e-3
    assert load_model(out).name == "ellipsoid"
    assert "--overwrite" in run_failing(capsys, "build-model", *files, "--out", out)
    assert "at least 2" in run_failing(capsys, "build-model", files[0], "--out", tmp_path / "b.npz")


def test_bad_models_are_refused_in_one_line(capsys, model_file, tmp_path):
    assert "no such file" in run_failing(capsys, "describe", tmp_path / "missing.npz")
    model_file.write_bytes(model_file.read_bytes()[:200])
    assert "damaged" in run_failing(capsys, "describe", model_file)


def test_debug_shows_where_it_failed(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        main(["describe", str(tmp_path / "missing.npz"), "--debug"])


def test_usage_errors_name_the_flag(capsys):
    with pytest.raises(SystemExit) as failure:
        main(["export", "body", "--ot", "x.glb"])
    assert failure.value.code == 2
    assert "--out" in capsys.readouterr().err


def test_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "jrecon", "--help"], capture_output=True, text=True, check=True
    )
    for command in (
        "reconstruct",
        "describe",
        "demo",
        "convert",
        "export",
        "build-model",
        "doctor",
    ):
        assert command in done.stdout


def test_a_closed_pipe_is_no_failure_of_ours(model_file):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "jrecon", "describe", str(model_file)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_people_are_drawn_and_their_rigs_written(capsys, tmp_path):
    out = tmp_path / "new" / "people"
    report = run_json(capsys, "people", "--out", out, "--count", "1")
    with Image.open(report["look_at"]) as picture:
        colours = np.unique(np.asarray(picture).reshape(-1, 3), axis=0)
    assert len(colours) > 100
    assert [os.path.exists(file) for file in report["open_in_a_3d_viewer"]] == [True]
    assert "--overwrite" in run_failing(capsys, "people", "--out", out, "--count", "1")


@pytest.mark.parametrize("name", people.POSES)
def test_limbs_of_people_point_where_they_should(name):
    model = load_model("body", level="2k")
    angles = people.point_limbs(model, people.POSES[name])
    joints = np.asarray(pose(model, dataclasses.replace(zeros(model), pose=angles)).joints)
    for joint, direction in people.POSES[name].items():
        side, limb = joint.split("_")
        end = f"{side}_{people.LIMB_END[limb]}"
        bone = joints[model.joint_names.index(end)] - joints[model.joint_names.index(joint)]
        cosine = bone @ direction / np.linalg.norm(bone) / np.linalg.norm(direction)
        assert cosine == pytest.approx(1, abs=1e-6)


def test_doctor_finds_the_engine_sound(capsys):
    report = run_json(capsys, "doctor")
    assert report["self_test"]["result"] == "ok"
    assert report["packages"]["jax"] != "not installed"
    assert report["devices"]["devices"]


@pytest.fixture
def synth_arguments(tmp_path, model_file, monkeypatch):
    """Settings whose compiled code is that of tests/synth/test_generate.py."""
    monkeypatch.setattr(synth, "_BATCH", small_source.COUNT)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(settings(small_source.CONFIG)))
    return ["--model", model_file, "--level", "full", "--config", config, "--shard-size", "16"]


def tree_bytes(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_synth_makes_extends_and_verifies_a_database(capsys, synth_arguments, tmp_path):
    out, picture = tmp_path / "db", tmp_path / "sheet.png"
    make = ["synth", "--out", out, *synth_arguments]
    report = run_json(capsys, *make, "--count", "20", "--preview", picture)
    assert (report["examples_made"], report["examples"], report["shards"]) == (20, 20, 2)
    with Image.open(picture) as drawn:
        assert len(np.unique(np.asarray(drawn).reshape(-1, 3), axis=0)) > 50
    db = open_database(out)
    assert len(db) == 20 and db[0].depth.shape == (20, 24)
    assert run_json(capsys, *make, "--count", "20")["examples_made"] == 0
    assert run_json(capsys, *make, "--count", "40")["examples"] == 40
    assert run_json(capsys, "synth", "--verify", out)["result"] == "ok"

    for part in ("1/2", "0/2"):
        split = ["synth", "--out", tmp_path / "split", *synth_arguments, "--count", "40"]
        run_json(capsys, *split, "--shard", part)
    assert tree_bytes(tmp_path / "split") == tree_bytes(out)

    before = tree_bytes(out)
    assert "seed" in run_failing(capsys, *make, "--count", "40", "--seed", "1")
    assert "depth_unit_mm" in run_failing(capsys, *make, "--count", "40", "--unit-mm", "0.1")
    assert "--overwrite" in run_failing(capsys, *make, "--count", "40", "--preview", picture)
    assert tree_bytes(out) == before
    shard = next(path for path in (out / "depth" / "c" / "0").rglob("*") if path.is_file())
    damaged = bytearray(before[str(shard.relative_to(out))])
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    assert "shard 0" in run_failing(capsys, "synth", "--verify", out)


def test_synth_goes_on_after_control_c(capsys, synth_arguments, tmp_path, monkeypatch):
    out = tmp_path / "db"
    make = ["synth", "--out", out, *synth_arguments, "--count", "40"]
    whole = synth._batch_maker

    def interrupted(*arguments):
        batch_of = whole(*arguments)

        def until(start, count):
            if start >= 24:
                raise KeyboardInterrupt
            return batch_of(start, count)

        return until

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(synth, "_batch_maker", interrupted)
        main([str(argument) for argument in make])
    assert stop.value.code == 130
    assert "16 of 40 examples" in capsys.readouterr().err
    assert run_json(capsys, *make)["examples_made"] == 24


def test_synth_writes_and_reads_settings(capsys, tmp_path):
    file = tmp_path / "config.json"
    arguments = ["synth", "--write-config", file, "--size", "32", "--sensors", "stereo"]
    run_json(capsys, *arguments)
    written = json.loads(file.read_text())
    assert settings(config_from(written)) == written
    assert (written["height"], written["width"], written["sensors"]) == (32, 32, ["stereo"])
    assert "--overwrite" in run_failing(capsys, *arguments)


@pytest.mark.parametrize(
    "text, message",
    (
        ('{"hight": 3}', "did you mean 'height'"),
        ('{"view": {"distance_m": [1]}}', "view.distance_m: got [1], need a list of 2"),
        ('{"crop": 1}', "true or false"),
        ('{"height": 3.5}', "whole number"),
        ('{"shape_ranges": [["stature", "tall", 2]]}', "finite number"),
        ("[]", "need names and values"),
        ("{", "config.json"),
    ),
)
def test_synth_names_the_setting_that_is_wrong(capsys, tmp_path, text, message):
    file = tmp_path / "config.json"
    file.write_text(text)
    assert message in run_failing(capsys, "synth", "--out", tmp_path / "db", "--config", file)


def test_synth_refuses_what_it_cannot_do(capsys, tmp_path):
    assert "need --out" in run_failing(capsys, "synth")
    out = ["synth", "--out", tmp_path / "db"]
    assert "need I/N" in run_failing(capsys, *out, "--shard", "4/4")
    assert "at least 1" in run_failing(capsys, *out, "--count", "0")
    assert "no manifest.json" in run_failing(capsys, "synth", "--verify", tmp_path)
    assert not (tmp_path / "db").exists()
