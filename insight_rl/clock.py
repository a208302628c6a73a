"""Measures where the time of a step goes. The only place that reads the clock; decides nothing."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from insight_rl.types import Metrics

P = ParamSpec("P")
R = TypeVar("R")

STEP_PHASES = ("select", "rollout", "reward", "learn", "sync")
"""The phases of a step; their sum and what lies between them is ``time/step_s``."""


class PhaseClock:
    """Seconds of each phase since the last :meth:`lap`."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def lap(self, metrics: Metrics | None = None) -> Metrics:
        """``time/*`` since the last lap, then start anew: seconds of everything measured, and of a training step its
        length, shares and the throughput that the token counts in its ``metrics`` give.

        What comes between two steps (evaluation, a checkpoint) is measured but is not part of ``time/step_s``.
        """
        between = sum(seconds for name, seconds in self._seconds.items() if name not in STEP_PHASES)
        step_s = time.perf_counter() - self._started - between
        times: Metrics = {f"time/{name}_s": seconds for name, seconds in self._seconds.items()}
        if metrics is not None:
            times["time/step_s"] = step_s
            for name in STEP_PHASES:
                times[f"time/{name}_s"] = self._seconds.get(name, 0.0)
                times[f"time/{name}_share"] = self._seconds.get(name, 0.0) / step_s
            times["time/rollout_tokens_per_s"] = _rate(metrics["gate/num_tokens"], self._seconds.get("rollout"))
            times["time/learner_tokens_per_s"] = _rate(metrics["learner/num_tokens"], self._seconds.get("learn"))
        self._restart()
        return times


def _rate(count: Any, seconds: float | None) -> float:
    return float(count) / seconds if seconds else 0.0


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
