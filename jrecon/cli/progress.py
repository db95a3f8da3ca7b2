"""What a command is doing, on standard error, while somebody waits."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from jrecon.cli.command import printable

# Work that is over sooner needs no word.
_QUIET_S = 1.0


@contextlib.contextmanager
def doing(text: str) -> Iterator[None]:
    """Says what takes a while: a moving line on a terminal, else one line at the beginning."""
    from rich.console import Console

    text = printable(text)
    console = Console(stderr=True)
    began = time.monotonic()
    if console.is_terminal:
        with console.status(text):
            yield
        if (took := time.monotonic() - began) > _QUIET_S:
            say(f"{text}: {took:.1f} s")
    else:
        say(text)
        yield


def say(text: str) -> None:
    """A line on standard error."""
    sys.stderr.write(printable(f"jrecon: {text}\n"))
    sys.stderr.flush()
