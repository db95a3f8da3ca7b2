"""Shared fixtures; JAX is configured here, before anything initialises a backend.

Shape annotations are not checked at run time: the import hook of jaxtyping checks dataclasses too,
and JAX rebuilds those around placeholders (`eval_shape`, `tree.map`, `in_axes`), which it
then refuses.
"""

import os
import pathlib
import resource
import subprocess
import sys

# Read by JAX when it is imported, and heeded by `jrecon.programs.keep_compiled`, which would
# keep every small program: with a size limit each one that is kept looks at all that are there.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import filelock
import jax
import numpy as np
import pytest

from jrecon.programs import CPU_OPTIONS


def choose_flags() -> None:
    """Compile as `jrecon.programs` does, in half of the time, if this version of XLA can: unknown
    flags end the process, so another one tries. Workers inherit what was found."""
    if "XLA_FLAGS" in os.environ:
        return
    flags = " ".join(f"--{name}={value}".lower() for name, value in CPU_OPTIONS.items())
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    tried = subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True)
    os.environ["XLA_FLAGS"] = flags if tried.returncode == 0 else ""


# Before the backend is initialised, which reads them.
choose_flags()
# Several CPU devices, so that sharding is exercised on any machine.
jax.config.update("jax_num_cpu_devices", 8)
# Implicit rank promotion hides missing batch axes.
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# Compiled code is kept from run to run and shared by the workers. With a size limit JAX locks the
# folder (it needs filelock for that); without one, workers could read half-written files.
CACHE = ROOT / ".cache" / "jax"
jax.config.update(
    "jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(CACHE)
)
jax.config.update("jax_compilation_cache_max_size", 2**30)


def remove_halves(folder: pathlib.Path) -> None:
    """Remove what a killed run left half written in a cache: code without its time of access, on
    which every later write to the folder fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lockfile"):
        for path in folder.glob("*-cache"):
            if not path.with_name(f"{path.name.removesuffix('-cache')}-atime").exists():
                path.unlink()


# Not in a folder that somebody named: others may use it without a limit, hence without such times.
remove_halves(CACHE)


@pytest.fixture(scope="session")
def shared_dir() -> pathlib.Path:
    """Folder of optional external data (motion, captures, measurements) beside the checkout."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"optional test data not found: {SHARED / 'data'}")
    return SHARED


@pytest.fixture
def rng() -> np.random.Generator:
    """The same random numbers for every test and every run."""
    return np.random.default_rng(0)


@pytest.fixture
def key() -> jax.Array:
    """The same JAX key for every test and every run."""
    return jax.random.key(0)


def peak_memory() -> int:
    """The most that this process has held, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


peaks = [peak_memory()]


@pytest.fixture(autouse=True, scope="module")
def bounded_memory():
    """Compiled code goes once it may have come to a gigabyte: over the whole suite it comes to
    many, but the next module needs much of it again."""
    yield
    if peak_memory() > peaks[-1] + 2**30:
        jax.clear_caches()
        peaks.append(peak_memory())
