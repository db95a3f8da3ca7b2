"""Compiled programs: how they are compiled, and how they are kept on disk between runs.

    keep_compiled()                                # first, before the engine is imported
    run = kept_program(function, structure)        # in place of jax.jit(function)

JAX keeps what it has compiled, but finds it by the program, for which the function has to be traced
and lowered in every process: of a large one that takes longer than to run it. So it is kept as it
was traced, too.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax
import jax.export
from jax.core import Tracer

from jrecon.io.files import write_whole

Result = TypeVar("Result")
Run = Callable[..., list[Any]]

_SUFFIX = ".stablehlo"
# Programs that are kept, each of some 300 kB; those that were not used for longest go.
_KEPT = 16
# What else a traced program depends on.
_SETTINGS = (
    "jax_default_matmul_precision",
    "jax_enable_x64",
    "jax_default_prng_impl",
    "jax_default_device",
    "jax_numpy_dtype_promotion",
)
# On CPUs a fit compiles in half of the time with these, and runs as fast.
CPU_OPTIONS: dict[str, bool | int | str] = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_backend_optimization_level": 1,
}


def keep_compiled() -> None:
    """Keep compiled programs on disk, where and from which size on the user has said, if he has: a
    minute the first time, seconds afterwards. To be called before the engine is imported."""
    # What is imported from now on is this code.
    source()
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "jrecon" / "jax"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # The small programs around the large one are read faster than compiled, too.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def kept_program(
    function: Callable[..., Result], structure: Callable[[], Any]
) -> Callable[..., Result]:
    """A function compiled as a whole, whose program is kept beside the compiled code, if that is.

    A kept program is that of this source code, these versions, settings, devices and shapes;
    another one is traced anew. Within other transformations it is the function itself.

    Args:
      function: of a module; its name is part of what a program is known by. Of pytrees of arrays.
      structure: gives the tree of what it returns, which the file does not tell.
    """

    @functools.wraps(function)
    def run(*arguments: Any) -> Result:
        leaves, tree = jax.tree.flatten(arguments)
        traced = any(isinstance(leaf, Tracer) for leaf in leaves)
        if traced or jax.config.values["jax_disable_jit"]:
            return function(*arguments)
        key = (*_settings(), tree, *map(_described, leaves))
        if key not in ready:
            ready[key] = _make_ready(function, tree, leaves)
            if all(one.done() for one in _ahead.values()):
                # What was not needed takes a lot of memory.
                _ahead.clear()
        return jax.tree.unflatten(jax.tree.structure(structure()), ready[key](*leaves))

    ready: dict[Any, Run] = {}
    return run


def read_ahead(module: str, name: str) -> bool:
    """Begin to load the program that a function was last called with, in a thread: most of the time
    is spent outside of Python. If another one is needed, this was for nothing.

    A process that has called this ends with `leave`.

    Returns:
      Whether there is one.
    """
    folder = _folder()
    if folder is None or jax.config.values["jax_default_device"] is not None:
        return False
    try:
        files = sorted(folder.glob(f"{_settings_digest(module, name)}-*{_SUFFIX}"), key=_age)
    except OSError:
        return False
    program = _read_program(files[-1]) if files else None
    if program is None:
        return False
    # Not in the thread: modules that import each other must not be imported in two at once.
    import scipy.linalg.cython_blas
    import scipy.linalg.cython_lapack  # noqa: F401

    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in program.in_avals]
    _ahead[files[-1]] = _loader.submit(_compiled, jax.jit(program.call), shapes)
    return True


def leave(code: int) -> NoReturn:
    """End the process: at once where a program is still being loaded, which nothing can stop and
    which need not be waited for."""
    if all(one.done() for one in _ahead.values()):
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


_loader = ThreadPoolExecutor(1)
_ahead: dict[Path, Future[Run]] = {}


def _make_ready(function: Callable[..., Any], tree: Any, leaves: list[Any]) -> Run:
    """From the leaves of the arguments to those of the result, by the program of a file, which is
    written if it is not there."""
    flat = lambda *leaves: jax.tree.leaves(function(*jax.tree.unflatten(tree, leaves)))
    folder = _folder()
    if folder is None:
        return _compiled(jax.jit(flat), leaves)
    described = "\n".join([str(tree), *map(str, map(_described, leaves))])
    setting = _settings_digest(function.__module__, function.__qualname__)
    path = folder / f"{setting}-{_digest(described)}{_SUFFIX}"
    ahead = _ahead.get(path)
    if ahead is not None and _on_first_device(leaves) and ahead.exception() is None:
        return ahead.result()
    program = _read_program(path)
    if program is None:
        try:
            program = jax.export.export(jax.jit(flat))(*leaves)
            data = bytes(program.serialize())
        except (ValueError, NotImplementedError, TypeError):
            # It calls back, or into a library that JAX does not promise to keep.
            return _compiled(jax.jit(flat), leaves)
        # Code that was changed since it was imported is not what was traced.
        if _digest_of_source() == source():
            _keep_program(path, data)
    return _compiled(jax.jit(program.call), leaves)


def _compiled(function: Any, leaves: list[Any]) -> Run:
    """A jitted function, for arguments like these."""
    lowered = function.lower(*leaves)
    if jax.devices()[0].platform == "cpu":
        # Options come and go with versions.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            return lowered.compile(compiler_options=CPU_OPTIONS)
    return lowered.compile()


def _described(leaf: Any) -> tuple[Any, ...]:
    """What a program depends on of an argument."""
    if isinstance(leaf, jax.Array):
        return leaf.shape, str(leaf.dtype), leaf.weak_type, leaf.sharding
    kind = jax.typeof(leaf)
    return kind.shape, str(kind.dtype), kind.weak_type, None


def _on_first_device(leaves: list[Any]) -> bool:
    """Whether all arguments are where JAX puts them if it is not told."""
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return all(getattr(leaf, "sharding", default) == default for leaf in leaves)


def _settings() -> tuple[Any, ...]:
    return tuple(getattr(jax.config, name) for name in _SETTINGS)


def _settings_digest(module: str, name: str) -> str:
    """Digest of what the programs of a function depend on, but for its arguments."""
    device = jax.devices()[0]
    versions = [metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")]
    settings = [*map(str, _settings()), device.platform, device.device_kind]
    return _digest("\n".join([source(), module, name, *versions, *settings]))


def _folder() -> Path | None:
    """Of the programs; None if compiled code is not kept, or not in a folder."""
    root = jax.config.values["jax_compilation_cache_dir"]
    if not root or "://" in root or not jax.config.values["jax_enable_compilation_cache"]:
        return None
    return Path(root) / "programs"


@functools.cache
def source() -> str:
    """Digest of this package's source code, at the first call."""
    return _digest_of_source()


def _digest_of_source() -> str:
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _age(file: Path) -> float:
    """When it was last used; a file that another process removes meanwhile is old."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _read_program(path: Path) -> Any:
    """The program of a file; None if there is none that can be read."""
    try:
        program = jax.export.deserialize(bytearray(path.read_bytes()))
    except Exception:
        # Not there, cut off, or of another make, which flatbuffers tells in many ways.
        return None
    with contextlib.suppress(OSError):
        # Those that are used stay.
        path.touch()
    return program


def _keep_program(path: Path, data: bytes) -> None:
    """Write a program; as with compiled code, that it cannot be kept stops nothing."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
        files = sorted(path.parent.glob(f"*{_SUFFIX}"), key=_age)
        for old in files[:-_KEPT]:
            old.unlink(missing_ok=True)
