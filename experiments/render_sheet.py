"""What the rasterizer gives for a body: depth, normals, mask, and how they change as it moves.

    python experiments/render_sheet.py [--out docs/images/render_body.png]

The last two are a directional derivative, forward mode: of coverage and of depth while the body
moves one centimetre to the right. Yellow grows or goes away, blue shrinks or comes nearer.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jrecon
from jrecon.geometry import rotation
from jrecon.geometry.camera import make_camera
from jrecon.pictures import Image, color_map, shade, sheet, write_image
from jrecon.render import View, render


def view_of(model: jrecon.ParametricModel, shift: jax.Array, size: int) -> View:
    """The body with its left forearm before the chest, shifted to the right in metres."""
    turn = lambda *angles: rotation.exp(jnp.array(angles))
    pose = jnp.zeros((model.num_joints, 3))
    for name, matrix in {
        model.joint_names[0]: turn(jnp.pi, 0.0, 0.0) @ turn(0.0, 0.25, 0.0),
        "left_shoulder": turn(-0.4, 0.0, -0.3),
        "left_elbow": turn(0.0, -1.4, 0.0),
        "right_shoulder": turn(0.0, 0.0, -0.4),
        "right_hip": turn(-0.9, 0.0, 0.0),
        "right_knee": turn(1.2, 0.0, 0.0),
    }.items():
        pose = pose.at[model.joint_names.index(name)].set(rotation.log(matrix))
    place = jnp.array([0.05, 0.0, 2.6]) + shift * jnp.array([1.0, 0.0, 0.0])
    params = dataclasses.replace(jrecon.zeros(model), pose=pose, translation=place)
    camera = make_camera(1.25 * size, 1.25 * size, 0.5 * size, 0.5 * size, size, size)
    return render(jrecon.pose(model, params).vertices, model.faces, camera)


def draw(size: int = 320) -> Image:
    model = jrecon.load_model("body")
    view, change = jax.jvp(
        jax.jit(lambda shift: view_of(model, shift, size)), (jnp.zeros(()),), (jnp.ones(()),)
    )
    mask = np.asarray(view.mask)
    depth = np.asarray(view.depth)
    near, far = depth[mask].min(), depth[mask].max()
    normals = np.where(mask[..., None], 127.5 * (1 - np.asarray(view.normals)), 255)
    # A shift by one centimetre; the jumps at silhouettes before another surface set the scale.
    coverage, moved = (np.asarray(x) / 100 for x in (change.coverage, change.depth))
    inner = np.where(coverage == 0, moved, 0.0)
    pixels, reach = float(np.abs(coverage).max()), float(np.percentile(np.abs(inner[mask]), 99))
    panels = {
        f"depth, {near:.2f} to {far:.2f} m": color_map(-depth, -far, -near, mask),
        "normals": normals.astype(np.uint8),
        "mask": np.repeat((~mask * 255).astype(np.uint8)[..., None], 3, axis=-1),
        "shaded": shade(view),
        f"change of coverage, +-{pixels:.1f} pixels": color_map(coverage, -pixels, pixels),
        f"change of depth, +-{1000 * reach:.0f} mm": color_map(moved, -reach, reach),
    }
    return sheet(list(panels.values()), columns=3, captions=list(panels))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/images/render_body.png"))
    write_image(parser.parse_args().out, draw(), overwrite=True)
