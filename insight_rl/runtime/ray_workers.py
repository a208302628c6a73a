"""Rollout workers as Ray actors, for the same pool as the processes of one machine (:mod:`insight_rl.rollout.pool`)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import ray
from ray.exceptions import RayError, RayTaskError

from insight_rl.child_process import START_DEADLINE_S
from insight_rl.heartbeat import SLICE_S, Patience
from insight_rl.rollout.pool import Finished, StartedWorker, WorkerLost, WorkerPlan, settings_refused, worker_failed
from insight_rl.rollout.vllm_process import DEADLINE_KEY
from insight_rl.rollout.vllm_worker import Request, Sample, Started
from insight_rl.runtime.ray_actors import FinishedHead, RolloutActor
from insight_rl.runtime.ray_arrays import RayArray, first_sentence
from insight_rl.runtime.ray_pulse import BESIDE, WatchedActor
from insight_rl.stacks import write_stacks

_PING_S = 5.0


class RayWorker(StartedWorker):
    """See :class:`~insight_rl.rollout.pool.PoolWorker`. An actor does what it is asked in the order it is asked."""

    is_here = False

    def __init__(self, name: str, actor: Any, *, deadline_s: float, shows_log: bool) -> None:
        self.name = name
        self.actor = actor
        self._deadline_s = deadline_s
        self._calls: deque[tuple[str, Any]] = deque()
        self._stream: Any = None
        """What the actor samples at present."""
        self._at_work: set[int] = set()
        self._lost: WorkerLost | None = None
        self._patience = Patience()
        self.watched = WatchedActor(name, actor, shows_log=shows_log)

    # -- one method at a time

    def call(self, method: str, /, **arguments: Any) -> None:
        self.begin(method, **arguments)
        self.finish()

    def begin(self, method: str, /, **arguments: Any) -> None:
        if not self._calls and not self._at_work:
            self._patience.start_again()
        if method == "abort":
            self._stream = None  # nobody waits for what is in it
        self._calls.append((method, self.actor.run.remote(method, arguments)))

    def is_ready(self) -> bool:
        if not self._calls or ray.wait([self._calls[-1][1]], timeout=SLICE_S)[0]:
            return True
        self._look(self._calls[0][0])
        return False

    def finish(self) -> None:
        while self._calls:
            self._take()

    def _take(self) -> Any:
        """Wait for the oldest call; returns the items that it has answered with."""
        method, reference = self._calls[0]
        while not ray.wait([reference], timeout=SLICE_S)[0]:
            self._look(method)
        kind, value = self._get(reference, method)
        self._calls.popleft()
        self._patience.start_again()
        if kind == "refused":
            raise settings_refused(value)
        if kind == "stopped":
            raise value
        if kind == "failed":
            self._fail(method, value)
        if method == "abort":
            self._at_work.clear()
        for item in value:
            if isinstance(item, Started):
                self._started = item
        return value

    def ask(self, method: str, /, **arguments: Any) -> Any:
        """What a method of the worker answers with, for checks; it waits."""
        self.finish()
        self.begin(method, **arguments)
        return self._take()[0]

    # -- sampling

    def submit(self, requests: Mapping[int, Request]) -> None:
        self.begin("generate", requests=dict(requests))
        self._at_work |= requests.keys()

    def poll(self) -> Finished | None:
        while self._calls:
            if not ray.wait([self._calls[0][1]], timeout=0)[0]:
                self._look(self._calls[0][0])
                return None
            self._take()
        if not self._at_work:
            return None
        if self._stream is None:
            self._go_on()
        if not ray.wait([self._stream], timeout=0, fetch_local=False)[0]:
            self._look("generate")
            return None
        answer = self._read()
        if answer is None:
            self._go_on()  # at once: the actor has nothing to do until then, and nobody would wait for it
        return answer

    def _go_on(self) -> None:
        self._stream = self.actor.sample.options(num_returns="streaming").remote()

    def _read(self) -> Finished | None:
        """The next request in the stream, of which something has come; ``None`` if that was its end."""
        arrays = self._next()
        self._patience.start_again()
        if arrays is None:
            self._stream = None
            return None
        reference = self._next()
        if reference is None:  # the only object of a stream is why it failed
            reference = arrays
        head = self._get(reference, "generate")
        if not isinstance(head, FinishedHead):
            self._at_work.clear()
            self._stream = None
            self._fail("generate", str(head))
        self._at_work.discard(head.key)
        return Finished(head.key, _samples(arrays, head), head.version)

    def _next(self) -> Any:
        while not ray.wait([self._stream], timeout=SLICE_S, fetch_local=False)[0]:
            self._look("generate")
        try:
            return next(self._stream)
        except StopIteration:
            return None

    @property
    def awaited(self) -> Any:
        """What :meth:`poll` would look at; ``None`` if there is nothing."""
        return self._calls[0][1] if self._calls else self._stream

    # -- losses

    def check(self) -> None:
        if self._lost is not None:
            raise self._lost
        reference = self.actor.where.options(concurrency_group=BESIDE).remote()
        if ray.wait([reference], timeout=_PING_S if self.is_started else 0)[0]:
            self._get(reference, "waiting for work")

    def _get(self, reference: Any, doing: str) -> Any:
        try:
            return ray.get(reference)
        except RayTaskError as error:  # the actor lives, and its code has failed
            self._fail(doing, str(error))
        except RayError as error:
            self._lose(f"{self.name} died in {doing} ({first_sentence(error)})", error)

    def _look(self, doing: str) -> None:
        complaint = self.watched.complaint() if self.is_started else ""
        limit = max(self._deadline_s, START_DEADLINE_S) if doing == "start" else self._deadline_s
        if self._patience.look() >= limit:
            complaint = (
                f"gave no sign of life for {self._patience.waited_s:.0f} s in {doing}; {write_stacks()}; if it "
                f"only needs more time, raise {DEADLINE_KEY}={self._deadline_s:g}"
            )
        if complaint:
            self._lose(f"{self.name} {complaint}", None)

    def _lose(self, reason: str, cause: Exception | None) -> NoReturn:
        message = f"{reason}; the run can be resumed from its last checkpoint{self.watched.log_tail()}"
        self._lost = WorkerLost(reason, message)
        raise self._lost from cause

    def _fail(self, doing: str, trace: str) -> NoReturn:
        raise worker_failed(self.name, doing, trace, self.watched.log_tail())


def _samples(reference: Any, head: FinishedHead) -> tuple[Sample, ...]:
    samples, start = [], 0
    for size, finish_reason, text in head.parts:
        stop = start + size
        samples.append(
            Sample(
                token_ids=RayArray(reference, 0, start, stop),
                logprobs=RayArray(reference, 1, start, stop),
                finish_reason=finish_reason,
                text=text,
            )
        )
        start = stop
    return tuple(samples)


@dataclass(frozen=True, kw_only=True)
class RayWorkers:
    """Makes the actors of a pool. See :class:`~insight_rl.rollout.pool.WorkerHost`."""

    plan: WorkerPlan
    start_actor: Callable[[type, int], Any]
    """``start_actor(class, number of the worker)``: an actor in the worker's bundle, its environment set."""
    end_actor: Callable[[Any], None]

    def make(self, index: int) -> RayWorker:
        actor = self.start_actor(RolloutActor, index)
        plan = self.plan
        worker = RayWorker(f"rollout worker {index}", actor, deadline_s=plan.deadline_s, shows_log=plan.show_log)
        actor.build.remote(plan.module)
        worker.begin("start", **plan.start_arguments)
        return worker

    def wait(self, workers: Sequence[RayWorker]) -> None:
        awaited = [worker.awaited for worker in workers if worker.awaited is not None]
        if awaited:
            ray.wait(awaited, timeout=SLICE_S, fetch_local=False)
        else:
            time.sleep(SLICE_S)

    def close(self, workers: Sequence[RayWorker]) -> None:
        for worker in workers:
            self.end_actor(worker.actor)
            worker.watched.close()
