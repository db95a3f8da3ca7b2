"""The pictures of docs/view.md: the pages in headless Chromium, as somebody would see them.

Needs the extra `view`, playwright and Chromium. Draws docs/images/view_capture.png,
view_sequence.png, view_synthetic.png and view_report.png; `--only` names one of them.

    python experiments/view_pictures.py --frames data/people_d435 --camera camera.json
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jrecon.io.sequence import Capture, open_capture
from jrecon.model.parametric import ParametricModel
from jrecon.programs import keep_compiled
from jrecon.reconstructor import load
from jrecon.viewer import editing, results
from jrecon.viewer.capture_page import CapturePage
from jrecon.viewer.live import start_server
from jrecon.viewer.synthetic_page import SyntheticPage

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
SIZE: Any = {"width": 1280, "height": 800}
# Frames that are followed for the picture of a sequence.
_FOLLOWED = 12


@contextlib.contextmanager
def opened() -> Iterator[Any]:
    """A page in headless Chromium that draws without a GPU."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found,
            args=["--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"],
        )
        yield browser.new_page(viewport=SIZE)
        browser.close()


def keep(tab: Any, name: str) -> None:
    """What the page shows, in 256 colours: a third of the bytes."""
    # A note about the missing GPU.
    for close in tab.locator(".mantine-Notification-closeButton").all():
        close.click()
    tab.wait_for_timeout(4000)
    with tempfile.TemporaryDirectory() as folder:
        tab.screenshot(path=f"{folder}/page.png")
        image = Image.open(f"{folder}/page.png").convert("RGB")
        image.quantize(256, dither=Image.Dither.NONE).save(IMAGES / name, optimize=True)


def of_page(name: str, build: Callable[[Any], Any], prepare: Callable[[Any, Any], None]) -> None:
    """One picture: `build` a page on a server, open it, `prepare` it."""
    server = start_server(port=8192)
    page = build(server)
    page.worker.wait()
    with opened() as tab:
        tab.goto(f"http://127.0.0.1:{server.get_port()}")
        tab.wait_for_timeout(3000)
        prepare(page, tab)
        page.worker.wait()
        keep(tab, name)
    server.stop()


def first_frames(found: Capture, count: int) -> Callable[[Any], CapturePage]:
    """A page with the beginning of a capture."""

    def build(server: Any) -> CapturePage:
        page = CapturePage(server, results.load_subject(), camera=str(found.camera))
        page.open(dataclasses.replace(found, files=found.files[:count], times_s=None))
        return page

    return build


def capture(found: Capture) -> None:
    """One frame, coloured by its distance to the depth map."""
    of_page("view_capture.png", first_frames(found, 1), lambda page, tab: None)


def sequence(found: Capture) -> None:
    """Some frames, followed through."""
    of_page("view_sequence.png", first_frames(found, _FOLLOWED), lambda page, tab: None)


def synthetic() -> None:
    """A pose, all sensors beside each other."""
    model: ParametricModel = load("body").model

    def prepare(page: SyntheticPage, tab: Any) -> None:
        pose = np.asarray(model.named_poses["a_pose"]) if "a_pose" in model.named_poses else None
        if pose is not None:
            now = editing.with_pose(page.panel.edits.now, pose)
            page.panel.edits = editing.change(page.panel.edits, "pose", now)
            page._changed()
        tab.get_by_text("all sensors side by side").locator("xpath=ancestor::div[2]").locator(
            "input"
        ).check()
        tab.wait_for_timeout(500)

    of_page("view_synthetic.png", lambda server: SyntheticPage(server, model), prepare)


def report(found: Capture) -> None:
    """The static page of the first frame."""
    subject = results.load_subject()
    one = results.find(subject, found.read(0))
    page = results.files(subject, one, one.result.params)["report.html"]
    with tempfile.TemporaryDirectory() as folder, opened() as tab:
        path = Path(folder) / "report.html"
        path.write_bytes(page)
        tab.goto(path.as_uri())
        keep(tab, "view_report.png")


def main() -> None:
    """Draw those that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--camera", required=True)
    parser.add_argument("--only", choices=("capture", "sequence", "synthetic", "report"))
    arguments = parser.parse_args()
    keep_compiled()
    found = open_capture(arguments.frames, camera=arguments.camera)
    drawings = {"capture": capture, "sequence": sequence, "report": report}
    for name, draw in drawings.items():
        if arguments.only in (None, name):
            draw(found)
    if arguments.only in (None, "synthetic"):
        synthetic()


if __name__ == "__main__":
    main()
