"""Compiled programs: kept on disk between runs, and timed."""

from __future__ import annotations

import os
from pathlib import Path

from jrecon.cli.programs import source

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
    minute the first time, seconds afterwards. Before the engine is imported: see `source`."""
    source()
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "jrecon" / "jax"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # The small programs around the large one are read faster than compiled, too.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
