"""What all commands share: options, checks of output files, and how a report is printed."""

from __future__ import annotations

import abc
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Report = Mapping[str, Any]
"""What a command found out or wrote: JSON values; keys in snake case, with their unit if any."""


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


class Unfinished(ValueError):
    """Not everything could be done; what there is to report all the same."""

    def __init__(self, message: str, report: Report | None = None) -> None:
        super().__init__(message)
        self.report = report


class NothingFound(Unfinished):
    """The input could be read, but what is looked for is not in it."""


def require_suffix(path: Path, suffixes: tuple[str, ...]) -> None:
    """Raises ValueError for a file name of another format."""
    if path.suffix.lower() not in suffixes:
        raise ValueError(
            f"{path}: got the suffix {path.suffix!r}, need {' or '.join(suffixes)}; rename it."
        )


def require_free(path: Path, overwrite: bool) -> None:
    """Raises OSError where a file cannot be written: before the work starts, not after it."""
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; pass --overwrite to replace it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder; create it first.")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path.parent}: the folder is read-only; choose another.")


def format_report(report: Report, *, as_json: bool) -> str:
    """A report as indented JSON, or as aligned lines for people."""
    if as_json:
        return json.dumps(report, indent=2, allow_nan=False) + "\n"
    readable = {key.replace("_", " "): value for key, value in report.items()}
    text = "".join(f"{line}\n" for line in _lines(readable))
    return printable(text)


def format_error(error: Exception) -> str:
    """What was wrong, in one line."""
    if isinstance(error, OSError) and error.strerror:
        named = f"{os.fspath(error.filename)}: " if error.filename else ""
        return printable(f"{named}{error.strerror}")
    return printable(str(error))


def printable(text: str) -> str:
    """Names of files need not be text: what cannot be printed is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _lines(report: Report) -> list[str]:
    width = max((len(key) for key in report), default=0)
    lines = []
    for key, value in report.items():
        if isinstance(value, Mapping):
            lines += [key, *(f"  {line}" for line in _lines(value))]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for number, one in enumerate(value, 1):
                lines += [f"{key} {number}", *(f"  {line}" for line in _lines(one))]
        else:
            lines.append(f"{key:<{width}}  {_text(value)}".rstrip())
    return lines


def _text(value: Any) -> str:
    if value is None or value in ("", []):
        return "none"
    if isinstance(value, list):
        return ", ".join(_text(entry) for entry in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
