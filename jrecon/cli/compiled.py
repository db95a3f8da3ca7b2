"""Programs, traced and compiled: kept on disk between runs, and timed."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")
# That are kept, each of some 300 kB; older ones go.
_KEPT = 16

# JAX reports the seconds of each compilation, and of each program read from the disk, by these.
_EVENTS = (
    "/jax/core/compile/backend_compile_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/jaxpr_trace_duration",
)


class Stopwatch:
    """Seconds that JAX spent on tracing and compiling since this was made."""

    def __init__(self) -> None:
        from jax import monitoring

        self.seconds = 0.0
        monitoring.register_event_duration_secs_listener(self._add)

    def _add(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event in _EVENTS:
            self.seconds += duration_secs


def keep_compiled() -> None:
    """Keep compiled programs on disk, where and from which size on the user has said, if he has: a
    minute the first time, seconds afterwards."""
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "jrecon" / "jax"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # The hundred small programs around the large one are read faster than compiled, too.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def kept(function: Callable[..., Result], result: Any) -> Callable[..., Result]:
    """A jitted function whose program is kept on disk as well, before it is compiled: to trace a
    large one takes longer than to run it.

    The program is that of this source code, these versions and these shapes; another one is traced
    anew. Without a folder of compiled code, and where a program cannot be exported, the function
    itself is called.

    Args:
      result: the structure of what the function returns, which the file does not tell.
    """

    def run(*arguments: Any) -> Result:
        import jax.export

        leaves, tree = jax.tree.flatten(arguments)
        root = jax.config.values["jax_compilation_cache_dir"]
        if root is None or "://" in root:
            return function(*arguments)
        described = [_source(), jax.__version__, metadata.version("jaxlib"), jax.default_backend()]
        described += [str(tree), *(str(jax.typeof(leaf)) for leaf in leaves)]
        name = hashlib.sha256("\n".join(described).encode()).hexdigest()[:32]
        flat = lambda *leaves: jax.tree.leaves(function(*jax.tree.unflatten(tree, leaves)))
        path = Path(root) / "programs" / f"{name}.stablehlo"
        call = ready.get(name)
        if call is None:
            program = _read_program(path)
            if program is None:
                try:
                    program = jax.export.export(jax.jit(flat))(*leaves)
                except ValueError:
                    # It calls into a library that JAX does not promise to keep.
                    return function(*arguments)
                _keep_program(path, bytes(program.serialize()))
            call = ready[name] = jax.jit(program.call)
        return jax.tree.unflatten(result, call(*leaves))

    ready: dict[str, Callable[..., Any]] = {}
    return run


@functools.cache
def _source() -> str:
    """Digest of this package's source code."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _read_program(path: Path) -> Any:
    """The program of a file; None if there is none that can be read."""
    import jax.export

    try:
        return jax.export.deserialize(bytearray(path.read_bytes()))
    except Exception:
        # Not there, cut off, or of another make, which flatbuffers tells in many ways.
        return None


def _keep_program(path: Path, data: bytes) -> None:
    """Write a program; as with compiled code, that it cannot be kept stops nothing."""
    from jrecon.io.files import write_whole

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
        files = sorted(path.parent.glob("*.stablehlo"), key=lambda file: file.stat().st_mtime)
        for old in files[:-_KEPT]:
            old.unlink(missing_ok=True)
    except OSError:
        pass
