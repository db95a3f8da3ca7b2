"""Parts of the live page that both of its kinds have: layers, and sliders of the model.

Sliders report to `changed`; what the page sets itself does not come back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import viser

from jrecon.model.parametric import ParametricModel, Params
from jrecon.viewer import editing
from jrecon.viewer.editing import Edits
from jrecon.viewer.stage import LAYERS, Stage

# Shape components with a slider of their own in sight; the others are folded away.
_IN_SIGHT = 6
_AXES = ("x", "y", "z")


def by_hand(function: Callable[[Any], None]) -> Callable[[viser.GuiEvent], Any]:
    """A callback that hears of people only, not of what the page sets itself; one after another,
    in the order of events, so it must be quick."""

    async def heard(event: viser.GuiEvent) -> None:
        if event.client is not None:
            function(event)

    return heard


def layer_panel(server: viser.ViserServer, stage: Stage) -> None:
    """A switch for each layer."""
    for layer, shown in LAYERS.items():
        box = server.gui.add_checkbox(layer, shown)
        switch = lambda event, layer=layer: stage.show_layer(layer, event.target.value)
        box.on_update(by_hand(switch))


class ModelPanel:
    """Sliders of shape and joints, undo, redo, reset. Holds the `Edits`."""

    def __init__(
        self,
        server: viser.ViserServer,
        model: ParametricModel,
        params: Params,
        changed: Callable[[], None],
        *,
        shapes: int | None = None,
    ) -> None:
        self.edits: Edits = editing.begin(params)
        self._server, self._model, self._changed = server, model, changed
        count = model.num_shape if shapes is None else shapes
        self._buttons()
        self._shapes: list[Any] = []
        with server.gui.add_folder("Shape"):
            for component in range(min(_IN_SIGHT, count)):
                self._shapes.append(self._shape_slider(component))
            if count > _IN_SIGHT:
                with server.gui.add_folder("More", expand_by_default=False):
                    for component in range(_IN_SIGHT, count):
                        self._shapes.append(self._shape_slider(component))
        with server.gui.add_folder("Pose"):
            self._joint_sliders()
        self._show()

    def begin(self, params: Params) -> None:
        """Other parameters to edit, without a past."""
        self.edits = editing.begin(params)
        self._show()

    def _buttons(self) -> None:
        steps = self._server.gui.add_button_group("Edits", ("undo", "redo", "reset"))
        actions = {"undo": editing.undo, "redo": editing.redo, "reset": editing.reset}

        @steps.on_click
        @by_hand
        def _(event: viser.GuiEvent) -> None:
            self.edits = actions[event.target.value](self.edits)
            self._show()
            self._changed()

    def _shape_slider(self, component: int) -> Any:
        low, high = (float(x) for x in np.asarray(self._model.shape_limits)[:, component])
        label = editing.shape_label(self._model, component)
        slider = self._server.gui.add_slider(label, low, high, 0.01, min(max(0.0, low), high))

        @slider.on_update
        @by_hand
        def _(event: viser.GuiEvent) -> None:
            changed = editing.with_shape(self.edits.now, component, event.target.value)
            self._step(f"shape {component}", changed)

        return slider

    def _joint_sliders(self) -> None:
        names = [editing.joint_label(self._model, j) for j in range(self._model.num_joints)]
        gui = self._server.gui
        if self._model.named_poses:
            named = gui.add_button_group("Set to", tuple(self._model.named_poses))

            @named.on_click
            @by_hand
            def _(event: viser.GuiEvent) -> None:
                chosen = np.asarray(self._model.named_poses[event.target.value])
                self._step("", editing.with_pose(self.edits.now, chosen))
                self._show()

        self._joint = gui.add_dropdown("joint", tuple(names), initial_value=names[0])
        self._joint.on_update(by_hand(lambda _: self._show()))
        self._names = names
        self._angles = [gui.add_slider(f"{axis}, deg", -180.0, 180.0, 0.5, 0.0) for axis in _AXES]
        for axis, slider in enumerate(self._angles):
            self._hear_angle(axis, slider)

    def _hear_angle(self, axis: int, slider: Any) -> None:
        @slider.on_update
        @by_hand
        def _(event: viser.GuiEvent) -> None:
            joint = self._names.index(self._joint.value)
            angle = math.radians(event.target.value)
            changed = editing.with_angle(self.edits.now, joint, axis, angle)
            self._step(f"joint {joint} {axis}", changed)

    def _step(self, what: str, params: Params) -> None:
        self.edits = editing.change(self.edits, what, params)
        self._changed()

    def _show(self) -> None:
        """Put the sliders where the parameters are."""
        shape, turned = np.asarray(self.edits.now.shape), np.asarray(self.edits.now.pose)
        for slider, value in zip(self._shapes, shape, strict=False):
            slider.value = float(np.clip(value, slider.min, slider.max))
        joint = self._names.index(self._joint.value)
        bounds = np.degrees(np.asarray(self._model.pose_limits)[:, joint])
        for axis, slider in enumerate(self._angles):
            angle = math.degrees(float(turned[joint, axis]))
            # What a fit or a captured motion found may lie outside the model's limits.
            slider.min = float(min(np.floor(bounds[0, axis]), np.floor(angle)))
            slider.max = float(max(np.ceil(bounds[1, axis]), np.ceil(angle)))
            slider.value = angle
