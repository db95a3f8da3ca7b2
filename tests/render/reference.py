"""A slow float64 ray caster, face by face: the independent truth of the rendering tests."""

from typing import Any

import numpy as np


def cast_rays(vertices: Any, faces: Any, camera: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(depth, face_id, doubtful) by intersecting every ray with every triangle.

    Depth is infinite and face_id -1 where no face is met. A pixel is doubtful when an edge of any
    face in front of the far end passes its centre closer than 1e-4 px.
    """
    vertices = np.asarray(vertices, np.float64)
    (fx, fy), (cx, cy) = np.asarray(camera.focal, float), np.asarray(camera.center, float)
    v, u = np.mgrid[: camera.height, : camera.width].astype(float)
    rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], axis=-1)
    depth = np.full(u.shape, np.inf)
    face_id = np.full(u.shape, -1)
    doubtful = np.zeros(u.shape, bool)
    pixel = 1e-4 / min(fx, fy)
    for index, face in enumerate(np.asarray(faces)):
        a, b, c = vertices[face]
        normal = np.cross(b - a, c - a)
        toward = rays @ normal
        with np.errstate(divide="ignore", invalid="ignore"):
            z = (a @ normal) / toward
        planes = np.stack([np.cross(a, b), np.cross(b, c), np.cross(c, a)])
        with np.errstate(divide="ignore", invalid="ignore"):
            sides = rays @ planes.T
            # Distance of the ray from the plane of an edge, as an angle, against 1e-4 px.
            near_edge = np.abs(sides) / np.linalg.norm(planes, axis=1) < pixel
        inside = (sides > 0).all(-1) | (sides < 0).all(-1)
        loose = ((sides > 0) | near_edge).all(-1) | ((sides < 0) | near_edge).all(-1)
        doubtful |= loose & near_edge.any(-1) & (z > 0)
        hit = inside & (z > 1e-4) & (z < depth)
        depth[hit], face_id[hit] = z[hit], index
    return depth, face_id, doubtful
