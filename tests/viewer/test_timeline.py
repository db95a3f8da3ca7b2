"""A capture of several frames on the page: followed, looked at meanwhile, played, stopped."""

import threading
import time
from typing import Any

import numpy as np
import pytest

viser = pytest.importorskip("viser", reason="needs the extra `view`")

from jrecon.io.sequence import Frame  # noqa: E402
from jrecon.video import Step, Surest  # noqa: E402
from jrecon.viewer import timeline as module  # noqa: E402
from jrecon.viewer.live import start_server  # noqa: E402
from jrecon.viewer.results import Subject  # noqa: E402
from jrecon.viewer.timeline import Timeline, distance_picture  # noqa: E402
from jrecon.viewer.worker import Worker  # noqa: E402

COUNT, SUREST, LOST = 12, 5, 8


class Recording:
    fps = 200.0

    def __init__(self, depth, camera):
        self._seen = depth, camera

    def __len__(self):
        return COUNT

    def read(self, number):
        return Frame(*self._seen, f"{number}.png", None, ())


class Page:
    """What a timeline tells the page, and how fast frames are followed."""

    def __init__(self, shown, monkeypatch):
        recon, result, depth, camera, mask = shown
        self.capture: Any = Recording(depth, camera)
        self.frames, self.failures = [], []
        self.may_go_on = threading.Semaphore(0)

        def find_surest(recon, capture, numbers, told):
            told(0, 8)
            return Surest(SUREST, mask)

        def follow(recon, capture, numbers, surest):
            assert surest.number == SUREST
            for number in (*range(SUREST, COUNT), *range(SUREST - 1, -1, -1)):
                self.may_go_on.acquire()
                yield number, Step(capture.read(number), mask, result, number == LOST)

        monkeypatch.setattr(module, "find_surest", find_surest)
        monkeypatch.setattr(module, "follow", follow)
        self.worker = Worker(self.failures.append)
        server: Any = start_server(port=0)
        self.address = f"http://{server.get_host()}:{server.get_port()}"
        subject = Subject(recon, recon.model, None)
        show = lambda frame, found: self.frames.append((frame.name, found))
        self.timeline = Timeline(server, subject, self.worker, show, lambda text: None)
        self.stop = server.stop

    def let(self, count):
        self.may_go_on.release(count)

    def until(self, true):
        began = time.monotonic()
        while not true():
            assert time.monotonic() - began < 20, self.timeline.progress
            time.sleep(0.01)


@pytest.fixture
def page(shown, monkeypatch):
    made = Page(shown, monkeypatch)
    yield made
    made.let(10 * COUNT)
    made.worker.wait(20)
    made.stop()
    assert made.failures == []


def test_frames_are_followed_from_the_surest(page, shown):
    page.timeline.open(page.capture)
    page.let(COUNT)
    assert page.worker.wait(20)
    names = [name for name, _ in page.frames]
    order = [0, *range(SUREST, COUNT), *range(SUREST - 1, -1, -1)]
    assert names == [f"{number}.png" for number in order]
    assert page.frames[0][1] is None
    assert [found.lost for _, found in page.frames[1:]].count(True) == 1
    assert sorted(page.timeline.found) == [n for n in range(COUNT) if n != LOST]
    assert page.timeline.progress.startswith("Followed through 12 of 12 frames, 1 lost")
    assert not page.timeline.following
    # What was kept is what was found, mask and all.
    page.timeline.show(3)
    _, found = page.frames[-1]
    np.testing.assert_array_equal(found.mask, shown[4])
    assert found.result is shown[1]
    assert page.timeline.motion()[:4] == b"glTF"


def test_the_page_answers_meanwhile_and_following_can_be_stopped(page):
    page.timeline.open(page.capture)
    page.let(2)
    page.until(lambda: len(page.frames) == 3)
    assert page.timeline.following
    page.timeline._slider.value = 1
    page.timeline._look()
    page.let(1)
    page.until(lambda: page.frames[-1][0] == "1.png")
    # Frames are followed on, but somebody looks at another one.
    page.let(2)
    page.until(lambda: "5 of 12" in page.timeline.progress)
    assert page.frames[-1][0] == "1.png"
    page.timeline._follow_or_stop()
    page.let(1)
    page.until(lambda: not page.timeline.following)
    assert len(page.timeline.found) == 5


def test_play_goes_round(page):
    page.timeline.open(page.capture)
    page.let(COUNT)
    assert page.worker.wait(20)
    before = len(page.frames)
    page.timeline._play.value = True
    page.timeline._start()
    page.until(lambda: len(page.frames) > before + COUNT)
    page.timeline._play.value = False
    names = [name for name, _ in page.frames[before : before + COUNT]]
    assert names == [f"{number % COUNT}.png" for number in range(1, COUNT + 1)]


@pytest.mark.browser
def test_followed_played_and_stopped_in_a_browser(page, browser):
    page.timeline.open(page.capture)
    page.let(4)
    tab = browser.new_page()
    tab.goto(page.address)
    tab.get_by_text("Followed through 4 of 12 frames").wait_for()
    tab.get_by_role("button", name="Stop").click()
    tab.wait_for_timeout(300)
    page.let(1)
    tab.get_by_role("button", name="Follow through all frames").wait_for()
    row = tab.locator("label", has_text="play").locator("xpath=ancestor::div[2]")
    row.locator("input").check()
    page.until(lambda: len(page.frames) > 3 * COUNT)
    row.locator("input").uncheck()
    tab.wait_for_timeout(500)
    count = len(page.frames)
    tab.wait_for_timeout(500)
    assert len(page.frames) == count
    slider = tab.get_by_role("slider").first
    slider.focus()
    slider.press("Home")
    page.until(lambda: page.frames[-1][0] == "0.png")
    tab.get_by_text("Distance to the depth map").wait_for()
    tab.close()


def test_a_frame_that_cannot_be_read_ends_following(page, monkeypatch):
    def broken(*arguments):
        raise ValueError("3.png: damaged")
        yield

    monkeypatch.setattr(module, "follow", broken)
    page.timeline.open(page.capture)
    assert page.worker.wait(20)
    assert [str(error) for error in page.failures] == ["3.png: damaged"]
    assert not page.timeline.following
    page.failures.clear()


def test_nobody_there(page, monkeypatch):
    monkeypatch.setattr(module, "find_surest", lambda *arguments: None)
    page.timeline.open(page.capture)
    assert page.worker.wait(20)
    assert page.timeline.progress.startswith("No person was found")
    with pytest.raises(ValueError, match="Follow through the frames"):
        page.timeline.motion()


def test_distance_picture():
    image = distance_picture({3: 14.0, 1: 12.0, 2: 30.0})
    assert image.shape == (240, 440, 3)
    assert image.min() < 100
