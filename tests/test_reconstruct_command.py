"""`jrecon reconstruct`, `demo` and `describe` around the engine, which is replaced by one that
answers at once: what is chosen, written, named, reported and refused."""

import contextlib
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence

import jrecon.candidates
import jrecon.cli.reconstruct
import jrecon.video
from jrecon.cli import main
from jrecon.fit.report import Agreement
from jrecon.fit.solve import CONVERGED, FitResult
from jrecon.geometry.camera import make_camera
from jrecon.io.params import load_params
from jrecon.judge import judge
from jrecon.learn.regressor import Prediction
from jrecon.model.parametric import Params, pose
from jrecon.reconstructor import Reconstruction
from jrecon.render import render

CAMERA = make_camera(110.0, 110.0, 79.5, 59.5, 160, 120)
STATED = "110,110,79.5,59.5"


def answer(recon, joints_std=0.1, shape=0.5, std=0.03, **agreement):
    """A reconstruction of a person at 2.5 m, upright."""
    model = recon.model
    turn = jnp.zeros((model.num_joints, 3)).at[0, 0].set(jnp.pi)
    middle = jnp.array([0.0, 0.1, 2.5])
    params = Params(jnp.zeros(model.num_shape), turn, middle - model.joints[0])
    posed = pose(model, params)
    figures = {"residual_mm": 8.0, "inlier_share": 0.9, "overlap": 0.85, "visible_share": 0.9}
    size = recon.fitter.size
    fit = FitResult(
        params=params,
        status=jnp.asarray(CONVERGED),
        agreement=Agreement(**{k: jnp.asarray(v) for k, v in (figures | agreement).items()}),
        shape_deviation=jnp.asarray(shape),
        joint_std=jnp.full(model.num_joints, 0.02),
        vertex_std=jnp.full(len(model.vertices), std),
        covariance=0.01 * jnp.eye(size),
        energy=jnp.asarray(1.0),
        start=jnp.asarray(0),
        history=jnp.zeros(3),
    )
    seen = Prediction(params, jnp.full(model.num_joints, joints_std))
    return Reconstruction(params, posed.vertices, posed.joints, seen, fit)


@pytest.fixture
def engine(monkeypatch):
    """Sets what the engine answers, one after the other; the last answer is repeated."""
    answers = [{}]
    asked = []

    def reconstruct(recon, depth, camera, mask):
        asked.append(mask)
        return answer(recon, **answers[min(len(asked), len(answers)) - 1])

    monkeypatch.setattr(jrecon.candidates, "reconstruct", reconstruct)

    def expect(*given):
        answers[:] = given
        return asked

    return expect


@pytest.fixture(scope="module")
def picture():
    """Depth of that person before a wall, in millimetres."""
    from jrecon.reconstructor import load

    recon = load("body")
    found = answer(recon)
    view = render(found.vertices, recon.model.faces, CAMERA)
    depth = np.where(np.asarray(view.mask), np.asarray(view.depth), 4.0)
    return np.rint(1e3 * depth).astype(np.uint16)


@pytest.fixture
def capture(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "d.png")
    return tmp_path / "d.png"


def run(capsys, *arguments, code=0):
    command = [str(one) for one in ("reconstruct", *arguments, "--camera", STATED, "--json")]
    if code:
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == code
    else:
        main(command)
    printed = capsys.readouterr()
    return json.loads(printed.out), printed.err


def test_everything_that_is_asked_for_is_written(capsys, engine, capture, tmp_path):
    engine({})
    out = {name: tmp_path / name for name in ("p.glb", "p.npz", "p.json", "p.png")}
    report, progress = run(
        capsys, capture, "--out", out["p.glb"], "--params", out["p.npz"], "--report", out["p.json"],
        "--preview", out["p.png"], "--debug-dir", tmp_path / "debug",
    )  # fmt: skip
    assert report["verdict"] == "good" and report["why"] == []
    assert report["written"] == [str(out[name]) for name in ("p.glb", "p.npz", "p.png")]
    seconds = report["seconds"]
    assert 0 <= seconds["of_that_compiling"] <= seconds["all"]
    assert 1.5 < report["measures_m"]["stature"] < 1.9
    assert 0 < report["measures_std_m"]["waist"] < 0.2
    assert report["versions"]["jax"] == jax.__version__
    assert report["camera"]["fx"] == 110 and report["camera"]["width"] == 160
    assert "reconstructing" in progress
    full = json.loads(out["p.json"].read_text())
    assert set(full) == {*report, "parameters"}
    motion = load_params(out["p.npz"])
    np.testing.assert_allclose(full["parameters"]["translation"], motion.params.translation)
    with Image.open(out["p.png"]) as drawn:
        assert drawn.size[0] > 5 * 300
    assert [path.name for path in (tmp_path / "debug").iterdir()] == ["d_segmentation.png"]
    assert out["p.glb"].stat().st_size > 1e5


def test_what_disagrees_is_refused_but_kept_on_demand(capsys, engine, capture, tmp_path):
    engine({"inlier_share": 0.2})
    out, drawn = tmp_path / "p.glb", tmp_path / "p.jpg"
    report, said = run(capsys, capture, "--out", out, "--preview", drawn, code=4)
    assert report["verdict"] == "refused" and report["written"] == [str(drawn)]
    assert "no model was written" in report["error"]
    assert "17% agreement" in said and "--keep" in said
    assert drawn.exists() and not out.exists()
    report, _ = run(capsys, capture, "--out", out, "--keep")
    assert report["verdict"] == "refused" and out.exists()


def test_doubtful_results_are_written_and_said_to_be(capsys, engine, capture, tmp_path):
    engine({"visible_share": 0.5})
    report, said = run(capsys, capture, "--out", tmp_path / "p.glb")
    assert report["verdict"] == "doubtful" and report["written"]
    assert "doubtful: 50% of the model shows the object" in said


def test_a_camera_that_is_contradicted_lowers_the_verdict(capsys, engine, capture, tmp_path):
    record = {"fx": 110, "fy": 110, "cx": 79.5, "cy": 59.5, "width": 160, "height": 120}
    (tmp_path / "intrinsics.json").write_text(json.dumps(record))
    command = ["reconstruct", str(capture), "--out", str(tmp_path / "p.glb"), "--overwrite"]
    for figures, word in (({}, "doubtful"), ({"visible_share": 0.5}, "refused")):
        engine(figures)
        with pytest.raises(SystemExit) if word == "refused" else contextlib.nullcontext():
            main([*command, "--camera", "d435", "--json"])
        printed = capsys.readouterr()
        assert json.loads(printed.out)["verdict"] == word
        assert "doubtful camera: d435 has fx = 96" in printed.err and "says 110" in printed.err
    # The file itself, and a sensor that agrees with it, are not doubted.
    engine({})
    main([*command, "--json"])
    assert json.loads(capsys.readouterr().out)["verdict"] == "good"
    (tmp_path / "intrinsics.json").write_text(json.dumps({**record, "fx": 97, "fy": 97}))
    main([*command, "--camera", "d435", "--json"])
    assert json.loads(capsys.readouterr().out)["verdict"] == "good"


def test_a_unit_that_is_doubtful_lowers_the_verdict(capsys, engine, picture, tmp_path):
    """Nothing is nearer than 4 m; a person as high, as the camera sees a narrower angle."""
    engine({})
    Image.fromarray((1.6 * picture).astype(np.uint16)).save(tmp_path / "far.png")
    command = ["reconstruct", str(tmp_path / "far.png"), "--camera", "176,176,79.5,59.5", "--json"]
    main([*command, "--out", str(tmp_path / "p.glb")])
    printed = capsys.readouterr()
    assert json.loads(printed.out)["verdict"] == "doubtful"
    assert "doubtful unit: nothing is nearer" in printed.err
    # Who states it knows.
    main([*command, "--out", str(tmp_path / "q.glb"), "--unit", "mm"])
    assert json.loads(capsys.readouterr().out)["verdict"] == "good"


def test_one_bad_file_of_several_is_said_at_the_end(capsys, engine, capture, tmp_path):
    engine({})
    bad = tmp_path / "bad.png"
    bad.write_text("not a picture")
    with pytest.raises(SystemExit) as stop:
        main([str(x) for x in ("reconstruct", bad, capture, "--camera", STATED,
                               "--out", tmp_path / "p.glb")])  # fmt: skip
    assert stop.value.code == 3 and (tmp_path / "p_d.glb").exists()
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1] == "jrecon: 1 of 2 files could not be read."
    assert "results 1" in printed.out and "results 2" in printed.out and "{" not in printed.out
    with pytest.raises(SystemExit) as stop:
        main(["reconstruct"])
    assert stop.value.code == 3 and "files: got none" in capsys.readouterr().err


def test_the_mask_is_taken_as_it_is(capsys, engine, capture, tmp_path):
    asked = engine({})
    mask = np.zeros((120, 160), np.uint8)
    mask[20:90, 60:100] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    report, _ = run(capsys, capture, "--mask", tmp_path / "mask.png", "--out", tmp_path / "p.glb")
    np.testing.assert_array_equal(asked[0], mask > 0)
    assert report["object"] == f"given by {tmp_path / 'mask.png'}" and len(asked) == 1


def test_all_numbers_its_results_and_many_files_name_theirs(capsys, engine, picture, tmp_path):
    two = np.concatenate([picture, picture], axis=1)
    for name in ("a", "b"):
        Image.fromarray(two).save(tmp_path / f"{name}.png")
    Image.fromarray(np.full_like(two, 3000)).save(tmp_path / "wall.png")
    engine({})
    files = [tmp_path / f"{name}.png" for name in ("a", "b", "wall")]
    command = [*files, "--all", "--out", tmp_path / "p.glb", "--report", tmp_path / "all.json"]
    # Twice as wide, with the same field of view for each pixel.
    main([str(one) for one in
          ("reconstruct", *command, "--camera", "110,110,159.5,59.5", "--json")])  # fmt: skip
    results = json.loads(capsys.readouterr().out)["results"]
    names = ["p_a_1.glb", "p_a_2.glb", "p_b_1.glb", "p_b_2.glb"]
    assert sorted(path.name for path in tmp_path.glob("*.glb")) == names
    assert [one["verdict"] for one in results] == ["good"] * 4 + ["refused"]
    assert "nothing of the size" in results[-1]["why"][0]
    assert len(json.loads((tmp_path / "all.json").read_text())["results"]) == 5


@pytest.mark.parametrize(
    "figures, word",
    (
        ({}, "good"),
        ({"overlap": 0.43}, "doubtful"),
        ({"overlap": 0.3}, "refused"),
        ({"residual_mm": 35.0}, "doubtful"),
        ({"residual_mm": 60.0}, "refused"),
        ({"visible_share": 0.3}, "refused"),
        ({"joints_std": 0.32}, "doubtful"),
        ({"joints_std": 0.4}, "refused"),
        ({"shape": 1.0}, "doubtful"),
        ({"shape": 1.5}, "refused"),
        ({"std": 0.1}, "doubtful"),
        ({"std": 0.25}, "refused"),
        ({"joints_std": 0.32, "visible_share": 0.5}, "doubtful"),
        ({"joints_std": 0.32, "visible_share": 0.5, "residual_mm": 35.0}, "refused"),
    ),
)
def test_verdicts(figures, word):
    from jrecon.reconstructor import load

    verdict = judge(answer(load("body"), **figures))
    assert verdict.word == word and bool(verdict.reasons) == (word != "good")


def test_describe_a_capture(capsys, capture, tmp_path):
    main(["describe", str(capture), "--camera", STATED, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["size"] == "160 x 120" and report["valid"] == 1.0
    assert "mm" in report["median_in_units_that_make_sense"]
    assert 1.4 < report["largest_height_m"] < 1.9
    assert report["would"].startswith("reconstruct what is 1.")
    shares = [float(bar.split()[-1].rstrip("%")) for bar in report["histogram"].values()]
    assert sum(shares) == pytest.approx(100, abs=2)

    main(["describe", str(capture), "--unit", "m"])
    assert "be refused" in capsys.readouterr().out
    main(["describe", str(capture)])
    assert "give --camera" in capsys.readouterr().out
    np.savez(tmp_path / "d.npz", depth=np.asarray(Image.open(capture)) / 1e3)
    main(["describe", str(tmp_path / "d.npz"), "--camera", STATED])
    assert "reconstruct what is" in capsys.readouterr().out


@pytest.fixture
def video(tmp_path, picture, monkeypatch):
    """Five frames, told apart by the distance of the wall; the engine finds the person ever
    further to the side, loses it in the fourth, and is surest of the second."""
    for i in range(5):
        moved = np.where(picture >= 4000, picture + 100 * i, picture).astype(np.uint16)
        Image.fromarray(moved).save(tmp_path / f"frame_{i}.png")
    (tmp_path / "intrinsics.json").write_text(
        json.dumps({"fx": 110, "fy": 110, "cx": 79.5, "cy": 59.5, "width": 160, "height": 120})
    )
    order = []

    def track(recon, state, depth, camera, mask):
        number = round(float(depth.max() - 4.0) / 0.1)
        order.append(number)
        result = answer(recon, overlap=0.9 if number == 1 else 0.8)
        params = dataclasses.replace(
            result.params, translation=result.params.translation + jnp.array([0.1 * number, 0, 0])
        )
        state = dataclasses.replace(state, lost=jnp.asarray(int(number == 3)))
        return state, dataclasses.replace(result, params=params)

    monkeypatch.setattr(jrecon.video, "track", track)
    return tmp_path, order


def test_track_begins_with_the_surest_frame_and_puts_all_in_order(capsys, video):
    folder, order = video
    out = {name: folder / "out" / name for name in ("p.glb", "p.bvh", "p.npz", "p.json", "p.gif")}
    (folder / "out").mkdir()
    main([str(one) for one in (
        "track", folder, "--out", out["p.glb"], "--bvh", out["p.bvh"], "--params", out["p.npz"],
        "--report", out["p.json"], "--preview", out["p.gif"], "--fps", 10, "--json",
    )])  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    assert order[-5:] == [1, 2, 3, 4, 0]
    assert (report["frames"], report["followed"]) == (5, 4)
    motion = load_params(out["p.npz"])
    across = np.asarray(motion.params.translation)[:, 0]
    # The lost frame keeps what the nearest one has.
    np.testing.assert_allclose(across - across[0], [0, 0.1, 0.2, 0.2, 0.4], atol=1e-5)
    assert motion.fps == 10 and "Frames: 5" in out["p.bvh"].read_text()
    with Image.open(out["p.gif"]) as drawn:
        # What does not change is shown for longer.
        frames = [frame.info["duration"] for frame in ImageSequence.Iterator(drawn)]
    assert sum(frames) == 500 and len(frames) > 1
    each = json.loads(out["p.json"].read_text())["each"]
    assert [one["lost"] for one in each] == [False, False, False, True, False]
    assert [one["file"] for one in each] == [f"frame_{i}.png" for i in range(5)]
    assert out["p.glb"].stat().st_size > 1e5
    with pytest.raises(SystemExit) as stop:
        main(["track", str(folder), "--start", "9"])
    assert stop.value.code == 3 and "5 frames" in capsys.readouterr().err
