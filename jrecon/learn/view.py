"""What a reconstruction function sees: any depth map, camera and mask, brought to one form.

The object is looked at by a *virtual camera*, which stands where the real one does and is turned so
that the middle of the object lies on its axis. The window around the mask is resampled to a fixed
size, and every pixel becomes its point in the frame of the virtual camera, in metres, relative to
that middle. So neither where the object stands in the image nor the camera's field of view changes
what is seen, and predictions are turned back exactly.

Resampling takes the nearest pixel: averages over an edge would be points in mid-air.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jrecon.geometry.camera import Camera
from jrecon.geometry.vector import normalize

HIGHEST = jax.lax.Precision.HIGHEST
CHANNELS = 6
SCALARS = 4
# Surroundings are told as so many metres before or behind the middle of the object, at most.
_AROUND = 1.0
# Of the window around the mask, as a share of its side: the mask may miss the object's border.
_MARGIN = 0.08
# Windows of more pixels than these, as a share of those that are looked at, all look alike: what is
# finer is lost in resampling. (That is the whole of an image of 9/8 as many pixels.)
_FINEST = (1 + _MARGIN) * 9 / 8
# The middle of an object that nothing is known of.
_FALLBACK_M = 2.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ObjectView:
    """One object as a network sees it."""

    image: Float[Array, "n n 6"]
    """x, y, z of the object's points (0 elsewhere), metres; mask; whether the pixel has a depth;
    how far its point is behind the middle, within +-1 m, outside of the mask."""
    scalars: Float[Array, " 4"]
    """Size of a pixel at the middle and its distance, as logarithms; the share of pixels that are
    the object's; the side of the window in pixels of the image, as a logarithm, but no more than
    can be told from what is seen: functions learn from small images, and are asked about large
    ones."""
    turn: Float[Array, "3 3"]
    """From the camera's frame to that of the virtual camera."""
    middle: Float[Array, " 3"]
    """Of the object, camera frame, metres."""


def view_object(
    depth: Float[Array, "h w"], camera: Camera, mask: Bool[Array, "h w"], size: int
) -> ObjectView:
    """The object of a mask in one depth map, `size` pixels along each side; for `vmap`.

    Args:
      depth: metres, 0 = no return; values that are not finite count as 0.
      mask: pixels of the object. Where it is empty, or has no depth, the view is all zero around
        a point 2 m away; nothing fails.
    """
    depth = jnp.where(jnp.isfinite(depth) & (depth > 0), depth, 0.0)
    mask = mask & (depth > 0)
    low, side = _window(mask)
    step = (jnp.arange(size) + 0.5) / size * side - 0.5
    columns, rows = low[0] + step, low[1] + step
    inside = ((rows > -0.5) & (rows < depth.shape[0] - 0.5))[:, None]
    inside &= ((columns > -0.5) & (columns < depth.shape[1] - 0.5))[None, :]
    u = jnp.clip(jnp.round(columns), 0, depth.shape[1] - 1).astype(jnp.int32)
    v = jnp.clip(jnp.round(rows), 0, depth.shape[0] - 1).astype(jnp.int32)
    z = jnp.where(inside, depth[v[:, None], u[None, :]], 0.0)
    own = jnp.where(inside, mask[v[:, None], u[None, :]], False)
    x = (u - camera.center[0]) / camera.focal[0]
    y = (v - camera.center[1]) / camera.focal[1]
    points = jnp.stack([x[None, :] * z, y[:, None] * z, z], axis=-1)
    count = jnp.sum(own)
    middle = jnp.sum(jnp.where(own[..., None], points, 0.0), axis=(0, 1)) / jnp.maximum(count, 1)
    middle = jnp.where(count > 0, middle, jnp.array([0.0, 0.0, _FALLBACK_M]))
    turn = _toward(middle)
    local = jnp.einsum("ab,vub->vua", turn, points - middle[None, None], precision=HIGHEST)
    around = jnp.where((z > 0) & ~own, jnp.clip(local[..., 2], -_AROUND, _AROUND), 0.0)
    image = jnp.concatenate(
        [jnp.where(own[..., None], local, 0.0), jnp.stack([own, z > 0, around], axis=-1)], axis=-1
    )
    distance = jnp.linalg.norm(middle)
    footprint = distance * side / size / jnp.mean(camera.focal)
    told = jnp.minimum(side, _FINEST * size)
    scalars = jnp.stack(
        [jnp.log(footprint * 50), jnp.log(distance / 2), count / size**2, jnp.log(told / 100)]
    )
    return ObjectView(image, scalars, turn, middle)


def view_objects(
    depth: Float[Array, "*batch h w"], camera: Camera, mask: Bool[Array, "*batch h w"], size: int
) -> ObjectView:
    """The same for batches; batch axes of the camera and of the mask broadcast."""
    batch, pixels = depth.shape[:-2], depth.shape[-2:]
    flat, masks = (jnp.broadcast_to(x, depth.shape).reshape(-1, *pixels) for x in (depth, mask))
    focal, center = (
        jnp.broadcast_to(x, (*batch, 2)).reshape(-1, 2) for x in (camera.focal, camera.center)
    )
    cameras = Camera(focal, center, camera.width, camera.height)
    views = jax.vmap(functools.partial(view_object, size=size))(flat, cameras, masks)
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), views)


def _window(mask: Bool[Array, "h w"]) -> tuple[Float[Array, " 2"], Float[Array, ""]]:
    """Lower corner (u, v; outer edge of its pixel is at -0.5) and side of a square around a mask,
    in pixels."""
    bounds = []
    for axis in (0, 1):
        held = jnp.any(mask, axis=axis)
        count = held.shape[0]
        first = jnp.argmax(held)
        last = count - 1 - jnp.argmax(held[::-1])
        some = jnp.any(held)
        bounds.append((jnp.where(some, first, 0), jnp.where(some, last, count - 1)))
    (u0, u1), (v0, v1) = bounds
    side = jnp.maximum(u1 - u0, v1 - v0) + 1.0
    side = side * (1 + _MARGIN)
    middle = jnp.stack([u0 + u1, v0 + v1]) / 2
    return middle + 0.5 - side / 2, side


def _toward(point: Float[Array, " 3"]) -> Float[Array, "3 3"]:
    """The rotation that brings a point onto the axis, without roll: its rows are the virtual
    camera's axes."""
    ahead = normalize(point)
    right = normalize(jnp.cross(jnp.array([0.0, 1.0, 0.0]), ahead))
    return jnp.stack([right, jnp.cross(ahead, right), ahead])
