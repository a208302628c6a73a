"""A folder for weights on their way to another process: in memory where it fits, and never left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from insight_rl.errors import RunStopped, UsageError
from insight_rl.leftovers import remove_at_the_end

_SHARED_MEMORY = Path("/dev/shm")
_PREFIX = "insight_rl-weights-"
_NEEDED_BYTES = 16 << 20


@contextmanager
def memory_folder(num_bytes: int, *, parent: str | None = None) -> Iterator[Path]:
    """A new folder for ``num_bytes``; it is removed at the end, also if this process is killed meanwhile.

    It is made in ``parent``, else in ``/dev/shm`` if twice ``num_bytes`` fit there (containers often have no more than
    64 MiB of it), else in the folder for temporary files. Raises ``RunStopped`` if it has no room there.
    """
    parent = parent or (str(_SHARED_MEMORY) if _has_room(_SHARED_MEMORY, 2 * num_bytes) else tempfile.gettempdir())
    if not _has_room(Path(parent), num_bytes):
        raise RunStopped(
            f"weight_sync: {parent} has no room for the weights ({num_bytes / 2**20:.0f} MiB) or cannot be written; "
            "free space there, give a container more (docker run --shm-size=...), or set TMPDIR to another folder"
        )
    # By process id: one pattern serves all folders of this process.
    prefix = f"{_PREFIX}{os.getpid()}-"
    remove_at_the_end(f"{parent}/{prefix}*")
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_shared_memory(setting: str, library: str) -> None:
    """Raise ``UsageError`` if ``/dev/shm`` cannot be used by a ``library`` whose own message would not say so.

    ``setting`` is what asks for it, e.g. ``rollout=vllm``.
    """
    if _SHARED_MEMORY.is_dir() and not _has_room(_SHARED_MEMORY, _NEEDED_BYTES):
        raise UsageError(
            f"{setting}: {_SHARED_MEMORY} is read-only or has less than {_NEEDED_BYTES >> 20} MiB of room, and "
            f"{library} needs it; remove old files there, or give the container more (docker run --shm-size=1g)"
        )


def _has_room(folder: Path, num_bytes: int) -> bool:
    return os.access(folder, os.W_OK | os.X_OK) and shutil.disk_usage(folder).free >= num_bytes
