"""The `jrecon` command: parse, run one command, report, and turn failures into one clear line.

JAX is imported by the commands when they run, not here, so that `--help` answers at once.

Exit codes: 0 done; 2 wrong usage (argument parser); 3 bad input (a file or a value; one line on
standard error says what was got, what is needed and how to fix it; of several files, the others are
worked off all the same); 4 the input could be read, but what was looked for is not in it; 130
interrupted; 141 the reader of the output went away. Results go to standard output, everything else
to standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import tyro

from jrecon import interrupt
from jrecon.cli.build import BuildModel
from jrecon.cli.command import Command, NothingFound, Unfinished, format_error, format_report
from jrecon.cli.demo import Demo
from jrecon.cli.describe import Describe
from jrecon.cli.doctor import Doctor
from jrecon.cli.evaluate import Evaluate
from jrecon.cli.models import Convert, Export
from jrecon.cli.people import People
from jrecon.cli.reconstruct import Reconstruct
from jrecon.cli.synth import Synth
from jrecon.cli.track import Track
from jrecon.cli.train import Train
from jrecon.cli.view import View

__all__ = ["main"]

EXIT_BAD_INPUT = 3
EXIT_NOTHING_FOUND = 4
EXIT_READER_GONE = 141

_DESCRIPTION = """\
One depth map in, a posed parametric 3D model out.
`jrecon COMMAND --help` explains a command, with an example."""

_COMMANDS = {
    "reconstruct": Reconstruct,
    "track": Track,
    "describe": Describe,
    "demo": Demo,
    "people": People,
    "view": View,
    "export": Export,
    "convert": Convert,
    "build-model": BuildModel,
    "synth": Synth,
    "train": Train,
    "evaluate": Evaluate,
    "doctor": Doctor,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (`sys.argv` if no arguments are given) and exit on failure."""
    try:
        _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write(interrupt.LINE)
        sys.exit(interrupt.CODE)
    except BrokenPipeError:
        # Who reads the output (head, less) has seen enough. Python flushes once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_READER_GONE)


def _run(arguments: Sequence[str] | None) -> None:
    command: Command = tyro.extras.subcommand_cli_from_dict(
        _COMMANDS,
        prog="jrecon",
        description=_DESCRIPTION,
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        report = command.run()
    except (ValueError, OSError, ImportError) as error:
        if command.debug:
            raise
        text = format_error(error)
        sys.stderr.write(f"jrecon: {text}\n")
        report = error.report if isinstance(error, Unfinished) else None
        if command.json:
            report = {**(report or {}), "error": text}
        if report is not None:
            sys.stdout.write(format_report(report, as_json=command.json))
        sys.exit(EXIT_NOTHING_FOUND if isinstance(error, NothingFound) else EXIT_BAD_INPUT)
    sys.stdout.write(format_report(report, as_json=command.json))
