"""Judges completions in worker processes that can be killed: starts and ends them, and keeps their deadlines.

    submit(prompt, completions) -> jobs, judged while generation goes on -> collect() in the order of submission

A thread of the parent hands out batches, reads one result per job and keeps the deadlines. A worker that is silent for
``deadline_s`` is killed and replaced: its current job is a timeout, the rest of its batch goes back to the front of the
queue. So do the jobs of a worker that dies, unless the job it was at has failed too often. The only signal in use is
SIGKILL, to workers, so it works from any thread and beside any framework; workers are plain child processes that never
import the parent's ``__main__``.
"""

from __future__ import annotations

import json
import math
import os
import selectors
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Self

from insight_rl.child_log import ChildLog
from insight_rl.child_process import import_path, start_child
from insight_rl.errors import RunStopped, UsageError, check
from insight_rl.process_table import is_stopped
from insight_rl.reward.base import RewardFn
from insight_rl.reward.judge import UnjudgedAlarm, unjudged
from insight_rl.reward.judge_worker import CompletionStub, PromptStub, Setup
from insight_rl.stacks import ShowsStacks
from insight_rl.supervision import present
from insight_rl.types import Completion, Prompt, Reward

BATCH_SIZE = 32
MAX_FAILURES = 10
FAILURES_OF_A_CRASH = 5
"""A job is an error after its worker crashed twice, or was killed or stopped ten times, which may come from outside."""
MAX_FAILED_STARTS = 3
STARTUP_DEADLINE_S = 120.0
_SEND_TIMEOUT_S = 10
_READ_SIZE = 1 << 18
_NAME = "judge worker"


class Judged(NamedTuple):
    reward: Reward
    seconds: float


@dataclass(slots=True)
class _Job:
    group: _Pending
    index: int
    prompt: PromptStub
    completion: CompletionStub
    num_failures: int = 0


@dataclass(slots=True)
class _Pending:
    """A submitted group: results fill in as they come."""

    results_G: list[Judged | None]
    num_missing: int


@dataclass(slots=True, eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    socket: socket.socket
    connection: Connection
    stacks: ShowsStacks
    deadline: float
    is_ready: bool = False
    jobs: deque[_Job] = field(default_factory=deque)
    unread: bytes = b""


class JudgeProcesses:
    """A :class:`~insight_rl.reward.base.Judge` over ``num_workers`` processes, started with the first group.

    ``deadline_s`` is for one completion; ``max_memory_mb`` for the address space of one worker;
    ``max_unjudged_fraction``: see :class:`~insight_rl.reward.judge.UnjudgedAlarm`.
    """

    def __init__(
        self,
        reward: RewardFn,
        *,
        num_workers: int = 2,
        deadline_s: float = 5.0,
        max_memory_mb: int = 2048,
        max_unjudged_fraction: float = 1.0,
    ) -> None:
        check(num_workers >= 1, "judge.num_workers", num_workers, "must be at least 1")
        check(deadline_s > 0, "judge.deadline_s", deadline_s, "must be above 0 seconds")
        check(max_memory_mb >= 256, "judge.max_memory_mb", max_memory_mb, "must be at least 256")
        module = type(reward).__module__
        check(module != "__main__", "reward", type(reward).__qualname__, "must be defined in a module to be imported")
        self._setup = Setup(reward, max_memory_mb)
        self._num_workers = num_workers
        self._concurrency = getattr(reward, "concurrency", 1)
        self._deadline_s = deadline_s
        self._alarm = UnjudgedAlarm(max_unjudged_fraction)

        self._condition = threading.Condition()
        self._queue: deque[_Job] = deque()
        self._submitted: list[_Pending] = []
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._is_closing = False
        self._num_ready = 0

        # Below: touched by the thread only.
        self._workers: list[_Worker] = []
        self._ended: list[subprocess.Popen[bytes]] = []
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        self._num_failed_starts = 0

    # -- the side of the caller

    def submit(self, prompt: Prompt, completions_G: Sequence[Completion]) -> None:
        """Queue a group; only texts, counts and the answer are sent to a worker."""
        stub = PromptStub(prompt.id, prompt.task, prompt.text, prompt.answer, dict(prompt.metadata))
        group = _Pending([None] * len(completions_G), len(completions_G))
        jobs = [
            _Job(group, index, stub, CompletionStub(c.text, len(c.token_ids), c.finish_reason, c.policy_version))
            for index, c in enumerate(completions_G)
        ]
        with self._condition:
            self._submitted.append(group)
            self._queue.extend(jobs)
        self._run()

    def collect(self) -> list[tuple[Reward, ...]]:
        """Wait for every group submitted since the last call. Raises ``RunStopped`` above ``max_unjudged_fraction``."""
        return [tuple(judged.reward for judged in group) for group in self.collect_judged()]

    def collect_judged(self) -> list[tuple[Judged, ...]]:
        """As :meth:`collect`, with the seconds each verdict took."""
        with self._condition:
            submitted, self._submitted = self._submitted, []
            while any(group.num_missing for group in submitted) and self._failure is None:
                self._condition.wait(timeout=1.0)
            if self._failure is not None:
                raise self._failure
        return [tuple(judged for judged in group.results_G if judged is not None) for group in submitted]

    def start(self) -> None:
        """Start every worker and wait until all are ready to judge."""
        self._run()
        with self._condition:
            while self._num_ready < self._num_workers and self._failure is None:
                self._condition.wait(timeout=1.0)
            if self._failure is not None:
                raise self._failure

    def close(self) -> None:
        """End every worker and the thread; groups that are not collected are dropped."""
        with self._condition:
            if self._is_closing:
                return
            self._is_closing = True
        if self._thread is not None:
            self._wake()
            self._thread.join()
        self._selector.close()
        os.close(self._wake_writer)
        os.close(self._wake_reader)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self) -> None:
        with self._condition:
            if self._is_closing:
                raise RuntimeError("the judge is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="judge-processes", daemon=True)
                self._thread.start()
                return
        self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._wake_writer, b"w")
        except BlockingIOError:
            return

    # -- the thread

    def _serve(self) -> None:
        try:
            self._selector.register(self._wake_reader, selectors.EVENT_READ)
            while not self._is_closing and self._failure is None:
                self._start_missing()
                self._hand_out()
                for key, _ in self._selector.select(self._seconds_to_next_deadline()):
                    if key.data is None:
                        os.read(self._wake_reader, 4096)
                    else:
                        self._read(key.data)
                self._kill_late()
                self._ended = [process for process in self._ended if process.poll() is None]
        except Exception as error:
            # The thread has no caller: whoever collects gets its failure.
            self._fail(error)
        finally:
            for worker in list(self._workers):
                self._end(worker, kill=True)
            for process in self._ended:
                process.wait()

    def _fail(self, error: BaseException) -> None:
        with self._condition:
            self._failure = self._failure or error
            self._condition.notify_all()

    def _start_missing(self) -> None:
        while len(self._workers) < self._num_workers:
            ours, theirs = socket.socketpair()
            # A worker that was stopped must not stop this thread with it.
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_TIMEOUT_S, 0))
            stacks = ShowsStacks(_NAME)
            run_dir = present().run_dir
            log = ChildLog(_NAME, run_dir) if run_dir is not None else None
            with theirs:
                process = start_child(
                    "insight_rl.reward.judge_worker:serve",
                    theirs.fileno(),
                    # One thread for every worker: there are several.
                    env={**os.environ, "PYTHONPATH": import_path(), "OMP_NUM_THREADS": "1", **stacks.environment},
                    stdout=subprocess.DEVNULL,
                    stderr=log and log.file,
                )
            if log is not None:
                log.close()
            stacks.watch(process.pid)
            connection = Connection(os.dup(ours.fileno()), readable=False)
            worker = _Worker(process, ours, connection, stacks, time.monotonic() + STARTUP_DEADLINE_S)
            self._workers.append(worker)
            self._selector.register(ours, selectors.EVENT_READ, worker)
            self._send(worker, self._setup)

    def _hand_out(self) -> None:
        for worker in list(self._workers):
            if not worker.is_ready or worker.jobs:
                continue
            with self._condition:
                worker.jobs.extend(self._queue.popleft() for _ in range(self._batch_size(len(self._queue))))
            if worker.jobs:
                worker.deadline = time.monotonic() + self._deadline_s
                self._send(worker, [(job.prompt, job.completion) for job in worker.jobs])

    def _batch_size(self, num_waiting: int) -> int:
        """Half of a fair share, so that none is idle at the end; as much as a worker judges at once, if it is there."""
        share = math.ceil(num_waiting / self._num_workers)
        return max(min(BATCH_SIZE, math.ceil(share / 2)), min(self._concurrency, share))

    def _send(self, worker: _Worker, message: Any) -> None:
        try:
            worker.connection.send(message)
        except OSError:
            self._remove_dead(worker)

    def _seconds_to_next_deadline(self) -> float:
        deadlines = [worker.deadline for worker in self._workers if worker.jobs or not worker.is_ready]
        return max(min(deadlines) - time.monotonic(), 0.0) if deadlines else 1.0

    def _read(self, worker: _Worker) -> None:
        try:
            data = worker.socket.recv(_READ_SIZE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._remove_dead(worker)
            return
        *lines, worker.unread = (worker.unread + data).split(b"\n")
        worker.deadline = time.monotonic() + self._deadline_s
        for line in lines:
            self._handle(worker, json.loads(line))

    def _handle(self, worker: _Worker, message: dict[str, Any]) -> None:
        if "fatal" in message:
            self._fail(UsageError(f"a judging process cannot start: {message['fatal']}"))
            return
        if "ready" in message:
            worker.is_ready = True
            self._num_failed_starts = 0
            with self._condition:
                self._num_ready = sum(worker.is_ready for worker in self._workers)
                self._condition.notify_all()
            return
        is_retiring = message.pop("retire")
        seconds = message.pop("seconds")
        self._finish(worker.jobs.popleft(), Judged(Reward(**message), seconds))
        if is_retiring:
            self._requeue(worker)
            self._end(worker, kill=False)

    def _kill_late(self) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            if now < worker.deadline or (worker.is_ready and not worker.jobs):
                continue
            if is_stopped(worker.process.pid):
                self._remove_dead(worker)  # whoever stopped it could have killed it: no completion is to blame
                continue
            if not worker.is_ready:
                self._fail(RunStopped(f"a judging process was not ready after {STARTUP_DEADLINE_S:.0f} s"))
                return
            reason = f"no verdict within judge.deadline_s={self._deadline_s:g}"
            self._finish(worker.jobs.popleft(), Judged(unjudged("timeout", reason), self._deadline_s))
            self._requeue(worker)
            self._end(worker, kill=True)

    def _remove_dead(self, worker: _Worker) -> None:
        """A worker died: blame the job it was at, and have the others judged by another worker."""
        if worker not in self._workers:
            return
        worker.process.kill()
        returncode = worker.process.wait()
        is_killed = returncode == -signal.SIGKILL
        if not worker.is_ready:
            self._num_failed_starts += 0 if is_killed else 1
            if self._num_failed_starts >= MAX_FAILED_STARTS:
                self._fail(RunStopped(f"judging processes die while they start (exit code {returncode})"))
        elif worker.jobs:
            job = worker.jobs[0]
            job.num_failures += 1 if is_killed else FAILURES_OF_A_CRASH
            if job.num_failures >= MAX_FAILURES:
                reason = f"its worker died again and again (exit code {returncode})"
                self._finish(worker.jobs.popleft(), Judged(unjudged("error", reason), 0.0))
        self._requeue(worker)
        self._end(worker, kill=True)

    def _requeue(self, worker: _Worker) -> None:
        with self._condition:
            self._queue.extendleft(reversed(worker.jobs))
        worker.jobs.clear()

    def _end(self, worker: _Worker, *, kill: bool) -> None:
        self._selector.unregister(worker.socket)
        self._workers.remove(worker)
        if kill:
            worker.process.kill()
        worker.connection.close()
        worker.socket.close()
        worker.stacks.close()
        self._ended.append(worker.process)

    def _finish(self, job: _Job, judged: Judged) -> None:
        try:
            self._alarm.watch(judged.reward)
        except RunStopped as error:
            self._fail(error)
        with self._condition:
            job.group.results_G[job.index] = judged
            job.group.num_missing -= 1
            if job.group.num_missing == 0:
                self._condition.notify_all()
