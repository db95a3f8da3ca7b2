"""Damaged files of every kind that is read: refused with ValueError or OSError, and in no time.

    python experiments/fuzz_readers.py [--seconds 300] [--only a.png a.npz]
        [--results experiments/results/fuzz_readers.json]

Valid files are damaged at random: bytes changed, cut out, doubled, swapped between files, numbers
in text made larger, the end cut off. For each reader: how many were tried, how many were read all
the same, the slowest (of the processor's time: other work may share it), and the most memory of the
process. Anything else that is raised ends the run, with the file kept in the system's folder for
temporary files. Results of readers that are left out by --only stay in the file as they are.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.provenance import provenance
from jrecon.io.depth import read_depth, read_mask
from jrecon.io.intrinsics import read_lens
from jrecon.io.point_cloud import read_point_cloud
from jrecon.io.sequence import open_capture

WIDTH, HEIGHT = 40, 30
DEPTH = np.full((HEIGHT, WIDTH), 2000, np.uint16) + np.arange(WIDTH, dtype=np.uint16)
POINTS = "\n".join(f"{x / 10} {y / 10} 2.5" for x in range(6) for y in range(5))
CAMERA = {"fx": 50, "fy": 50, "cx": 19.5, "cy": 14.5, "width": WIDTH, "height": HEIGHT}
ROS = f"""image_width: {WIDTH}
image_height: {HEIGHT}
camera_matrix: {{rows: 3, cols: 3, data: [50, 0, 19.5, 0, 50, 14.5, 0, 0, 1]}}
distortion_coefficients: {{rows: 1, cols: 5, data: [0.01, 0, 0, 0, 0]}}
"""
PCD = f"""VERSION .7
FIELDS x y z
SIZE 4 4 4
TYPE F F F
COUNT 1 1 1
WIDTH 6
HEIGHT 5
POINTS 30
DATA ascii
{POINTS}
"""
PLY = "ply\nformat ascii 1.0\nelement vertex 30\nproperty float x\nproperty float y\n"
PLY += f"property float z\nend_header\n{POINTS}\n"
Reader = Callable[[Path], Any]


def samples(folder: Path) -> dict[str, tuple[bytes, str, Reader]]:
    """Of each kind: a valid file, its suffix, and what reads it."""
    made: dict[str, Reader] = {}
    for suffix in ("png", "pgm", "tif"):
        Image.fromarray(DEPTH).save(folder / f"a.{suffix}", "PPM" if suffix == "pgm" else None)
        made[f"a.{suffix}"] = read_depth
    np.save(folder / "a.npy", DEPTH)
    np.savez_compressed(folder / "a.npz", depth=DEPTH)
    Image.fromarray((DEPTH > 2010).astype(np.uint8)).save(folder / "mask.png")
    (folder / "a.pcd").write_text(PCD)
    (folder / "a.ply").write_text(PLY)
    (folder / "camera.json").write_text(json.dumps(CAMERA))
    (folder / "ros.yaml").write_text(ROS)
    (folder / "cameras.txt").write_text(f"1 OPENCV {WIDTH} {HEIGHT} 50 50 20 15 0.01 0 0 0\n")
    (folder / "k.txt").write_text("50 0 19.5\n0 50 14.5\n0 0 1\n")
    lens = lambda path: read_lens(path, (WIDTH, HEIGHT))
    made |= {"a.npy": read_depth, "a.npz": read_depth}
    made |= {"mask.png": lambda path: read_mask(path, (WIDTH, HEIGHT))}
    made |= {"a.pcd": read_point_cloud, "a.ply": read_point_cloud}
    made |= {"camera.json": lens, "ros.yaml": lens, "cameras.txt": lens, "k.txt": lens}
    return {
        name: ((folder / name).read_bytes(), Path(name).suffix, read) for name, read in made.items()
    }


def listings(folder: Path) -> dict[str, tuple[bytes, str, Reader]]:
    """Text files of recordings, read in their folders."""
    recording = folder / "recording"
    (recording / "depth").mkdir(parents=True)
    Image.fromarray(DEPTH).save(recording / "depth" / "000000.png")
    (recording / "intrinsics.json").write_text(json.dumps(CAMERA))

    def within(name: str) -> Reader:
        def read(path: Path) -> Any:
            placed = recording / name
            path.replace(placed)
            try:
                return open_capture(recording).read(0)
            finally:
                placed.unlink()

        return read

    odometry = "timestamp, frame, x, fx, fy, cx, cy\n0.0, 000000, 0, 1600, 1600, 960, 720\n"
    record = {"K": [50, 0, 0, 0, 50, 0, 19.5, 14.5, 1], "w": WIDTH, "h": HEIGHT, "fps": 30}
    return {
        "depth.txt": (b"# time file\n1.5 depth/000000.png\n", ".txt", within("depth.txt")),
        "odometry.csv": (odometry.encode(), ".csv", within("odometry.csv")),
        "metadata.json": (json.dumps(record).encode(), ".json", within("metadata.json")),
    }


def floats(folder: Path) -> dict[str, tuple[bytes, str, Reader]]:
    """An OpenEXR image; nothing where the extra `io` is missing."""
    try:
        import OpenEXR
    except ImportError:
        return {}
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    channels = {"Z": DEPTH.astype(np.float32) / 1000}
    OpenEXR.File(header, channels).write(str(folder / "a.exr"))
    return {"a.exr": ((folder / "a.exr").read_bytes(), ".exr", read_depth)}


def bags(folder: Path) -> dict[str, tuple[bytes, str, Reader]]:
    """ROS bags of each storage, with a camera; nothing where the extra `ros` is missing."""
    try:
        from tests.io.bags import Recorder
    except ImportError:
        return {}
    kinds = {"bag.bag": ("", "bz2"), "bag.db3": ("sqlite3", None), "bag.mcap": ("mcap", "zstd")}
    made = {}
    for name, (storage, chunks) in kinds.items():
        root = folder / f"of_{name}" if storage else folder / name
        with Recorder(root, storage, chunks) as recorder:
            recorder.camera("/depth/camera_info", (WIDTH, HEIGHT))
            recorder.image("/depth/image", 1.0, DEPTH)
            recorder.image("/depth/image", 1.1, DEPTH)
        suffix = Path(name).suffix
        file = next(root.glob(f"*{suffix}")) if root.is_dir() else root
        made[name] = (file.read_bytes(), suffix, last_frame)
    return made


def last_frame(path: Path) -> Any:
    capture = open_capture(path)
    return capture.read(len(capture) - 1)


def damage(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """One to four kinds of damage, one after the other."""
    raw = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        kind, at = rng.integers(0, 7), int(rng.integers(0, len(raw) + 1))
        span = int(rng.integers(1, 17))
        if kind == 0 and raw:
            for index in rng.integers(0, len(raw), rng.integers(1, 9)):
                raw[index] = int(rng.integers(0, 256))
        elif kind == 1:
            del raw[at : at + span]
        elif kind == 2:
            raw[at:at] = raw[at : at + span] * int(rng.integers(1, 50))
        elif kind == 3:
            raw = raw[:at]
        elif kind == 4:
            raw[at : at + span] = other[at : at + span]
        elif kind == 5:
            numbers = list(re.finditer(rb"\d+", bytes(raw[:4096])))
            if numbers:
                one = numbers[int(rng.integers(0, len(numbers)))]
                raw[one.start() : one.end()] = str(int(rng.integers(0, 2**40))).encode()
        else:
            raw[at:at] = bytes(rng.choice([0, 255, 10, 32, 45, 123], span).astype(np.uint8))
    return bytes(raw)


def fuzz(name: str, kinds: Any, folder: Path, seconds: float, seed: int) -> dict[str, Any]:
    data, suffix, read = kinds[name]
    rng = np.random.default_rng(seed)
    others = [other for other, _, _ in kinds.values()]
    tried, accepted, slowest = 0, 0, 0.0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        path = folder / f"damaged{suffix}"
        path.write_bytes(damage(rng, data, others[int(rng.integers(0, len(others)))]))
        kept = path.read_bytes()
        began = time.process_time()
        try:
            read(path)
            accepted += 1
        except (ValueError, OSError):
            pass
        except BaseException:
            (Path(tempfile.gettempdir()) / f"fuzz_{name}").write_bytes(kept)
            raise
        slowest = max(slowest, time.process_time() - began)
        tried += 1
    return {
        "tried": tried,
        "read_all_the_same": accepted,
        "slowest_ms": round(1e3 * slowest, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300.0, help="for each reader")
    parser.add_argument("--only", nargs="+", metavar="READER", help="as the results name them")
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    made = provenance(f"experiments/fuzz_readers.py --seconds {args.seconds:g}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        kinds = samples(folder) | listings(folder) | bags(folder) | floats(folder)
        if unknown := set(args.only or ()) - set(kinds):
            parser.error(f"--only: got {sorted(unknown)}, need some of {' '.join(kinds)}")
        for seed, name in enumerate(kinds):
            if args.only and name not in args.only:
                continue
            row = fuzz(name, kinds, folder, args.seconds, seed)
            print(name, json.dumps(row), flush=True)
            if args.results:
                keep(args.results, name, {**row, **made})


def keep(path: Path, name: str, row: dict[str, Any]) -> None:
    """Put one reader's row among those that are there."""
    rows = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**rows, name: row}, indent=1) + "\n")


if __name__ == "__main__":
    main()
