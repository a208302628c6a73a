"""Processes of the learner's ranks: started afresh, spoken to over pipes, never left behind. Knows nothing of training.

Spawned rather than forked, so that no CUDA or engine state of the trainer's process is inherited. A rank ends by itself
when the trainer's end of its pipe closes, however that came about.
"""

from __future__ import annotations

import os
import signal
import socket
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

from insight_rl.errors import RunStopped, UsageError

MakeWorker = Callable[[], Any]
"""Builds the object whose methods are called, in the rank's own process; must be picklable."""


class RankFailed(RuntimeError):
    """A rank raised or died; the message carries its traceback. The other ranks have been ended too."""


class RankProcesses:
    """``num_ranks`` processes with a rendezvous for ``torch.distributed`` on the loopback interface."""

    def __init__(self, make_worker: MakeWorker, num_ranks: int) -> None:
        context = get_context("spawn")
        port = _free_port()
        threads = max(1, len(os.sched_getaffinity(0)) // num_ranks)
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        for rank in range(num_ranks):
            env = {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(num_ranks),
                "LOCAL_WORLD_SIZE": str(num_ranks),
                "OMP_NUM_THREADS": str(threads),
            }
            pipe, other_end = context.Pipe()
            process = context.Process(target=_serve, args=(other_end, make_worker, env), name=f"learner-{rank}")
            process.daemon = True
            process.start()
            other_end.close()
            self._pipes.append(pipe)
            self._processes.append(process)

    def call(self, method: str, arguments_R: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call ``method`` on every rank with its own arguments; returns every rank's result, in order of rank.

        Raises what a rank raised if a user can mend it, else :class:`RankFailed` with the rank's traceback.
        """
        for rank, arguments in enumerate(arguments_R):
            try:
                self._pipes[rank].send((method, arguments))
            except OSError as error:
                self._fail(rank, method, error)
        results: dict[int, Any] = {}
        while len(results) < len(self._pipes):
            pending = {pipe: rank for rank, pipe in enumerate(self._pipes) if rank not in results}
            for pipe in wait(list(pending)):
                rank = pending[pipe]  # type: ignore[index]
                results[rank] = self._receive(rank, method)
        return [results[rank] for rank in range(len(self._pipes))]

    def _receive(self, rank: int, method: str) -> Any:
        try:
            is_ok, result, trace = self._pipes[rank].recv()
        except (EOFError, OSError) as error:
            self._fail(rank, method, error)
        if is_ok:
            return result
        self.close(grace_s=0)
        if isinstance(result, (UsageError, RunStopped)):
            raise result
        raise RankFailed(f"learner rank {rank} failed in {method}:\n{trace}")

    def _fail(self, rank: int, method: str, cause: BaseException) -> NoReturn:
        self._processes[rank].join(timeout=5)
        code = self._processes[rank].exitcode
        self.close(grace_s=0)
        raise RankFailed(
            f"learner rank {rank} died in {method} (exit code {code}); the run can be resumed from its last checkpoint"
        ) from cause

    def close(self, *, grace_s: float = 30.0) -> None:
        """End every rank: each has ``grace_s`` to finish (one inside a collective never will) and is then killed."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=grace_s)
            if process.exitcode is None:
                process.kill()
                process.join()


def _serve(pipe: Connection, make_worker: MakeWorker, env: dict[str, str]) -> None:
    # Ctrl-C reaches the whole terminal; the trainer decides when its ranks end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(env)
    worker: Any = None
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            break
        try:
            worker = make_worker() if worker is None else worker
            reply = (True, getattr(worker, method)(*arguments), "")
        except Exception as error:  # the trainer's process raises it again
            mendable = error if isinstance(error, (UsageError, RunStopped)) else None
            reply = (False, mendable, traceback.format_exc())
        try:
            pipe.send(reply)
        except OSError:
            break
    if worker is not None:
        worker.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
