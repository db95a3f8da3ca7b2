"""The command as a process: interrupted at any time, and ended at once."""

import pathlib
import subprocess
import sys
import time

from jrecon.interrupt import LINE

# A command that is interrupted where the module says.
INTERRUPTED = """
import os, signal, sys
import jrecon.__main__, jrecon.cli
sys.path.insert(0, {folder!r})
sys.argv = ["jrecon"]
def work():
    {work}
jrecon.cli._run = lambda arguments: work()
jrecon.__main__.main()
"""


def process(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_an_interrupt_while_something_is_imported(tmp_path: pathlib.Path) -> None:
    """Such as by a library that goes on whatever is raised."""
    (tmp_path / "slow_library.py").write_text(
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    sum(range(1000))\n"
        "except BaseException:\n    pass\n"
    )
    done = process(INTERRUPTED.format(folder=str(tmp_path), work="import slow_library"))
    assert (done.returncode, done.stderr, done.stdout) == (130, LINE, "")


def test_an_interrupt_at_work_lets_files_be_removed(tmp_path: pathlib.Path) -> None:
    work = (
        "from jrecon.io.files import write_whole; os.fsync = lambda file: signal.raise_signal(2); "
        f"write_whole({str(tmp_path / 'result')!r}, b'half')"
    )
    done = process(INTERRUPTED.format(folder=str(tmp_path), work=work))
    assert (done.returncode, done.stderr) == (130, LINE)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_cleared_away_after_an_interrupt(tmp_path: pathlib.Path) -> None:
    """A thread that still compiles crashes when Python takes itself apart."""
    work = "import atexit; atexit.register(os.abort); signal.raise_signal(2)"
    done = process(INTERRUPTED.format(folder=str(tmp_path), work=work))
    assert (done.returncode, done.stderr) == (130, LINE)


def test_nobody_waits_for_a_program_that_is_not_needed() -> None:
    began = time.monotonic()
    done = process(
        "import sys, time\nfrom pathlib import Path\nfrom jrecon import programs\n"
        "programs._ahead[Path('x')] = programs._loader.submit(time.sleep, 300)\n"
        "print('said')\nprograms.leave(3)\n"
    )
    assert (done.returncode, done.stdout) == (3, "said\n")
    assert time.monotonic() - began < 200
