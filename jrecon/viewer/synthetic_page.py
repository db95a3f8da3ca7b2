"""The live page of synthesis: change shape, pose, viewpoint, sensor, noise; watch the depth map."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import viser

from jrecon.model.parametric import ParametricModel, zeros
from jrecon.pictures import Image, sheet
from jrecon.synth.devices import SENSORS
from jrecon.viewer.arrays import CLAY, bones, depth_picture, make_cloud
from jrecon.viewer.panels import ModelPanel, by_hand, layer_panel
from jrecon.viewer.stage import Stage
from jrecon.viewer.synthetic import SIZE, Shot, camera_of, errors_mm, take
from jrecon.viewer.worker import Worker

# Sliders of a shot: field, label, least, most, step.
_SLIDERS = (
    ("azimuth_deg", "azimuth, deg", -180.0, 180.0, 1.0),
    ("elevation_deg", "elevation, deg", -60.0, 80.0, 1.0),
    ("distance_m", "distance, m", 0.8, 6.0, 0.05),
    ("field_of_view_deg", "field of view, deg", 30.0, 100.0, 1.0),
    ("noise", "noise, times the sensor's", 0.0, 4.0, 0.05),
    ("seed", "draw of the noise", 0, 100, 1),
)


class SyntheticPage:
    """Builds the page and answers it."""

    def __init__(self, server: viser.ViserServer, model: ParametricModel) -> None:
        self._server, self._model = server, model
        self.stage = Stage(server)
        self.worker = Worker(lambda error: self.say(f"**{type(error).__name__}: {error}**"))
        self.shot = Shot()
        self._status = server.gui.add_markdown("Compiling, for half a minute the first time.")
        tabs = server.gui.add_tab_group()
        with tabs.add_tab("Sensor"):
            self._sensor_tab()
        with tabs.add_tab("Model"):
            self.panel = ModelPanel(server, model, zeros(model), self._changed)
        with tabs.add_tab("Show"):
            layer_panel(server, self.stage)
        self.stage.look_at(np.array([0.0, 0.0, self.shot.distance_m]), away=1.3)
        self._changed()

    def say(self, text: str) -> None:
        """The line at the top of the page."""
        self._status.content = text

    @property
    def status(self) -> str:
        """That line."""
        return self._status.content

    @property
    def picture(self) -> Image:
        """The depth map of the sensor that is chosen, as it is shown."""
        return self._picture.image

    def _sensor_tab(self) -> None:
        gui = self._server.gui
        self._sensor = gui.add_dropdown("sensor", tuple(SENSORS), initial_value="stereo")
        again = by_hand(lambda _: self.aim(self._sensor.value, self._compare.value))
        self._sensor.on_update(again)
        self._picture = gui.add_image(
            np.full((SIZE[1], SIZE[0], 3), 255, np.uint8), label="Depth, yellow near"
        )
        for field, label, low, high, step in _SLIDERS:
            slider = gui.add_slider(label, low, high, step, getattr(self.shot, field))
            slider.on_update(by_hand(lambda event, field=field: self._set(field, event)))
        around = gui.add_checkbox("floor and wall", self.shot.surroundings)
        around.on_update(by_hand(lambda event: self._set("surroundings", event)))
        self._compare = gui.add_checkbox("all sensors side by side", False)
        self._compare.on_update(again)
        self._sheet = gui.add_image(np.full((2, 2, 3), 255, np.uint8), visible=False)

    def _set(self, field: str, event: Any) -> None:
        self.shot = dataclasses.replace(self.shot, **{field: event.target.value})
        self._changed()

    def aim(self, sensor: str, compare: bool) -> None:
        """Take images with a sensor, and with all others, too, if they are compared."""
        others = [name for name in SENSORS if name != sensor] if compare else []
        self.shot = dataclasses.replace(self.shot, sensors=(sensor, *others))
        self._changed()

    def _changed(self) -> None:
        self.worker.submit("draw", self.redraw)

    def redraw(self) -> None:
        """Take the image anew and show it."""
        shot = self.shot
        taken = take(self._model, self.panel.edits.now, shot)
        depth, mask = np.asarray(taken.depth), np.asarray(taken.mask)
        images = [depth_picture(one, like=np.asarray(taken.clean)) for one in depth]
        # Large enough for each of its pixels to be seen.
        self._picture.image = images[0].repeat(2, axis=0).repeat(2, axis=1)
        camera = camera_of(shot)
        self.stage.show_cloud(make_cloud(depth[0], camera, mask))
        self.stage.show_camera(camera)
        tones = np.tile(np.array(CLAY, np.uint8), (len(taken.vertices), 1))
        self.stage.show_surface(np.asarray(taken.vertices), np.asarray(self._model.faces), tones)
        self.stage.show_bones(bones(np.asarray(taken.joints), self._model.parents))
        errors = errors_mm(taken)
        if len(images) > 1:
            captions = [
                f"{name}: {error:.0f} mm, {lost:.0%} lost"
                for name, (error, lost) in zip(shot.sensors, errors, strict=True)
            ]
            self._sheet.image = sheet(images, columns=2, captions=captions)
        self._sheet.visible = len(images) > 1
        error, lost = errors[0]
        self.say(
            f"**{shot.sensors[0]}** sees the object with a median error of {error:.1f} mm and "
            f"loses {lost:.1%} of it; {SIZE[0]} x {SIZE[1]} pixels."
        )
