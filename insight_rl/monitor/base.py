"""The interface of monitors, which receive the metrics of each step and never change what the run does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from insight_rl.monitor.summary import Summary
from insight_rl.types import Metrics


class Monitor(Protocol):
    """Receives the metrics of each step. Constructed by the config, opened when the run's folder exists."""

    def open(self, run_dir: Path, *, config: Mapping[str, Any], num_steps: int, first_step: int) -> None:
        """``first_step`` is the first that will be logged: 0, or one past the checkpoint a run resumes from.

        Records of that step and later, which a killed run left behind, are dropped.
        """
        ...

    def log(self, metrics: Metrics, *, step: int) -> None: ...

    def notice(self, text: str) -> None:
        """Tell the user something that is not a number, in a sentence or two."""
        ...

    def close(self, summary: Summary | None = None) -> None:
        """Flush; ``summary`` holds the run's closing figures, absent where the run was cut short."""
        ...
