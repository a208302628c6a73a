"""Rollout workers as processes of this machine, each of which runs vLLM (:mod:`insight_rl.rollout.vllm_worker`)."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from insight_rl.child_process import Child, ChildLost, end_children, package_folder
from insight_rl.heartbeat import Patience
from insight_rl.placement import visible_devices
from insight_rl.rollout.pool import Finished, StartedWorker, WorkerLost, WorkerPlan, settings_refused, worker_failed
from insight_rl.rollout.vllm_worker import Request, Started

DEADLINE_KEY = "rollout.deadline_s"
_WAIT_S = 0.5
# Where the learner's ranks meet; vLLM would join them.
_LEARNERS_OWN = frozenset({"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"})

WORKER_DEFAULTS = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    # The model is a local folder by now.
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # vLLM would bind its threads to one core per physical core less one: on two hyperthreads, a single one.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # Threads that spin while they wait: 42 instead of 390 tokens/s where other processes want the same cores.
    "OMP_WAIT_POLICY": "PASSIVE",
    # A forked engine core would keep a copy of the socket to the trainer, and the state of every library.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # Handles of shared GPU memory are sent by pickle, between processes of ours on this machine.
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
}
"""Environment variables of a rollout worker, unless the user has set them."""


class VllmProcess(StartedWorker):
    """A process that runs :func:`insight_rl.rollout.vllm_worker.serve`.

    See :class:`~insight_rl.rollout.pool.PoolWorker`. It ends when its channel is closed.
    """

    def __init__(self, child: Child) -> None:
        self._child = child
        self._lost: WorkerLost | None = None
        self._doing = "start"
        self._num_unanswered = 0
        self._at_work: set[int] = set()
        self._unread: deque[Finished] = deque()
        """Came while something else was waited for."""
        self._patience = Patience()

    @property
    def name(self) -> str:
        return self._child.name

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def is_here(self) -> bool:
        return True

    # -- one method at a time

    def call(self, method: str, /, **arguments: Any) -> None:
        """Run ``method`` in the process and wait for it."""
        self.begin(method, **arguments)
        self.finish()

    def begin(self, method: str, /, **arguments: Any) -> None:
        """Ask the process to run ``method``, after all that it has been asked before."""
        if not self._is_busy:
            self._patience.start_again()
        self._doing = method
        self._num_unanswered += 1
        with self._noting_loss():
            self._child.send((method, arguments), doing=method)

    def is_ready(self) -> bool:
        """Whether :meth:`finish` need not wait any more; waits a moment for it, and raises as it does."""
        if not self._num_unanswered or Child.ready([self._child]):
            return True
        with self._noting_loss():
            self._child.look(self._patience, doing=self._doing)
        return False

    def finish(self) -> None:
        """Wait until the process has run all methods that it was asked to.

        Raises ``UsageError`` for settings that vLLM refused, ``WorkerLost`` if the process died or showed no sign of
        life within its deadline, and ``WorkerFailed`` for any other failure.
        """
        while self._num_unanswered:
            finished = self._receive()
            if finished is not None:
                self._unread.append(finished)
        if self._at_work:
            self._doing = "generate"  # again

    # -- sampling

    def submit(self, requests: Mapping[int, Request]) -> None:
        self.begin("generate", requests=dict(requests))
        self._at_work |= requests.keys()

    def poll(self) -> Finished | None:
        if self._unread:
            return self._unread.popleft()
        with self._noting_loss():
            if self._is_busy and not self._child.channel.has_message():
                self._child.look(self._patience, doing=self._doing)
        finished = None
        while finished is None and self._child.channel.has_message():
            finished = self._receive()
        return finished

    # -- the channel

    @property
    def _is_busy(self) -> bool:
        return bool(self._num_unanswered or self._at_work)

    def _receive(self) -> Finished | None:
        with self._noting_loss():
            kind, value = self._child.receive(doing=self._doing, patience=self._patience)
        self._patience.start_again()
        if kind in ("done", "refused", "failed"):
            self._num_unanswered = max(0, self._num_unanswered - 1)
        finished = self._take_item(value) if kind == "item" else None
        if kind == "done" and self._doing == "abort" and not self._num_unanswered:
            self._at_work.clear()
            self._unread.clear()
        if not self._is_busy:
            self._child.answered()
        if kind == "refused":
            raise settings_refused(value)
        if kind == "failed":
            raise worker_failed(self.name, self._doing, value, self._child.log_tail())
        return finished

    def _take_item(self, value: Any) -> Finished | None:
        if isinstance(value, Started):
            self._started = value
            return None
        finished = Finished(*value)
        self._at_work.discard(finished.key)
        return finished

    def check(self) -> None:
        if self._lost is not None:
            raise self._lost
        if self._child.is_dead:
            with self._noting_loss():
                self._child.fail_as_dead(self._doing if self._is_busy else "waiting for work", None)

    @contextmanager
    def _noting_loss(self) -> Iterator[None]:
        try:
            yield
        except ChildLost as error:
            self._lost = WorkerLost(error.reason, str(error))
            raise self._lost from error


@dataclass(frozen=True)
class VllmProcesses:
    """Makes the processes of a pool. See :class:`~insight_rl.rollout.pool.WorkerHost`."""

    plan: WorkerPlan

    def make(self, index: int) -> VllmProcess:
        plan = self.plan
        child = Child(
            f"rollout worker {index}",
            f"{plan.module}:serve",
            key=DEADLINE_KEY,
            deadline_s=plan.deadline_s,
            env=make_environment(plan.num_threads, plan.devices[index]),
            log=not plan.show_log,
        )
        process = VllmProcess(child)
        try:
            process.begin("start", **plan.start_arguments)
        except BaseException:
            self.close([process])
            raise
        return process

    def wait(self, workers: Sequence[VllmProcess]) -> None:
        wait([worker._child.channel.fileno() for worker in workers], timeout=_WAIT_S)

    def close(self, workers: Sequence[VllmProcess]) -> None:
        end_children([worker._child for worker in workers])


def make_environment(num_threads: int | None, devices: Sequence[str]) -> dict[str, str]:
    """The trainer's environment, plus defaults that the user's own settings override, and the worker's own devices."""
    environment = WORKER_DEFAULTS | {name: value for name, value in os.environ.items() if name not in _LEARNERS_OWN}
    environment |= visible_devices(devices, os.environ)
    if num_threads is not None:
        environment["OMP_NUM_THREADS"] = str(num_threads)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package_folder(), environment.get("PYTHONPATH")]))
    return environment
