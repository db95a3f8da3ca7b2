"""How long compiling takes."""

from __future__ import annotations

import threading

# JAX reports the seconds of each compilation, and of each program read from the disk, by these.
_EVENTS = (
    "/jax/core/compile/backend_compile_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/jaxpr_trace_duration",
)


class Stopwatch:
    """Seconds that this thread waited for JAX to trace and compile since this was made."""

    def __init__(self) -> None:
        from jax import monitoring

        self.seconds = 0.0
        self._thread = threading.get_ident()
        monitoring.register_event_duration_secs_listener(self._add)

    def _add(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event in _EVENTS and threading.get_ident() == self._thread:
            self.seconds += duration_secs
