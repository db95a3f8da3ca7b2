"""Whether rendered depth agrees with a ray caster's, pixel by pixel, for `bench_render.py`.

Where a pixel's ray meets the very edge of a triangle, what it sees is a matter of rounding, so
pixels that near to a projected edge are counted but not compared.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

import jrecon
from jrecon.geometry.camera import Camera, make_camera
from jrecon.model.parametric import Params

# Distance of a pixel centre to a projected edge within which coverage is not compared, pixels.
EDGE_MARGIN = 1e-4


def frames(
    model: jrecon.ParametricModel, count: int, seed: int = 0, distance: float = 2.3
) -> Float[np.ndarray, "n v 3"]:
    """A body that stands before the camera and moves all its joints a little in every frame."""
    rng = np.random.default_rng(seed)
    pose = 0.1 * rng.normal(size=(count, model.num_joints, 3))
    pose[:, 0] = [np.pi, 0.0, 0.0]
    params = Params(
        shape=jnp.zeros((count, model.num_shape)),
        pose=jnp.asarray(pose, jnp.float32),
        translation=jnp.broadcast_to(jnp.array([0.0, 0.05, distance]), (count, 3)),
    )
    return np.asarray(jrecon.pose(model, params).vertices)


def camera_of(size: int) -> Camera:
    """A square image that holds the whole body, the principal point beside its centre."""
    return make_camera(1.2 * size, 1.2 * size, 0.49 * size, 0.51 * size, size, size)


def near_an_edge(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    camera: Camera,
    margin: float = EDGE_MARGIN,
) -> Bool[np.ndarray, "h w"]:
    """Pixels whose centre is within `margin` pixels of a projected edge, in float64. All vertices
    must be before the camera."""
    points = np.asarray(vertices, np.float64)
    focal, center = (np.asarray(x, np.float64) for x in (camera.focal, camera.center))
    pixels = points[:, :2] / points[:, 2:] * focal + center
    edges = np.unique(np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1), axis=0)
    begin, end = pixels[edges[:, 0]], pixels[edges[:, 1]]
    size = np.array([camera.width, camera.height])
    low = np.clip(np.ceil(np.minimum(begin, end) - margin), 0, size).astype(int)
    high = np.clip(np.floor(np.maximum(begin, end) + margin), -1, size - 1).astype(int)
    # One list of all pixels in the boxes around all edges.
    columns, rows = np.maximum(high - low + 1, 0).T
    owner = np.repeat(np.arange(len(edges)), columns * rows)
    first = np.cumsum(columns * rows) - columns * rows
    row, column = np.divmod(np.arange(len(owner)) - first[owner], columns[owner])
    pixel = low[owner] + np.stack([column, row], axis=1)
    along, toward = (end - begin)[owner], pixel - begin[owner]
    length = (along**2).sum(1)
    share = np.clip((along * toward).sum(1) / np.where(length > 0, length, 1.0), 0.0, 1.0)
    near = np.linalg.norm(toward - share[:, None] * along, axis=1) <= margin
    marked = np.zeros((camera.height, camera.width), bool)
    marked[pixel[near, 1], pixel[near, 0]] = True
    return marked


def agreement(
    own: Float[np.ndarray, "n h w"],
    reference: Float[np.ndarray, "n h w"],
    doubtful: Bool[np.ndarray, "n h w"],
) -> dict[str, Any]:
    """How two stacks of depth images (metres, 0 = nothing) differ outside of doubtful pixels."""
    compared = ~doubtful
    both = compared & (own > 0) & (reference > 0)
    micrometres = 1e6 * np.abs(own.astype(np.float64) - reference)[both]
    return {
        "images": len(own),
        "pixels_compared": int(compared.sum()),
        "pixels_left_out_near_edges": int(doubtful.sum()),
        "pixels_seen_by_both": int(both.sum()),
        "pixels_covered_differently": int(((own > 0) != (reference > 0))[compared].sum()),
        "depth_difference_largest_um": round(float(micrometres.max()), 2),
        "depth_difference_99_percent_um": round(float(np.percentile(micrometres, 99)), 2),
        "depth_difference_mean_um": round(float(micrometres.mean()), 3),
    }
