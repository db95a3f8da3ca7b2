"""How well a person is found in a depth map without a mask: overlap of the best segment.

    python experiments/segmentation.py [--data ../shared/data] [--count 24]
        [--results experiments/results/segmentation.json]

Synthetic rooms (floor, wall, no clutter; any pose, shape and view from 2 to 4 m; 320 x 240 pixels)
as four sensors see them, with the exact mask of what is visible; real frames of a RealSense D435
(a man beside a couch) and of an SR305 (hands), with masks made from depth connectivity, no labels.
`best of others`: the best overlap among a segment's mask and those that it may be instead.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.provenance import provenance
from jrecon.geometry.camera import Camera, make_camera
from jrecon.io.depth import read_depth, read_mask
from jrecon.io.intrinsics import read_camera
from jrecon.io.segment import find_objects
from jrecon.model.formats import load_model
from jrecon.synth.generate import SynthConfig, make_batch, make_source
from jrecon.synth.segmentation import RegionConfig, SegmentConfig
from jrecon.synth.surroundings import SurroundingsConfig
from jrecon.synth.viewpoint import ViewConfig

SENSORS = ("ideal", "structured_light", "time_of_flight", "stereo")
CONFIG = SynthConfig(
    crop=False,
    height=240,
    width=320,
    sensors=SENSORS,
    view=ViewConfig(distance_m=(2.0, 4.0), aim=(-0.1, 0.1)),
    segmentation=SegmentConfig(exact_rate=1.0),
    regions=RegionConfig(rate=0.0),
    surroundings=SurroundingsConfig(
        nothing_rate=0.0, floor_rate=1.0, wall_rate=1.0, occluder_rate=0.0, clutter_rate=0.0
    ),
)
Item = tuple[np.ndarray, Camera, np.ndarray]
"""Depth, camera, mask."""


def rooms(count: int) -> Iterator[tuple[str, list[Item]]]:
    source = make_source(load_model("body", level="2k"), CONFIG)
    for sensor in SENSORS:
        shares = source.sensors.shares.at[:].set([float(name == sensor) for name in SENSORS])
        sensors = dataclasses.replace(source.sensors, shares=shares)
        drawn = make_batch(
            dataclasses.replace(source, sensors=sensors), jax.random.key(5), 0, count
        )
        focal, center = np.asarray(drawn.camera.focal), np.asarray(drawn.camera.center)
        cameras = [
            make_camera(f[0], f[1], c[0], c[1], 320, 240)
            for f, c in zip(focal, center, strict=True)
        ]
        depths, masks = np.asarray(drawn.depth), np.asarray(drawn.mask)
        yield f"room, {sensor}", list(zip(depths, cameras, masks, strict=True))


def captures(folder: Path, unit: str | None) -> list[Item]:
    camera = read_camera(folder / "intrinsics.json")
    size = (camera.width, camera.height)
    return [
        (
            read_depth(path, unit=unit).depth,
            camera,
            read_mask(str(path).replace("_depth", "_mask"), size),
        )
        for path in sorted(folder.glob("*_depth.png"))
    ]


def measure(items: list[Item], **options: Any) -> dict[str, Any]:
    best, others, milliseconds = [], [], []
    for depth, camera, mask in items:
        began = time.perf_counter()
        found = find_objects(depth, camera, **options).segments[:1]
        milliseconds.append(1e3 * (time.perf_counter() - began))
        overlap = lambda other, mask=mask: float((mask & other).sum() / (mask | other).sum())
        best.append(max([overlap(one.mask) for one in found], default=0.0))
        others.append(
            max([overlap(o) for one in found for o in (one.mask, *one.others)], default=0)
        )
    marks = np.percentile(best, [0, 10, 50]).round(3).tolist()
    return {
        "frames": len(items),
        **dict(zip(("least", "tenth", "median"), marks, strict=True)),
        "mean": round(float(np.mean(best)), 3),
        "mean_best_of_others": round(float(np.mean(others)), 3),
        "median_ms": round(float(np.median(milliseconds)), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    report: dict[str, Any] = dict(provenance(f"experiments/segmentation.py --count {args.count}"))
    rows: dict[str, Any] = {name: measure(items) for name, items in rooms(args.count)}
    if args.data:
        rows["people_d435"] = measure(captures(args.data / "people_d435", None))
        hands = captures(args.data / "hand_sr305", "sr305")
        rows["hand_sr305"] = measure(hands, size_m=(0.1, 0.4), far=0.8)
    report["intersection over union"] = rows
    print(json.dumps(rows, indent=1))
    if args.results:
        args.results.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
