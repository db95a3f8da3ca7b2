"""The frames of a capture on the page: a slider of time, play, and following through all of them.

Following is one job for each frame, so that the page answers in between: frames can be looked at,
played and changed while the rest is still being worked on.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import viser

from jrecon.io.sequence import Capture, Frame
from jrecon.judge import Verdict, judge
from jrecon.model.parametric import Params
from jrecon.pictures import Image, plot_lines
from jrecon.reconstructor import Reconstruction
from jrecon.video import find_surest, follow
from jrecon.viewer import results
from jrecon.viewer.panels import by_hand
from jrecon.viewer.results import Found, Subject
from jrecon.viewer.worker import Worker

# Results of frames that are kept, the newest ones: about 100 kB each.
_KEPT = 2000
# Frames per second of a capture that does not say.
_FPS = 15.0
_FOLLOW, _STOP = "Follow through all frames", "Stop"
_BLANK = np.full((2, 2, 3), 255, np.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class _Kept:
    """What was found in a frame, without the frame, which can be read again."""

    mask: bytes
    """Its pixels as bits, compressed: images may be large, and frames many."""
    result: Reconstruction
    verdict: Verdict
    lost: bool


class _Stopped(Exception):
    """Somebody does not want to wait for the end."""


class Timeline:
    """Holds the capture and what was found in its frames."""

    def __init__(
        self,
        server: viser.ViserServer,
        subject: Subject,
        worker: Worker,
        show: Callable[[Frame, Found | None], None],
        say: Callable[[str], None],
    ) -> None:
        """`show` puts a frame on the page, and what was found in it; `say` a line."""
        self._subject, self._worker, self._show_frame, self._say = subject, worker, show, say
        self._capture: Capture | None = None
        self.index = 0
        """Of the frame that is shown."""
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self.found: dict[int, Params] = {}
        """Parameters of the frames that were followed, by number."""
        self._steps: Iterator[None] | None = None
        self._stopped, self._watched = False, True
        self._player: threading.Thread | None = None
        gui = server.gui
        with gui.add_folder("Frames", visible=False) as self._folder:
            self._slider = gui.add_slider("frame", 0, 1, 1, 0)
            self._play = gui.add_checkbox("play", False)
            self._button = gui.add_button(_FOLLOW, color="gray")
            self._bar = gui.add_progress_bar(0, visible=False, animated=True)
            self._progress = gui.add_markdown("", visible=False)
            self._chart = gui.add_image(_BLANK, label="Distance to the depth map", visible=False)
        self._slider.on_update(by_hand(lambda _: self._look()))
        self._play.on_update(by_hand(lambda _: self._start()))
        self._button.on_click(by_hand(lambda _: self._follow_or_stop()))

    @property
    def progress(self) -> str:
        """How far following is, in words."""
        return self._progress.content

    @property
    def following(self) -> bool:
        """Whether frames are being followed now."""
        return self._button.label == _STOP

    def open(self, capture: Capture) -> None:
        """Show a capture from its first frame on; one of several frames is followed."""
        self.close()
        self._capture = capture
        many = len(capture) > 1
        self._folder.visible = many
        if many:
            self._slider.max = len(capture) - 1
        self.show(0)
        if many:
            self._worker.submit("follow", self.begin)

    def close(self) -> None:
        """No capture."""
        self._stop()
        self._capture, self._play.value = None, False
        self._kept.clear()
        self.found = {}
        self._folder.visible = self._progress.visible = self._chart.visible = False

    def keep(self, found: Found) -> None:
        """What was found in the frame that is shown."""
        if self._capture is not None:
            self._keep(self.index, found)

    def motion(self) -> bytes:
        """The animated model, GLB.

        Raises:
          ValueError: nothing was followed.
        """
        if self._capture is None or not self.found:
            raise ValueError("Follow through the frames of a capture first.")
        return results.motion_file(self._subject, self.found, self._capture.fps)

    # Frames --------------------------------------------------------------------------------------

    def show(self, number: int, frame: Frame | None = None) -> None:
        """Show a frame, which may have been read before, and what is known of it."""
        assert self._capture is not None
        frame, kept = frame or self._capture.read(number), self._kept.get(number)
        self.index = self._slider.value = number
        if kept is None:
            self._show_frame(frame, None)
            return
        mask = np.unpackbits(
            np.frombuffer(zlib.decompress(kept.mask), np.uint8), count=frame.depth.size
        ).astype(bool)
        mask = mask.reshape(frame.depth.shape)
        self._show_frame(frame, Found(frame, mask, kept.result, kept.verdict, kept.lost))

    def _keep(self, number: int, found: Found) -> None:
        mask = zlib.compress(np.packbits(found.mask).tobytes())
        self._kept[number] = _Kept(mask, found.result, found.verdict, found.lost)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        if not found.lost:
            self.found[number] = found.result.params

    def _look(self) -> None:
        """Where the slider was put by hand: from now on the page does not go on by itself."""
        self._watched = False
        self._worker.submit("frame", lambda: self._capture and self.show(int(self._slider.value)))

    def _start(self) -> None:
        """Play, unless it plays already."""
        self._watched = False
        if self._player is None or not self._player.is_alive():
            self._player = threading.Thread(target=self._run, daemon=True, name="jrecon-play")
            self._player.start()

    def _run(self) -> None:
        """Until the box is unchecked; no faster than frames can be shown."""
        while self._play.value and self._capture is not None:
            began, step = time.monotonic(), 1 / (self._capture.fps or _FPS)
            shown = threading.Event()
            self._worker.submit("play", functools.partial(self._advance, shown))
            shown.wait()
            time.sleep(max(0.0, step - (time.monotonic() - began)))

    def _advance(self, shown: threading.Event) -> None:
        try:
            if self._capture is not None:
                self.show((self.index + 1) % len(self._capture))
        finally:
            shown.set()

    # Following -----------------------------------------------------------------------------------

    def _follow_or_stop(self) -> None:
        if self.following:
            self._stopped = True
        else:
            self._worker.submit("follow", self.begin)

    def begin(self) -> None:
        """Follow through all frames, and show each as it is done."""
        if self._capture is None:
            raise ValueError("Open a folder of depth maps first: jrecon view FOLDER.")
        self._stopped, self._watched = False, not self._play.value
        self._button.label, self._bar.visible, self._progress.visible = _STOP, True, True
        self._steps = self._through(self._capture)
        self._go_on()

    def _go_on(self) -> None:
        """The next frame; those after it when the page has done what else there is to do."""
        if self._steps is None:
            return
        try:
            next(self._steps)
        except (StopIteration, _Stopped):
            self._stop()
        except Exception:
            self._stop()
            raise
        else:
            self._worker.submit("follow", self._go_on)

    def _stop(self) -> None:
        self._steps = None
        self._button.label, self._bar.visible = _FOLLOW, False

    def _through(self, capture: Capture) -> Iterator[None]:
        """Find the object, follow it: a step for each frame."""
        numbers = range(len(capture))
        surest = find_surest(self._subject.recon, capture, numbers, self._tell_search)
        if surest is None:
            self._progress.content = "No person was found in the frames that were looked at."
            return
        self.found, lost, began = {}, 0, time.monotonic()
        distances: dict[int, float] = {}
        for number, step in follow(self._subject.recon, capture, numbers, surest):
            found = Found(step.frame, step.mask, step.result, judge(step.result), step.lost)
            self._keep(number, found)
            lost += step.lost
            if not step.lost:
                distances[number] = float(step.result.fit.agreement.residual_mm)
            if self._watched or number == self.index:
                self.show(number, step.frame)
            done = len(distances) + lost
            self._bar.value = 100 * done / len(numbers)
            rate = done / max(time.monotonic() - began, 1e-3)
            self._progress.content = (
                f"Followed through {done} of {len(numbers)} frames, {lost} lost; "
                f"{rate:.1f} frames per second."
            )
            yield
            if self._stopped:
                break
        if len(distances) > 1:
            self._chart.image, self._chart.visible = distance_picture(distances), True

    def _tell_search(self, done: int, count: int) -> None:
        if self._stopped:
            raise _Stopped
        self._bar.value = 100 * done / count
        self._progress.content = (
            f"Looking for the surest of {count} frames to begin with: {done} done. The first time "
            "this compiles, for a minute."
        )


def distance_picture(distances: dict[int, float]) -> Image:
    """How far apart model and depth map are, frame by frame; `distances` in millimetres."""
    numbers = np.array(sorted(distances))
    values = np.array([distances[number] for number in numbers])
    labels: dict[str, Any] = {"x_label": "frame", "y_label": "median distance, mm"}
    return plot_lines({"": (numbers, values)}, **labels, width=440, height=240)
