"""When, where and how a result was made: the head of every file in `experiments/results/`."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path

import jax


def provenance(script: str) -> dict[str, str | dict[str, str]]:
    """Date, command, hardware and versions, as plain JSON data."""
    return {
        "date": datetime.date.today().isoformat(),
        "command": f"python {script}",
        "hardware": f"{os.cpu_count()} CPU cores, {cpu_name()}; JAX on {jax.default_backend()}",
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("jax", "numpy")},
        },
    }


def cpu_name() -> str:
    """The processor's marketing name where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
