"""Keeps a folder to one process at a time. Owns the lock file; knows nothing of what the folder holds."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import TextIO

from insight_rl.errors import UsageError


def lock_folder(folder: Path, *, key: str, occupied: str, remedy: str) -> TextIO:
    """Create ``folder`` and lock it until the returned file is closed or the process ends, ``kill -9`` included.

    Raises ``UsageError`` naming ``key`` and the folder if it cannot be written, or (with ``occupied``) if another
    process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UsageError(f"{key}={str(folder)!r}: cannot be written ({error.strerror}); {remedy}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UsageError(f"{key}={str(folder)!r}: {occupied}") from error
    return lock
