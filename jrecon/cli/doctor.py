"""`jrecon doctor`: what is installed, what the hardware is, and does it work."""

from __future__ import annotations

import dataclasses
import platform
import sys
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from jrecon import __version__
from jrecon.cli.command import Command, Report

_CORE = (
    "jax jaxlib flax optax orbax-checkpoint numpy scipy trimesh pillow tyro rich jaxtyping pyyaml "
    "flatbuffers"
).split()
# Extra: (the name that pip knows, the module that is imported).
_EXTRAS = {
    "io": (("OpenEXR", "OpenEXR"),),
    "ros": (("rosbags", "rosbags"),),
    "realsense": (("pyrealsense2", "pyrealsense2"),),
    "view": (("viser", "viser"),),
    "data": (("grain", "grain"),),
    "hub": (("huggingface-hub", "huggingface_hub"), ("safetensors", "safetensors")),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doctor(Command):
    """Print versions, devices and caches, and try the engine on this machine.

    Example: jrecon doctor --json
    """

    def run(self) -> Report:
        return {
            "jrecon": f"{__version__} in {Path(__file__).parents[1]}",
            "python": f"{platform.python_version()} on {platform.platform()}",
            "packages": {name: _version(name) for name in _CORE},
            "extras": {name: _extra(name) for name in _EXTRAS},
            "devices": _devices(),
            "caches": _caches(),
            "self_test": _self_test(),
        }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _extra(name: str) -> str:
    missing = [package for package, module in _EXTRAS[name] if find_spec(module) is None]
    if missing:
        return f"missing {', '.join(missing)}; pip install 'jrecon[{name}]'"
    return ", ".join(f"{package} {_version(package)}" for package, _ in _EXTRAS[name])


def _devices() -> Report:
    import jax

    kinds = [device.device_kind for device in jax.devices()]
    return {
        "backend": jax.default_backend(),
        "devices": [f"{kinds.count(kind)} x {kind}" for kind in sorted(set(kinds))],
        "processes": jax.process_count(),
    }


def _caches() -> Report:
    import jax

    folder = jax.config.values["jax_compilation_cache_dir"]
    return {"compiled_code": folder or "off; set JAX_COMPILATION_CACHE_DIR to keep compiled code"}


def _self_test() -> Report:
    """Load the shipped body, pose it, and differentiate it.

    Raises:
      ValueError: the numbers are not what they must be on any sound installation.
    """
    import jax
    import jax.numpy as jnp

    from jrecon.model.formats import load_model
    from jrecon.model.parametric import pose, zeros

    start = time.perf_counter()
    model = load_model("body")
    loaded = time.perf_counter()
    params = zeros(model)

    @jax.jit
    def measure(shape: jax.Array) -> tuple[jax.Array, jax.Array]:
        vertices = pose(model, dataclasses.replace(params, shape=shape)).vertices
        stature = vertices[:, 1].max() - vertices[:, 1].min()
        return stature, jnp.abs(vertices - model.vertices).max()

    gradient = jax.jit(jax.grad(lambda shape: measure(shape)[0]))
    stature, drift = (float(value) for value in measure(params.shape))
    slope = gradient(params.shape)
    done = time.perf_counter()
    if drift > 1e-5 or not bool(jnp.isfinite(slope).all()) or not 1.0 < stature < 2.5:
        raise ValueError(
            f"self-test: the rest pose is off by {drift} m at a stature of {stature} m; "
            f"reinstall jrecon and JAX ({sys.executable})."
        )
    return {
        "load_s": round(loaded - start, 3),
        "compile_and_run_s": round(done - loaded, 3),
        "result": "ok",
    }
