"""The noise of real depth frames, and of the stereo model on a like scene.

    python experiments/sensor_statistics.py --frames DIR
        [--out experiments/results/sensor_statistics.json] [--sheet experiments/out/sensors.png]

DIR holds consecutive frames of a still RealSense D435 (`*_depth.png`, 16 bit, millimetres, and
`intrinsics.json`), aligned to its colour camera by nearest neighbour: their pixels are smaller than
the sensor's own by the ratio of focal lengths. The model is rendered at the sensor's resolution, a
standing body before a wall, and enlarged in the same way; then the same measurements are taken of
both. Disparities are in the sensor's native pixels.

The sheet shows one body through each sensor beside a window of real frames. It shows people: it is
to be looked at, not to be published.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import jrecon
from experiments.provenance import provenance
from jrecon.geometry.camera import Camera, make_camera
from jrecon.model.parametric import at_level
from jrecon.pictures import color_map, sheet, write_image
from jrecon.render import render
from jrecon.synth import devices
from jrecon.synth.sensor import Sensor, sense
from jrecon.synth.surroundings import Scene, SurroundingsConfig, surround

# A D435's depth camera at 640 x 480, before alignment to the colour camera.
NATIVE = devices.stereo()
REACH = float(NATIVE.native_focal_px * NATIVE.baseline_m)
NEAR_M, FAR_M = 2.4, 3.2
BLOCK = 24
# From the body to the wall: one for each distance below; the last is that of the real frames.
WALLS = (0.1, 0.5, 1.2)
DISTANCES = ((2.0, 2.5), (2.5, 3.0), (3.0, 3.5))


def read_frames(folder: Path) -> np.ndarray:
    """Depth (n, h, w), metres."""
    files = sorted(folder.glob("*_depth.png"))
    return np.stack([np.asarray(Image.open(file)) for file in files]).astype(np.float64) / 1000


def measure(depth: np.ndarray, ratio: float) -> dict[str, Any]:
    """Statistics of frames (n, h, w) whose pixels are `ratio` to one of the sensor's own."""
    disparity = np.where(depth > 0, REACH / np.maximum(depth, 0.1), np.nan)
    always = (depth > 0).all(0)
    mean = np.where(always, np.where(depth > 0, REACH / np.maximum(depth, 0.1), 0).mean(0), np.nan)
    residual = np.where(always, disparity - mean, np.nan)
    temporal = np.sqrt((residual**2).mean(0))
    # Still and flat: people move, and their outlines flicker.
    slope = np.hypot(*np.gradient(mean))
    flat = always & (slope < 0.05) & (temporal < 0.25)
    return {
        "disparity_step_px": round(_step(depth), 4),
        "noise_by_distance": _by_distance(depth, disparity, flat, temporal),
        "noise_in_single_frames": _unevenness(disparity, flat),
        "correlation_px": {
            name: round(_correlation(residual, flat, axis) / ratio, 1)
            for name, axis in (("horizontal", 2), ("vertical", 1))
        },
        "hole_share": round(float((depth == 0).mean()), 4),
        "edges": {
            "left": _edges(depth, ratio),
            "right": _edges(depth[:, :, ::-1], ratio),
        },
    }


def _step(depth: np.ndarray) -> float:
    """Median distance of neighbouring levels of disparity where millimetres resolve them."""
    levels = np.unique(depth[(depth > 2) & (depth < 3.5)])
    return float(np.median(-np.diff(REACH / levels)))


def _by_distance(
    depth: np.ndarray, disparity: np.ndarray, flat: np.ndarray, temporal: np.ndarray
) -> dict[str, Any]:
    """Standard deviation over time at a pixel, and around a plane fitted to each flat block."""
    blocks = []
    for window, values in _off_planes(disparity, flat):
        still = np.sqrt((values.mean(0) ** 2).mean())
        around = np.sqrt((values**2).mean())
        distance = np.median(depth[:, *window])
        blocks.append((distance, np.median(temporal[window]), around, still))
    table = np.array(blocks).reshape(-1, 4)
    rows = {}
    for low, high in DISTANCES:
        chosen = table[(table[:, 0] >= low) & (table[:, 0] < high)]
        if len(chosen) < 5:
            continue
        distance, over_time, around, still = np.median(chosen, axis=0)
        rows[f"{low}-{high} m"] = {
            "blocks": len(chosen),
            "temporal_px": round(over_time, 4),
            "temporal_mm": round(1e3 * over_time * distance**2 / REACH, 1),
            "around_plane_px": round(around, 4),
            "around_plane_mm": round(1e3 * around * distance**2 / REACH, 1),
            "around_plane_of_time_mean_px": round(still, 4),
        }
    return rows


def _unevenness(disparity: np.ndarray, flat: np.ndarray) -> dict[str, float]:
    """Noise in each flat block of each frame by itself, around a plane, native pixels: how it
    differs from place to place, and the standard deviation of its logarithm."""
    around = [np.sqrt((values**2).mean(1)) for _, values in _off_planes(disparity, flat)]
    low, middle, high = np.quantile(around, (0.1, 0.5, 0.9))
    # As many standard deviations lie between these two quantiles of a Gaussian.
    spread = np.log(high / low) / 2.563
    named = {"10_percent_px": low, "median_px": middle, "90_percent_px": high, "log_std": spread}
    return {name: round(float(value), 4) for name, value in named.items()}


def _off_planes(
    disparity: np.ndarray, flat: np.ndarray
) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Windows of flat blocks, and what is left there of each frame (n, pixels) beside a plane."""
    v, u = np.mgrid[:BLOCK, :BLOCK]
    basis = np.stack([u.ravel(), v.ravel(), np.ones(BLOCK * BLOCK)], axis=1)
    project = np.eye(BLOCK * BLOCK) - basis @ np.linalg.pinv(basis)
    for y in range(0, flat.shape[0] - BLOCK + 1, BLOCK):
        for x in range(0, flat.shape[1] - BLOCK + 1, BLOCK):
            window = np.s_[y : y + BLOCK, x : x + BLOCK]
            if flat[window].all():
                yield window, disparity[:, *window].reshape(len(disparity), -1) @ project


def _correlation(residual: np.ndarray, flat: np.ndarray, axis: int) -> float:
    """The lag, in pixels of the image, at which noise is correlated by 1/e."""
    variance = (residual[:, flat] ** 2).mean()
    moved = np.moveaxis(residual, axis, 2)
    allowed = flat if axis == 2 else flat.T
    previous = 1.0
    for lag in range(1, 80):
        pairs = allowed[:, lag:] & allowed[:, :-lag]
        product = moved[:, :, lag:] * moved[:, :, :-lag]
        value = product[:, pairs].mean() / variance
        if value < np.exp(-1):
            return lag - (np.exp(-1) - value) / (previous - value)
        previous = value
    return float("inf")


def _edges(depth: np.ndarray, ratio: float) -> dict[str, Any]:
    """From the last pixel of the far surface to the first of the near one: the width of the edge
    and how much of it is holes, native pixels, median and mean over rows."""
    width, holes = [], []
    for row in depth.reshape(-1, depth.shape[2]):
        far, near = row > FAR_M, (row > 0) & (row < NEAR_M)
        for start in np.flatnonzero(near[1:] & ~near[:-1]) + 1:
            before = np.flatnonzero(far[max(start - 60, 0) : start])
            # An edge leads to a surface, and not through one: no speckle, no slope.
            if len(before) and near[start : start + 8].all():
                last = max(start - 60, 0) + before[-1]
                width.append((start - last - 1) / ratio)
                holes.append((row[last + 1 : start] == 0).sum() / ratio)
    if not width:
        return {"count": 0}
    return {
        "count": len(width),
        "width_px": round(float(np.median(width)), 1),
        "hole_px": round(float(np.mean(holes)), 2),
    }


def body_scene(camera: Camera, *, distance: float = 2.15, wall: float = 1.2) -> Scene:
    """The body standing upright before a wall, on a floor, looking at the camera."""
    model = at_level(jrecon.load_model("body"), "2k")
    params = jrecon.zeros(model)
    stand = jnp.asarray(model.named_poses["stand"])
    vertices = jrecon.pose(model, dataclasses.replace(params, pose=stand)).vertices
    middle = (vertices.max(0) + vertices.min(0)) / 2
    # Half a turn about x: y down, z away.
    placed = (vertices - middle) * jnp.array([1.0, -1.0, -1.0]) + jnp.array([0, 0, distance])
    view = render(placed, model.faces, camera)
    config = SurroundingsConfig(
        nothing_rate=0.0, floor_rate=1.0, wall_rate=1.0, wall_gap_m=(wall, wall),
        wall_turn_deg=(0.0, 0.0), clutter_rate=0.0, occluder_rate=0.0,
    )  # fmt: skip
    up = jnp.array([0.0, -1.0, 0.0])
    floor = -jnp.max(placed[:, 1])
    return surround(config, jax.random.key(0), view.depth, view.normals, camera, up, floor)


def frames_of(sensor: Sensor, scene: Scene, camera: Camera, count: int, radius: int) -> np.ndarray:
    """`count` frames of one still scene."""
    take: Callable = lambda key: sense(
        sensor, key, scene.depth, scene.normals, camera, blur_radius=radius
    )
    keys = jax.random.split(jax.random.key(1), count)
    return np.asarray(jax.jit(lambda keys: jax.lax.map(take, keys))(keys))


def enlarge(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest neighbours, as alignment to a finer camera takes them."""
    rows = np.arange(height) * frames.shape[1] // height
    columns = np.arange(width) * frames.shape[2] // width
    return frames[:, rows][:, :, columns].astype(np.float64)


def relief(depth: np.ndarray) -> np.ndarray:
    """Depth in colour, modulated by the slope so that noise shows."""
    picture = color_map(depth, low=1.5, high=4.0, mask=depth > 0).astype(np.float64)
    gradient = np.gradient(depth)[0] + np.gradient(depth)[1]
    light = np.clip(1 + 8 * gradient, 0.3, 1.3)[..., None]
    return np.clip(np.where(depth[..., None] > 0, picture * light, 255), 0, 255).astype(np.uint8)


def draw_sheet(frames: np.ndarray, focal: float, out: Path) -> None:
    """Windows of real frames, and the body through every sensor, all 128 x 128."""
    side = 480
    images, captions = [], []
    for frame in frames[[0, len(frames) // 2]]:
        window = frame[:, 220 : 220 + side - 60]
        rows = np.arange(128) * window.shape[0] // 128
        columns = np.arange(128) * window.shape[1] // 128
        images.append(relief(window[rows][:, columns]))
        captions.append("real D435")
    zoomed = focal * 128 / side
    camera = make_camera(zoomed, zoomed, 63.5, 67.0, 128, 128)
    scene = body_scene(camera)
    for name, make in devices.SENSORS.items():
        for frame in frames_of(make(), scene, camera, 2, 4):
            images.append(relief(frame))
            captions.append(name)
    images = [np.kron(image, np.ones((2, 2, 1), np.uint8)) for image in images]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_image(out, sheet(images, captions=captions, columns=6), overwrite=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    frames = read_frames(args.frames)
    intrinsics = json.loads((args.frames / "intrinsics.json").read_text())
    ratio = intrinsics["fx"] / float(NATIVE.native_focal_px)
    height, width = frames.shape[1:]
    rows, columns = round(height / ratio), round(width / ratio)
    focal = float(NATIVE.native_focal_px)
    camera = make_camera(focal, focal, (columns - 1) / 2, (rows - 1) / 2, columns, rows)
    # A sequence has one error of calibration: a constant, which is no noise.
    sensor = dataclasses.replace(devices.stereo(), disparity_bias_px=0.0)
    results = {"real": measure(frames, ratio)}
    noise = {}
    for wall in WALLS:
        taken = frames_of(sensor, body_scene(camera, wall=wall), camera, len(frames), 12)
        results["model"] = measure(enlarge(taken, height, width), ratio)
        noise |= results["model"]["noise_by_distance"]
    results["model"]["noise_by_distance"] = noise
    report = {"provenance": provenance("experiments/sensor_statistics.py"), **results}
    print(json.dumps(results, indent=1))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    if args.sheet:
        draw_sheet(frames, intrinsics["fx"], args.sheet)


if __name__ == "__main__":
    main()
