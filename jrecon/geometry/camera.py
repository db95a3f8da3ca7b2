"""Pinhole cameras, and the conventions of the whole project about cameras and depth.

- The camera frame is x right, y down, z forward (OpenCV), in metres, the pinhole at the origin.
- *Depth* is z along the optical axis, in metres: not the length of the ray. 0 means no return.
- Pixel coordinates are (u, v), right and down. Pixel *centres* are at integers (OpenCV, RealSense,
  Open3D): the image covers -0.5 <= u <= width - 0.5, the centre of the top left pixel is (0, 0).
- A point projects to u = fx x / z + cx, v = fy y / z + cy. There is no skew and no distortion: lens
  distortion is removed where files are read.
- Images are arrays (height, width), indexed [v, u].

Batch axes of cameras and of what they see broadcast: one camera serves many point clouds, and many
cameras see one point cloud.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# A point this close to the camera plane, or behind it, has no projection; it is computed as if it
# were here, so that the result and its derivative stay finite.
MIN_DEPTH = 1e-6


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera, or a batch of them with one image size. Build one with `make_camera`."""

    focal: Float[Array, "*batch 2"]
    """(fx, fy), pixels."""
    center: Float[Array, "*batch 2"]
    """Principal point (cx, cy), pixels; pixel centres are at integers."""
    width: int = dataclasses.field(metadata=dict(static=True))
    """Columns of the image."""
    height: int = dataclasses.field(metadata=dict(static=True))
    """Rows of the image."""


def make_camera(
    fx: Any, fy: Any, cx: Any, cy: Any, width: int, height: int, *, far_center: bool = False
) -> Camera:
    """A checked camera; the four intrinsics are numbers, or arrays of one batch shape, in pixels.

    Args:
      far_center: accept a principal point far outside the image, as in a small window cut from the
        border of a large image.

    Raises:
      ValueError: a focal length that is not positive, a number that is not finite, an empty image,
        or a principal point more than an image size outside the image (then the intrinsics belong
        to another resolution, or fx and cx are swapped).
    """
    _check_size(width, height)
    arrays = np.broadcast_arrays(*(np.asarray(value, np.float64) for value in (fx, fy, cx, cy)))
    for name, values in zip(("fx", "fy", "cx", "cy"), arrays, strict=True):
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: got {values}, need a finite number of pixels.")
    for name, values in (("fx", arrays[0]), ("fy", arrays[1])):
        if (values <= 0).any():
            raise ValueError(
                f"{name}: got {values}, need a focal length > 0 in pixels "
                "(width / 2 / tan(field of view / 2))."
            )
    for name, values, size in (("cx", arrays[2], width), ("cy", arrays[3], height)):
        if not far_center and ((values < -size).any() or (values > 2 * size).any()):
            raise ValueError(
                f"{name}: got {values} for an image of {width} x {height} pixels, need a principal "
                "point in or near the image; are the intrinsics of another resolution? If the "
                "image is a window of a larger one, pass far_center=True."
            )
    return Camera(
        focal=jnp.asarray(np.stack(arrays[:2], axis=-1), jnp.float32),
        center=jnp.asarray(np.stack(arrays[2:], axis=-1), jnp.float32),
        width=int(width),
        height=int(height),
    )


def _check_size(width: int, height: int) -> None:
    for name, size in (("width", width), ("height", height)):
        if not np.isfinite(size) or int(size) != size or size < 1:
            raise ValueError(f"{name}: got {size}, need a whole number of pixels >= 1.")


def from_matrix(matrix: Any, width: int, height: int, *, far_center: bool = False) -> Camera:
    """A camera from its 3x3 matrix K (row-major, pixels).

    Raises:
      ValueError: not a pinhole matrix; a transposed (column-major) one is recognised.
    """
    k = np.asarray(matrix, np.float64)
    if k.shape[-2:] != (3, 3):
        raise ValueError(f"K: got shape {k.shape}, need (3, 3).")
    if not np.isfinite(k).all():
        raise ValueError(f"K: got {k.tolist()}, need finite numbers.")
    scale = max(float(np.abs(k).max()), 1.0)
    zeros = np.abs(k[..., [0, 1, 2, 2], [1, 0, 0, 1]]).max()
    if zeros > 1e-6 * scale or np.abs(k[..., 2, 2] - 1).max() > 1e-6:
        transposed = np.abs(k[..., [0, 1], [2, 2]]).max() <= 1e-6 * scale
        hint = "transpose it: it is column-major" if transposed else "skew is not supported"
        raise ValueError(
            f"K: got {k.tolist()}, need [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]; {hint}."
        )
    intrinsics = k[..., 0, 0], k[..., 1, 1], k[..., 0, 2], k[..., 1, 2]
    return make_camera(*intrinsics, width, height, far_center=far_center)


def from_field_of_view(vertical: float, width: int, height: int) -> Camera:
    """A camera with square pixels, centred, with a vertical field of view in radians."""
    if not 0 < vertical < math.pi:
        raise ValueError(f"field of view: got {vertical}, need 0 < angle < pi, in radians.")
    focal = height / 2 / math.tan(vertical / 2)
    return make_camera(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)


def field_of_view(camera: Camera) -> Float[Array, "*batch 2"]:
    """The horizontal and vertical angle that the image spans, radians."""
    low = (-0.5 - camera.center) / camera.focal
    size = jnp.stack(
        [camera.width / camera.focal[..., 0], camera.height / camera.focal[..., 1]], -1
    )
    return jnp.arctan(low + size) - jnp.arctan(low)


def matrix(camera: Camera) -> Float[Array, "*batch 3 3"]:
    """K, row-major, pixels."""
    fx, fy = camera.focal[..., 0], camera.focal[..., 1]
    cx, cy = camera.center[..., 0], camera.center[..., 1]
    zero, one = jnp.zeros_like(fx), jnp.ones_like(fx)
    rows = [fx, zero, cx, zero, fy, cy, zero, zero, one]
    return jnp.stack(rows, axis=-1).reshape(*fx.shape, 3, 3)


def project(camera: Camera, points: Float[Array, "*batch n 3"]) -> Float[Array, "*batch n 2"]:
    """Pixel coordinates of points in the camera frame.

    Points at or behind the camera plane are projected as if at `MIN_DEPTH`: finite, with finite
    (very large) derivatives, but meaningless; test `points[..., 2] > 0` for those that can be seen.
    """
    points, focal, center = _aligned(
        points, camera.focal[..., None, :], camera.center[..., None, :]
    )
    depth = points[..., 2:]
    ahead = jnp.where(depth > MIN_DEPTH, depth, MIN_DEPTH)
    return points[..., :2] / ahead * focal + center


def unproject(
    camera: Camera, pixels: Float[Array, "*batch n 2"], depth: Float[Array, "*batch n"]
) -> Float[Array, "*batch n 3"]:
    """The points in the camera frame that are seen at `pixels`, at `depth` along the axis."""
    pixels, depth, focal, center = _aligned(
        pixels, depth[..., None], camera.focal[..., None, :], camera.center[..., None, :]
    )
    return _with_one((pixels - center) / focal) * depth


def pixel_grid(width: int, height: int) -> Float[Array, "h w 2"]:
    """The coordinates (u, v) of every pixel centre."""
    u, v = jnp.meshgrid(jnp.arange(float(width)), jnp.arange(float(height)))
    return jnp.stack([u, v], axis=-1)


def rays(camera: Camera) -> Float[Array, "*batch h w 3"]:
    """The direction through every pixel centre, scaled to z = 1."""
    grid, focal, center = _aligned(
        pixel_grid(camera.width, camera.height),
        camera.focal[..., None, None, :],
        camera.center[..., None, None, :],
    )
    return _with_one((grid - center) / focal)


def unproject_depth(
    camera: Camera, depth: Float[Array, "*batch h w"]
) -> Float[Array, "*batch h w 3"]:
    """The point seen by each pixel of a depth map, camera frame; the origin where depth is 0.

    Raises:
      ValueError: the depth map is not of the camera's size (known when tracing).
    """
    if depth.shape[-2:] != (camera.height, camera.width):
        raise ValueError(
            f"depth: got {depth.shape[-1]} x {depth.shape[-2]} pixels, but the camera has "
            f"{camera.width} x {camera.height}; resize the camera or transpose the depth map."
        )
    directions, depth = _aligned(rays(camera), depth[..., None])
    return directions * depth


def _aligned(*arrays: Array) -> list[Array]:
    """The arrays with leading axes of length one, as many as it takes for equal ranks."""
    rank = max(array.ndim for array in arrays)
    return [array.reshape((1,) * (rank - array.ndim) + array.shape) for array in arrays]


def _with_one(slopes: Float[Array, "*batch 2"]) -> Float[Array, "*batch 3"]:
    return jnp.concatenate([slopes, jnp.ones_like(slopes[..., :1])], axis=-1)


def crop(camera: Camera, x0: Any, y0: Any, width: int, height: int) -> Camera:
    """The camera of a window of the image whose top left pixel is (x0, y0) of the old image.

    The window may reach outside the image; x0 and y0 may be fractions, traced, or batched.
    """
    _check_size(width, height)
    focal, center, corner = _with_pairs(camera, x0, y0)
    return Camera(focal, center - corner, int(width), int(height))


def scale(camera: Camera, sx: Any, sy: Any, width: int, height: int) -> Camera:
    """The camera with sx, sy times as many pixels per radian, and a new image size.

    The top left *border* of the image, at -0.5, stays where it is: u -> sx (u + 0.5) - 0.5. The
    factors may be traced or batched: a window of the image resampled to a fixed size, as a network
    wants it, is `scale(crop(camera, x0, y0, 1, 1), sx, sy, width, height)`.
    """
    _check_size(width, height)
    focal, center, factor = _with_pairs(camera, sx, sy)
    return Camera(focal * factor, (center + 0.5) * factor - 0.5, int(width), int(height))


def resize(camera: Camera, width: int, height: int) -> Camera:
    """The camera of the same view sampled with another number of pixels; the borders stay."""
    return scale(camera, width / camera.width, height / camera.height, width, height)


def _with_pairs(camera: Camera, x: Any, y: Any) -> tuple[Array, Array, Array]:
    """Focal lengths, principal points and the pairs (x, y), broadcast to one shape."""
    pair = jnp.stack(jnp.broadcast_arrays(jnp.asarray(x), jnp.asarray(y)), axis=-1)
    shape = jnp.broadcast_shapes(pair.shape, camera.center.shape)
    return (
        jnp.broadcast_to(camera.focal, shape),
        jnp.broadcast_to(camera.center, shape),
        jnp.broadcast_to(pair.astype(camera.focal.dtype), shape),
    )
