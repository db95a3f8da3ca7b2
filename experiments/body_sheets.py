"""Contact sheets of the shipped body, into docs/images/.

    python experiments/body_sheets.py [components people levels bends poses faces]

Look at them after every change of the model: measures can agree while a body looks wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from body import bends
from PIL import Image as pil

import jrecon
from jrecon import pictures
from jrecon.geometry import mesh
from jrecon.model.parametric import ParametricModel, Params
from jrecon.render import render

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
SMOOTH = 2  # images are drawn this much larger and averaged down
COLORS = 96
PEOPLE = 24
SEED = 7


def main() -> None:
    sheets = dict(
        components=components, people=people, levels=levels, bends=joint_bends, poses=poses,
        faces=faces,
    )  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sheets", nargs="*", help="default: all")
    chosen = parser.parse_args().sheets or list(sheets)
    if unknown := set(chosen) - set(sheets):
        parser.error(f"no sheets {sorted(unknown)}; there are {', '.join(sheets)}.")
    model = jrecon.load_model("body")
    IMAGES.mkdir(parents=True, exist_ok=True)
    topology = mesh.make_topology(model.faces, len(model.vertices))
    for name in chosen:
        sheets[name](model, topology)


def save(name: str, image: pictures.Image) -> None:
    path = IMAGES / f"body_{name}.png"
    pil.fromarray(image).quantize(COLORS, dither=pil.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


def body(model: ParametricModel, shape=None, pose=None) -> np.ndarray:
    """Vertices (v, 3) with the lowest point on the floor."""
    zero = jrecon.zeros(model)
    params = Params(
        shape=zero.shape if shape is None else jnp.asarray(shape, jnp.float32),
        pose=zero.pose if pose is None else jnp.asarray(pose, jnp.float32),
        translation=zero.translation,
    )
    vertices = np.asarray(jrecon.pose(model, params).vertices)
    return vertices - [0, vertices[:, 1].min(), 0]


def draw(vertices, faces, viewpoint: pictures.Viewpoint, topology=None) -> pictures.Image:
    """The mesh with flat faces, or with smooth shading where its topology is given."""
    placed = jnp.asarray(viewpoint.place(vertices))
    seen = render(placed, faces, viewpoint.camera)
    if topology is not None:
        corners = mesh.vertex_normals(placed, faces, topology)[faces[seen.face_id]]
        smooth = (corners * seen.barycentrics[..., None]).sum(-2)
        length = jnp.linalg.norm(smooth, axis=-1, keepdims=True)
        seen = dataclasses.replace(seen, normals=smooth / jnp.maximum(length, 1e-9))
    return pictures.downsample(pictures.shade(seen), SMOOTH)


def view(vertices, width: int, height: int, azimuth: float, elevation: float = 5.0):
    return pictures.look_at(
        vertices, width=SMOOTH * width, height=SMOOTH * height, margin=0.03,
        azimuth=np.radians(azimuth), elevation=np.radians(elevation), field_of_view=0.2,
    )  # fmt: skip


def box(center, half: float) -> np.ndarray:
    """Corners of a cube, to frame a detail."""
    return np.asarray(center) + half * (np.indices((2, 2, 2)).reshape(3, -1).T * 2 - 1)


def column(radius: float, height: float) -> np.ndarray:
    """Points on an upright cylinder: frames everybody at one scale, seen from anywhere."""
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ring = np.stack([radius * np.sin(angle), np.zeros(16), radius * np.cos(angle)], 1)
    return np.concatenate([ring, ring + [0, height, 0]])


def components(model: ParametricModel, topology: mesh.Topology) -> None:
    """The first eight components at -2, 0 and +2 standard deviations, front and side."""
    images, captions = [], []
    for index, name in enumerate(model.shape_names[:8]):
        for value in (-2, 0, 2):
            shape = np.eye(model.num_shape)[index] * value
            vertices = body(model, shape)
            for azimuth in (0, 70):
                images.append(
                    draw(
                        vertices, model.faces, view(column(0.62, 1.9), 140, 210, azimuth), topology
                    )
                )
                captions.append(f"{name} {value:+d}" if azimuth == 0 else "")
    save("components", pictures.sheet(images, columns=12, captions=captions))


def people(model: ParametricModel, topology: mesh.Topology) -> None:
    """Random people of the prior of each sex, drawn again where outside the shape limits."""
    rng = np.random.default_rng(SEED)
    low, high = np.asarray(model.shape_limits)
    for group, name in enumerate(model.prior_names[:2]):
        mean, cov = np.asarray(model.prior_mean[group]), np.asarray(model.prior_cov[group])
        images = []
        while len(images) < PEOPLE:
            shape = rng.multivariate_normal(mean, cov, method="cholesky")
            if (shape < low).any() or (shape > high).any():
                continue
            vertices = body(model, shape, model.named_poses["stand"])
            azimuth = (-35, 0, 35)[len(images) % 3]
            images.append(
                draw(vertices, model.faces, view(column(0.3, 2.0), 112, 270, azimuth, 0), topology)
            )
        save(f"people_{name}", pictures.sheet(images, columns=12))


def levels(model: ParametricModel, _: mesh.Topology) -> None:
    """Every level of detail in one pose, and its face."""
    pose = bends.pose_vector(bends.BODY_POSES["lunge"])
    vertices = body(model, None, pose)
    head = vertices[vertices[:, 1] > vertices[:, 1].max() - 0.24]
    images, captions = [], []
    for azimuth, frame, size in ((35, vertices, (230, 330)), (25, head, (230, 230))):
        viewpoint = view(frame, *size, azimuth)
        for name, count in model.levels:
            images.append(draw(vertices[:count], model.level_faces[name], viewpoint))
            captions.append(f"{name}: {count} vertices" if azimuth == 35 else "")
    save("levels", pictures.sheet(images, columns=len(model.levels), captions=captions))


def joint_bends(model: ParametricModel, topology: mesh.Topology) -> None:
    """Each joint at several angles: plain skinning above, with correctives below."""
    images = []
    names = list(model.joint_names)
    for joint, angles, azimuth, half in bends.JOINT_BENDS:
        frame = box(np.asarray(model.joints)[names.index(joint)], half)
        for corrected in (False, True):
            for angle in angles:
                pose = bends.pose_vector({joint: angle})
                vertices = bends.posed(model, pose, corrected).astype(np.float32)
                images.append(draw(vertices, model.faces, view(frame, 170, 170, azimuth), topology))
    pairs = np.arange(len(images)).reshape(3, 2, 2, 4)  # two bends side by side
    order = pairs.transpose(0, 2, 1, 3).ravel()
    captions = ["skinning alone" if i % 16 < 8 else "with correctives" for i in range(len(images))]
    save("bends", pictures.sheet([images[i] for i in order], columns=8, captions=captions))


def poses(model: ParametricModel, topology: mesh.Topology) -> None:
    """Whole-body poses of the mean body, and the named ones."""
    chosen = {name: np.asarray(pose) for name, pose in model.named_poses.items()}
    chosen |= {name: bends.pose_vector(pose) for name, pose in bends.BODY_POSES.items()}
    images = [
        draw(vertices, model.faces, view(vertices, 210, 260, 40, 8), topology)
        for vertices in (body(model, None, pose) for pose in chosen.values())
    ]
    save("poses", pictures.sheet(images, columns=5, captions=list(chosen)))


def faces(model: ParametricModel, topology: mesh.Topology) -> None:
    """Faces and hands of the mean body and of random people."""
    rng = np.random.default_rng(SEED)
    images = []
    for index in range(8):
        shape = np.zeros(model.num_shape) if index == 0 else None
        if shape is None:
            group = index % 2
            shape = rng.multivariate_normal(model.prior_mean[group], model.prior_cov[group])
        vertices = body(model, shape)
        head = vertices[vertices[:, 1] > vertices[:, 1].max() - 0.25]
        hand = vertices[vertices[:, 0] > vertices[:, 0].max() - 0.13]
        images += [
            draw(vertices, model.faces, view(head, 180, 200, angle), topology) for angle in (0, 60)
        ]
        images.append(draw(vertices, model.faces, view(hand, 180, 200, 60, 20), topology))
    save("faces", pictures.sheet(images, columns=6))


if __name__ == "__main__":
    main()
