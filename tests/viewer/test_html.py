"""The report in one file: what is in it is what was given, and nothing is loaded."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from jrecon.viewer.arrays import gaps
from jrecon.viewer.html import energy_picture, html_report

RECORD = {
    "file": "/home/me/<script>alert(1).png",
    "verdict": "doubtful",
    "why": ["a & b"],
    "residual_mm": 12.25,
    "status": "converged",
    "measures_m": {"stature": 1.75},
    "measures_std_m": {"stature": 0.02},
    "camera": {"fx": 60.0},
    "notes": ["</script><img src=x onerror=alert(2)>"],
    "versions": {"jrecon": "0.1.0"},
    "parameters": {"shape": {"length": 0.5}},
}


@pytest.fixture(scope="module")
def page(shown):
    recon, result, depth, camera, mask = shown
    # Pictures have tests of their own, and take seconds to draw.
    pictures = [np.full((44, 33, 3), tone, np.uint8) for tone in range(5)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jrecon.viewer.html.views", lambda *_: pictures)
        return html_report(recon, result, depth, camera, mask, RECORD, "</title><b>{{scene}}")


def scene_of(page):
    (text,) = re.findall(r'id="scene">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def decode(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


def test_scene_holds_the_result(page, shown):
    recon, result, depth, camera, mask = shown
    scene = scene_of(page)
    vertices = decode(scene["vertices"], "<f4").reshape(-1, 3)
    np.testing.assert_array_equal(vertices, result.vertices)
    faces = decode(scene["faces"], "<u2").reshape(-1, 3)
    np.testing.assert_array_equal(faces, recon.model.faces)
    own = decode(scene["own"], "<i2").reshape(-1, 3)
    assert len(own) == mask.sum()
    assert (own[:, 2] == 1900).all()
    assert len(decode(scene["other"], "<i2")) == 3 * (~mask).sum()
    for colors in scene["colors"].values():
        assert len(decode(colors, np.uint8)) == 3 * len(vertices)
    gap = np.asarray(gaps(result.vertices, recon.model.faces, depth, camera, mask))
    assert np.isfinite(gap).any(), "else the test shows nothing"
    red = decode(scene["colors"]["residual"], np.uint8).reshape(-1, 3)[np.nanargmax(gap)]
    assert red[0] > red[2]


def test_names_from_outside_are_text(page):
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1).png" in page
    assert "/home/me" not in page
    assert "&lt;/title&gt;&lt;b&gt;{{scene}}" in page
    assert page.count("</script>") == 2


def test_figures_are_told(page):
    for text in ("residual, mm", "12.25", "1.75 ± 0.02", "converged", "doubtful; a &amp; b"):
        assert text in page
    assert "<h2>Camera</h2>" in page


def test_nothing_is_loaded(page):
    assert re.findall(r'(?:src|href)\s*=\s*"(?!data:image/png;base64,)', page) == []
    assert "url(" not in page
    assert "default-src 'none'" in page
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)" width="(\d+)" height="(\d+)"', page)
    assert len(pictures) == 6
    for data, width, height in pictures:
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert image.size == (int(width), int(height))


def test_energy_without_a_fall():
    assert energy_picture(np.zeros(3)).shape == (300, 520, 3)


@pytest.mark.browser
def test_page_opens_from_disk_without_a_network(page, browser, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page)
    context = browser.new_context(offline=True, viewport={"width": 1100, "height": 800})
    tab = context.new_page()
    wrong, asked = [], []
    tab.on("pageerror", lambda error: wrong.append(error))
    tab.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    stage = tab.locator("#view")
    look = lambda: np.asarray(Image.open(io.BytesIO(stage.screenshot())).convert("RGB")).astype(int)
    first = look()
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 20, "the stage is empty"
    seen = [first]
    tab.check("input[value=residual]")
    assert tab.locator("#scale").is_visible()
    seen.append(look())
    tab.uncheck("input[name=own]")
    seen.append(look())
    tab.click("[data-from=behind]")
    seen.append(look())
    tab.mouse.move(300, 300)
    tab.mouse.down()
    tab.mouse.move(400, 320, steps=4)
    tab.mouse.up()
    seen.append(look())
    for before, after in zip(seen[:-1], seen[1:], strict=True):
        assert (before != after).any(), "nothing changed"
    context.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
