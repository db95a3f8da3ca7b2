"""What all commands share: their options, and how a report is printed."""

from __future__ import annotations

import abc
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

Report = Mapping[str, Any]
"""What a command found out or wrote: JSON values under readable keys."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command(abc.ABC):
    """One command. Its fields are its arguments; `run` does the work and returns a report."""

    json: bool = False
    """Print the report as JSON."""
    debug: bool = False
    """Show the traceback of an error."""

    @abc.abstractmethod
    def run(self) -> Report:
        """Do the work.

        Raises:
          ValueError, OSError, ImportError: the input cannot be used; the message says why.
        """


def format_report(report: Report, *, as_json: bool) -> str:
    """A report as indented JSON, or as aligned lines for people."""
    if as_json:
        return json.dumps(report, indent=2, allow_nan=False) + "\n"
    return "".join(f"{line}\n" for line in _lines(report))


def _lines(report: Report) -> list[str]:
    width = max((len(key) for key in report), default=0)
    lines = []
    for key, value in report.items():
        if isinstance(value, Mapping):
            lines += [key, *(f"  {line}" for line in _lines(value))]
        else:
            lines.append(f"{key:<{width}}  {_text(value)}".rstrip())
    return lines


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_text(entry) for entry in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
