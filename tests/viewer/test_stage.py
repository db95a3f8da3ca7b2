"""What is sent to the page as a surface."""

import io

import numpy as np
import pytest
import trimesh

pytest.importorskip("viser", reason="needs the extra `view`")

from jrecon.viewer.stage import surface_glb  # noqa: E402


@pytest.mark.parametrize("opacity", (1.0, 0.5))
def test_a_surface_keeps_its_points_normals_and_colors(opacity):
    ball = trimesh.creation.icosphere(subdivisions=2)
    vertices, faces = np.asarray(ball.vertices, np.float32), np.asarray(ball.faces)
    colors = np.tile(np.array([255, 0, 128], np.uint8), (len(vertices), 1))
    data = surface_glb(vertices, faces, colors, opacity)
    assert (b"BLEND" in data) == (opacity < 1)
    read = trimesh.load(io.BytesIO(data), file_type="glb", force="mesh", process=False)
    assert isinstance(read, trimesh.Trimesh)
    np.testing.assert_array_equal(read.vertices.astype(np.float32), vertices)
    np.testing.assert_array_equal(read.faces, faces)
    # On a ball about the origin a normal is its vertex.
    assert (np.sum(read.vertex_normals * vertices, axis=1) > 0.999).all()
