"""Measures how long each phase of a step takes, in seconds."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from insight_rl.types import Metrics

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound="HasClock")

STEP_PHASES = ("select", "rollout", "reward", "learn", "sync")
"""The phases of a step. ``time/step_s`` is their sum plus the time between them."""


class PhaseClock:
    """Seconds of each phase since the last :meth:`lap`."""

    def __init__(self) -> None:
        self.running: str | None = None
        """The phase that goes on now; after an exception, the phase that it came out of."""
        self._restart()

    def _restart(self) -> None:
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def take(self) -> dict[str, float]:
        """The seconds of every phase since the last lap, which are no longer in the next one."""
        seconds, self._seconds = self._seconds, {}
        return seconds

    def lap(self, metrics: Metrics | None = None) -> Metrics:
        """Return ``time/*`` since the last lap and start again from zero.

        Without ``metrics``: the seconds of every phase measured. With the ``metrics`` of a training step also the
        length of the step, each phase's share of it, and the tokens per second of rollout and learner, where there were
        any. Evaluations and checkpoints are measured but are not part of ``time/step_s``.
        """
        between = sum(seconds for name, seconds in self._seconds.items() if name not in STEP_PHASES)
        step_s = time.perf_counter() - self._started - between
        times: Metrics = {f"time/{name}_s": seconds for name, seconds in self._seconds.items()}
        if metrics is not None:
            times["time/step_s"] = step_s
            for name in STEP_PHASES:
                times[f"time/{name}_s"] = self._seconds.get(name, 0.0)
                times[f"time/{name}_share"] = self._seconds.get(name, 0.0) / step_s
            for area, count, name in (
                ("rollout", metrics["gate/num_tokens"], "rollout"),
                ("learner", metrics["learner/num_tokens"], "learn"),
            ):
                seconds = self._seconds.get(name, 0.0)
                if isinstance(count, int) and count > 0 and seconds > 0:
                    times[f"{area}/tokens_per_s"] = count / seconds
        self._restart()
        return times


class PerThreadClock(threading.local, PhaseClock):
    """A clock of its own for each thread that uses it."""


class Stopwatch:
    """Adds up the seconds of its ``with`` blocks; another thread may read it while one of them lasts.

    Example::

        busy = Stopwatch()
        with busy:
            work()
        busy.take()   # seconds of work; 0.0 from then on
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = 0.0
        self._since: float | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._since = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._add()
            self._since = None

    def take(self) -> float:
        """The seconds since it was last read, a block that lasts included."""
        with self._lock:
            self._add()
            seconds, self._seconds = self._seconds, 0.0
            return seconds

    def _add(self) -> None:
        now = time.perf_counter()
        if self._since is not None:
            self._seconds += now - self._since
            self._since = now


class HasClock(Protocol):
    """An object whose methods :func:`phase` can measure."""

    clock: PhaseClock


def phase(name: str) -> Callable[[Callable[Concatenate[T, P], R]], Callable[Concatenate[T, P], R]]:
    """Decorates a method of an object with a ``clock``: its time is added to the phase ``name``."""

    def decorate(method: Callable[Concatenate[T, P], R]) -> Callable[Concatenate[T, P], R]:
        @functools.wraps(method)
        def timed(self: T, /, *args: P.args, **kwargs: P.kwargs) -> R:
            started = time.perf_counter()
            self.clock.running = name
            try:
                result = method(self, *args, **kwargs)
            finally:
                self.clock.add(name, time.perf_counter() - started)
            self.clock.running = None
            return result

        return timed

    return decorate
