"""Other ways to render depth of a mesh that changes in every frame, for `bench_render.py`.

Each is a function of (faces, camera) that returns a function of vertices (v, 3) in the camera frame
to depth (h, w), 0 = nothing, with everything that can be prepared once prepared.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from jrecon.geometry.camera import Camera, rays

Engine = Callable[[np.ndarray], np.ndarray]


def open3d_cast(faces: np.ndarray, camera: Camera) -> Engine:
    """Open3D's ray casting scene (Embree): build, then cast; all cores."""
    import open3d as o3d  # pyright: ignore[reportMissingImports]

    directions = np.asarray(rays(camera), np.float32)
    beams = o3d.core.Tensor(np.concatenate([np.zeros_like(directions), directions], axis=-1))
    triangles = o3d.core.Tensor(faces.astype(np.uint32))

    def engine(vertices: np.ndarray) -> np.ndarray:
        scene = o3d.t.geometry.RaycastingScene()
        scene.add_triangles(o3d.core.Tensor(vertices), triangles)
        # Rays have z = 1, so the distance along them is depth.
        depth = scene.cast_rays(beams)["t_hit"].numpy()
        return np.where(np.isfinite(depth), depth, 0.0)

    return engine


def embreex_cast(faces: np.ndarray, camera: Camera) -> Engine:
    """Embree through embreex, the bindings that trimesh uses: build, then cast."""
    scenes = importlib.import_module("embreex.rtcore_scene")
    from embreex.mesh_construction import TriangleMesh  # pyright: ignore[reportMissingImports]

    directions = np.asarray(rays(camera), np.float32).reshape(-1, 3)
    length = np.linalg.norm(directions, axis=1)
    unit = np.ascontiguousarray(directions / length[:, None], np.float32)
    origins = np.zeros_like(unit)

    def engine(vertices: np.ndarray) -> np.ndarray:
        scene = scenes.EmbreeScene()
        TriangleMesh(scene, vertices, faces.astype(np.int32))
        distance = scene.run(origins, unit, query="DISTANCE")
        hit = distance < 1e30
        depth = np.where(hit, distance / length, 0.0)
        return depth.reshape(camera.height, camera.width)

    return engine


def warp_kernel(faces: np.ndarray, camera: Camera) -> Engine:
    """A rasterizer as one would write it by hand in Warp: a thread per face over its bounding box,
    atomic minimum of depth and face; one core (Warp runs CPU kernels serially)."""
    import warp as wp  # pyright: ignore[reportMissingImports]

    wp.config.quiet = True
    wp.init()
    fx, fy = (float(x) for x in camera.focal)
    cx, cy = (float(x) for x in camera.center)
    width, height = camera.width, camera.height
    splat, decode = _warp_kernels(wp)
    corners = wp.array(faces.astype(np.int32).reshape(-1), dtype=wp.int32, device="cpu")
    keys = wp.zeros(width * height, dtype=wp.uint64, device="cpu")
    depth = wp.zeros(width * height, dtype=wp.float32, device="cpu")

    def engine(vertices: np.ndarray) -> np.ndarray:
        points = wp.array(np.ascontiguousarray(vertices), dtype=wp.vec3, device="cpu", copy=False)
        keys.fill_(2**64 - 1)
        numbers = [points, corners, fx, fy, cx, cy, width, height, keys]
        wp.launch(splat, dim=len(faces), inputs=numbers, device="cpu")
        wp.launch(decode, dim=width * height, inputs=[keys, depth], device="cpu")
        # A copy: the next frame is drawn into the same memory.
        return depth.numpy().reshape(height, width).copy()

    return engine


def _warp_kernels(wp: Any) -> tuple[Any, Any]:
    def splat(
        points: wp.array(dtype=wp.vec3),  # pyright: ignore[reportInvalidTypeForm]
        corners: wp.array(dtype=wp.int32),  # pyright: ignore[reportInvalidTypeForm]
        fx: float,
        fy: float,
        cx: float,
        cy: float,
        width: int,
        height: int,
        keys: wp.array(dtype=wp.uint64),  # pyright: ignore[reportInvalidTypeForm]
    ):
        face = wp.tid()
        a = points[corners[3 * face]]
        b = points[corners[3 * face + 1]]
        c = points[corners[3 * face + 2]]
        if a[2] > 1e-4 and b[2] > 1e-4 and c[2] > 1e-4:
            wa = 1.0 / a[2]
            wb = 1.0 / b[2]
            wc = 1.0 / c[2]
            ua = a[0] * wa * fx + cx
            va = a[1] * wa * fy + cy
            ub = b[0] * wb * fx + cx
            vb = b[1] * wb * fy + cy
            uc = c[0] * wc * fx + cx
            vc = c[1] * wc * fy + cy
            area = (ub - ua) * (vc - va) - (uc - ua) * (vb - va)
            if area != 0.0:
                u0 = wp.max(int(wp.ceil(wp.min(wp.min(ua, ub), uc))), 0)
                u1 = wp.min(int(wp.floor(wp.max(wp.max(ua, ub), uc))), width - 1)
                v0 = wp.max(int(wp.ceil(wp.min(wp.min(va, vb), vc))), 0)
                v1 = wp.min(int(wp.floor(wp.max(wp.max(va, vb), vc))), height - 1)
                for v in range(v0, v1 + 1):
                    for u in range(u0, u1 + 1):
                        x = float(u)
                        y = float(v)
                        sa = ((ub - x) * (vc - y) - (uc - x) * (vb - y)) / area
                        sb = ((uc - x) * (va - y) - (ua - x) * (vc - y)) / area
                        sc = 1.0 - sa - sb
                        if sa >= 0.0 and sb >= 0.0 and sc >= 0.0:
                            z = 1.0 / (sa * wa + sb * wb + sc * wc)
                            bits = wp.uint64(wp.cast(z, wp.uint32))
                            key = wp.lshift(bits, wp.uint64(32)) | wp.uint64(face)
                            wp.atomic_min(keys, v * width + u, key)

    def decode(
        keys: wp.array(dtype=wp.uint64),  # pyright: ignore[reportInvalidTypeForm]
        depth: wp.array(dtype=wp.float32),  # pyright: ignore[reportInvalidTypeForm]
    ):
        pixel = wp.tid()
        bits = wp.uint32(wp.rshift(keys[pixel], wp.uint64(32)))
        depth[pixel] = 0.0
        if bits != wp.uint32(0xFFFFFFFF):
            depth[pixel] = wp.cast(bits, wp.float32)

    # Annotations must be values, not the strings that they are in this file.
    for function in (splat, decode):
        scope = {"wp": wp, "float": float, "int": int}
        function.__annotations__ = {
            name: eval(text, scope) if isinstance(text, str) else text  # noqa: S307
            for name, text in function.__annotations__.items()
        }
    return wp.kernel(splat), wp.kernel(decode)


PEERS: dict[str, Callable[[np.ndarray, Camera], Engine]] = {
    "Open3D, build and cast": open3d_cast,
    "embreex, build and cast": embreex_cast,
    "Warp kernel": warp_kernel,
}
