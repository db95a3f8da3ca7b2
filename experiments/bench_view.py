"""How fast the live page answers a slider, and whether it grows: 1,000 updates of each kind.

A page is open in headless Chromium meanwhile, where there is one (playwright is needed). The time
of an update is from the change to the last array that is handed to the connection; the browser's
own drawing comes on top and depends on its GPU. `cpu_median_ms` is the time of all threads of this
process, which depends less on what else the machine does.

    python experiments/bench_view.py --frames data/people_d435 --camera camera.json
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.provenance import provenance
from jrecon.io.sequence import open_capture
from jrecon.programs import keep_compiled
from jrecon.reconstructor import load
from jrecon.viewer import editing, results
from jrecon.viewer.capture_page import CapturePage
from jrecon.viewer.live import start_server
from jrecon.viewer.synthetic_page import SyntheticPage

RESULTS = Path(__file__).parent / "results" / "bench_view.json"
UPDATES, WARM = 1000, 20
# Frames of the sequence.
FOLLOWED = 20
TARGET_MS = 100


def resident_mb() -> float:
    """Memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.contextmanager
def opened(address: str) -> Iterator[Callable[[], float | None]]:
    """A page that is open; what its JavaScript heap holds after a collection, MB."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        found = None
    if found is None:
        yield lambda: None
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found,
            args=["--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"],
        )
        tab = browser.new_page(viewport={"width": 640, "height": 480})
        tab.goto(address)
        tab.wait_for_timeout(3000)
        session = tab.context.new_cdp_session(tab)

        def heap_mb() -> float:
            tab.wait_for_timeout(1500)
            session.send("HeapProfiler.collectGarbage")
            return session.send("Runtime.getHeapUsage")["usedSize"] / 2**20

        yield heap_mb
        browser.close()


def measure(
    change: Callable[[int], None], redraw: Callable[[], None], heap_mb: Callable[[], float | None]
) -> dict[str, Any]:
    """Times of updates, and memory before and after."""
    times, cpu = [], []
    for count in range(WARM):
        change(count)
        redraw()
    gc.collect()
    before, heap = resident_mb(), heap_mb()
    for count in range(UPDATES):
        change(count)
        began, spent = time.perf_counter(), time.process_time()
        redraw()
        cpu.append(1e3 * (time.process_time() - spent))
        times.append(1e3 * (time.perf_counter() - began))
        # As a hand on a slider: viser sends at most some 60 times a second.
        time.sleep(0.005)
    gc.collect()
    after, heap_after = resident_mb(), heap_mb()
    median, late, worst = np.percentile(times, [50, 95, 100])
    found = {
        "updates": UPDATES,
        "median_ms": round(median, 1),
        "p95_ms": round(late, 1),
        "worst_ms": round(worst, 1),
        "cpu_median_ms": round(float(np.median(cpu)), 1),
        "resident_before_mb": round(before, 1),
        "resident_after_mb": round(after, 1),
    }
    if heap is not None and heap_after is not None:
        found |= {"heap_before_mb": round(heap, 1), "heap_after_mb": round(heap_after, 1)}
    return found


def capture(depth: Path, camera: str) -> dict[str, Any]:
    """The page of a capture: a shape slider, a joint slider, the mesh coloured by its residual."""
    server = start_server(port=8190)
    page = CapturePage(server, results.load_subject())
    page.open(open_capture(depth, camera=camera))

    def shape(count: int) -> None:
        changed = editing.with_shape(page.panel.edits.now, count % 8, np.sin(0.1 * count))
        page.panel.edits = editing.change(page.panel.edits, f"shape {count}", changed)

    def joint(count: int) -> None:
        changed = editing.with_angle(page.panel.edits.now, 18, count % 3, np.sin(0.1 * count))
        page.panel.edits = editing.change(page.panel.edits, f"joint {count}", changed)

    with opened(f"http://127.0.0.1:{server.get_port()}") as heap_mb:
        found = {
            "capture_shape": measure(shape, page.redraw, heap_mb),
            "capture_joint": measure(joint, page.redraw, heap_mb),
        }
    server.stop()
    return found


def sequence(folder: Path, camera: str) -> dict[str, Any]:
    """The page of a sequence that was followed: its frames, one after the other, as play shows
    them."""
    server = start_server(port=8193)
    page = CapturePage(server, results.load_subject())
    found = open_capture(folder, camera=camera)
    page.open(dataclasses.replace(found, files=found.files[:FOLLOWED], times_s=None))
    page.worker.wait()
    timeline = page.timeline

    def step() -> None:
        timeline.show((timeline.index + 1) % FOLLOWED)

    with opened(f"http://127.0.0.1:{server.get_port()}") as heap_mb:
        found = {"sequence_play": measure(lambda count: None, step, heap_mb)}
    server.stop()
    return found


def synthetic() -> dict[str, Any]:
    """The page of synthesis: the azimuth, with one sensor and with all of them."""
    server = start_server(port=8191)
    page = SyntheticPage(server, load("body").model)
    page.worker.wait()

    def turn(count: int) -> None:
        page.shot = dataclasses.replace(page.shot, azimuth_deg=float(count % 360))

    with opened(f"http://127.0.0.1:{server.get_port()}") as heap_mb:
        found = {"synthetic_one_sensor": measure(turn, page.redraw, heap_mb)}
        page.aim("stereo", compare=True)
        page.worker.wait()
        found["synthetic_all_sensors"] = measure(turn, page.redraw, heap_mb)
    server.stop()
    return found


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--camera", required=True)
    arguments = parser.parse_args()
    keep_compiled()
    first = open_capture(arguments.frames).files[0]
    found = capture(first, arguments.camera) | synthetic()
    found |= sequence(arguments.frames, arguments.camera)
    record = {
        **provenance("experiments/bench_view.py --frames FOLDER --camera camera.json"),
        "load_average": round(os.getloadavg()[0], 1),
        "target": f"an update within {TARGET_MS} ms; no growth over {UPDATES} updates",
        **found,
    }
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
