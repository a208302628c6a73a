"""Writes each step's metrics to files of the run's folder, whole or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

from insight_rl.errors import check
from insight_rl.monitor.records import (
    METRICS_FILE,
    SAMPLES_FILE,
    drop_records_from,
    metrics_record,
    read_records,
    sample_records,
    to_lines,
)
from insight_rl.monitor.summary import Summary
from insight_rl.types import Metrics

NOTICES_FILE = "notices.jsonl"


class JsonlMonitor:
    """Appends to ``metrics.jsonl`` (one object a step), ``samples.jsonl`` (one a table row) and ``notices.jsonl``.

    A line reaches the operating system in one write before :meth:`log` returns, so ``kill -9`` loses nothing that was
    logged; it reaches the disk within ``sync_every_s`` seconds of logging, which is what a power cut can lose.
    A resumed run ends with the same files as one that was never cut short: later records are dropped on opening.
    """

    def __init__(self, *, sync_every_s: float = 5.0) -> None:
        check(sync_every_s >= 0, "monitor.jsonl.sync_every_s", sync_every_s, "must be 0 (every step) or more seconds")
        self._sync_every_s = sync_every_s
        self._last_sync_s = 0.0
        self._last_step = -1
        self._files: dict[str, FileIO] = {}
        self._run_dir: Path | None = None

    def open(self, run_dir: Path, *, config: Mapping[str, Any], num_steps: int, first_step: int) -> None:
        self._run_dir = run_dir
        self._drop_from(first_step)

    def log(self, metrics: Metrics, *, step: int) -> None:
        # A run that died before its first checkpoint starts anew and logs step 0 once more.
        if step <= self._last_step:
            self._drop_from(step)
        self._append(SAMPLES_FILE, to_lines(sample_records(metrics, step=step)))
        self._append(METRICS_FILE, to_lines([metrics_record(metrics, step=step)]))
        self._last_step = step
        if time.monotonic() - self._last_sync_s >= self._sync_every_s:
            self._sync()

    def notice(self, text: str) -> None:
        record = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "step": self._last_step, "text": text}
        self._append(NOTICES_FILE, to_lines([record]))

    def close(self, summary: Summary | None = None) -> None:
        self._sync()
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _drop_from(self, step: int) -> None:
        assert self._run_dir is not None, "open() comes first"
        for name in (METRICS_FILE, SAMPLES_FILE):
            if name in self._files:
                self._files.pop(name).close()
            drop_records_from(self._run_dir / name, step=step)
        metrics_path = self._run_dir / METRICS_FILE
        self._last_step = read_records(metrics_path)[-1]["step"] if _has_lines(metrics_path) else -1

    def _append(self, name: str, lines: str) -> None:
        if not lines:
            return
        if name not in self._files:
            assert self._run_dir is not None, "open() comes first"
            self._files[name] = FileIO(self._run_dir / name, "a")
        # Unbuffered: one system call for all lines of a step. A full disk may take part of them and say so.
        remaining = memoryview(lines.encode())
        while remaining:
            written = self._files[name].write(remaining)
            assert written is not None, "a regular file never blocks"
            remaining = remaining[written:]

    def _sync(self) -> None:
        for file in self._files.values():
            os.fsync(file.fileno())
        self._last_sync_s = time.monotonic()


def _has_lines(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
