"""Folders that one process at a time may write to."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(folder: Path, message: str) -> Iterator[None]:
    """Hold a folder, which is created if missing. The system lets go of it when the process and
    those that it forked have ended, however that happens.

    Where the file system has no locks on folders (NFS) there is no protection.

    Raises:
      BlockingIOError: another process holds it; with the message.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(message) from error
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)
