"""Processes of the learner's ranks: started afresh, called like functions, never left behind.

Each rank is a new Python process and no fork, so that it inherits no CUDA or engine state of the trainer's process.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from insight_rl.child_process import GRACE_S, Channel, Child, ChildLost, end_children, free_port, import_path
from insight_rl.errors import RanksLost, RunStopped, UsageError
from insight_rl.heartbeat import SLICE_S, Patience
from insight_rl.leftovers import remove_at_the_end, remove_now

MakeWorker = Callable[[], Any]
"""Builds the object whose methods are called, in the rank's own process; must be picklable."""

Ask = Callable[[Any], Any]
"""What a rank calls in the middle of a method to have the trainer do something for it; returns the trainer's answer."""

Answer = Callable[[Any, Callable[[], None]], Any]
"""The trainer's side of :data:`Ask`: takes the request, and a function that it calls now and then while it waits for
others. That function raises if a rank has failed or died meanwhile."""


_DEATH_SHOWS_S = 2.0
"""The others hear of a rank's death by their connections to it, a moment before it can be seen here."""


class RankFailed(RuntimeError):
    """A rank raised; the message carries its traceback. The other ranks have been ended too."""


class Ranks(Protocol):
    """The learner's ranks, started and able to be called. :class:`RankProcesses` says what is raised."""

    def call(self, method: str, arguments_R: Sequence[tuple[Any, ...]], *, answer: Answer | None = None) -> list[Any]:
        """Call ``method`` on every rank with its own arguments; returns every rank's result, in order of rank."""
        ...

    def close(self, *, grace_s: float = GRACE_S) -> None:
        """End every rank."""
        ...


class RankHost(Protocol):
    """Where ranks run."""

    @property
    def is_here(self) -> bool:
        """Whether it is this machine, so that a single rank may be the trainer's own process."""
        ...

    def start_ranks(self, make_worker: MakeWorker, num_ranks: int, *, deadline_s: float) -> Ranks:
        """Start ``num_ranks`` ranks, with a rendezvous for ``torch.distributed``; ``deadline_s`` bounds each call."""
        ...


class RankProcesses:
    """``num_ranks`` processes with a rendezvous for ``torch.distributed`` on the loopback interface.

    ``deadline_s`` (``learner.deadline_s``) bounds each call.
    """

    def __init__(self, make_worker: MakeWorker, num_ranks: int, *, deadline_s: float) -> None:
        port = free_port()
        threads = max(1, len(os.sched_getaffinity(0)) // num_ranks)
        # DeepSpeed's collectives on CPU leave their buffers there, even at an orderly end.
        self._buffers = f"/dev/shm/deepspeed_allreduce_buffer_*_{port}_*"
        remove_at_the_end(self._buffers)
        self._ranks: list[Child] = []
        for rank in range(num_ranks):
            env = {
                "PYTHONPATH": import_path(),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(num_ranks),
                "LOCAL_WORLD_SIZE": str(num_ranks),
                "OMP_NUM_THREADS": str(threads),
            }
            child = Child(
                f"learner rank {rank}",
                "insight_rl.learner.processes:serve",
                key="learner.deadline_s",
                deadline_s=deadline_s,
                env={**os.environ, **env},
                log=True,
            )
            self._ranks.append(child)
        try:
            for child in self._ranks:
                child.send(make_worker, doing="start")
        except BaseException:
            self.close()
            raise

    def call(self, method: str, arguments_R: Sequence[tuple[Any, ...]], *, answer: Answer | None = None) -> list[Any]:
        """Call ``method`` on every rank with its own arguments; returns every rank's result, in order of rank.

        With ``answer`` the method is given a keyword argument ``ask`` (:data:`Ask`), which reaches ``answer`` in this
        process. Raises what a rank raised if a user can mend it, :class:`RankFailed` with the rank's traceback if not,
        :class:`~insight_rl.errors.RanksLost` if a rank died or did not answer in time, and what ``answer``
        raises. After any of these all ranks have been ended.
        """
        try:
            for child, arguments in zip(self._ranks, arguments_R, strict=True):
                child.send((method, arguments, answer is not None), doing=method)
            results: dict[Child, Any] = {}
            patience = Patience()

            def look(timeout_s: float = 0.0) -> None:
                """Take what the ranks have to say, and see whether one of those that still work is lost."""
                pending = [child for child in self._ranks if child not in results]
                for child in Child.ready(pending, timeout_s=timeout_s):
                    if child in results:  # taken while another's request was answered
                        continue
                    kind, value, trace = child.receive(doing=method)
                    if kind == "asks":
                        assert answer is not None
                        child.send(answer(value, look), doing=method)
                    else:
                        results[child] = self._result(child, method, kind, value, trace)
                silent = [child for child in pending if child not in results]
                names = ", ".join(child.name for child in silent)
                # In a collective all wait for one; where that one is stopped, it is the one to name.
                for child in sorted(silent, key=lambda child: not child.is_stopped):
                    child.look(patience, doing=method, names=names)

            while len(results) < len(self._ranks):
                look(SLICE_S)
            return [results[child] for child in self._ranks]
        except Exception as error:
            # The others may wait in a collective for a rank that will not come.
            self.close(grace_s=0)
            if isinstance(error, ChildLost):
                raise RanksLost(error.reason, str(error)) from error
            raise

    def _result(self, child: Child, method: str, kind: str, result: Any, trace: str) -> Any:
        if kind == "done":
            child.answered()
            return result
        if isinstance(result, (UsageError, RunStopped)):
            raise result
        end = time.monotonic() + _DEATH_SHOWS_S
        while len(self._ranks) > 1 and time.monotonic() < end:
            for other in self._ranks:
                if other.is_dead:  # what this one raised is only a consequence
                    other.fail_as_dead(method, None)
            time.sleep(0.02)
        raise RankFailed(f"{child.name} failed in {method}:\n{trace}{child.log_tail()}")

    def close(self, *, grace_s: float = GRACE_S) -> None:
        """End every rank; one in the middle of a call is not waited for."""
        end_children(self._ranks, grace_s=grace_s)
        remove_now(self._buffers)


def serve(file_descriptor: int) -> None:
    """The rank's own process: build the worker, then answer calls until the trainer closes the channel."""
    channel = Channel.from_fd(file_descriptor)
    lock = threading.Lock()
    worker: Any = None

    def ask(request: Any) -> Any:
        # From any thread: vLLM's NCCL sender asks from one while another broadcasts.
        with lock:
            channel.send(("asks", request, ""))
            return channel.receive()

    try:
        make_worker = channel.receive()
        while True:
            method, arguments, may_ask = channel.receive()
            try:
                worker = make_worker() if worker is None else worker
                keywords = {"ask": ask} if may_ask else {}
                reply = ("done", getattr(worker, method)(*arguments, **keywords), "")
            except Exception as error:  # the trainer's process raises it again
                mendable = error if isinstance(error, (UsageError, RunStopped)) else None
                reply = ("failed", mendable, traceback.format_exc())
            channel.send(reply)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the trainer has ended, or ends the ranks
    if worker is not None:
        worker.close()
