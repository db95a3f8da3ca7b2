"""An object in real depth frames beside one in simulated frames: holes, edges, outline, noise.

    python experiments/object_statistics.py --people DIR --hands DIR
        [--results experiments/results/object_statistics.json] [--sheet experiments/out/objects.png]

`--people` holds frames of a RealSense D435 with a person 2.15 m away, aligned to the finer colour
camera, `--hands` frames of a RealSense SR305 (structured light) with a hand 0.5 to 0.6 m away; both
with masks that were made from depth, so what returned nothing is not in them. The models see the
body before a wall, enlarged as the real frames are, and its hand from above. Their masks are made
from depth as well: what is near the object's depth and hangs together.

In pixels of the sensor, of each frame and then the median over frames:

    holes       share of the filled mask that returned nothing
    gap_left, gap_right   pixels without a return beside the object, mean over the rows in which
                a surface behind follows within 40 pixels (10 rows or more)
    ragged      how far the outline is off its median over 9 rows, mean
    noise_mm    around a quadratic surface fitted to 9 x 9 pixels of the image well inside the mask

The sheet shows people: it is to be looked at, not to be published.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy import ndimage

import jrecon
from experiments.provenance import provenance
from experiments.sensor_statistics import NATIVE, body_scene, enlarge, frames_of, relief
from jrecon.geometry.camera import Camera, make_camera
from jrecon.pictures import color_map, sheet, write_image
from jrecon.render import render
from jrecon.synth import devices
from jrecon.synth.surroundings import Scene, SurroundingsConfig, surround

HAND_UNIT_M = 0.125e-3
HAND_DEPTH_M = 0.55
FRAMES = 8
WINDOW = 9
REACH = 40
BEHIND_M = 0.04
# What is this much nearer or farther than the object's middle is not the object's.
EXTENT_M = {"person": 0.35, "hand": 0.12}


def read(folder: Path, unit_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Depth (n, h, w), metres, and masks."""
    files = sorted(folder.glob("*_depth.png"))
    depth = np.stack([np.asarray(Image.open(file)) for file in files]) * unit_m
    masks = [file.with_name(file.name.replace("_depth", "_mask")) for file in files]
    return depth, np.stack([np.asarray(Image.open(file)) > 0 for file in masks])


def masks_of(depth: np.ndarray, truth: np.ndarray, extent: float) -> np.ndarray:
    """From depth (n, h, w): what hangs together near the depth of the object."""
    masks = []
    for image in depth:
        middle = np.median(image[truth & (image > 0)])
        near = (image > 0) & (np.abs(image - middle) < extent)
        within: Any = ndimage.binary_dilation(truth, iterations=8)
        labels = np.zeros(image.shape, np.int32)
        ndimage.label(near & within, output=labels)
        masks.append(labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]))
    return np.stack(masks)


def measure(depth: np.ndarray, masks: np.ndarray, ratio: float = 1.0) -> dict[str, float]:
    """The statistics of frames whose pixels are `ratio` to one of the sensor's own."""
    rows = [_one(image, mask) for image, mask in zip(depth, masks, strict=True)]
    holes, left, right, ragged, noise = np.nanmedian(np.array(rows), axis=0)
    return {
        "frames": len(rows),
        "holes_percent": round(100 * float(holes), 2),
        "gap_left_px": round(float(left) / ratio, 2),
        "gap_right_px": round(float(right) / ratio, 2),
        "ragged_px": round(float(ragged) / ratio, 2),
        "noise_mm": round(1e3 * float(noise), 2),
    }


def _one(depth: np.ndarray, mask: np.ndarray) -> tuple[float, ...]:
    # Specks of clutter are no part of it, narrow cracks are.
    whole: Any = ndimage.binary_fill_holes(ndimage.binary_closing(mask, iterations=2))
    holes = (depth[whole] == 0).mean()
    left, right = _gap(depth, mask), _gap(depth[:, ::-1], mask[:, ::-1])
    return holes, left, right, _ragged(mask), _noise(depth, mask)


def _gap(depth: np.ndarray, mask: np.ndarray) -> float:
    """Pixels without a return left of the object, mean over rows with something behind them."""
    widths = []
    for row, inside in zip(depth, mask, strict=True):
        if not inside.any():
            continue
        start = int(np.argmax(inside))
        before = np.flatnonzero(row[max(start - REACH, 0) : start] > 0)
        # A surface behind, and not the object's own, of which the mask is a part.
        if len(before) and row[max(start - REACH, 0) + before[-1]] > row[start] + BEHIND_M:
            widths.append(min(start, REACH) - 1 - before[-1])
    return float(np.mean(widths)) if len(widths) >= 10 else np.nan


def _ragged(mask: np.ndarray) -> float:
    """Of the outermost pixels of each row, left and right."""
    rows = mask.any(1)
    ends = [np.argmax(mask[rows], 1), mask.shape[1] - np.argmax(mask[rows][:, ::-1], 1)]
    off = [np.abs(end - ndimage.median_filter(end, 9)) for end in ends]
    # Where a limb ends, the outline jumps.
    return float(np.mean([each[each < 8].mean() for each in off]))


def _noise(depth: np.ndarray, mask: np.ndarray) -> float:
    """The lower quartile over windows: those on the smoothest surface."""
    inner = ndimage.binary_erosion(mask & (depth > 0), iterations=WINDOW // 2 + 3)
    half = WINDOW // 2
    v, u = np.mgrid[-half : half + 1, -half : half + 1].reshape(2, -1)
    basis = np.stack([u * u, u * v, v * v, u, v, np.ones_like(u)], axis=1).astype(float)
    project = np.eye(WINDOW**2) - basis @ np.linalg.pinv(basis)
    places = np.argwhere(inner)[:: max(1, inner.sum() // 500)]
    patches = [depth[y - half : y + half + 1, x - half : x + half + 1].ravel() for y, x in places]
    residual = np.array([patch for patch in patches if (patch > 0).all()]) @ project
    free = WINDOW**2 - basis.shape[1]
    return float(np.percentile(np.sqrt((residual**2).sum(1) / free), 25))


def hand_scene(camera: Camera) -> Scene:
    """The left hand of the body in a T-pose from above, a wall 0.2 m behind it."""
    model = jrecon.load_model("body")
    params = jrecon.zeros(model)
    posed = jrecon.pose(model, params)
    hand = posed.joints[model.joint_names.index("left_middle1")]
    offset = posed.vertices - hand
    # The camera looks down: its x is the model's, its y the model's z.
    turned = jnp.stack([offset[:, 0], offset[:, 2], -offset[:, 1]], axis=-1)
    placed = turned + jnp.array([0.0, 0.0, HAND_DEPTH_M])
    view = render(placed, model.faces, camera)
    config = SurroundingsConfig(
        nothing_rate=0.0, floor_rate=0.0, wall_rate=1.0, wall_gap_m=(0.2, 0.2),
        wall_turn_deg=(0.0, 0.0), clutter_rate=0.0, occluder_rate=0.0,
    )  # fmt: skip
    near = jnp.where(view.depth < HAND_DEPTH_M + EXTENT_M["hand"], view.depth, 0.0)
    normals = jnp.where(near[..., None] > 0, view.normals, 0.0)
    up = jnp.array([0.0, -1.0, 0.0])
    return surround(config, jax.random.key(0), near, normals, camera, up)


def picture(depth: np.ndarray, mask: np.ndarray, kind: str) -> np.ndarray:
    """A window around the object, 256 pixels high."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    y, x = max(rows[0] - 20, 0), max(columns[0] - 20, 0)
    window = np.s_[y : rows[-1] + 20, x : columns[-1] + 20]
    middle = np.median(depth[mask])
    if kind == "hand":
        drawn = color_map(depth, middle - 0.1, middle + 0.25, depth > 0)
    else:
        drawn = relief(depth)
    image = Image.fromarray(np.ascontiguousarray(drawn[window]))
    return np.asarray(image.resize((256, 256), Image.Resampling.NEAREST))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=Path, required=True)
    parser.add_argument("--hands", type=Path, required=True)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    focal = float(NATIVE.native_focal_px)
    whole = make_camera(focal, focal, 198.5, 148.5, 398, 298)
    close = make_camera(476.0, 476.0, 239.5, 239.5, 480, 480)
    body, hand = body_scene(whole), hand_scene(close)
    real = json.loads((args.people / "intrinsics.json").read_text())["fx"] / focal
    frames: dict[str, tuple[np.ndarray, np.ndarray, str, float]] = {
        "real D435, person": (*read(args.people, 1e-3), "person", real),
        "real SR305, hand": (*read(args.hands, HAND_UNIT_M), "hand", 1.0),
    }
    for name in ("stereo", "stereo_raw"):
        taken = frames_of(devices.SENSORS[name](), body, whole, FRAMES, 8)
        depth = enlarge(taken, 480, 640)
        truth = enlarge(np.asarray(body.object)[None], 480, 640)[0] > 0
        masks = masks_of(depth, truth, EXTENT_M["person"])
        frames[f"{name}, person"] = (depth, masks, "person", real)
    for name in ("structured_light", "kinect_v1_axial"):
        depth = frames_of(devices.SENSORS[name](), hand, close, FRAMES, 8).astype(np.float64)
        masks = masks_of(depth, np.asarray(hand.object), EXTENT_M["hand"])
        frames[f"{name}, hand"] = (depth, masks, "hand", 1.0)
    report: dict[str, Any] = provenance("experiments/object_statistics.py --people DIR --hands DIR")
    images, captions = [], []
    for name, (depth, masks, kind, ratio) in frames.items():
        report[name] = measure(depth, masks, ratio)
        print(name, report[name], flush=True)
        for index in (0, len(depth) // 3, len(depth) // 2, len(depth) - 1):
            images.append(picture(depth[index], masks[index], kind))
            captions.append(name)
    if args.results:
        args.results.write_text(json.dumps(report, indent=1) + "\n")
    if args.sheet:
        write_image(args.sheet, sheet(images, captions=captions, columns=4), overwrite=True)


if __name__ == "__main__":
    main()
