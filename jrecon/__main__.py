"""The `jrecon` command as a process; also `python -m jrecon`."""

import sys

from jrecon.interrupt import CODE, heed, leave_at_once


def main() -> None:
    """Run the command line and end the process."""
    heed()
    from jrecon.cli import main as run

    code: int | str | None = 0
    try:
        run()
    except SystemExit as end:
        code = end.code
    if code == CODE:
        leave_at_once()
    programs = sys.modules.get("jrecon.programs")
    if programs is not None and isinstance(code, int):
        programs.leave(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
