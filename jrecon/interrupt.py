"""How the command is interrupted: at any time, with one line and one exit code.

Nothing is imported here but what Python has loaded by then.
"""

import os
import signal
import sys
from types import FrameType

CODE = 130
LINE = "jrecon: interrupted; files that are there are whole.\n"


def heed() -> None:
    """From now on an interrupt ends the process at once while modules are imported, and is raised
    as `KeyboardInterrupt` elsewhere, so that what is half written can be removed."""
    signal.signal(signal.SIGINT, _interrupt)


def leave_at_once() -> None:
    """End the interrupted process without what Python does at its end: a thread that still compiles
    then crashes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(CODE)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # An exception in the midst of an import may crash, be taken for another, or be swallowed:
    # libraries do all three. Nothing is being written then.
    while frame is not None:
        if "importlib" in frame.f_code.co_filename:
            os.write(2, LINE.encode())
            os._exit(CODE)
        frame = frame.f_back
    raise KeyboardInterrupt
