"""`jrecon`, also as `python -m jrecon`: how the process is interrupted, and how it ends."""

import os
import signal
import sys
from types import FrameType

_INTERRUPTED = 130


def main() -> None:
    """Run the command line and end the process."""
    signal.signal(signal.SIGINT, _interrupt)
    from jrecon.cli import main as run

    code: int | str | None = 0
    try:
        run()
    except SystemExit as end:
        code = end.code
    programs = sys.modules.get("jrecon.programs")
    if programs is not None and isinstance(code, int):
        programs.leave(code)
    sys.exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """While modules are imported an exception in their midst may crash, be taken for another, or be
    swallowed: libraries do all three. Nothing is being written then."""
    while frame is not None:
        if "importlib" in frame.f_code.co_filename:
            os.write(2, b"jrecon: interrupted; files that are there are whole.\n")
            os._exit(_INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
