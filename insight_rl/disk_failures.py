"""Turns errors of the disk into one sentence with a remedy: a full disk, a deleted folder, an I/O error.

Every other error keeps its traceback.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from insight_rl.errors import Interrupted, RunStopped, UsageError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FAILED = (errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOTCONN, errno.ESTALE)
_FULL_IN_WORDS = re.compile(
    # What torch says in place of an error number when a file of tensors cannot be written, and what a message says
    # that carries the traceback of another process.
    "iostream error|unexpected pos|PytorchStreamWriter failed|No space left on device|Disk quota exceeded"
)
_IN_WORDS = re.compile(r"Error: \[Errno (\d+)\] ([^:\n]+)(?:: '([^'\n]+)')?")
"""How the traceback of another process ends that the disk has failed."""
_ROOMY_MIB = 64
"""With more than this free, it is another disk that is full."""


@contextmanager
def explain_disk_failures(run_dir: Path, newest_checkpoint: Callable[[], str | None]) -> Iterator[None]:
    """Raise ``RunStopped`` in place of an error of the disk under ``run_dir``, with what is left to go on from."""
    try:
        yield
    except (RunStopped, Interrupted):
        raise
    except Exception as error:
        reason = _explain(error, run_dir)
        if reason is None:
            raise
        raise RunStopped(f"run_dir={str(run_dir)!r}: {reason}; {_explain_rest(newest_checkpoint())}") from error


def _explain(error: Exception, run_dir: Path) -> str | None:
    causes = list(_chain(error))
    failures = [failure for cause in causes for failure in _failures_in(cause)]
    numbers = {failure.errno for failure in failures}
    if numbers & set(_FULL) or any(_FULL_IN_WORDS.search(str(cause)) for cause in causes):
        return _explain_full_disk(run_dir)
    if not run_dir.is_dir() and (errno.ENOENT in numbers or any(isinstance(cause, UsageError) for cause in causes)):
        return "the folder was deleted or moved while the run wrote to it"
    for failure in failures:
        if failure.errno in _FAILED and _is_below(failure.filename, run_dir):
            return f"{failure.filename or 'a file'} cannot be read or written ({failure.strerror})"
    return None


def _failures_in(error: BaseException) -> list[OSError]:
    """The error of the disk that this one is, or that its message tells of."""
    if isinstance(error, OSError):
        return [error]
    return [OSError(int(number), words, name) for number, words, name in _IN_WORDS.findall(str(error))]


def _explain_full_disk(run_dir: Path) -> str:
    folder = next(path for path in (run_dir, *run_dir.parents) if path.exists())
    free_mib = shutil.disk_usage(folder).free / 2**20
    if free_mib <= _ROOMY_MIB:
        return f"the disk is full ({free_mib:.1f} MiB free)"
    return f"a disk is full, though this one has {free_mib:,.0f} MiB free: look at /tmp and /dev/shm, and at quotas"


def _explain_rest(checkpoint: str | None) -> str:
    if checkpoint is None:
        return "it has no checkpoint yet (checkpoint.every=...): mend that and start again"
    return f"once that is mended, the same command goes on from checkpoint {checkpoint}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it followed from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_below(filename: object, folder: Path) -> bool:
    """An error in the middle of a file names none: then it is taken for one of the run's."""
    return not filename or (isinstance(filename, (str, Path)) and Path(filename).is_relative_to(folder))
