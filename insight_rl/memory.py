"""Peak memory of the trainer and of its child processes in each step."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from insight_rl.child_process import process_groups
from insight_rl.types import Metrics

GIB = 2**30


def peak_memory() -> Metrics:
    """``memory/{process}_gib`` since the last call: the largest resident memory of each process, and start again.

    A child's is the sum over the processes that it has started, itself included. Where the system keeps no peaks that
    can be read (only Linux does), there are no metrics; where it does not let them be reset, a peak is since the start.
    """
    metrics: Metrics = {}
    for name, pids in process_groups().items():
        sizes = [_peak(pid) for pid in pids]
        if any(sizes):
            metrics[f"memory/{_key(name)}_gib"] = sum(sizes) / GIB
    return metrics


def _key(name: str) -> str:
    """``the vLLM process`` is ``vllm_process`` in a metric's name."""
    return re.sub(r"\W+", "_", name.lower().removeprefix("the "))


def _peak(pid: int) -> int:
    """Bytes; 0 for a process that is gone."""
    folder = Path("/proc", str(pid))
    try:
        status = (folder / "status").read_text(errors="replace")
    except OSError:
        return 0
    match = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    with suppress(OSError):  # not allowed in some containers: the peak stays that of the whole run
        (folder / "clear_refs").write_text("5")
    return int(match[1]) * 1024 if match else 0
