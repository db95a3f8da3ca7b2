"""The 3D part of the live page: layers that are drawn over each other, each to be switched.

The world of the page is the frame of the camera: x right, y down, z forward, metres.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import viser
from jaxtyping import Float, Int, UInt8
from trimesh import Trimesh
from trimesh.visual import ColorVisuals

from jrecon.geometry.camera import Camera
from jrecon.viewer.arrays import Cloud, cloud_colors, frustum

# Layers by name, whether they are shown at first.
LAYERS = {
    "points of the object": True,
    "other points": True,
    "model": True,
    "skeleton": False,
    "camera": True,
}
# Size of other points, times that of the object's.
_OTHERS = 0.6
# From what is looked at to who looks, metres.
_ASIDE = np.array([1.35, -0.45, -1.25])
# Of the surface while the skeleton inside it is shown.
_SEE_THROUGH = 0.45
_BONE, _FRUSTUM = (0, 60, 120), (60, 64, 72)


class Stage:
    """Draws arrays into the page. Each `show` replaces what the layer showed before."""

    def __init__(self, server: viser.ViserServer) -> None:
        self._server, self._scene = server, server.scene
        self._scene.set_up_direction("-y")
        self._nodes: dict[str, Any] = {}
        self._shown = dict(LAYERS)
        self._surface: tuple[Any, Any, Any] | None = None

    def look_at(self, target: Float[np.ndarray, " 3"], away: float = 1.0) -> None:
        """All pages look at a point from beside the camera, and those that are opened later.

        Args:
          away: times the distance at which a person fills most of the height.
        """
        target = np.asarray(target, np.float64)
        position = target + away * _ASIDE
        views = [client.camera for client in self._server.get_clients().values()]
        for view in (self._server.initial_camera, *views):
            view.position, view.look_at = position, target

    def show_layer(self, layer: str, shown: bool) -> None:
        """Switch a layer of `LAYERS`."""
        self._shown[layer] = shown
        if layer in self._nodes:
            self._nodes[layer].visible = shown
        if layer == "skeleton" and self._surface is not None:
            self.show_surface(*self._surface)

    def show_cloud(self, cloud: Cloud) -> None:
        """Measured points, in two layers."""
        colors = cloud_colors(cloud)
        for layer, chosen in (("points of the object", cloud.own), ("other points", ~cloud.own)):
            node = self._nodes.get(layer)
            points, tones = cloud.points[chosen], colors[chosen]
            size = cloud.size_m * (1.0 if layer == "points of the object" else _OTHERS)
            if not len(points):
                # Browsers refuse clouds without points.
                self._remove(layer)
            elif node is not None:
                node.points, node.colors, node.point_size = points, tones, size
            else:
                self._nodes[layer] = self._scene.add_point_cloud(
                    f"/{layer}", points, tones, point_size=size, point_shape="circle",
                    point_shading="flat", precision="float32", visible=self._shown[layer],
                )  # fmt: skip

    def hide_model(self) -> None:
        """Until it is shown again: there is none."""
        self._surface = None
        for layer in ("model", "skeleton"):
            self._remove(layer)

    def _remove(self, layer: str) -> None:
        node = self._nodes.pop(layer, None)
        if node is not None:
            node.remove()

    def show_surface(
        self,
        vertices: Float[np.ndarray, "v 3"],
        faces: Int[np.ndarray, "f 3"],
        colors: UInt8[np.ndarray, "v 3"],
    ) -> None:
        """The model; to be seen through while its skeleton is shown."""
        self._surface = vertices, faces, colors
        opacity = _SEE_THROUGH if self._shown["skeleton"] else 1.0
        data = surface_glb(vertices, faces, colors, opacity)
        if "model" in self._nodes:
            self._nodes["model"].glb_data = data
        else:
            self._nodes["model"] = self._scene.add_glb(
                "/model", data, cast_shadow=False, visible=self._shown["model"]
            )

    def show_bones(self, lines: Float[np.ndarray, "b 2 3"]) -> None:
        """The skeleton."""
        self._show_lines("skeleton", lines, _BONE, 0.008)

    def show_camera(self, camera: Camera) -> None:
        """The camera at the origin, and where its image is."""
        self._show_lines("camera", frustum(camera), _FRUSTUM, 0.004)

    def _show_lines(
        self, layer: str, lines: np.ndarray, color: tuple[int, int, int], thickness: float
    ) -> None:
        node = self._nodes.get(layer)
        if node is not None and node.points.shape == lines.shape:
            node.points = np.asarray(lines, np.float32)
            return
        self._nodes[layer] = self._scene.add_line_segments(
            f"/{layer}", np.asarray(lines, np.float32), color, thickness=thickness,
            visible=self._shown[layer],
        )  # fmt: skip


def surface_glb(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    colors: UInt8[np.ndarray, "v 3"],
    opacity: float = 1.0,
) -> bytes:
    """A coloured surface with smooth normals, in the frame that the vertices are in."""
    vertices, faces = np.asarray(vertices, np.float32), np.asarray(faces)
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    areas = np.repeat(np.cross(b - a, c - a), 3, axis=0)
    normals = np.stack(
        [np.bincount(faces.ravel(), axis, len(vertices)) for axis in areas.T], axis=-1
    )
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    # The format's colours are linear light.
    linear = np.rint(255 * (np.asarray(colors) / 255.0) ** 2.2).astype(np.uint8)
    mesh = Trimesh(vertices, faces, vertex_normals=normals, process=False)
    mesh.visual = ColorVisuals(mesh, vertex_colors=linear)

    def matt(tree: dict[str, Any]) -> None:
        """Without a material viewers take it for metal."""
        surface = {"metallicFactor": 0.0, "roughnessFactor": 0.9}
        surface |= {"baseColorFactor": [1.0, 1.0, 1.0, opacity]}
        mode = "BLEND" if opacity < 1 else "OPAQUE"
        tree["materials"] = [{"pbrMetallicRoughness": surface, "alphaMode": mode}]
        tree["meshes"][0]["primitives"][0]["material"] = 0

    data = mesh.export(file_type="glb", include_normals=True, tree_postprocessor=matt)
    assert isinstance(data, bytes)
    return data
