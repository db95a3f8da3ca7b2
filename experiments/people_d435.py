"""Real frames from raw depth: the standing man is found and fitted, hands and walls are refused.

    python experiments/people_d435.py --data ../shared/data [--every 1]
        [--results experiments/results/people_d435.json] [--sheet docs/images/people_d435.jpg]

`people_d435`: 40 frames of a RealSense D435, a man standing, another person and a couch beside him.
No mask is given: `find_objects` and `reconstruct` do what `jrecon reconstruct` does. Masks that lie
beside the frames (by depth connectivity, no labels) are only compared with. `hand_sr305`: 13 frames
of hands, in their unit, and read as millimetres, which makes giants of them; with and without
their masks. Walls: flat and bent depth maps with the noise of a sensor, masked as if they were a
person.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.provenance import provenance
from jrecon.candidates import Candidate, attempt, attempts, choose
from jrecon.geometry.camera import Camera
from jrecon.io.depth import read_depth, read_mask
from jrecon.io.files import encode_image, write_whole
from jrecon.io.intrinsics import read_camera
from jrecon.io.segment import Segment, find_objects
from jrecon.measure import Tape, make_tape
from jrecon.overlay import views
from jrecon.pictures import Image, downsample, sheet
from jrecon.programs import keep_compiled
from jrecon.reconstructor import Reconstructor, load
from jrecon.report import summary

# Candidates of a frame that are tried, as the command does; frames in the picture.
TRIED, SHOWN = 3, 8
FIGURES = (
    "agreement", "residual_mm", "explained", "overlap", "visible", "predicted_joint_std_mm",
    "vertex_std_mm", "shape_deviation",
)  # fmt: skip
Sought = np.ndarray | tuple[Segment, ...]
Case = tuple[str, str, np.ndarray, Camera, Sought, np.ndarray | None]
"""Kind, name, depth, camera, a mask or segments, and a mask to compare with."""


def people(folder: Path, every: int) -> Iterator[Case]:
    camera = read_camera(folder / "intrinsics.json")
    for path in sorted(folder.glob("*_depth.png"))[::every]:
        depth = read_depth(path).depth
        near = read_mask(str(path).replace("_depth", "_mask"), (camera.width, camera.height))
        found = find_objects(depth, camera).segments
        yield "man", path.stem, depth, camera, found, near


def hands(folder: Path, every: int) -> Iterator[Case]:
    camera = read_camera(folder / "intrinsics.json")
    for path in sorted(folder.glob("*_depth.png"))[::every]:
        mask = read_mask(str(path).replace("_depth", "_mask"), (camera.width, camera.height))
        for unit in ("sr305", "mm"):
            depth = read_depth(path, unit=unit).depth
            found = find_objects(depth, camera).segments
            yield f"hand as {unit}", path.stem, depth, camera, mask, None
            if found:
                kind = f"found beside a hand as {unit}"
                yield kind, path.stem, depth, camera, found, None


def walls(camera: Camera) -> Iterator[Case]:
    """Surfaces that are no person, cut out as one: flat, leaning, round as a column, a box."""
    rng = np.random.default_rng(0)
    v, u = np.mgrid[: camera.height, : camera.width].astype(np.float32)
    x = (u - float(camera.center[0])) / float(camera.focal[0])
    y = (v - float(camera.center[1])) / float(camera.focal[1])
    upright = (np.abs(x) < 0.15) & (np.abs(y) < 0.36)
    shapes = {
        "flat": np.full_like(x, 2.5),
        "leaning": 2.5 + 0.8 * y,
        "column": 2.5 - np.sqrt(np.maximum(0.4**2 - (2.5 * x) ** 2, 0)),
        "box": 2.5 + 0.7 * np.abs(x),
        "waves": 2.5 + 0.08 * np.sin(25 * x) * np.sin(18 * y),
    }
    for name, depth in shapes.items():
        noisy = depth + 0.004 * rng.normal(size=depth.shape).astype(np.float32)
        behind = np.where(upright, noisy, 3.5).astype(np.float32)
        yield "wall", name, behind, camera, upright, None
        yield "wall", f"{name}, all of it", noisy.astype(np.float32), camera, upright, None


def best(recon: Reconstructor, case: Case) -> tuple[Candidate | None, float]:
    """What the command would return, and milliseconds."""
    _, _, depth, camera, sought, _ = case
    began = time.perf_counter()
    if isinstance(sought, np.ndarray):
        found = [attempt(recon, depth, camera, sought)]
    else:
        found = choose(attempts(recon, depth, camera, sought[:TRIED]))
    return (found or [None])[0], 1e3 * (time.perf_counter() - began)


def row(
    recon: Reconstructor,
    tape: Tape | None,
    case: Case,
    found: Candidate | None,
    milliseconds: float,
) -> dict[str, Any]:
    kind, name, _, _, _, near = case
    if found is None:
        return {"kind": kind, "name": name, "verdict": "refused", "why": ["nothing stands out"]}
    record: dict[str, Any] = {"kind": kind, "name": name}
    record |= summary(recon, found.result, found.verdict, tape)
    record |= {"agreement": round(found.verdict.merit, 3), "ms": round(milliseconds, 1)}
    if near is not None:
        record["mask_iou"] = round(float((found.mask & near).sum() / (found.mask | near).sum()), 3)
    return record


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each kind: verdicts, and the range of each figure."""
    report = {}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        words = [row["verdict"] for row in own]
        entry: dict[str, Any] = {"frames": len(own)}
        entry |= {word: words.count(word) for word in ("good", "doubtful", "refused")}
        for name in (*FIGURES, "mask_iou", "ms"):
            values = [row[name] for row in own if name in row]
            if values:
                marks = np.percentile(values, [0, 50, 100])
                entry[name] = dict(zip(("least", "median", "most"), marks.round(3), strict=True))
        statures = [row["measures_m"]["stature"] for row in own if "measures_m" in row]
        if statures:
            entry["stature_m"] = {
                "median": round(float(np.median(statures)), 3),
                "std_over_frames": round(float(np.std(statures)), 3),
            }
        report[kind] = entry
    return report


def table(summary: dict[str, Any]) -> str:
    """For docs/reconstruct.md: verdicts, and the range of each figure of the verdict."""
    names = {
        "agreement": "agreement", "visible": "visible", "residual_mm": "residual, mm",
        "predicted_joint_std_mm": "predicted, mm", "shape_deviation": "shape",
        "vertex_std_mm": "unsure, mm",
    }  # fmt: skip
    words = ("frames", "good", "doubtful", "refused")
    columns = ("", *words, *names.values())
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for kind, entry in summary.items():
        cells = [kind, *(str(entry[word]) for word in words)]
        for name in names:
            low, high = (entry[name][mark] for mark in ("least", "most"))
            digits = 0 if name.endswith("mm") else 2
            cells.append(f"{low:.{digits}f} to {high:.{digits}f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def caption(record: dict[str, Any]) -> list[str]:
    return [
        record["name"].removesuffix("_depth"),
        f"{record['verdict']}, overlap {record['overlap']:.2f}",
        f"median {record['residual_mm']:.0f} mm apart",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    keep_compiled()
    recon = load("body")
    tape = make_tape(recon.model)
    folder = args.data / "people_d435"
    camera = read_camera(folder / "intrinsics.json")
    frames = sorted(folder.glob("*_depth.png"))[:: args.every]
    shown_names = {path.stem for path in frames[:: max(1, len(frames) // SHOWN)][:SHOWN]}
    rows: list[dict[str, Any]] = []
    panels: list[Image] = []
    captions: list[str] = []
    for case in (
        *people(folder, args.every),
        *hands(args.data / "hand_sr305", args.every),
        *walls(camera),
    ):
        found, milliseconds = best(recon, case)
        rows.append(row(recon, tape, case, found, milliseconds))
        shown = {key: rows[-1].get(key) for key in ("kind", "name", "verdict", *FIGURES, "ms")}
        print(json.dumps(shown), flush=True)
        if args.sheet and found and case[1] in shown_names:
            panels += views(recon, found.result, case[2], camera, found.mask)[:3]
            captions += caption(rows[-1])
    report = provenance(f"experiments/people_d435.py --data DATA --every {args.every}")
    found_of_each = figures(rows)
    report |= {"summary": found_of_each, "frames": rows}
    print(json.dumps(found_of_each, indent=1))
    print(table(found_of_each))
    if args.results:
        args.results.write_text(json.dumps(report, indent=1) + "\n")
    if args.sheet:
        small = [downsample(panel, 2) for panel in panels]
        title = "Raw depth of a RealSense D435, no mask given"
        picture = sheet(small, columns=12, captions=captions, title=title)
        write_whole(args.sheet, encode_image(picture, args.sheet.suffix))


if __name__ == "__main__":
    main()
