"""Pictures of examples: each depth map beside the instance that explains it."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jrecon.model.parametric import ParametricModel, Params, pose
from jrecon.pictures import Color, Image, color_map, shade
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
      least_pixels: smaller images are enlarged by a whole factor to so many pixels.
    """
    count = len(np.asarray(examples.sensor))
    images = []
    for i in range(count):
        one = jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf[i]), examples)
        view = _truth(model, one.params, one.camera)
        depth, mask = np.asarray(one.depth), np.asarray(one.mask)
        seen = np.asarray(view.depth)[np.asarray(view.mask)]
        shown = seen if seen.size else depth[depth > 0]
        low, high = (shown.min(), shown.max()) if shown.size else (0.0, 1.0)
        image = color_map(depth, low - _AROUND_M, high + _AROUND_M, depth > 0)
        image[_outline(mask)] = _OUTLINE
        shaded = shade(view, background=_BACKDROP)
        factor = max(1, least_pixels // max(depth.shape))
        images += [
            np.kron(each, np.ones((factor, factor, 1), np.uint8)) for each in (image, shaded)
        ]
    return images


@jax.jit
def _truth(model: ParametricModel, params: Params, camera):
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
