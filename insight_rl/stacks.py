"""One file with the Python stacks of every process of a run, for whoever wants to know why nothing moves."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import tempfile
import threading
import time
import weakref
from datetime import datetime
from pathlib import Path
from typing import IO, Protocol

from insight_rl.child_main import STACKS_VARIABLE
from insight_rl.process_table import handles, session_of, state
from insight_rl.supervision import present

_WAIT_S = 3.0
_MAX_BYTES = 1 << 20


class Shows(Protocol):
    """A process whose stacks can be had. :func:`show` has :func:`write_stacks` ask it too, as long as it is kept."""

    @property
    def order(self) -> int:
        """Its place in the file."""
        ...

    def dump(self) -> str:
        """Its stacks, under a line with its name, or why there are none. May take some seconds."""
        ...


def show(process: Shows) -> None:
    with _lock:
        _shown.add(process)


def hide(process: Shows) -> None:
    with _lock:
        _shown.discard(process)


class ShowsStacks:
    """A child that writes its stacks when it is asked to, and so do the processes that it has started.

    ``environment`` has to be part of the child's; :meth:`watch` tells which process it has become.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
        self._leader: int | None = None
        path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        self.environment = {STACKS_VARIABLE: path} if sys.platform == "linux" else {}

    def watch(self, leader: int) -> None:
        """From now on :func:`write_stacks` asks process ``leader`` and its session too."""
        self._leader = leader
        show(self)

    @property
    def order(self) -> int:
        return self._leader or 0

    def dump(self) -> str:
        """The stacks of the child and of the processes it has started, as far as they can be had."""
        parts = []
        for pid in session_of(self._leader) if self._leader is not None else []:
            parts.append(f"---- {self._name}, process {pid}, state {state(pid)} ----\n{self._dump_process(pid)}")
        return "\n".join(parts) or f"---- {self._name} ----\n(it has ended)\n"

    def _dump_process(self, pid: int) -> str:
        if not handles(pid, signal.SIGUSR1):
            return "(it shows no stack: not a Python process of ours, or it has not come that far)\n"
        size = os.fstat(self._file.fileno()).st_size
        try:
            os.kill(pid, signal.SIGUSR1)
            # A stopped process handles the signal only once it goes on. It is ended in a moment anyway.
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            return "(it has ended)\n"
        end = time.monotonic() + _WAIT_S
        text = b""
        while time.monotonic() < end:
            time.sleep(0.05)
            new = os.pread(self._file.fileno(), _MAX_BYTES, size)
            if new and new == text:
                break
            text = new
        return text.decode(errors="replace") or "(no stack within 3 s: it is stuck inside the kernel)\n"

    def close(self) -> None:
        with _lock:
            _shown.discard(self)
            self._file.close()


_lock = threading.RLock()
"""Judges are started and ended by a thread of their own."""
_shown: weakref.WeakSet[Shows] = weakref.WeakSet()


def write_stacks() -> str:
    """Write the Python stacks of this process and of every child to a file; returns a clause that names it."""
    own: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
    with own:
        faulthandler.dump_traceback(file=own, all_threads=True)
        text = os.pread(own.fileno(), _MAX_BYTES, 0).decode(errors="replace")
    parts = [f"---- the trainer, process {os.getpid()} ----\n{text}"]
    with _lock:
        parts += [child.dump() for child in sorted(_shown, key=lambda child: child.order)]
    file = (present().run_dir or Path(tempfile.gettempdir())) / f"stacks-{datetime.now():%Y%m%d-%H%M%S}.txt"
    try:
        file.write_text("\n".join(parts), encoding="utf-8")
    except OSError as error:
        return f"the stacks of the processes could not be written to {file} ({error.strerror})"
    return f"the stacks of the processes are in {file}"
