"""`jrecon view` and `--html` refuse what they cannot do before the work begins."""

import importlib.util

import pytest

from jrecon.cli import main


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as failure:
        main([str(argument) for argument in arguments])
    assert failure.value.code == 3
    return capsys.readouterr().err


@pytest.fixture
def with_viser(monkeypatch):
    """As if viser were there: nothing of it is used before all is checked."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


def test_without_viser(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'jrecon[view]'" in refused(capsys, "view")


@pytest.mark.usefixtures("with_viser")
def test_view(capsys, tmp_path):
    file = tmp_path / "depth.png"
    assert "no such file or folder" in refused(capsys, "view", file)
    assert "leave out" in refused(capsys, "view", file, "--synthetic")
    assert "need 1 to 65535" in refused(capsys, "view", "--port", "0")
    assert "address of this machine" in refused(capsys, "view", "--host", "192.0.2.1")
    file.write_text("not a picture")
    assert "cannot identify it as PNG" in refused(capsys, "view", file, "--camera", "d435")
    (tmp_path / "empty").mkdir()
    assert "got 0 depth files" in refused(capsys, "view", tmp_path / "empty")


def test_html(capsys, tmp_path):
    depth = tmp_path / "depth.png"
    command = "reconstruct", depth, "--out", tmp_path / "a.glb", "--html"
    assert "need .html" in refused(capsys, *command, tmp_path / "a.pdf")
    (tmp_path / "a.html").write_text("mine")
    assert "--overwrite" in refused(capsys, *command, tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text() == "mine"
