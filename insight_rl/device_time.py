"""Device seconds: what the steps of a run have cost, on one scale for processors and for GPUs.

On a CPU they are processor seconds of this process and of the children that it has started, which other work on the
machine changes little. On GPUs they are wall seconds times the number of GPUs that the run holds, used or not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from insight_rl.child_process import process_groups


def device_clock(num_gpus: int) -> Callable[[], float]:
    """A function whose differences are device seconds. Example: ``device_clock(2)`` runs at twice the wall clock."""
    return processor_seconds if num_gpus == 0 else lambda: num_gpus * time.perf_counter()


def processor_seconds() -> float:
    """User and system seconds of this process and of its children that run now. Falls where a child has ended."""
    own = os.getpid()
    others = [pid for group in process_groups().values() for pid in group if pid != own]
    return time.process_time() + sum(map(_seconds_of, others))


def _seconds_of(pid: int) -> float:
    """From /proc/PID/stat; 0 for a process that has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    # Fields 14 and 15 of proc(5), counted from the state, which is field 3.
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
