"""The live page of captures: frames, what was found in them, and what somebody makes of it."""

from __future__ import annotations

import dataclasses
import importlib.resources
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import viser

from jrecon.geometry.camera import Camera
from jrecon.io.sequence import Capture, Frame
from jrecon.model.parametric import Params, zeros
from jrecon.viewer import results
from jrecon.viewer.arrays import COLORINGS, bones, colors_of, depth_picture, make_cloud
from jrecon.viewer.html import energy_picture
from jrecon.viewer.panels import ModelPanel, by_hand, layer_panel
from jrecon.viewer.results import Found, Subject
from jrecon.viewer.stage import Stage
from jrecon.viewer.timeline import Timeline
from jrecon.viewer.upload import MAX_BYTES, SUFFIXES, check_camera, read_upload
from jrecon.viewer.worker import Worker

_BLANK = np.full((2, 2, 3), 255, np.uint8)
# Every size of image has some compiled code of its own: kept for so many, as pages can send any.
_SIZES = 16
# The folders of an absolute path.
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^/\s'\"]+/)+")


class CapturePage:
    """Builds the page and answers it. All work is done by one `Worker`."""

    def __init__(
        self,
        server: viser.ViserServer,
        subject: Subject,
        *,
        camera: str | Path | None = None,
        unit: str | None = None,
    ) -> None:
        self._server, self._subject = server, subject
        self._camera, self._unit = camera, unit
        self.stage = Stage(server)
        self.worker = Worker(lambda error: self.say(f"**{_plain(error)}**"))
        self._frame: Frame | None = None
        self._seen: tuple[Any, Camera, Any] | None = None
        self.found: Found | None = None
        self._aimed = False
        self._sizes: set[tuple[int, ...]] = set()
        self._status = server.gui.add_markdown("")
        self._upload_controls()
        tabs = server.gui.add_tab_group()
        with tabs.add_tab("Result"):
            self._result_tab()
        with tabs.add_tab("Show"):
            self._show_tab()
        with tabs.add_tab("Model"):
            start = _in_front(subject)
            fitted = subject.recon.fitter.shapes
            self.panel = ModelPanel(server, subject.recon.model, start, self._edited, shapes=fitted)
        self.say("Choose a depth map.")

    def say(self, text: str) -> None:
        """The line at the top of the page."""
        self._status.content = text

    @property
    def status(self) -> str:
        """That line."""
        return self._status.content

    # Building ------------------------------------------------------------------------------------

    def _upload_controls(self) -> None:
        gui = self._server.gui
        upload = gui.add_upload_button(
            "Open a depth map",
            icon=viser.Icon.UPLOAD,
            hint=f"At most {MAX_BYTES // 2**20} MB: {', '.join(SUFFIXES)}",
        )
        upload.on_upload(lambda event: self.take_upload(event.target.value))
        assets = importlib.resources.files("jrecon.viewer") / "assets"
        gui.add_html((assets / "drop.html").read_text("utf-8"))
        known = self._camera is not None
        with gui.add_folder("Its camera and unit", expand_by_default=not known):
            own = "as at the start" if known else "fx,fy,cx,cy or d435, kinect2, ..."
            self._camera_text = gui.add_text("camera", "", hint=f"If empty: {own}")
            self._unit_text = gui.add_text("unit", "", hint="m, mm, tum; by the format if empty")

    def _result_tab(self) -> None:
        gui = self._server.gui
        self.timeline = Timeline(self._server, self._subject, self.worker, self.show, self.say)
        again = gui.add_button("Reconstruct")
        again.on_click(by_hand(lambda _: self.worker.submit("find", self.reconstruct)))
        refine = gui.add_button("Refine again", color="gray", hint="From where the sliders are")
        refine.on_click(by_hand(lambda _: self.worker.submit("refine", self.refine)))
        self._picture = gui.add_image(
            _BLANK, label="Depth, yellow near; the object outlined", visible=False
        )
        self._energy = gui.add_image(_BLANK, label="Energy", visible=False)
        names = ("person.glb", "person.npz", "report.json", "report.html", "motion.glb")
        save = gui.add_dropdown("file", names)
        download = gui.add_button("Download", color="gray")
        download.on_click(
            by_hand(lambda event: self.worker.submit("file", lambda: self._send(event, save.value)))
        )

    def _show_tab(self) -> None:
        gui = self._server.gui
        layer_panel(self._server, self.stage)
        self._coloring = gui.add_dropdown("model in", COLORINGS, initial_value="shaded")
        self._coloring.on_update(by_hand(lambda _: self.worker.submit("draw", self.redraw)))
        gui.add_markdown(
            "*residual*: red before the measured surface, blue behind it, 100 mm; "
            "*uncertainty*: standard deviation, 0 (dark) to 100 mm (yellow)."
        )

    # Frames --------------------------------------------------------------------------------------

    def open(self, capture: Capture) -> None:
        """Show a capture. One frame is reconstructed; several are followed through."""
        self._aimed = False
        self.timeline.open(capture)
        if len(capture) == 1:
            self.reconstruct()

    def take_upload(self, file: viser.UploadedFile) -> None:
        """A file from the page: read, shown and reconstructed, or refused with a reason."""
        text, unit = self._camera_text.value.strip(), self._unit_text.value.strip()

        def job() -> None:
            if text:
                check_camera(text)
            camera = text or (None if self._camera is None else str(self._camera))
            frame = read_upload(file.name, file.content, camera=camera, unit=unit or self._unit)
            self.timeline.close()
            self._aimed = False
            self.show(frame)
            self.reconstruct()

        self.worker.submit("upload", job)

    def show(self, frame: Frame, found: Found | None = None) -> None:
        """A frame, and what was found in it."""
        self._frame, self.found = frame, None
        self._sizes.add(frame.depth.shape)
        if len(self._sizes) > _SIZES:
            jax.clear_caches()
            self._sizes = {frame.depth.shape}
        with self._server.atomic():
            self.stage.show_camera(frame.camera)
            if found is not None:
                self._take(found)
                return
            self.stage.hide_model()
            self._energy.visible = False
            self._place(np.zeros(frame.depth.shape, bool))
        self.say(f"**{_safe(frame.name)}**: " + "; ".join(map(_safe, frame.notes)))

    def _place(self, mask: np.ndarray) -> None:
        assert self._frame is not None
        frame = self._frame
        self._seen = jnp.asarray(frame.depth), frame.camera, jnp.asarray(mask)
        self.stage.show_cloud(make_cloud(frame.depth, frame.camera, mask))
        self._picture.image = depth_picture(frame.depth, mask if mask.any() else None)
        self._picture.visible = True

    # Results -------------------------------------------------------------------------------------

    def reconstruct(self) -> None:
        """Find the object of the frame that is shown."""
        if self._frame is None:
            raise ValueError("Choose a depth map first.")
        self.say(
            f"**{_safe(self._frame.name)}**: reconstructing; the first time this compiles for a "
            "minute."
        )
        found = results.find(self._subject, self._frame)
        self.timeline.keep(found)
        self._take(found)

    def refine(self) -> None:
        """Fit again from where the sliders are."""
        if self.found is None:
            raise ValueError("Reconstruct first.")
        self.say("Refining; the first time this compiles for a minute.")
        found = results.refine(self._subject, self.found, self.panel.edits.now)
        self.timeline.keep(found)
        self._take(found)

    def _take(self, found: Found) -> None:
        self.found = found
        if not self._aimed:
            # Once for each capture: from then on it is for people to turn.
            self.stage.look_at(np.asarray(found.result.vertices).mean(axis=0))
            self._aimed = True
        self._place(found.mask)
        self.panel.begin(found.result.params)
        self.redraw()
        self._energy.image = energy_picture(np.asarray(found.result.fit.history), 440, 260)
        self._energy.visible = True
        self.say(_verdict(found))

    def _edited(self) -> None:
        self.worker.submit("draw", self.redraw)

    def redraw(self) -> None:
        """The model of the sliders, over the frame."""
        if self._seen is None:
            return
        params = self.panel.edits.now
        drawn = results.draw(self._subject, params, self._seen)
        std = None if self.found is None else np.asarray(self.found.result.fit.vertex_std)
        colors = colors_of(self._coloring.value, drawn.gap, std)
        model = self._subject.recon.model
        self.stage.show_surface(drawn.vertices, np.asarray(model.faces), colors)
        self.stage.show_bones(bones(drawn.joints, model.parents))
        if self.panel.edits.past and np.isfinite(drawn.gap).any():
            apart = 1e3 * np.nanmedian(np.abs(drawn.gap))
            self.say(f"Changed by hand: {apart:.0f} mm apart where the model is seen.")

    def _send(self, event: Any, name: str) -> None:
        if self.found is None:
            raise ValueError("Reconstruct first.")
        if name == "motion.glb":
            content = self.timeline.motion()
        else:
            content = results.files(self._subject, self.found, self.panel.edits.now)[name]
        event.client.send_file_download(name, content, save_immediately=True)


def _in_front(subject: Subject) -> Params:
    """The template, upright and facing the camera, two metres ahead."""
    params = zeros(subject.recon.model)
    turned = np.array(params.pose, np.float32)
    turned[0, 0] = np.pi
    ahead = np.array([0, 0, 2.5], np.float32)
    return dataclasses.replace(params, pose=turned, translation=ahead)


def _verdict(found: Found) -> str:
    agreement = found.result.fit.agreement
    figures = (
        f"{float(agreement.residual_mm):.0f} mm apart, {float(agreement.inlier_share):.0%} "
        f"explained, outlines overlap {float(agreement.overlap):.0%}"
    )
    why = "".join(f"\n\n{reason}" for reason in found.verdict.reasons)
    word = "lost" if found.lost else found.verdict.word
    return f"**{_safe(found.frame.name)}: {word}**; {figures}{why}"


def _safe(text: str) -> str:
    """Text of a stranger in Markdown: nothing of it is markup."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]()<>#+-!|" else c for c in text)


def _plain(error: Exception) -> str:
    """What went wrong, for a page: a message of ours, or the kind of a surprise. Where files lie on
    this machine is not for the page."""
    known = isinstance(error, ValueError | OSError)
    return _safe(_FOLDERS.sub("", str(error))) if known else f"unexpected: {type(error).__name__}"
