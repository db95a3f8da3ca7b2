"""Refining from the page, and the files that it hands out."""

import dataclasses
import io
import json

import jax
import numpy as np
import pytest
import trimesh

from jrecon.fit.solve import FitConfig
from jrecon.io.params import load_params
from jrecon.io.sequence import Frame
from jrecon.judge import judge
from jrecon.viewer import editing
from jrecon.viewer.results import Found, Subject, draw, files, refine


@pytest.fixture(scope="module")
def subject(shown):
    config = FitConfig(coarse=(), fine=(3.0,) * 4 + (1.0,) * 4)
    recon = dataclasses.replace(shown[0], config=config)
    return Subject(recon, recon.model, None)


@pytest.fixture(scope="module")
def found(shown):
    _, result, depth, camera, mask = shown
    frame = Frame(depth, jax.tree.map(np.asarray, camera), "rod.png", None, ("a note",))
    return Found(frame, mask, result, judge(result))


@pytest.mark.slow
def test_refining_brings_the_model_back(subject, found):
    seen = found.frame.depth, found.frame.camera, found.mask
    apart = lambda params: np.nanmedian(np.abs(draw(subject, params, seen).gap))
    away = np.asarray(found.result.params.translation) + np.array([0.0, 0.0, 0.15])
    start = dataclasses.replace(found.result.params, translation=away)
    again = refine(subject, found, start)
    assert apart(again.result.params) < 0.5 * apart(start)
    history = np.asarray(again.result.fit.history)
    assert np.isfinite(history).all()
    assert history[-1] < history[0]
    assert again.frame is found.frame


def test_files(subject, found, monkeypatch, tmp_path):
    monkeypatch.setattr("jrecon.viewer.html.views", lambda *_: [np.zeros((4, 4, 3), np.uint8)] * 5)
    bent = editing.with_angle(found.result.params, 1, 0, 0.6)
    made = files(subject, found, bent)
    assert sorted(made) == ["person.glb", "person.npz", "report.html", "report.json"]
    mesh = trimesh.load(io.BytesIO(made["person.glb"]), file_type="glb", force="mesh")
    assert isinstance(mesh, trimesh.Trimesh)
    assert len(mesh.faces) == len(subject.full.faces)
    (tmp_path / "person.npz").write_bytes(made["person.npz"])
    kept = load_params(tmp_path / "person.npz", subject.full)
    np.testing.assert_allclose(kept.params.pose[1], [0.6, 0, 0], atol=1e-6)
    told = json.loads(made["report.json"])
    assert told["file"] == "rod.png"
    assert told["notes"] == ["a note"]
    assert b"rod.png" in made["report.html"]
