"""A family of vases, or of mugs with a handle, as registered meshes: data to build a class from.

    python experiments/vases.py vases/ --count 40 --kind mug --seed 0
    jrecon build-model vases/*.ply --out mug.npz

Every object is a solid of revolution with a wall and a rounded lip (and a swept handle), from a few
random numbers with a meaning: height, radii, wall. All objects of a kind share one topology, so
vertex i is the same place in each. The shapes depend on the numbers in a non-linear way, as those
of real objects do. Metres, y up, standing on y = 0, the handle towards +x; `--moved` puts each
object but the first somewhere else, as a scanner would find it.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import trimesh
from scipy.interpolate import PchipInterpolator
from scipy.spatial.transform import Rotation

AROUND = 48
UP = 30
KINDS = ("vase", "mug")


@dataclasses.dataclass(frozen=True)
class Vessel:
    """The numbers behind one object, metres."""

    height: float
    foot: float
    belly: float
    neck: float
    lip: float
    belly_at: float
    """Height of the belly as a part of the height; the neck is between it and the lip."""
    neck_at: float
    wall: float
    handle: float
    """How far the handle stands out, as a part of the height; 0 for none."""


def random_vessel(rng: np.random.Generator, kind: str) -> Vessel:
    """One object of the family."""
    if kind == "vase":
        height, belly = rng.normal(0.25, 0.035), rng.normal(0.075, 0.012)
        return Vessel(
            height=height,
            foot=belly * rng.uniform(0.5, 0.85),
            belly=belly,
            neck=belly * rng.uniform(0.3, 0.8),
            lip=belly * rng.uniform(0.5, 1.0),
            belly_at=rng.uniform(0.25, 0.5),
            neck_at=rng.uniform(0.72, 0.88),
            wall=rng.uniform(0.004, 0.007),
            handle=0.0,
        )
    height, belly = rng.normal(0.095, 0.01), rng.normal(0.041, 0.004)
    return Vessel(
        height=height,
        foot=belly * rng.uniform(0.75, 1.0),
        belly=belly,
        neck=belly * rng.uniform(0.9, 1.0),
        lip=belly * rng.uniform(0.95, 1.15),
        belly_at=rng.uniform(0.35, 0.5),
        neck_at=rng.uniform(0.75, 0.85),
        wall=rng.uniform(0.003, 0.005),
        handle=rng.uniform(0.25, 0.42),
    )


def make_vessel(vessel: Vessel) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (v, 3) and faces (f, 3), counter-clockwise seen from outside; closed."""
    knots = np.array([0.0, vessel.belly_at, vessel.neck_at, 1.0]) * vessel.height
    radius = PchipInterpolator(knots, [vessel.foot, vessel.belly, vessel.neck, vessel.lip])
    floor = 1.5 * vessel.wall
    outer = np.linspace(0.0, vessel.height, UP)
    inner = np.linspace(vessel.height, floor, UP)
    lip = np.linspace(0.0, np.pi, 7)[1:-1]
    middle = float(radius(vessel.height)) - vessel.wall / 2
    profile = np.concatenate(
        [
            np.stack([np.linspace(0.2, 0.8, 3) * vessel.foot, np.zeros(3)], -1),
            np.stack([radius(outer), outer], -1),
            np.stack(
                [
                    middle + vessel.wall / 2 * np.cos(lip),
                    vessel.height + vessel.wall / 2 * np.sin(lip),
                ],
                -1,
            ),
            np.stack([radius(inner) - vessel.wall, inner], -1),
            np.stack([np.linspace(0.7, 0.2, 3) * (vessel.foot - vessel.wall), [floor] * 3], -1),
        ]
    )
    vertices, faces = revolve(profile, bottom=0.0, top=floor)
    if vessel.handle:
        low, high = 0.2 * vessel.height, 0.8 * vessel.height
        more, more_faces = sweep_handle(
            np.array([float(radius(low)) - vessel.wall / 2, low]),
            np.array([float(radius(high)) - vessel.wall / 2, high]),
            vessel.handle * vessel.height,
            1.2 * vessel.wall,
        )
        faces = np.concatenate([faces, more_faces + len(vertices)])
        vertices = np.concatenate([vertices, more])
    return vertices, faces


def revolve(profile: np.ndarray, bottom: float, top: float) -> tuple[np.ndarray, np.ndarray]:
    """The surface of revolution of a profile (r, y), closed by a point on the axis at each end."""
    angle = np.arange(AROUND) * 2 * np.pi / AROUND
    around = np.stack([np.cos(angle), np.zeros(AROUND), -np.sin(angle)], -1)
    rings = profile[:, None, :1] * around + profile[:, None, 1:] * np.array([0.0, 1.0, 0.0])
    vertices = np.concatenate([rings.reshape(-1, 3), [[0, bottom, 0], [0, top, 0]]])
    return vertices, _tube_faces(len(profile), AROUND)


def sweep_handle(
    low: np.ndarray, high: np.ndarray, reach: float, thickness: float
) -> tuple[np.ndarray, np.ndarray]:
    """A tube from `low` to `high` (both (r, y)) in an arc that stands out by `reach`."""
    t = np.linspace(0.0, np.pi, 20)
    x = low[0] + (high[0] - low[0]) * t / np.pi + reach * np.sin(t) ** 0.7
    y = (low[1] + high[1]) / 2 - (high[1] - low[1]) / 2 * np.cos(t)
    centre = np.stack([x, y, np.zeros_like(t)], -1)
    along = np.gradient(centre, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    side = np.array([0.0, 0.0, 1.0])
    outward = np.cross(along, side)
    angle = np.arange(12) * 2 * np.pi / 12
    rings = centre[:, None] + thickness * (
        0.7 * np.cos(angle)[:, None] * outward[:, None] - np.sin(angle)[:, None] * side
    )
    vertices = np.concatenate([rings.reshape(-1, 3), centre[[0, -1]]])
    return vertices, _tube_faces(len(t), 12)


def _tube_faces(rings: int, around: int) -> np.ndarray:
    """Faces of rings of vertices, closed by a fan to each of the last two vertices."""
    i, k = np.meshgrid(np.arange(rings - 1), np.arange(around), indexing="ij")
    a, b = i * around + k, i * around + (k + 1) % around
    c, d = a + around, b + around
    walls = np.stack([np.stack([a, b, d], -1), np.stack([a, d, c], -1)], 2).reshape(-1, 3)
    k, after = np.arange(around), (np.arange(around) + 1) % around
    last = (rings - 1) * around
    first_cap = np.stack([np.full(around, rings * around), after, k], -1)
    last_cap = np.stack([np.full(around, rings * around + 1), last + k, last + after], -1)
    return np.concatenate([walls, first_cap, last_cap])


def family(
    kind: str, count: int, seed: int, *, moved: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (n, v, 3) and faces (f, 3) of a family; object i depends on the seed and i alone."""
    vertices, faces = [], np.zeros((0, 3), int)
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        mesh, faces = make_vessel(random_vessel(rng, kind))
        if moved and i:  # the first mesh sets the frame of a model, and stays
            mesh = mesh @ Rotation.random(rng=rng).as_matrix().T + rng.normal(size=3)
        vertices.append(mesh)
    return np.stack(vertices), faces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write the .ply files to")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--kind", choices=KINDS, default="vase")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--moved", action="store_true", help="put each object but the first somewhere else"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    vertices, faces = family(args.kind, args.count, args.seed, moved=args.moved)
    for i, mesh in enumerate(vertices):
        path = args.out / f"{args.kind}_{i:03d}.ply"
        trimesh.Trimesh(mesh, faces, process=False).export(path)
    print(f"wrote {args.count} meshes of {vertices.shape[1]} vertices to {args.out}")


if __name__ == "__main__":
    main()
