"""What a child process has printed: kept in a file of its own, and quoted when something goes wrong.

Within a run it is ``logs/<name>.log`` in the run's folder, to which a process that takes another's place appends;
elsewhere a file without a name.
"""

from __future__ import annotations

import os
import re
import tempfile
from datetime import datetime
from pathlib import Path
from typing import IO

LOGS_FOLDER = "logs"
_TAIL_BYTES = 3000
_SEARCH_BYTES = 1 << 18
_MAX_ERRORS = 4
_ERROR = re.compile(r"(?<![\w.])[\w.]*(?:Error|Exception): .+")


class ChildLog:
    """The log of the child called ``name``, below ``run_dir`` or, where that is ``None``, without a name."""

    def __init__(self, name: str, run_dir: Path | None) -> None:
        """Raises ``OSError`` where the file cannot be opened, e.g. since the run's folder was deleted."""
        self._start = 0
        self.file: IO[bytes]
        if run_dir is None:
            self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (lives as long as the child)
            return
        (run_dir / LOGS_FOLDER).mkdir(exist_ok=True)
        self.file = (run_dir / LOGS_FOLDER / f"{re.sub(r'[^a-z0-9]+', '_', name.lower())}.log").open("ab+", buffering=0)
        self.file.write(f"---- {name} is started, {datetime.now():%Y-%m-%d %H:%M:%S} ----\n".encode())
        self._start = self.file.tell()

    def end(self) -> str:
        """The end of what this child has printed, on lines of its own, and errors from further up; "" for nothing."""
        text = self._last(_TAIL_BYTES).strip()
        if not text:
            return ""
        return f"{_errors(self._last(_SEARCH_BYTES), text)}\nThe end of its log:\n{text}"

    def _last(self, num_bytes: int) -> str:
        size = os.fstat(self.file.fileno()).st_size
        start = max(self._start, size - num_bytes)
        # pread: the child may write through the same file offset.
        return os.pread(self.file.fileno(), size - start, start).decode(errors="replace")

    def close(self) -> None:
        self.file.close()


def _errors(log: str, tail: str) -> str:
    """The last errors of ``log`` that ``tail`` does not show, on lines of their own.

    Where a library has processes of its own, the cause of its failure stands far above what the last of them says.
    """
    found = list(
        dict.fromkeys(match[0].strip()[:500] for match in _ERROR.finditer(log) if match[0].strip() not in tail)
    )
    return "".join(f"\nIts log has: {line}" for line in found[-_MAX_ERRORS:])
