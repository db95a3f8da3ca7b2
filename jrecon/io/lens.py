"""What a lens does to a pinhole image, and a depth map freed from it.

The radial and tangential model of OpenCV with up to eight coefficients (k1 k2 p1 p2 k3 k4 k5 k6),
which ROS calls plumb_bob (five) and rational_polynomial (eight), and COLMAP (FULL_)OPENCV.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jrecon.geometry.camera import Camera

# Coefficients of OpenCV's rational model: k1 k2 p1 p2 k3 k4 k5 k6.
COEFFICIENTS = 8


@dataclasses.dataclass(frozen=True)
class Lens:
    """A camera, and how its lens departs from a pinhole."""

    camera: Camera
    """The pinhole."""
    distortion: tuple[float, ...] = ()
    """Of OpenCV's rational model: k1 k2 p1 p2 k3 k4 k5 k6, or none."""
    note: str = ""
    """Where it is from, for people."""


def _distort(
    x: np.ndarray, y: np.ndarray, distortion: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Where the lens images the ray (x, y, 1): OpenCV's radial (rational) and tangential model."""
    k1, k2, p1, p2, k3, k4, k5, k6 = distortion
    r2 = x * x + y * y
    above = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    below = 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
    radial = above / below
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def _sources(lens: Lens) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of the pinhole image is in the distorted one: (h, w) twice, pixels."""
    camera = lens.camera
    (fx, fy), (cx, cy) = np.asarray(camera.focal, float), np.asarray(camera.center, float)
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    with np.errstate(all="ignore"):
        x, y = _distort((u - cx) / fx, (v - cy) / fy, lens.distortion)
    return x * fx + cx, y * fy + cy


def largest_shift(lens: Lens) -> float:
    """How far the lens moves any pixel of the image from where a pinhole has it, pixels.

    Raises:
      ValueError: a distortion that moves pixels by more than the image.
    """
    if not any(lens.distortion):
        return 0.0
    source_u, source_v = _sources(lens)
    shift = np.hypot(
        source_u - np.arange(lens.camera.width), source_v - np.arange(lens.camera.height)[:, None]
    ).max()
    if not shift < max(lens.camera.width, lens.camera.height):
        raise ValueError(
            f"distortion: got {lens.distortion}, which moves pixels by {shift:.3g}; need "
            "k1 k2 p1 p2 k3 k4 k5 k6 of OpenCV's model, for this image."
        )
    return float(shift)


def undistort(depth: Float[np.ndarray, "h w"], lens: Lens) -> Float[np.ndarray, "h w"]:
    """The depth map that the pinhole `lens.camera` would have seen; 0 where the lens saw nothing.

    Each pixel takes the nearest measurement: blending would invent points between surfaces.

    Raises:
      ValueError: the depth map is not of the camera's size, or the distortion makes no sense.
    """
    size = lens.camera.width, lens.camera.height
    if depth.shape != size[::-1]:
        raise ValueError(
            f"depth: got {depth.shape[1]} x {depth.shape[0]} pixels, but the camera has "
            f"{size[0]} x {size[1]}."
        )
    if largest_shift(lens) == 0:
        return depth
    u, v = (np.rint(axis) for axis in _sources(lens))
    inside = (u >= 0) & (u < size[0]) & (v >= 0) & (v < size[1])
    return np.where(inside, depth[(v * inside).astype(int), (u * inside).astype(int)], 0)
