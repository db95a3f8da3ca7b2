"""The report of a built model says in a file what the builder found, and shows it."""

import json

import numpy as np
import pytest
import trimesh

from jrecon.io.build_report import report_picture, write_report
from jrecon.model.build import build_model, make_meshes


@pytest.fixture
def blobs(rng):
    """Seven ellipsoids that differ in width and height."""
    ball = trimesh.creation.icosphere(subdivisions=1, radius=0.1)
    scales = 1 + rng.normal(size=(7, 1, 3)) * [0.3, 0.1, 0.0]
    return make_meshes(np.asarray(ball.vertices) * scales, ball.faces)


def test_the_file_holds_the_report(blobs, tmp_path):
    model, report = build_model(blobs, name="blob")
    text, picture = write_report(report, model, tmp_path / "blob.json")
    assert (text.name, picture.name) == ("blob.json", "blob.png")
    found = json.loads(text.read_text())
    assert found["name"] == "blob" and found["num_components"] == report.num_components == 2
    np.testing.assert_allclose(found["explained"], report.explained, atol=1e-6)
    np.testing.assert_allclose(found["coefficients"]["mesh_003"], report.coefficients[3], atol=1e-6)
    assert [row["components"] for row in found["held_out"]] == [
        row.components for row in report.held_out
    ]
    assert found["held_out"][2]["rms_mm"] == pytest.approx(report.error_at(2).rms_mm, abs=1e-6)
    assert "7 meshes say little" in found["warnings"][0]
    with pytest.raises(FileExistsError, match="blob.json exists"):
        write_report(report, model, text)
    text.unlink()
    with pytest.raises(FileExistsError, match="blob.png exists"):
        write_report(report, model, text)
    write_report(report, model, text, overwrite=True)
    with pytest.raises(ValueError, match="need .json"):
        write_report(report, model, tmp_path / "blob.npz")


def test_the_picture_shows_what_a_component_does(blobs):
    model, report = build_model(blobs)
    image = report_picture(report, model).astype(int)
    # First row below the title: the first component, width, from narrow to wide.
    row = image[40:230]
    widths = []
    for column in range(3):
        cell = row[:, 6 + 206 * column : 206 * (column + 1)]
        shaded = (cell.max(-1) < 215).any(0)
        widths.append(shaded.sum())
    assert widths[0] < widths[1] < widths[2]
    # Beside it, what moves most is yellow and what moves least is dark.
    heat = row[:, 6 + 206 * 3 :]
    assert (heat[..., 2] < heat[..., 0] - 60).any()


def test_a_model_without_components_has_a_picture(blobs):
    same = make_meshes(blobs.vertices[:1] + np.array([0.0, 0.1]).reshape(2, 1, 1), blobs.faces)
    model, report = build_model(same)
    assert model.num_shape == 0
    assert report_picture(report, model).shape[2] == 3
