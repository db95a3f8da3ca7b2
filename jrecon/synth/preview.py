"""Pictures of examples: each depth map beside the instance that explains it."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jrecon.geometry.camera import Camera, resize
from jrecon.model.parametric import ParametricModel, Params, pose
from jrecon.pictures import Color, Image, View, color_map, shade
from jrecon.render import render
from jrecon.synth.example import Example

# Behind the shaded instance, so that the edge of the image shows.
_BACKDROP: Color = (0.93, 0.93, 0.93)
# Colours of a depth map span the object, and so far before and behind it.
_AROUND_M = 0.3
_OUTLINE = (220, 30, 60)


def example_images(
    model: ParametricModel, examples: Example, least_pixels: int = 128
) -> list[Image]:
    """Two images of each example (n,): what the sensor returned, and the truth.

    The depth map has colours from dark (near) to yellow (far), white where nothing came back and
    the outline of the mask in red. The truth is rendered with the camera of the example.

    Args:
      least_pixels: smaller depth maps are enlarged by a whole factor, up to so many pixels.
    """
    images = []
    for i in range(len(np.asarray(examples.sensor))):
        one = jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf[i]), examples)
        depth, mask = np.asarray(one.depth), np.asarray(one.mask)
        factor = max(1, least_pixels // max(depth.shape))
        enlarge = lambda image, factor=factor: image.repeat(factor, 0).repeat(factor, 1)
        camera = resize(one.camera, factor * one.camera.width, factor * one.camera.height)
        view = _truth(model, one.params, camera)
        object_depth = np.asarray(view.depth)[np.asarray(view.mask)]
        shown = object_depth if object_depth.size else depth[depth > 0]
        low, high = (shown.min(), shown.max()) if shown.size else (0.0, 1.0)
        image = enlarge(color_map(depth, low - _AROUND_M, high + _AROUND_M, depth > 0))
        image[_outline(enlarge(mask))] = _OUTLINE
        images += [image, shade(view, background=_BACKDROP)]
    return images


@jax.jit
def _truth(model: ParametricModel, params: Params, camera: Camera) -> View:
    return render(pose(model, params).vertices, model.faces, camera)


def captions(names: Sequence[str], examples: Example) -> list[str]:
    """For `example_images`: the sensor under the depth map, what is visible under the truth.

    Args:
      names: of the sensors, by index; what has none (-1, a real capture) is "real".
    """
    texts = []
    for sensor, visible in zip(
        np.asarray(examples.sensor), np.asarray(examples.visible), strict=True
    ):
        texts += [names[sensor] if 0 <= sensor < len(names) else "real", f"{visible:.0%} visible"]
    return texts


def _outline(mask: np.ndarray) -> np.ndarray:
    """Pixels of the mask with a neighbour outside it."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside
