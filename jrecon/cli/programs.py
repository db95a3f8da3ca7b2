"""Programs as they were traced, kept on disk between runs.

    run = kept_program(reconstruct_views, reconstruction_structure())
    found = run(recon, seen, view)                             # in place of reconstruct_views

JAX keeps what it has compiled, but finds it by the program, for which the function has to be traced
and lowered in every process: of the large one that takes longer than to run it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")
_SUFFIX = ".stablehlo"
# Programs that are kept, each of some 300 kB; those that were not used for longest go.
_KEPT = 16
# What else a traced program depends on.
_SETTINGS = (
    "jax_default_matmul_precision",
    "jax_enable_x64",
    "jax_default_prng_impl",
    "jax_numpy_dtype_promotion",
    "jax_disable_jit",
)


def kept_program(function: Callable[..., Result], result: Any) -> Callable[..., Result]:
    """A jitted function whose program is kept beside the compiled code.

    The program is that of this source code, these versions, settings, devices and shapes; another
    one is traced anew. Where compiled code is not kept, and where a program cannot be exported, the
    function itself is called.

    Args:
      function: of a module; its name is part of what a program is known by.
      result: the structure of what the function returns, which the file does not tell.
    """

    def run(*arguments: Any) -> Result:
        import jax

        folder = _folder()
        if folder is None:
            return function(*arguments)
        leaves, tree = jax.tree.flatten(arguments)
        setting = _setting(function.__module__, function.__qualname__)
        path = folder / f"{setting}-{_kind(tree, leaves)}{_SUFFIX}"
        if path not in ready:
            ahead = _ahead.pop(path, None) if _by_default(leaves) else None
            found = None if ahead is None else ahead.result()
            ready[path] = found or _make_ready(path, function, tree, leaves)
        return jax.tree.unflatten(result, ready[path](*leaves))

    ready: dict[Path, Callable[..., list[Any]]] = {}
    return run


def read_ahead(module: str, name: str) -> None:
    """Begin to load the program that a function was last called with, in a thread: most of the time
    is spent outside of Python. If another one is needed, nothing is lost."""
    folder = _folder()
    if folder is None:
        return
    files = sorted(folder.glob(f"{_setting(module, name)}-*{_SUFFIX}"), key=_age)
    # Read here: modules that import each other must not be imported in two threads at once.
    if files and files[-1] not in _ahead and (program := _read_program(files[-1])) is not None:
        _ahead[files[-1]] = _thread.submit(_compiled, program)


_thread = ThreadPoolExecutor(1)
_ahead: dict[Path, Future[Callable[..., list[Any]] | None]] = {}


def _compiled(program: Any) -> Callable[..., list[Any]] | None:
    import jax

    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in program.in_avals]
    try:
        return jax.jit(program.call).lower(*shapes).compile()
    except Exception:
        # Whatever it is: the program is made ready in the usual way, where errors are shown.
        return None


def _age(file: Path) -> float:
    """When it was last used; a file that another process removes meanwhile is old."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _by_default(leaves: list[Any]) -> bool:
    """Whether all arguments are where JAX puts them if it is not told."""
    import jax

    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return all(getattr(leaf, "sharding", default) == default for leaf in leaves)


def _folder() -> Path | None:
    """Of the programs; None if compiled code is not kept, or not in a folder."""
    import jax

    root = jax.config.values["jax_compilation_cache_dir"]
    if root is None or "://" in root or not jax.config.values["jax_enable_compilation_cache"]:
        return None
    return Path(root) / "programs"


def _setting(module: str, name: str) -> str:
    """Digest of what the programs of a function depend on, but for its arguments."""
    import jax

    device = jax.devices()[0]
    described = [source(), module, name, device.platform, device.device_kind]
    described += [metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")]
    described += [f"{name} {getattr(jax.config, name)}" for name in _SETTINGS]
    return _digest(described)


def _kind(tree: Any, leaves: list[Any]) -> str:
    """Digest of what they depend on of the arguments."""
    import jax

    described = [f"{jax.typeof(leaf)} {getattr(leaf, 'sharding', '')}" for leaf in leaves]
    return _digest([str(tree), *described])


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:24]


def _make_ready(
    path: Path, function: Callable[..., Any], tree: Any, leaves: list[Any]
) -> Callable[..., list[Any]]:
    """From the leaves of the arguments to those of the result, by the program of a file, which is
    written if it is not there."""
    import jax.export

    flat = lambda *leaves: jax.tree.leaves(function(*jax.tree.unflatten(tree, leaves)))
    program = _read_program(path)
    if program is None:
        try:
            program = jax.export.export(jax.jit(flat))(*leaves)
            data = bytes(program.serialize())
        except (ValueError, NotImplementedError, TypeError):
            # It calls back, or into a library that JAX does not promise to keep.
            return flat
        # Code that was changed since it was imported is not what was traced.
        if _digest_of_source() == source():
            _keep_program(path, data)
    return jax.jit(program.call)


@functools.cache
def source() -> str:
    """Digest of this package's source code, at the first call."""
    return _digest_of_source()


def _digest_of_source() -> str:
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _read_program(path: Path) -> Any:
    """The program of a file; None if there is none that can be read."""
    import jax.export

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
    from jrecon.io.files import write_whole

    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
        files = sorted(path.parent.glob(f"*{_SUFFIX}"), key=_age)
        for old in files[:-_KEPT]:
            old.unlink(missing_ok=True)
