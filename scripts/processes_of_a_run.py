"""What the checks that hit, stop and watch a run need to know of its processes, and of what they leave behind."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from insight_rl.process_table import family_of

_ENDS_WITHIN_S = 15


class Traces:
    """Every process that a run had, and how to tell the files in /dev/shm that it may leave there.

    Example: ``traces.remember(descendants(trainer))`` while it runs, ``traces.left()`` once it has ended.
    """

    def __init__(self) -> None:
        self.commands: dict[int, str] = {}
        """By process id."""
        self._ports: set[str] = set()

    def remember(self, pids: Iterable[int]) -> None:
        for pid in pids:
            self.commands[pid] = command_of(pid)
            # DeepSpeed names its shared memory by the port at which the ranks meet.
            self._ports.update(environment_of(pid).get("MASTER_PORT", "").split())

    def forget(self, pids: Iterable[int]) -> None:
        for pid in pids:
            self.commands.pop(pid, None)

    def living(self) -> list[int]:
        return [pid for pid in self.commands if is_alive(pid)]

    def left(self) -> list[str]:
        """Files and processes that are still there some seconds after the end of the run."""
        until(lambda: not self._files() and not self.living(), _ENDS_WITHIN_S)
        return [*self._files(), *(f"process {pid}: {self.commands[pid]}" for pid in self.living())]

    def _files(self) -> list[str]:
        marks = [f"insight_rl-weights-{pid}-" for pid in self.commands] + [f"_{port}_" for port in self._ports]
        return [name for name in os.listdir("/dev/shm") if any(mark in name for mark in marks)]


def until(is_so: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.05)


def read(path: str) -> str:
    """Empty for a process that has gone."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def command_of(pid: int) -> str:
    return read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()


def environment_of(pid: int) -> dict[str, str]:
    return dict(item.partition("=")[::2] for item in read(f"/proc/{pid}/environ").split("\0"))


def is_alive(pid: int) -> bool:
    """A zombie that nobody has waited for yet does not count."""
    return read(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1] not in ([], ["Z"])


def descendants(pid: int) -> list[int]:
    return family_of(pid)[1:]
