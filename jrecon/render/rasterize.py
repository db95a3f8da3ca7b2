"""Fragments: the face that each pixel sees, and where on it.

Visibility is decided without derivatives (`jrecon.render.visibility`). Then the point seen is the
meeting of the pixel's ray with the plane of its face, and automatic differentiation of that is the
exact derivative of the *interior*: how depth and barycentrics change at a pixel that goes on seeing
the same face.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jrecon.geometry.camera import Camera
from jrecon.render.columns import cross, dot, minus
from jrecon.render.visibility import MAX_TILES, nearest_faces

# Three corners of three coordinates (x, y, z): nine images, one array a number.
Corners = list[list[Float[Array, "h w"]]]
# What background pixels see, so that they compute something sound: it holds their point (0, 0, 1).
_SAFE = ((0.0, 0.0, 1.0), (1.0, 0.0, 1.0), (0.0, 1.0, 1.0))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Fragments:
    """What each pixel sees. All is zero (and `face_id` -1) where the mask is false."""

    face_id: Int[Array, "*batch h w"]
    """Index into `faces`; -1 where there is none."""
    barycentrics: Float[Array, "*batch h w 3"]
    """Weights of the face's corners at the point seen (perspective-correct)."""
    depth: Float[Array, "*batch h w"]
    """z along the optical axis, metres; 0 = nothing there."""
    mask: Bool[Array, "*batch h w"]
    """Whether any face is seen."""
    overflow: Int[Array, "*batch"]
    """Faces left out because of `max_tiles`: 0 means that the image is complete."""


def rasterize(
    vertices: Float[Array | np.ndarray, "*batch v 3"],
    faces: Int[Array | np.ndarray, "f 3"],
    camera: Camera,
    size: tuple[int, int] | None = None,
    *,
    max_tiles: int = MAX_TILES,
) -> Fragments:
    """The face seen at each pixel of the camera's image, and where on it.

    Args:
      vertices: camera frame (x right, y down, z forward), metres; see `jrecon.geometry.camera`.
        Batch axes broadcast against those of the camera.
      faces: both sides are visible. Faces with a vertex that is not finite, or 1e8 m away, or
        without area, are never seen; nor is what is nearer than 0.1 mm.
      camera: gives the image size, too.
      size: (height, width) that the caller expects; only checked.
      max_tiles: how many tiles of 2 x 2 pixels the boxes around all faces may have in one image;
        static. The default is as many as can be counted; a smaller number bounds the time that a
        mesh of many large faces takes.

    Returns:
      Pure and total: it never raises on values, so under `jit` the caller checks `overflow`.
      Depth and barycentrics have the derivatives of the interior; outlines are in `render`.

    Raises:
      ValueError: wrong shapes, or a camera of another size.
    """
    vertices, faces = as_arrays(vertices, faces)
    check_shapes(vertices, faces, camera, size)
    arrays = jnp.asarray(vertices, jnp.float32), jnp.asarray(faces, jnp.int32)
    return _rasterize(*arrays, camera, max_tiles)


@functools.partial(jax.jit, static_argnums=3)
def _rasterize(
    vertices: Float[Array, "*batch v 3"], faces: Int[Array, "f 3"], camera: Camera, max_tiles: int
) -> Fragments:
    face_id, nearest, overflow = nearest_faces(vertices, faces, camera, max_tiles=max_tiles)
    locate = map_images(functools.partial(_locate, faces), face_id.shape[:-2])
    depth, barycentrics = locate(camera, vertices, face_id, nearest)
    return Fragments(face_id, barycentrics, depth, face_id >= 0, overflow)


def as_arrays(*values: Any) -> tuple[Any, ...]:
    """Lists become NumPy arrays; arrays, traced ones as well, stay what they are."""
    return tuple(x if isinstance(x, Array) else np.asarray(x) for x in values)


def check_shapes(vertices: Any, faces: Any, camera: Camera, size: tuple[int, int] | None) -> None:
    """Explain arrays that do not fit together; all of it is known when tracing.

    Raises:
      ValueError: see `rasterize`.
    """
    if vertices.ndim < 2 or vertices.shape[-1] != 3 or vertices.shape[-2] == 0:
        raise ValueError(
            f"vertices: got shape {vertices.shape}, need (*batch, v, 3) in metres, camera frame."
        )
    if faces.ndim != 2 or faces.shape[1] != 3 or len(faces) == 0:
        raise ValueError(f"faces: got shape {faces.shape}, need (f, 3) with at least one triangle.")
    if np.dtype(faces.dtype).kind not in "iu":
        raise ValueError(f"faces: got {faces.dtype}, need integers: indices of vertices.")
    if camera.width < 1 or camera.height < 1:
        raise ValueError(
            f"camera: got an image of {camera.width} x {camera.height} pixels, need 1 x 1 or more; "
            "build cameras with make_camera, crop or resize."
        )
    if size is not None and tuple(size) != (camera.height, camera.width):
        raise ValueError(
            f"size: got (height, width) = {tuple(size)}, but the camera has "
            f"{(camera.height, camera.width)}; pass resize(camera, width, height), or swap the two."
        )
    try:
        jnp.broadcast_shapes(vertices.shape[:-2], camera.focal.shape[:-1])
    except ValueError:
        raise ValueError(
            f"vertices: got batch axes {vertices.shape[:-2]}, but those of the camera are "
            f"{camera.focal.shape[:-1]}; they must broadcast."
        ) from None


def map_images(function: Any, shape: tuple[int, ...]) -> Any:
    """The function of one image, `function(camera, *arrays)`, over batch axes of the given shape.

    The camera and the arrays, each of which has two axes of its own, are broadcast to these axes.
    As with visibility, a CPU takes one image after another, which stays in cache; so that this
    holds for derivatives as well, they compute the image anew and keep nothing else of it.
    """

    def of_image(image: Any) -> Any:
        camera, *arrays = image
        return function(camera, *arrays)

    def mapped(camera: Camera, *arrays: Array) -> Any:
        def flat(x: Array, rank: int) -> Array:
            own = x.shape[x.ndim - rank :]
            return jnp.broadcast_to(x, (*shape, *own)).reshape(-1, *own)

        cameras = dataclasses.replace(
            camera, focal=flat(camera.focal, 1), center=flat(camera.center, 1)
        )
        one = jax.checkpoint(of_image)
        found = jax.lax.platform_dependent(
            (cameras, *(flat(x, 2) for x in arrays)),
            cpu=lambda images: jax.lax.map(one, images),
            default=lambda images: jax.vmap(one)(images),
        )
        return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), found)

    return mapped


def gather_corners(
    vertices: Float[Array, "v 3"], faces: Int[Array, "f 3"], face_id: Int[Array, "h w"]
) -> Corners:
    """The corners of the face that each pixel sees; for -1 a triangle before the camera that hangs
    on no vertex."""
    # Out of range means: fill in when gathering, drop when the derivative is scattered back. So
    # background pixels put no load on any vertex. (-1 is not out of range: it is the last face.)
    face = jnp.where(face_id < 0, len(faces), face_id)
    index = [column.at[face].get(mode="fill", fill_value=2**31 - 1) for column in faces.T]

    def column(corner: int, axis: int) -> Array:
        fill = _SAFE[corner][axis]
        return vertices[:, axis].at[index[corner]].get(mode="fill", fill_value=fill)

    return [[column(corner, axis) for axis in range(3)] for corner in range(3)]


def _locate(
    faces: Int[Array, "f 3"],
    camera: Camera,
    vertices: Float[Array, "v 3"],
    face_id: Int[Array, "h w"],
    nearest: Float[Array, "h w"],
) -> tuple[Float[Array, "h w"], Float[Array, "h w 3"]]:
    depth, weights = meet(gather_corners(vertices, faces, face_id), camera)
    mask = face_id >= 0
    weights = jnp.stack([jnp.where(mask, weight, 0.0) for weight in weights], axis=-1)
    return with_value(nearest, depth, mask), weights


def with_value(
    nearest: Float[Array, "h w"], depth: Float[Array, "h w"], mask: Bool[Array, "h w"]
) -> Float[Array, "h w"]:
    """`nearest`, the depth that decided visibility, with the derivative of `depth`.

    So the value is the same whichever of several faces at equal depth is taken.
    """
    return nearest + jnp.where(mask, depth - jax.lax.stop_gradient(depth), 0.0)


def meet(corners: Corners, camera: Camera) -> tuple[Float[Array, "h w"], list[Array]]:
    """Depth and the three barycentrics where the rays of pixels meet the planes of triangles."""
    a, b, c = corners
    ray = pixel_rays(camera)
    to_b, to_c = minus(b, a), minus(c, a)
    normal = cross(to_b, to_c)
    # Told from corner a, near which the point is, for precision.
    toward = dot(normal, [*ray, 1.0])
    aside = [a[i] - a[2] * ray[i] for i in range(2)]
    # A ray within the plane of its face meets it nowhere; visibility never picks it.
    behind = (normal[0] * aside[0] + normal[1] * aside[1]) / jnp.where(toward == 0, 1.0, toward)
    from_a = [behind * ray[0] - aside[0], behind * ray[1] - aside[1], behind]
    squared = dot(normal, normal)
    squared = jnp.where(squared == 0, 1.0, squared)
    of_b = dot(normal, cross(from_a, to_c)) / squared
    of_c = dot(normal, cross(to_b, from_a)) / squared
    return a[2] + behind, [1.0 - of_b - of_c, of_b, of_c]


def pixel_rays(camera: Camera) -> list[Float[Array, "h w"]]:
    """x and y of the direction (x, y, 1) through every pixel centre."""
    grid = [
        jnp.broadcast_to(
            jnp.arange(camera.width, dtype=jnp.float32)[None], (camera.height, camera.width)
        ),
        jnp.broadcast_to(
            jnp.arange(camera.height, dtype=jnp.float32)[:, None], (camera.height, camera.width)
        ),
    ]
    return [(grid[i] - camera.center[i]) / camera.focal[i] for i in range(2)]
