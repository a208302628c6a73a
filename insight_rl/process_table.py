"""What the kernel says of processes. Only Linux has these files; elsewhere there is nothing to be learnt."""

from __future__ import annotations

import signal
from pathlib import Path

_STOPPED = ("T", "t")


def state(pid: int) -> str:
    """The kernel's letter: R running, S sleeping, T stopped, D inside the kernel, Z ended; ? unknown."""
    fields = _stat(pid)
    return fields[0] if fields else "?"


def is_stopped(pid: int) -> bool:
    """Whether it was stopped by a signal (or a debugger) and has not been told to go on."""
    return state(pid) in _STOPPED


def session_of(leader: int) -> list[int]:
    """The processes of the session that ``leader`` leads; zombies left out."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(folder.name))
        if fields and int(fields[3]) == leader and fields[0] != "Z":
            pids.append(int(folder.name))
    return sorted(pids)


def family_of(pid: int) -> list[int]:
    """The process and all that it has started, in any number of generations."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []
    children: list[int] = []
    for thread in threads:
        try:
            children += map(int, (thread / "children").read_text().split())
        except OSError:  # it has ended, and its children are another's
            continue
    return [pid, *(each for child in children for each in family_of(child))]


def shared_memory_of(pid: int) -> set[Path]:
    """The files in /dev/shm that the process has mapped and that are still there."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    paths = {line.split(maxsplit=5)[5] for line in lines if " /dev/shm/" in line}
    return {Path(path) for path in paths if not path.endswith(" (deleted)")}


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal; it would end the process otherwise."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on: state, parent, group, session, ...; empty for no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
