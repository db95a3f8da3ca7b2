"""Reconstructions of people that are none of ours: clothed avatars of another rig and topology.

    python experiments/bench_avatars.py --avatars DIR [--function body]
        [--out experiments/results/bench_avatars.json] [--sheet docs/images/bench_avatars.png]

Every avatar, at rest and in its other pose, stands on a floor before a wall and is rendered by
Embree (`experiments/render_peers.py`; `pip install embreex`) from eight sides, 2.7 m away, 320 x
240 pixels, without noise; the mask is exact. Distances are from points of the avatar's surface to
the nearest of the reconstruction, millimetres: of the points that the image shows, and of points
all over (hair, clothes and what is hidden included), before and after refinement.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import trimesh

from experiments.provenance import provenance
from experiments.render_peers import embreex_cast
from jrecon.fit.solve import STATUS
from jrecon.geometry.camera import Camera, make_camera, rays
from jrecon.geometry.mesh import closest_on_surface
from jrecon.metrics import interval
from jrecon.model.parametric import pose
from jrecon.overlay import views
from jrecon.pictures import downsample, sheet, write_image
from jrecon.reconstructor import Reconstructor, load, reconstruct

SIDES = 8
DISTANCE_M, HEIGHT_M, WALL_M = 2.7, 1.0, 1.2
CAMERA = make_camera(280.0, 280.0, 159.5, 119.5, 320, 240)
POINTS = 4000


def placed(points: np.ndarray, azimuth: float) -> np.ndarray:
    """From the avatar's frame (y up, facing +z) to that of a camera on one side of it."""
    c, s = np.cos(azimuth), np.sin(azimuth)
    turned = points @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    return turned * [1, -1, -1] + [0, HEIGHT_M, DISTANCE_M]


def scene(depth: np.ndarray, camera: Camera) -> np.ndarray:
    """With a floor, and a wall behind."""
    beams = np.asarray(rays(camera))
    with np.errstate(divide="ignore"):
        floor = np.where(beams[..., 1] > 0, HEIGHT_M / beams[..., 1], np.inf)
    around = np.minimum(floor, DISTANCE_M + WALL_M)
    return np.where((depth > 0) & (depth < around), depth, around)


def capture(mesh: trimesh.Trimesh, azimuth: float) -> tuple[np.ndarray, np.ndarray]:
    """Depth of the scene, and the avatar's pixels."""
    faces = np.asarray(mesh.faces)
    vertices = np.ascontiguousarray(placed(np.asarray(mesh.vertices), azimuth), np.float32)
    own = embreex_cast(faces, CAMERA)(vertices)
    depth = scene(own, CAMERA)
    return depth.astype(np.float32), (own > 0) & (depth == own)


def seen_points(depth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return (np.asarray(rays(CAMERA)) * depth[..., None])[mask].astype(np.float64)


def distances(points: np.ndarray, vertices: Any, faces: np.ndarray) -> float:
    """Mean distance to a surface, millimetres."""
    found = closest_on_surface(points, np.asarray(vertices, np.float64), faces)
    return 1e3 * float(found.distance.mean())


def judge(recon: Reconstructor, mesh: Any, images: Any) -> tuple[list[dict[str, Any]], Any]:
    """Both distances before and after, for each side."""
    depth, mask = (np.stack(x) for x in zip(*images, strict=True))
    found = reconstruct(recon, depth, CAMERA, mask)
    before = pose(recon.model, found.prediction.params).vertices
    faces = np.asarray(recon.model.faces)
    all_over = trimesh.sample.sample_surface(mesh, POINTS, seed=0)[0]
    rows = []
    for side in range(len(images)):
        seen = seen_points(depth[side], mask[side])
        seen = seen[:: max(1, len(seen) // POINTS)]
        whole = placed(np.asarray(all_over), 2 * np.pi * side / SIDES)
        row: dict[str, Any] = {"status": STATUS[int(found.fit.status[side])]}
        for name, vertices in (("before", before[side]), ("after", found.vertices[side])):
            row[name] = {
                "visible": round(distances(seen, vertices, faces), 1),
                "whole": round(distances(whole, vertices, faces), 1),
            }
        rows.append(row)
    return rows, found


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in ("visible", "whole"):
        for when in ("before", "after"):
            values = np.array([row[when][part] for row in rows])
            found[f"{part} {when} (mm)"] = str(interval(values))
            found[f"{part} {when}, median (mm)"] = round(float(np.median(values)), 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--avatars", type=Path, required=True)
    parser.add_argument("--function", default="body")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    recon = load(args.function)
    results, tiles, captions = {}, [], []
    for path in sorted(args.avatars.glob("*.ply")):
        mesh: Any = trimesh.load(path, process=False)
        images = [capture(mesh, 2 * np.pi * side / SIDES) for side in range(SIDES)]
        rows, found = judge(recon, mesh, images)
        results[path.stem] = rows
        print(path.stem, json.dumps(summary(rows)), flush=True)
        side = len(results) % SIDES
        one = jax.tree.map(lambda x, side=side: x[side], found)
        panels = views(recon, one, images[side][0], CAMERA, images[side][1])
        tiles.append(downsample(np.concatenate(panels[:4], axis=1), 2))
        row = rows[side]
        captions.append(
            f"{path.stem}, visible: {row['before']['visible']} -> {row['after']['visible']} mm"
        )
    every = [row for rows in results.values() for row in rows]
    report = provenance("experiments/bench_avatars.py --avatars DIR") | {
        "images": len(every), "mean": summary(every), "avatars": results,
    }  # fmt: skip
    print(json.dumps(report["mean"], indent=1))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    if args.sheet:
        write_image(args.sheet, sheet(tiles, columns=2, captions=captions), overwrite=True)


if __name__ == "__main__":
    main()
