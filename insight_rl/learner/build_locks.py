"""Locks of torch's compiler of extensions, which DeepSpeed uses at its first start on a machine.

A process that compiles holds a file called ``lock``, and whoever else needs the extension waits until that file is
gone. Where the compiling process was killed it is never gone, and torch waits without a word or an end.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from insight_rl.errors import UsageError

EXTENSIONS = ("deepspeed_shm_comm", "cpu_adam")
"""What DeepSpeed compiles for the ways in which it is used here."""

PATIENCE_S = 600.0
"""A lock of this age was left behind: to compile takes one or two minutes, also on a machine with other work."""


def wait_for_build_locks(root: Path | None = None, *, patience_s: float = PATIENCE_S) -> None:
    """Return once no extension in ``root`` (default: torch's own folder of extensions) is being compiled.

    Raises ``UsageError`` for a lock older than ``patience_s``.
    """
    for lock in _locks(root or _build_root()):
        while (taken_at := _taken_at(lock)) is not None:
            if time.time() - taken_at > patience_s:
                since = datetime.fromtimestamp(taken_at).strftime("%Y-%m-%d %H:%M")
                raise UsageError(
                    f"{lock}: left behind at {since} by a process that was killed while it compiled a part of "
                    f"DeepSpeed; every start would wait for it. Delete it: rm {shlex.quote(str(lock))}"
                )
            time.sleep(0.1)


def _locks(root: Path) -> Iterable[Path]:
    return sorted(
        lock for name in EXTENSIONS for pattern in (name, f"*/{name}") for lock in root.glob(f"{pattern}/lock")
    )


def _taken_at(lock: Path) -> float | None:
    try:
        return lock.stat().st_mtime
    except FileNotFoundError:
        return None


def _build_root() -> Path:
    from torch.utils.cpp_extension import get_default_build_root

    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
