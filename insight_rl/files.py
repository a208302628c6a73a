"""Files that are whole or not there, and folders that belong to one process at a time."""

from __future__ import annotations

import fcntl
import itertools
import os
from pathlib import Path
from typing import TextIO

from insight_rl.errors import UsageError

_numbers = itertools.count()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file: after a crash or a power cut it holds the old content or the new one, never half of either.

    Text is written as UTF-8. On disk when this returns. Several processes may write the same file at a time: the last
    one stays. Raises ``OSError``, and then leaves the old file as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}.writing")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
