"""The few compiled programs that the tests of rendering share.

Compiling takes nearly all of their time, so meshes are filled up to one size: with vertices behind
the camera and faces between these, which nothing can see and no derivative reaches.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrecon.geometry.camera import Camera
from jrecon.render import View, rasterize, render

# The size of most images. Not square, so that axes cannot be mistaken for each other.
WIDTH, HEIGHT = 64, 56
# Those of an icosphere divided three times, twice.
VERTICES, FACES = 1300, 2560


def padded(vertices: Any, faces: Any) -> tuple[np.ndarray, np.ndarray]:
    """The same mesh with `VERTICES` vertices and `FACES` faces; a larger one stays as it is."""
    vertices, faces = np.asarray(vertices, np.float32), np.asarray(faces, np.int32)
    more, missing = VERTICES - len(vertices), FACES - len(faces)
    if more <= 0 or missing < 0:
        return vertices, faces
    behind = np.tile(np.array([0, 0, -1], np.float32), (more, 1))
    nothing = np.full((missing, 3), len(vertices), np.int32)
    return np.concatenate([vertices, behind]), np.concatenate([faces, nothing])


def draw(vertices: Any, faces: Any, camera: Camera) -> View:
    return render(*padded(vertices, faces), camera)


def slopes(vertices: Any, faces: Any, camera: Camera, of_depth: Any, of_coverage: Any = 0) -> tuple:
    """Gradients with respect to vertices, focal length and principal point of the sum of
    `of_depth` * depth + `of_coverage` * coverage."""
    pulls = [
        np.broadcast_to(np.asarray(x, np.float32), (camera.height, camera.width))
        for x in (of_depth, of_coverage)
    ]
    by_vertex, *by_camera = _slopes(*padded(vertices, faces), camera, *pulls)
    by_vertex, count = np.asarray(by_vertex), len(vertices)
    assert (by_vertex[count:] == 0).all()
    return by_vertex[:count], *map(np.asarray, by_camera)


@jax.jit
def _slopes(vertices: Any, faces: Any, camera: Camera, of_depth: Any, of_coverage: Any) -> Any:
    def loss(vertices: Any, focal: Any, center: Any) -> Any:
        moved = Camera(focal, center, camera.width, camera.height)
        view = render(vertices, faces, moved)
        return jnp.vdot(of_depth, view.depth) + jnp.vdot(of_coverage, view.coverage)

    return jax.grad(loss, (0, 1, 2))(vertices, camera.focal, camera.center)


def rates(
    vertices: Any,
    faces: Any,
    camera: Camera,
    velocity: Any,
    focal: Any = (0, 0),
    center: Any = (0, 0),
) -> tuple[np.ndarray, ...]:
    """Change of depth and of coverage when vertices and camera move, and what of the former is due
    to the interior alone."""
    still = np.zeros((max(0, VERTICES - len(vertices)), 3), np.float32)
    motion = np.concatenate([np.asarray(velocity, np.float32), still])
    moves = motion, np.asarray(focal, np.float32), np.asarray(center, np.float32)
    return tuple(map(np.asarray, _rates(*padded(vertices, faces), camera, moves)))


@jax.jit
def _rates(vertices: Any, faces: Any, camera: Camera, moves: Any) -> Any:
    def images(vertices: Any, focal: Any, center: Any) -> Any:
        moved = Camera(focal, center, camera.width, camera.height)
        view = render(vertices, faces, moved)
        return view.depth, view.coverage, rasterize(vertices, faces, moved).depth

    return jax.jvp(images, (vertices, camera.focal, camera.center), moves)[1]
