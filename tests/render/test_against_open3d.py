"""Rendering against Open3D's ray caster (Embree) on a posed body of 14,000 faces.

Open3D is no dependency; where it is installed, run this file with PYTEST_DISABLE_PLUGIN_AUTOLOAD=1,
for a package that it brings along has a pytest plugin that trips over warnings.
"""

import numpy as np
import pytest

import jrecon
from experiments.render_agreement import agreement, camera_of, frames, near_an_edge
from jrecon.geometry.camera import make_camera
from jrecon.render import render


def test_pixels_near_edges_are_those_within_the_margin():
    """One triangle with an edge through a row of pixels, told by distances worked out by hand."""
    vertices = np.array([[1.0, 2.00005, 1.0], [6.0, 2.00005, 1.0], [3.5, 6.3, 1.0]])
    camera = make_camera(1.0, 1.0, 0.0, 0.0, 9, 9)
    marked = near_an_edge(vertices, np.array([[0, 1, 2]]), camera)
    assert marked[2, 1:7].all()
    assert marked.sum() == 6
    assert not near_an_edge(vertices, np.array([[0, 1, 2]]), camera, margin=4e-5).any()


@pytest.mark.parametrize("size", [128, 256])
def test_coverage_and_depth_equal_open3d(size):
    """Every pixel that is not within 1e-4 px of an edge, at 3 m to 20 micrometres."""
    pytest.importorskip("open3d")
    from experiments.render_peers import open3d_cast

    model = jrecon.load_model("body", level="7k")
    faces, camera = np.asarray(model.faces), camera_of(size)
    meshes = frames(model, 3, distance=3.0)
    cast = open3d_cast(faces, camera)
    found = agreement(
        np.stack([np.asarray(render(mesh, model.faces, camera).depth) for mesh in meshes]),
        np.stack([cast(mesh) for mesh in meshes]),
        np.stack([near_an_edge(mesh, faces, camera) for mesh in meshes]),
    )
    assert found["pixels_covered_differently"] == 0
    assert found["depth_difference_largest_um"] < 20
    assert found["pixels_seen_by_both"] > 0.05 * found["pixels_compared"]
    assert found["pixels_left_out_near_edges"] < 0.01 * found["pixels_compared"]
