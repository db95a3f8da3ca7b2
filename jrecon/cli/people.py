"""`jrecon people`: random people from the shape prior of the body, to look at and to open."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jrecon.cli.command import Command, Report, require_free

if TYPE_CHECKING:
    import jax

    from jrecon.model.parametric import ParametricModel, Params
    from jrecon.pictures import Image

# Each person is seen shaded from this far round (radians), and as a depth map from the front.
_AZIMUTH = 0.6
_COLUMNS = 8

Directions = Mapping[str, tuple[float, float, float]]

# Where limbs point: x to the person's left, y up, z to the front. A limb is named by its upper
# joint; what is not named keeps its rest pose.
POSES: Mapping[str, Directions] = {
    "standing": {
        "left_shoulder": (0.18, -1.0, -0.05),
        "right_shoulder": (-0.18, -1.0, -0.05),
        "left_elbow": (0.12, -1.0, 0.15),
        "right_elbow": (-0.12, -1.0, 0.15),
    },
    "walking": {
        "left_shoulder": (0.20, -1.0, -0.40),
        "left_elbow": (0.10, -1.0, 0.05),
        "right_shoulder": (-0.20, -1.0, 0.25),
        "right_elbow": (-0.05, -0.8, 0.60),
        "left_hip": (0.0, -1.0, 0.40),
        "left_knee": (0.0, -1.0, 0.10),
        "right_hip": (0.0, -1.0, -0.20),
        "right_knee": (0.0, -1.0, -0.60),
    },
    "waving": {
        "left_shoulder": (1.0, 0.15, 0.10),
        "left_elbow": (0.25, 1.0, 0.15),
        "right_shoulder": (-0.18, -1.0, -0.05),
        "right_elbow": (-0.12, -1.0, 0.15),
    },
    "sitting": {
        "left_shoulder": (0.15, -1.0, 0.20),
        "left_elbow": (-0.05, -0.45, 1.0),
        "right_shoulder": (-0.15, -1.0, 0.20),
        "right_elbow": (0.05, -0.45, 1.0),
        "left_hip": (0.12, -0.10, 1.0),
        "left_knee": (0.0, -1.0, 0.05),
        "right_hip": (-0.12, -0.10, 1.0),
        "right_knee": (0.0, -1.0, 0.05),
    },
    "kicking": {
        "left_shoulder": (0.80, -0.60, 0.30),
        "left_elbow": (0.50, -0.50, 0.80),
        "right_shoulder": (-0.80, -0.60, -0.30),
        "right_elbow": (-0.60, -0.80, 0.20),
        "right_hip": (-0.10, -0.45, 1.0),
        "right_knee": (-0.05, -0.30, 1.0),
    },
}
LIMB_END = {"shoulder": "elbow", "elbow": "wrist", "hip": "knee", "knee": "ankle"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class People(Command):
    """Make random people: one picture of all of them, and a rigged GLB file of each.

    Example: jrecon people --out people --count 12 --seed 3
    """

    out: Path = Path("people")
    """Folder to write to; created if missing."""
    count: int = 8
    """How many people."""
    seed: int = 0
    """Another seed, other people."""
    overwrite: bool = False
    """Replace existing files."""

    def run(self) -> Report:
        import jax

        from jrecon.io.export import export_glb
        from jrecon.model.formats import load_model
        from jrecon.pictures import sheet, write_image

        if self.count < 1:
            raise ValueError(f"count: got {self.count}, need at least 1.")
        if self.out.exists() and not self.out.is_dir():
            raise NotADirectoryError(f"{self.out} is a file, need a folder; choose another --out.")
        self.out.mkdir(parents=True, exist_ok=True)
        picture = self.out / "people.png"
        files = [self.out / f"person_{i:02d}.glb" for i in range(self.count)]
        for file in (picture, *files):
            require_free(file, self.overwrite)
        model = load_model("body")
        captions, people = random_people(model, jax.random.key(self.seed), self.count)
        for i, file in enumerate(files):
            person = jax.tree.map(lambda leaf, i=i: leaf[i], people)
            export_glb(file, model, person, overwrite=self.overwrite)
        labels = [text for caption in captions for text in (caption, "depth")]
        drawn = sheet(portraits(model, people), columns=_COLUMNS, captions=labels)
        write_image(picture, drawn, overwrite=self.overwrite)
        return {"look_at": str(picture), "open_in_a_3d_viewer": [str(file) for file in files]}


def random_people(model: ParametricModel, key: jax.Array, count: int) -> tuple[list[str], Params]:
    """Captions and a batch of parameters: shapes are random, sexes and poses take turns."""
    import jax
    import jax.numpy as jnp

    from jrecon.model.parametric import zeros

    groups = [i % len(model.prior_names) for i in range(count)]
    names = [list(POSES)[i % len(POSES)] for i in range(count)]
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))
    # Singular value decomposition: the covariance may have components without variance.
    draw = lambda key, mean, cov: jax.random.multivariate_normal(key, mean, cov, method="svd")
    index = jnp.array(groups)
    shape = jax.vmap(draw)(keys, model.prior_mean[index], model.prior_cov[index])
    low, high = model.shape_limits
    pose = jnp.stack([point_limbs(model, POSES[name]) for name in names])
    people = dataclasses.replace(
        zeros(model, (count,)), shape=jnp.clip(shape, low[None], high[None]), pose=pose
    )
    captions = [
        f"{model.prior_names[group]}, {name}" for group, name in zip(groups, names, strict=True)
    ]
    return captions, people


def point_limbs(model: ParametricModel, directions: Directions) -> Any:
    """The pose (j, 3) in which limbs point in the given directions, without twist."""
    import numpy as np
    from scipy.spatial.transform import Rotation

    joints, names = np.asarray(model.joints, np.float64), model.joint_names
    world: list[Rotation] = []
    local = []
    for name, parent in zip(names, model.parents, strict=True):
        above = world[parent] if parent >= 0 else Rotation.identity()
        turn = Rotation.identity()
        if name in directions:
            side, limb = name.split("_")
            bone = joints[names.index(f"{side}_{LIMB_END[limb]}")] - joints[names.index(name)]
            bone = bone / np.linalg.norm(bone)
            aim = above.inv().apply(np.array(directions[name]) / np.linalg.norm(directions[name]))
            axis = np.cross(bone, aim)
            angle = np.arctan2(np.linalg.norm(axis), bone @ aim)
            turn = Rotation.from_rotvec(angle * axis / max(float(np.linalg.norm(axis)), 1e-12))
        world.append(above * turn)
        local.append(turn.as_rotvec())
    return np.array(local, np.float32)


def portraits(model: ParametricModel, people: Params) -> list[Image]:
    """Two images of each person, all at one scale: shaded, and as a depth map."""
    import jax.numpy as jnp
    import numpy as np

    from jrecon.model.parametric import pose
    from jrecon.pictures import color_map, downsample, look_at, shade, smooth_normals
    from jrecon.render import render

    vertices = np.asarray(pose(model, people).vertices)
    aside, front = (
        look_at(vertices, width=360, height=480, azimuth=angle) for angle in (_AZIMUTH, 0.0)
    )
    z = front.place(vertices)[..., 2]
    images = []
    for body in vertices:
        placed = aside.place(body)
        view = render(jnp.asarray(placed), model.faces, aside.camera)
        normals = smooth_normals(view, model.faces, placed)
        images.append(downsample(shade(view, normals=normals), 2))
        view = render(jnp.asarray(front.place(body)), model.faces, front.camera)
        depth = color_map(view.depth, z.min(), z.max(), np.asarray(view.mask))
        images.append(downsample(depth, 2))
    return images
