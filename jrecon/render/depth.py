"""Depth, normals and mask of a rendered mesh, exact at each pixel and differentiable.

Visibility is decided first, without derivatives; then depth, barycentrics and normals are computed
anew from the plane of the face that each pixel sees. Automatic differentiation of that is the exact
derivative of the *interior*: how depth changes at a pixel that goes on seeing the same face.

Not differentiable: the silhouette. That a pixel begins to see another face when an outline moves is
no part of these derivatives; fit outlines with a term of their own.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from jrecon.geometry.camera import Camera, rays
from jrecon.geometry.vector import normalize
from jrecon.render.rasterize import default_budget, rasterize


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
    normals: Float[Array, "*batch h w 3"]
    """Outward unit normal of the face, camera frame; it points away from the camera where the
    inside of the surface is seen."""
    overflow: Int[Array, "*batch"]
    """0 when the image is complete; see `Fragments.overflow`."""


def render(
    vertices: Float[Array, "*batch v 3"],
    faces: Int[Array, "f 3"],
    camera: Camera,
    *,
    budget: int | None = None,
) -> View:
    """The mesh as the camera sees it.

    Args:
      vertices: camera frame (x right, y down, z forward), metres; see `jrecon.geometry.camera`.
        Batch axes broadcast against those of the camera.
      faces: triangles; both sides are visible.
      camera: intrinsics and image size.
      budget: tiles for large faces (static). If left out, arrays with values get what they need;
        under `jit` the default suits closed meshes, and `overflow` must be checked.

    Returns:
      A pure function of its arguments: under `jit`, `vmap` or `grad` it never raises on values.

    Raises:
      ValueError: wrong shapes; and, for arrays that are known (not traced): faces out of range,
        vertices that are not finite, or a given budget that did not suffice.
    """
    _check_shapes(vertices, faces)
    _check_values(vertices, faces)
    arrays = jnp.asarray(vertices, jnp.float32), jnp.asarray(faces, jnp.int32)
    view = _render(*arrays, camera, budget)
    missing = 0 if isinstance(view.overflow, Tracer) else int(jnp.max(view.overflow, initial=0))
    if missing and budget is not None:
        raise ValueError(
            f"render: large faces need {missing} tiles more than the budget of {budget}; pass "
            f"budget={budget + missing}, or leave it out to have it found."
        )
    if missing:
        needed = default_budget(len(faces), camera.width, camera.height) + missing
        # A power of two, so that a mesh in motion does not compile for every frame.
        view = _render(*arrays, camera, 1 << (needed - 1).bit_length())
    return view


@functools.partial(jax.jit, static_argnums=3)
def _render(
    vertices: Float[Array, "*batch v 3"],
    faces: Int[Array, "f 3"],
    camera: Camera,
    budget: int | None,
) -> View:
    found = rasterize(vertices, faces, camera, budget=budget)
    shape = found.mask.shape[:-2]
    batch = jnp.broadcast_to(vertices, (*shape, *vertices.shape[-2:]))
    seen = jnp.maximum(found.face_id, 0)
    corners = _gather(batch, faces[seen])
    # Background pixels compute a triangle that is always sound, and are then masked: nothing of
    # face 0 leaks into their derivative.
    safe = jnp.array([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    safe = safe.reshape((1,) * (corners.ndim - 2) + (3, 3))
    corners = jnp.where(found.mask[..., None, None], corners, safe)
    directions = jnp.broadcast_to(rays(camera), (*found.mask.shape, 3))
    depth, barycentrics, normals = _intersect(corners, directions)
    return View(
        depth=jnp.where(found.mask, depth, 0.0),
        mask=found.mask,
        face_id=found.face_id,
        barycentrics=jnp.where(found.mask[..., None], barycentrics, 0.0),
        normals=jnp.where(found.mask[..., None], normals, 0.0),
        overflow=found.overflow,
    )


def _gather(vertices: Float[Array, "*batch v 3"], index: Int[Array, "*batch h w 3"]) -> Array:
    batch = vertices.shape[:-2]
    flat = index.reshape(*batch, -1, 1)
    taken = jnp.take_along_axis(vertices, flat, axis=-2)
    return taken.reshape(*index.shape, 3)


def _intersect(
    corners: Float[Array, "*n 3 3"], rays: Float[Array, "*n 3"]
) -> tuple[Float[Array, "*n"], Float[Array, "*n 3"], Float[Array, "*n 3"]]:
    """Depth, barycentrics and normal where rays (z = 1) meet the planes of triangles."""
    a, b, c = (corners[..., i, :] for i in range(3))
    area = jnp.cross(b - a, c - a)
    toward = jnp.sum(area * rays, axis=-1)
    # A ray within the plane of its face meets it nowhere; visibility never picks it.
    depth = jnp.sum(area * a, axis=-1) / jnp.where(toward == 0, 1.0, toward)
    point = depth[..., None] * rays
    opposite = jnp.stack(
        [
            jnp.cross(b - point, c - point),
            jnp.cross(c - point, a - point),
            jnp.cross(a - point, b - point),
        ],
        axis=-2,
    )
    squared = jnp.sum(area * area, axis=-1)[..., None]
    weights = jnp.sum(opposite * area[..., None, :], axis=-1) / jnp.where(
        squared == 0, 1.0, squared
    )
    return depth, weights, normalize(area)


def _check_shapes(vertices: Array, faces: Array) -> None:
    if vertices.ndim < 2 or vertices.shape[-1] != 3 or vertices.shape[-2] == 0:
        raise ValueError(
            f"vertices: got shape {vertices.shape}, need (*batch, v, 3) in metres, camera frame."
        )
    if faces.ndim != 2 or faces.shape[1] != 3 or len(faces) == 0:
        raise ValueError(f"faces: got shape {faces.shape}, need (f, 3) with at least one triangle.")
    if np.dtype(faces.dtype).kind not in "iu":
        raise ValueError(f"faces: got {faces.dtype}, need integers: indices of vertices.")


def _check_values(vertices: Array, faces: Array) -> None:
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
        bad = int((~np.isfinite(np.asarray(vertices)).all(-1)).sum())
        if bad:
            raise ValueError(
                f"vertices: {bad} are NaN or infinite; their faces would silently be missing. "
                "Look for the NaN in the parameters that they were posed with."
            )
