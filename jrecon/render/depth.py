"""Depth, normals and mask of a rendered mesh, exact at each pixel and differentiable."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from jrecon.geometry.camera import Camera
from jrecon.render.columns import cross, dot, minus
from jrecon.render.rasterize import (
    as_arrays,
    check_shapes,
    gather_corners,
    map_images,
    meet,
    with_value,
)
from jrecon.render.silhouette import with_silhouettes
from jrecon.render.triangles import FARTHEST
from jrecon.render.visibility import MAX_TILES, nearest_faces


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """A rendered mesh. All is zero (and `face_id` -1) where the mask is false."""

    depth: Float[Array, "*batch h w"]
    """z along the optical axis, metres; 0 = nothing there."""
    mask: Bool[Array, "*batch h w"]
    face_id: Int[Array, "*batch h w"]
    """The face seen; -1 = none."""
    barycentrics: Float[Array, "*batch h w 3"]
    """Weights of the face's corners at the point seen (perspective-correct)."""
    coverage: Float[Array, "*batch h w"]
    """The mask as 0 and 1, with derivatives where silhouettes move."""
    normals: Float[Array, "*batch h w 3"]
    """Outward unit normal of the face, camera frame; it points away from the camera where the
    inside of the surface is seen."""
    overflow: Int[Array, "*batch"]
    """0 when the image is complete; see `Fragments.overflow`."""


def render(
    vertices: Float[Array | np.ndarray, "*batch v 3"],
    faces: Int[Array | np.ndarray, "f 3"],
    camera: Camera,
    size: tuple[int, int] | None = None,
    *,
    max_tiles: int = MAX_TILES,
) -> View:
    """The mesh as the camera sees it.

    Args:
      vertices: camera frame (x right, y down, z forward), metres; see `jrecon.geometry.camera`.
        Batch axes broadcast against those of the camera.
      faces: triangles; both sides are visible.
      camera: intrinsics and image size.
      size: (height, width) that the caller expects; only checked.
      max_tiles: see `rasterize`.

    Returns:
      A pure function of its arguments: under `jit`, `vmap` or `grad` it never raises on values.

    Raises:
      ValueError: wrong shapes or another image size; and, for arrays that are known (not traced):
        faces out of range, vertices that are not finite, or an image that `max_tiles` left
        incomplete.
    """
    vertices, faces = as_arrays(vertices, faces)
    check_shapes(vertices, faces, camera, size)
    _check_values(vertices, faces)
    arrays = jnp.asarray(vertices, jnp.float32), jnp.asarray(faces, jnp.int32)
    view = _render(*arrays, camera, max_tiles)
    if not isinstance(view.overflow, Tracer) and (left_out := int(view.overflow.max(initial=0))):
        raise ValueError(
            f"render: {left_out} of {len(faces)} faces do not fit max_tiles={max_tiles}; raise it, "
            "or render fewer or smaller faces."
        )
    return view


@functools.partial(jax.jit, static_argnums=3)
def _render(
    vertices: Float[Array, "*batch v 3"], faces: Int[Array, "f 3"], camera: Camera, max_tiles: int
) -> View:
    face_id, nearest, overflow = nearest_faces(vertices, faces, camera, max_tiles=max_tiles)
    shade = map_images(functools.partial(_shade, faces), face_id.shape[:-2])
    depth, coverage, barycentrics, normals = shade(camera, vertices, face_id, nearest)
    return View(
        depth=depth,
        mask=face_id >= 0,
        coverage=coverage,
        face_id=face_id,
        barycentrics=barycentrics,
        normals=normals,
        overflow=overflow,
    )


def _shade(
    faces: Int[Array, "f 3"],
    camera: Camera,
    vertices: Float[Array, "v 3"],
    face_id: Int[Array, "h w"],
    nearest: Float[Array, "h w"],
) -> tuple[Array, Array, Array, Array]:
    """Depth, coverage, barycentrics and normals of one image."""
    corners = gather_corners(vertices, faces, face_id)
    mask = face_id >= 0
    depth, weights = meet(corners, camera)
    normal = cross(minus(corners[1], corners[0]), minus(corners[2], corners[0]))
    # Visible faces have an area, and so has what background pixels see.
    length = jnp.sqrt(dot(normal, normal))

    def stack(columns: list[Array]) -> Float[Array, "h w 3"]:
        return jnp.stack([jnp.where(mask, column, 0.0) for column in columns], axis=-1)

    unit = [axis / length for axis in normal]
    depth, coverage = with_silhouettes(
        vertices, camera.focal, camera.center, faces, face_id, with_value(nearest, depth, mask)
    )
    return depth, coverage, stack(weights), stack(unit)


def _check_values(vertices: Any, faces: Any) -> None:
    """What can be known of arrays with values; traced ones are rendered as they are."""
    if not isinstance(faces, Tracer):
        known = np.asarray(faces)
        low, high = int(known.min()), int(known.max())
        if low < 0 or high >= vertices.shape[-2]:
            raise ValueError(
                f"faces: got vertex indices {low}..{high}, need 0..{vertices.shape[-2] - 1}; faces "
                "and vertices are of different meshes, or of different levels of detail."
            )
    if not isinstance(vertices, Tracer):
        # False for NaN, too.
        bad = int((~(np.abs(np.asarray(vertices)) < FARTHEST)).any(-1).sum())
        if bad:
            raise ValueError(
                f"vertices: {bad} are NaN, infinite, or beyond {FARTHEST:.0e} m; their faces would "
                "silently be missing. Look for the NaN in the parameters that they were posed with."
            )
