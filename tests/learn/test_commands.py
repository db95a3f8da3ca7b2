"""`jrecon train` and `jrecon evaluate`: what they write, what they refuse."""

import json

import numpy as np
import pytest
from PIL import Image

from jrecon.cli import main
from jrecon.cli.evaluate import Evaluate
from jrecon.cli.train import describe, read_config
from jrecon.learn.run import Progress
from jrecon.learn.weights import load_regressor
from jrecon.model.formats import save_model
from jrecon.synth.settings import settings
from tests.learn.small_class import EASY, rod

SMALL = ("--image", 16, "--channels", 8, 16, "--blocks", 1, 1, "--hidden", 32)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("class") / "rod.npz"
    save_model(path, rod())
    return path


@pytest.fixture
def train(model_file, database, tmp_path, capsys):
    """Runs the command on a stored database; the report and what was printed beside it."""

    def train(*more, steps=6):
        arguments = ["train", "--model", model_file, "--data", database.path, "--batch", 8,
                     "--steps", steps, "--log-every", 2, "--devices", 1,
                     "--out", tmp_path / "rod.recon", *more, "--json"]  # fmt: skip
        main([str(each) for each in arguments])
        printed = capsys.readouterr()
        return json.loads(printed.out), printed.err

    return train


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as failure:
        main([str(each) for each in arguments])
    captured = capsys.readouterr()
    assert failure.value.code == 3 and captured.out == ""
    assert captured.err.startswith("jrecon: ") and "Traceback" not in captured.err
    return captured.err


def test_train_and_evaluate_a_class_from_a_file(train, database, tmp_path, capsys):
    out = tmp_path / "rod.recon"
    report, _ = train(*SMALL, "--stop-after-minutes", 0)
    assert report["written"] == [] and "run the same command again" in report["next"]
    assert report["steps"] == 2 and not out.exists()

    report, _ = train(*SMALL)
    assert report["written"] == [str(out)] and report["examples"] == 48
    function, card = load_regressor(out)
    assert function.network.channels == (8, 16)
    assert card["class"] == "rod" and card["data"]["kind"] == "database"
    assert card["steps"] == 6 and card["errors"]["vertices_mm"] > 0
    lines = (tmp_path / "rod.run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6]
    for picture in ("train.png", "predictions.png"):
        with Image.open(tmp_path / "rod.run" / picture) as image:
            assert image.width > 400 and image.getextrema() != ((255, 255),) * 3

    error = refused(capsys, "train", "--out", out, "--data", database.path)
    assert "--overwrite" in error

    written, drawn = tmp_path / "report.json", tmp_path / "sheet.png"
    plotted = tmp_path / "plot.png"
    main(["evaluate", "--function", str(out), "--data", str(database.path), "--count", "20",
          "--out", str(written), "--sheet", str(drawn), "--drawn", "4",
          "--plot", str(plotted), "--json"])  # fmt: skip
    printed = json.loads(capsys.readouterr().out)
    stored = json.loads(written.read_text())
    assert stored["examples"] == 20
    assert stored["vertices_mm"] == printed["vertices_mm"]
    assert stored["vertices_mm"]["low"] <= stored["vertices_mm"]["mean"]
    assert stored["data"]["folder"] == str(database.path)
    assert stored["look_at"] == [str(drawn), str(plotted)]
    # Three pictures of each, twelve beside each other, at the size of pictures.
    with Image.open(drawn) as image:
        assert image.width > 12 * 100 and image.height > 100
    # Two charts beside each other.
    with Image.open(plotted) as image:
        assert image.width > 2 * 400 and image.height > 2 * 100
    error = refused(capsys, "evaluate", "--function", out, "--plot", plotted)
    assert "--overwrite" in error
    assert "need .png" in refused(capsys, "evaluate", "--plot", tmp_path / "plot.pdf")


def test_other_settings_are_refused_and_amended(train, tmp_path, capsys, model_file, database):
    train(*SMALL, "--stop-after-minutes", 0)
    again = ("train", "--model", model_file, "--data", database.path, "--batch", 8, "--steps", 6,
             "--devices", 1, *SMALL, "--out", tmp_path / "rod.recon")  # fmt: skip
    assert "train.clip: 1.0 there, 2.0 here" in refused(capsys, *again, "--clip", 2)
    assert "train.optimizer: 'adamw' there" in refused(capsys, *again, "--optimizer", "lamb")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--out", "x.npz"), ".recon"),
        (("--out", "x.recon", "--model", "absent.npz"), "no such file"),
        (("--out", "x.recon", "--steps", 0), "steps: got 0"),
        (("--out", "x.recon", "--process", "2/2"), "need I/N"),
        (("--out", "x.recon", "--process", "0/2"), "--coordinator"),
        (("--out", "x.recon", "--devices", 99), "devices: got 99, need 1 to"),
        (("--out", "x.recon", "--from", "body", "--hidden", 8), "leave out hidden"),
        (("--out", "x.recon", "--from", "body", "--network", "large"), "leave out network"),
        (("--out", "x.recon", "--image", 60), "a multiple of 16 pixels"),
        (("--out", "x.recon", "--devices", 1, "--batch", 7, "--accumulate", 2), "multiple of 2"),
    ],
)  # fmt: skip
def test_train_refuses_what_cannot_be(capsys, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, "train", *arguments)
    assert not list(tmp_path.iterdir())


def test_databases_and_functions_of_other_classes_are_refused(
    capsys, monkeypatch, tmp_path, database, model_file
):
    monkeypatch.chdir(tmp_path)
    error = refused(capsys, "train", "--out", "x.recon", "--data", database.path)
    assert "model 'rod'" in error and "for 'body'" in error
    error = refused(capsys, "train", "--out", "x.recon", "--model", model_file, "--from", "body")
    assert "joint_names" in error
    error = refused(capsys, "evaluate", "--data", database.path)
    assert "model 'rod'" in error


def test_settings_of_examples(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"view": {"distance_m": [0.5, 0.9]}}')
    config = read_config(path, None, otherwise=54)
    assert (config.height, config.width) == (54, 54)
    np.testing.assert_allclose(config.view.distance_m, (0.5, 0.9))
    assert read_config(path, 30, otherwise=54).width == 30
    path.write_text('{"height": 20, "witdh": 30}')
    with pytest.raises(ValueError, match=r"config.json.*witdh.*did you mean 'width'"):
        read_config(path, None, otherwise=54)


def test_another_size_of_image_leaves_the_rest_as_it_was_learned():
    card = {"data": {"kind": "synthesis", "config": settings(EASY)}}
    command = Evaluate(size=20, count=3)
    examples, sensors, about = command._examples(rod(), card, image=16)
    assert examples.depth.shape == (3, 20, 20) and sensors == EASY.sensors
    assert about["config"] == settings(EASY) | {"height": 20, "width": 20}


def test_the_line_says_how_it_goes():
    metrics = {"loss": 0.25, "vertices_mm": 61.24, "joints_mm": 48.0}
    assert describe(Progress(1200, 20000, 815.2, 1320.0, metrics)) == (
        "step 1,200/20,000  815 examples/s  loss 0.2500  surface 61.2 mm  joints 48.0 mm  "
        "22 min left"
    )
