"""One labelled example: a depth map as a sensor would return it, and the truth behind it."""

from __future__ import annotations

import dataclasses

import jax
from jaxtyping import Array, Bool, Float, Int

from jrecon.geometry.camera import Camera
from jrecon.model.parametric import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """A depth map with the parameters that explain it. All in the frame of `camera`, metres."""

    depth: Float[Array, "*batch h w"]
    """What the sensor returned, with whatever stands before and behind the object; z along the
    optical axis, 0 = no return."""
    mask: Bool[Array, "*batch h w"]
    """The pixels said to be the object's: as imperfect as segmentation is."""
    camera: Camera
    params: Params
    """The truth: placed in the camera frame."""
    joints: Float[Array, "*batch j 3"]
    """The truth: joint positions in the camera frame."""
    sensor: Int[Array, "*batch"]
    """Which of the configured sensors took the image."""
    visible: Float[Array, "*batch"]
    """Share of the object that is in the frame and not hidden: that of its vertices in the frame,
    times that of its pixels that nothing stands before."""
