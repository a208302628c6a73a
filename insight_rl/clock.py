"""Measures where the time of a step goes. The only place that reads the clock; decides nothing."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from insight_rl.types import Metrics

P = ParamSpec("P")
R = TypeVar("R")

PHASES = ("select", "rollout", "reward", "learn", "sync")
"""The phases of a step; their sum and what lies between them is ``time/step_s``."""


class PhaseClock:
    """Seconds of each phase since the last :meth:`restart`."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def metrics(self, *, rollout_tokens: int = 0, learner_tokens: int = 0) -> Metrics:
        """``time/*``: seconds and share of each phase, and the throughput that the token counts of the step give."""
        others = sum(seconds for name, seconds in self._seconds.items() if name not in PHASES)
        step_s = time.perf_counter() - self._started - others
        metrics: Metrics = {f"time/{name}_s": seconds for name, seconds in self._seconds.items()}
        metrics["time/step_s"] = step_s
        for name in PHASES:
            seconds = self._seconds.get(name, 0.0)
            metrics[f"time/{name}_s"] = seconds
            metrics[f"time/{name}_share"] = seconds / step_s
        if self._seconds.get("rollout"):
            metrics["time/rollout_tokens_per_s"] = rollout_tokens / self._seconds["rollout"]
        if self._seconds.get("learn"):
            metrics["time/learner_tokens_per_s"] = learner_tokens / self._seconds["learn"]
        return metrics


def phase(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates a method of an object with a ``clock``: its time is added to the phase ``name``."""

    def decorate(method: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(method)
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            owner: Any = args[0]
            started = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                owner.clock.add(name, time.perf_counter() - started)

        return timed

    return decorate
