"""`jrecon demo`: a sample capture, as a depth sensor would take it, and what comes of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from jrecon.cli.command import Command, NothingFound, Report, require_free
from jrecon.cli.people import POSES, point_limbs
from jrecon.cli.progress import doing
from jrecon.cli.reconstruct import Reconstruct

if TYPE_CHECKING:
    import numpy as np

    from jrecon.geometry.camera import Camera
    from jrecon.model.parametric import Params

# The capture: a person of this shape and pose, seen by a Kinect v2 from here.
_SHAPE = {"stature": 0.6, "mass": -0.3, "feminine": 0.5}
_POSE, _TURN, _AWAY_M, _CAMERA_M = "walking", 0.5, 2.6, 1.2
_WALL_GAP_M = (0.9, 0.9)
_LEVEL = "3.5k"
FILES = ("depth.png", "camera.json", "person.glb", "params.npz", "preview.png", "report.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Reconstruct a sample: a person whom the sensor model sees in a room.

    The capture is written as a 16-bit PNG and a camera, as a real one would come; then
    `jrecon reconstruct` does the rest, and what it found is compared with who was there.

    Example: jrecon demo --out demo
    """

    out: Path = Path("demo")
    """Folder to write to; created if missing."""
    seed: int = 0
    """Of the sensor's noise and the room."""
    overwrite: bool = False
    """Replace existing files."""

    def run(self) -> Report:
        if self.out.exists() and not self.out.is_dir():
            raise NotADirectoryError(f"{self.out} is a file, need a folder; choose another --out.")
        self.out.mkdir(parents=True, exist_ok=True)
        paths = {Path(name).stem: self.out / name for name in FILES}
        for path in paths.values():
            require_free(path, self.overwrite)
        from jrecon.programs import keep_compiled

        keep_compiled()
        with doing("a sensor model looks at a person in a room"):
            depth, camera, truth = sample_capture(self.seed)
        write_capture(paths["depth"], paths["camera"], depth, camera)
        command = Reconstruct(
            files=(paths["depth"],),
            camera=str(paths["camera"]),
            out=paths["person"],
            params=paths["params"],
            preview=paths["preview"],
            report=paths["report"],
            overwrite=True,
        )
        found = command.run()
        if not found["written"]:
            raise NothingFound(f"the person in {paths['depth']} was not found.", found)
        return {
            "look_at": str(paths["preview"]),
            "open_in_a_3d_viewer": str(paths["person"]),
            "viewers": "Blender, Windows 3D Viewer, or drop it on https://gltf-viewer.donmccurdy.com",
            "read": str(paths["report"]),
            "mean_error_mm": round(_error_mm(truth, paths["params"]), 1),
            "seconds": found["seconds"],
        }


def sample_capture(seed: int) -> tuple[np.ndarray, Camera, Params]:
    """A depth map (h, w) in metres, its camera, and the parameters of the person in it."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jrecon.geometry import rotation
    from jrecon.io.intrinsics import read_camera
    from jrecon.model.formats import load_model
    from jrecon.model.parametric import pose, zeros
    from jrecon.render import render
    from jrecon.synth.devices import time_of_flight
    from jrecon.synth.sensor import sense
    from jrecon.synth.surroundings import SurroundingsConfig, surround
    from jrecon.synth.viewpoint import FLIP, place

    model = load_model("body", level=_LEVEL)
    camera = read_camera("kinect2")
    shape = jnp.array([_SHAPE.get(name, 0.0) for name in model.shape_names])
    limbs = jnp.asarray(point_limbs(model, POSES[_POSE]))
    own = dataclasses.replace(zeros(model), shape=shape, pose=limbs)
    turn = jnp.asarray(FLIP) @ rotation.exp(jnp.array([0.0, _TURN, 0.0]))
    room = SurroundingsConfig(
        nothing_rate=0.0, floor_rate=1.0, wall_rate=1.0, wall_gap_m=_WALL_GAP_M,
        clutter_rate=0.0, occluder_rate=0.0, boxes=1, ellipsoids=1, occluders=1,
    )  # fmt: skip

    @jax.jit
    def take(key: jax.Array) -> tuple[jax.Array, Params]:
        posed = pose(model, own).vertices
        low = jnp.min(posed[:, 1])
        # The lowest point is on the floor, the camera above it.
        shift = jnp.array([0.0, _CAMERA_M, _AWAY_M]) + jnp.array([0.0, low, 0.0])
        truth = place(model, own, turn, shift)
        vertices = pose(model, truth).vertices
        seen = render(vertices, model.faces, camera)
        up = jnp.array([0.0, -1.0, 0.0])
        keys = jax.random.split(key)
        floor = -jnp.max(vertices[:, 1])
        scene = surround(room, keys[0], seen.depth, seen.normals, camera, up, floor)
        return sense(time_of_flight(), keys[1], scene.depth, scene.normals, camera), truth

    depth, truth = take(jax.random.key(seed))
    return np.asarray(depth), camera, truth


def write_capture(image: Path, figures: Path, depth: np.ndarray, camera: Camera) -> None:
    """As sensors' tools do: 16-bit millimetres, and the camera as JSON."""
    import numpy as np

    from jrecon.io.files import encode_image, write_whole
    from jrecon.report import camera_record

    counts = np.rint(depth * 1000).clip(0, 65534).astype(np.uint16)
    write_whole(image, encode_image(counts, ".png"))
    write_whole(figures, (json.dumps(camera_record(camera), indent=2) + "\n").encode())


def _error_mm(truth: Params, found: Path) -> float:
    """Mean distance of the surface from where it was."""
    import jax
    import numpy as np

    from jrecon.io.params import load_params
    from jrecon.model.formats import load_model
    from jrecon.model.parametric import pose

    model = load_model("body", level="2k")
    surface = jax.jit(lambda params: pose(model, params).vertices)
    apart = np.asarray(surface(truth)) - np.asarray(surface(load_params(found, model).params))
    return 1e3 * float(np.linalg.norm(apart, axis=-1).mean())
