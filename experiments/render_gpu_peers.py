"""nvdiffrast and DRTK, which need CUDA and PyTorch, for `bench_render.py` on a GPU.

Neither is on PyPI: both are built from their repositories. What is not importable is left out.
**Not run yet**: no GPU was at hand when this was written.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import jrecon
from jrecon.geometry.camera import Camera

NEAR, FAR = 0.1, 10.0


def time_gpu_peers(
    model: jrecon.ParametricModel, camera: Camera, meshes: np.ndarray, seconds: float
) -> dict[str, Any]:
    """Images per second of each peer, forward and with the gradient of a sum of squares."""
    row: dict[str, Any] = {}
    for name, make in {"nvdiffrast": nvdiffrast_depth, "drtk": drtk_depth}.items():
        try:
            depth, vertices = make(np.asarray(model.faces), camera, meshes)
        except ImportError as error:
            row[name] = f"not run: {error}"
            continue

        forward = functools.partial(depth, False)
        backward = functools.partial(_backward, depth, vertices)
        row[f"{name}_forward_images_per_s"] = _rate(forward, len(meshes), seconds)
        row[f"{name}_forward_backward_images_per_s"] = _rate(backward, len(meshes), seconds)
    return row


def _backward(depth: Callable[[bool], Any], vertices: Any) -> None:
    vertices.grad = None
    (depth(True) ** 2).sum().backward()


def _rate(call: Callable[[], Any], images: int, seconds: float) -> float:
    import torch  # pyright: ignore[reportMissingImports]

    found: list[float] = []
    while sum(found) < seconds or len(found) < 8:
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    # The first calls warm up.
    return round(images / min(found[3:]), 1)


def _to_device(faces: np.ndarray, meshes: np.ndarray) -> tuple[Any, Any]:
    import torch  # pyright: ignore[reportMissingImports]

    vertices = torch.tensor(meshes, device="cuda", requires_grad=True)
    return torch.tensor(faces.astype(np.int32), device="cuda"), vertices


def nvdiffrast_depth(
    faces: np.ndarray, camera: Camera, meshes: np.ndarray
) -> tuple[Callable[[bool], Any], Any]:
    """Interpolated depth, antialiased for its gradient, and the vertices it is a function of."""
    import nvdiffrast.torch as dr  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    triangles, vertices = _to_device(faces, meshes)
    context = dr.RasterizeCudaContext()
    (fx, fy), (cx, cy) = np.asarray(camera.focal, float), np.asarray(camera.center, float)
    width, height = camera.width, camera.height
    # Pixel centres are half-way between the grid lines of clip space.
    clip = [
        [2 * fx / width, 0.0, 2 * (cx + 0.5) / width - 1, 0.0],
        [0.0, 2 * fy / height, 2 * (cy + 0.5) / height - 1, 0.0],
        [0.0, 0.0, (FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)],
        [0.0, 0.0, 1.0, 0.0],
    ]
    matrix = torch.tensor(clip, device="cuda", dtype=torch.float32)

    def depth(with_outlines: bool) -> Any:
        ones = torch.ones_like(vertices[..., :1])
        corners = torch.cat([vertices, ones], dim=-1) @ matrix.T
        seen, _ = dr.rasterize(context, corners, triangles, resolution=[height, width])
        image, _ = dr.interpolate(vertices[..., 2:].contiguous(), seen, triangles)
        return dr.antialias(image, seen, corners, triangles) if with_outlines else image

    return depth, vertices


def drtk_depth(
    faces: np.ndarray, camera: Camera, meshes: np.ndarray
) -> tuple[Callable[[bool], Any], Any]:
    """Depth with the edge gradient estimator, and the vertices that it is a function of."""
    import drtk  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    triangles, vertices = _to_device(faces, meshes)
    focal = torch.tensor(np.asarray(camera.focal), device="cuda")
    center = torch.tensor(np.asarray(camera.center), device="cuda")

    def depth(with_outlines: bool) -> Any:
        ahead = vertices[..., 2:]
        pixels = torch.cat([vertices[..., :2] / ahead * focal + center, ahead], dim=-1)
        index = drtk.rasterize(pixels, triangles, camera.height, camera.width)
        found, weights = drtk.render(pixels, triangles, index)
        image = found[:, None] * (index >= 0)[:, None]
        if not with_outlines:
            return image
        return drtk.edge_grad_estimator(pixels, triangles, weights, image, index)

    return depth, vertices
