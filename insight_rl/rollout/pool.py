"""A pool of rollout workers: work for all of them, and a new one for each that is lost.

Nothing here knows what a worker is made of: a process of this machine (:mod:`insight_rl.rollout.vllm_process`) or an
actor on another one. What holds, whatever dies and whenever:

- Every request is answered exactly once. What a lost worker had not finished is issued again.
- A completion carries the version of the weights that it was begun with: the worker holds it, and the pool compares it
  with the one that it expects. All of it was sampled with them, unless an update has let what was at work go on.
- A worker that replaces another gets the last weights before it gets any work.
- The number of replacements is bounded, and a request that was at work in two losses ends the run.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, NoReturn, Protocol, TypeVar

from insight_rl.errors import RunStopped, UsageError
from insight_rl.rollout.dispatch import Dispatch
from insight_rl.rollout.vllm_worker import Request, Sample, Started
from insight_rl.types import Metrics
from insight_rl.weight_sync.base import RolloutProcess, WeightChannel, WeightSource, call_all

MAX_REPLACED_KEY = "rollout.max_replaced_workers"
# A request may be at work on a lost worker so many times; the second time it is the suspect.
_MAX_LOSSES = 2
# Tokens that a worker may have at work, as a multiple of its KV cache. More than 1: requests are counted at their
# longest, and most completions end much earlier.
_LOAD = 4


class WorkerLost(RunStopped):
    """A worker is gone or does not answer; a new one can take its place. ``reason`` says why in a clause."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class WorkerFailed(RuntimeError):
    """A worker reported an exception; the message has its traceback, ``reason`` the end of it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Finished(NamedTuple):
    """A worker's answer to one request."""

    key: int
    samples: tuple[Sample, ...]
    version: int
    """Of the weights that it was begun with."""


class PoolWorker(RolloutProcess, Protocol):
    """One engine that samples. Its methods raise :class:`WorkerLost` and :class:`WorkerFailed`."""

    @property
    def name(self) -> str:
        """What messages call it, e.g. ``rollout worker 0``."""
        ...

    @property
    def is_started(self) -> bool:
        """Whether its model is loaded; it begins to load when it is made."""
        ...

    @property
    def num_cache_tokens(self) -> int:
        """How many tokens its KV cache holds."""
        ...

    def submit(self, requests: Mapping[int, Request]) -> None:
        """Give it requests, in addition to those at work; does not wait."""
        ...

    def check(self) -> None:
        """Raise :class:`WorkerLost` if it has done so before, or has died since it was last asked for anything."""
        ...

    def poll(self) -> Finished | None:
        """The next request that it has finished, or ``None``; does not wait. Also one that came during ``finish``."""
        ...


class StartedWorker:
    """What every kind of worker has said of itself once its model is loaded."""

    _started: Started | None = None

    @property
    def is_started(self) -> bool:
        return self._started is not None

    @property
    def device(self) -> str:
        """The engine's name for what it runs on, such as ``cpu`` or ``cuda``."""
        return "unknown" if self._started is None else self._started.device

    @property
    def num_devices(self) -> int:
        return 1 if self._started is None else self._started.num_devices

    @property
    def num_cache_tokens(self) -> int:
        return 0 if self._started is None else self._started.num_cache_tokens


def settings_refused(reason: str) -> UsageError:
    return UsageError(f"rollout: vLLM refused its settings (rollout.engine_args and model.*): {reason}")


def worker_failed(name: str, doing: str, trace: str, log_tail: str) -> WorkerFailed:
    """``trace``: of the exception in the worker."""
    reason = f"{name} failed in {doing}: {trace.strip().rpartition(chr(10))[2]}"
    return WorkerFailed(reason, f"{name} failed in {doing}:\n{trace}{log_tail}")


W = TypeVar("W", bound=PoolWorker)


class WorkerHost(Protocol[W]):
    """Where the workers run."""

    def make(self, index: int) -> W:
        """Begin to start worker ``index``, the first one or the next in its place; :meth:`finish` of it waits."""
        ...

    def wait(self, workers: Sequence[W]) -> None:
        """Wait a moment, at most until one of ``workers`` has something to be polled."""
        ...

    def close(self, workers: Sequence[W]) -> None:
        """End ``workers``, all at the same time; those that are lost already too."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Synced:
    channel: WeightChannel
    weights: WeightSource
    version: int


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """The workers that an engine needs; whoever makes them decides where they run.

    Example::

        WorkerPlan(module="insight_rl.rollout.vllm_worker", start_arguments={"model_path": "data/tiny"},
                   devices=[(), ()], num_threads=1, show_log=False, deadline_s=1800.0)
    """

    module: str
    """Of what runs in a worker; it has ``make_worker()``, and ``serve(file_descriptor)`` for a process of its own."""
    start_arguments: Mapping[str, Any]
    """Of the worker's ``start``."""
    devices: Sequence[Sequence[str]]
    """Of each worker, as :mod:`insight_rl.placement` gives them."""
    num_threads: int | None
    """Of each worker on a CPU; ``None`` leaves it to the engine."""
    show_log: bool
    deadline_s: float
    """Seconds without a sign of life after which a worker counts as lost."""


MakeHost = Callable[[WorkerPlan], WorkerHost[Any]]


class WorkerPool(Generic[W]):
    """``num_workers`` workers of ``host``, of which at most ``max_replaced`` are replaced; ``say`` tells of each.

    ``max_tokens`` at work on a worker, counted at their longest; ``None`` takes four times its KV cache. A single
    worker gets everything at once: what it works on then does not depend on the clock.

    One thread may update the weights while another iterates over a generation.
    """

    def __init__(
        self,
        host: WorkerHost[W],
        *,
        num_workers: int,
        max_tokens: int | None,
        max_replaced: int,
        say: Callable[[str], None],
    ) -> None:
        self._host = host
        self._max_tokens = math.inf if num_workers == 1 else max_tokens
        self._max_replaced = max_replaced
        self._say = say
        self._keys = itertools.count()
        self._begun: dict[int, int] = {}
        """Version of the weights when each request was handed out."""
        self._lock = threading.RLock()
        self._may_generate = threading.Event()
        self._may_generate.set()
        self._synced: _Synced | None = None
        self._dispatch = Dispatch({})
        self._requests: dict[int, Request] = {}
        self.num_replaced = 0
        self._num_followed = 0
        """Of these losses: after them the other workers were looked at."""
        self.workers: list[W] = []
        self._ready: set[int] = set()
        """Workers with the last weights. The others are on their way."""
        try:
            for index in range(num_workers):
                self.workers.append(host.make(index))
            for worker in self.workers:
                worker.finish()
        except BaseException:
            self.close()
            raise
        self._ready = set(range(num_workers))

    @property
    def version(self) -> int:
        """Of the weights that all workers have; those they have started with are version 0."""
        return 0 if self._synced is None else self._synced.version

    # -- generation

    def generate(self, requests: Sequence[Request], *, only: int | None = None) -> Iterator[tuple[int, Finished]]:
        """Yield ``(index of the request, answer)`` in the order in which they are finished.

        ``only``: let this worker do all of it. A caller may stop early; what is at work then is dropped.
        """
        with self._lock:
            self.abort()
            indices = {next(self._keys): index for index in range(len(requests))}
            self._requests = {key: requests[index] for key, index in indices.items()}
            self._begun = {}
            dispatch = self._dispatch = Dispatch({key: request.num_tokens for key, request in self._requests.items()})
        try:
            while not dispatch.is_done:
                for answer in self._next_answers(dispatch, only):
                    yield indices[answer.key], answer
                    self._check_current(dispatch)
        finally:
            with self._lock:
                if dispatch is self._dispatch:
                    self.abort()

    def _next_answers(self, dispatch: Dispatch, only: int | None) -> list[Finished]:
        """What the workers have finished, after a moment's wait; an update that waits for the lock comes first."""
        self._may_generate.wait()
        with self._lock:
            self._check_current(dispatch)
            if self.num_replaced > self._num_followed:
                # Those that were lost with another, as with its machine, are not to be given its prompts.
                self._replace_lost()
                self._num_followed = self.num_replaced
            self._submit(only)
            self._host.wait(self.workers)
            polled = [self._poll(worker) for worker in range(len(self.workers))]
            return [answer for answer in polled if answer is not None]

    def _check_current(self, dispatch: Dispatch) -> None:
        if dispatch is not self._dispatch:
            raise RuntimeError("this generation was ended, or another generation has begun; it cannot go on")

    def abort(self) -> None:
        """Drop all requests at work; the generation that they belong to raises ``RuntimeError``."""
        with self._alone():
            is_idle, self._dispatch = self._dispatch.is_done, Dispatch({})
            if not is_idle:
                self._tell("abort")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No generation goes on within the block."""
        self._may_generate.clear()
        try:
            with self._lock:
                yield
        finally:
            self._may_generate.set()

    def _tell(self, method: str) -> None:
        """Call a method of every worker that has the last weights; those that are lost are replaced."""
        begun = []
        for index in sorted(self._ready):
            try:
                self.workers[index].begin(method)
                begun.append(index)
            except (WorkerLost, WorkerFailed) as error:
                self._replace(index, error)
        for index in begun:
            try:
                self.workers[index].finish()
            except (WorkerLost, WorkerFailed) as error:
                self._replace(index, error)

    def _submit(self, only: int | None) -> None:
        limits = {
            index: self._limit(self.workers[index]) for index in sorted(self._ready) if only is None or index == only
        }
        for index, keys in self._dispatch.hand_out(limits).items():
            self._begun |= dict.fromkeys(keys, self.version)
            try:
                self.workers[index].submit({key: self._requests[key] for key in keys})
            except (WorkerLost, WorkerFailed) as error:
                self._replace(index, error)

    def _limit(self, worker: W) -> float:
        return self._max_tokens if self._max_tokens is not None else _LOAD * worker.num_cache_tokens

    def _poll(self, index: int) -> Finished | None:
        worker = self.workers[index]
        try:
            answer = worker.poll()
            if index not in self._ready and worker.is_started:
                self._catch_up(index)
        except (WorkerLost, WorkerFailed) as error:
            self._replace(index, error)
            return None
        if answer is not None:
            self._dispatch.finish(index, answer.key)
            if not self._begun[answer.key] <= answer.version <= self.version:
                raise RuntimeError(
                    f"{worker.name} sampled with weights of version {answer.version}, and the run is at {self.version}"
                )
        return answer

    # -- weights

    def update(self, channel: WeightChannel, weights: WeightSource, *, version: int, goes_on: bool = False) -> Metrics:
        """Send ``weights`` to every worker; returns what ``channel`` has measured.

        What is at work is dropped; or, with ``goes_on``, it waits meanwhile and goes on with the new weights. They must
        stay what they are until the next call: a worker that is replaced meanwhile gets them too.
        """
        with self._alone():
            if not goes_on:
                self.abort()
                return self._update(channel, weights, version)
            self._tell("pause")
            metrics = self._update(channel, weights, version)
            self._tell("resume")
            return metrics

    def _update(self, channel: WeightChannel, weights: WeightSource, version: int) -> Metrics:
        self._synced = _Synced(channel=channel, weights=weights, version=version)
        self._ready.clear()
        while True:
            self._let_all_start()
            if self._replace_lost():  # before the others wait in a transfer for one that will not come
                continue
            try:
                metrics = self._send(self.workers)
            except WorkerLost:
                if not self._replace_lost():
                    raise
                continue
            self._ready = set(range(len(self.workers)))
            return metrics

    def call(self, method: str) -> None:
        """Call a method of every worker and wait for all; those that are lost are replaced.

        A worker that is new here has the weights that it started with, until there is work for it or an update.
        """
        while True:
            self._let_all_start()
            try:
                call_all(self.workers, method)
                return
            except WorkerLost:
                if not self._replace_lost():
                    raise

    def _send(self, workers: Sequence[W]) -> Metrics:
        """The last weights, and then their version: a worker refuses a version without new weights."""
        assert self._synced is not None
        metrics = self._synced.channel.send(self._synced.weights, workers)
        call_all(workers, "set_version", version=self._synced.version)
        return metrics

    def _catch_up(self, index: int) -> None:
        """Give a worker that has just started the weights that the others have."""
        if self._synced is not None:
            self._send([self.workers[index]])
        self._ready.add(index)

    # -- losses

    def _replace(self, index: int, error: WorkerLost | WorkerFailed) -> None:
        """Begin to start a worker in the place of one that is lost; what that one had at work waits again."""
        lost = self.workers[index]
        self._ready.discard(index)
        keys = self._dispatch.lose(index)
        self._check_suspects([key for key in keys if self._dispatch.num_losses(key) >= _MAX_LOSSES], error)
        if self.num_replaced >= self._max_replaced:
            self._give_up(error)
        self.num_replaced += 1
        self._host.close([lost])
        again = f", and what it had not finished is issued again ({len(keys)} of the prompts)" if keys else ""
        self._say(f"{error.reason}; it is replaced (loss {self.num_replaced} of at most {self._max_replaced}){again}")
        self.workers[index] = self._host.make(index)

    def _replace_lost(self) -> bool:
        """Replace the workers that are lost; whether there was any."""
        before = self.num_replaced
        for index, worker in enumerate(self.workers):
            try:
                worker.check()
            except WorkerLost as error:
                self._replace(index, error)
        return self.num_replaced > before

    def _let_all_start(self) -> None:
        """Wait until every worker has loaded its model."""
        while starting := [index for index, worker in enumerate(self.workers) if not worker.is_started]:
            for index in starting:
                try:
                    self.workers[index].finish()
                except WorkerLost as error:
                    self._replace(index, error)

    def _check_suspects(self, suspects: Sequence[int], error: Exception) -> None:
        if suspects:
            others = f" (and {len(suspects) - 1} more)" if len(suspects) > 1 else ""
            raise RunStopped(
                f"prompt {self._requests[suspects[0]].prompt_id}{others} was at work each time when {_MAX_LOSSES} "
                "rollout workers were lost; drop it from the data, or give the workers more memory; the last loss: "
                f"{error}"
            ) from error

    def _give_up(self, error: Exception) -> NoReturn:
        if self._max_replaced == 0:
            raise error
        raise RunStopped(
            f"{self._max_replaced} rollout workers have been lost and replaced, and now one more; if that is the "
            f"machine's fault and not the run's, raise {MAX_REPLACED_KEY}={self._max_replaced}; the last loss: {error}"
        ) from error

    def close(self) -> None:
        self._host.close(self.workers)
        self.workers = []
