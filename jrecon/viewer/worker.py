"""Work for a page on one thread: in order, and of several of a kind only the newest."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Worker:
    """Runs jobs one after another. A job that waits gives way to a newer one of its name: a slider
    that is dragged is drawn where it is, not where it has been."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._jobs: dict[str, Callable[[], object]] = {}
        self._changed = threading.Condition()
        self._busy = False
        self._failed = failed
        self._thread = threading.Thread(target=self._run, daemon=True, name="jrecon-view")
        self._thread.start()

    def submit(self, name: str, job: Callable[[], object]) -> None:
        """Run a job soon; it replaces one of the same name that has not begun."""
        with self._changed:
            self._jobs[name] = job
            self._changed.notify_all()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until nothing is left to do; False if the time was up before."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs and not self._busy, timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs)
                name = next(iter(self._jobs))
                job = self._jobs.pop(name)
                self._busy = True
            try:
                job()
            except Exception as error:  # The page says so and lives on.
                self._failed(error)
            with self._changed:
                self._busy = False
                self._changed.notify_all()
