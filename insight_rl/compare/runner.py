"""Runs the jobs of a comparison side by side, one to a core or to a GPU, and stops them properly when asked to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess

from insight_rl.child_process import describe_exit
from insight_rl.compare.jobs import (
    FINISHED,
    OUTCOME_FILE,
    CheckedRun,
    Ended,
    Job,
    check_job,
    end_with_parent,
    fork_server,
    read_outcome,
    run_job,
)
from insight_rl.errors import Interrupted
from insight_rl.stop_signals import stop_on_signals

_LOOK_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Slots:
    """How many jobs run at a time, and on which GPU each."""

    gpus: tuple[str | None, ...]

    @property
    def processes(self) -> int:
        return len(self.gpus)


def find_slots(processes: int | None, *, use_gpus: bool) -> Slots:
    """One slot to a GPU where there are some and ``use_gpus``, else one to a core. Not yet run on GPUs."""
    if not use_gpus:
        return Slots(gpus=(None,) * (processes or len(os.sched_getaffinity(0))))
    import torch

    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [each for each in shown.split(",") if each] if shown is not None else []
    if shown is None:
        gpus = [str(number) for number in range(torch.cuda.device_count())]
    if gpus:
        return Slots(gpus=tuple(gpus[index % len(gpus)] for index in range(processes or len(gpus))))
    return Slots(gpus=(None,) * (processes or len(os.sched_getaffinity(0))))


def check_jobs(jobs: Sequence[Job], processes: int) -> list[CheckedRun]:
    """Raises ``UsageError`` of the first job, in their order, that could not run."""
    with ProcessPoolExecutor(
        min(processes, len(jobs)), mp_context=fork_server(jobs[0]), initializer=end_with_parent
    ) as executor:
        return list(executor.map(check_job, jobs))


@dataclass
class _Running:
    job: Job
    process: ForkServerProcess
    slot: int
    started: float
    was_told: bool = False
    """Whether a stop signal has been passed on to it; a second one would end it at once."""


def run_jobs(
    jobs: Sequence[Job], slots: Slots, on_end: Callable[[Ended], None], say: Callable[[str], None]
) -> list[Ended]:
    """Run those of ``jobs`` that have not finished; ``on_end`` is called for each as it ends.

    Raises ``Interrupted`` after a stop signal, once every running job has finished its step.
    """
    waiting = [job for job in jobs if read_outcome(job.run_dir).get("state") != FINISHED]
    if not waiting:
        return []
    context = fork_server(waiting[0])
    running: dict[int, _Running] = {}
    ended: list[Ended] = []
    with stop_on_signals() as stop:
        stop.finish_first(lambda: None, say)
        try:
            while running or (waiting and stop.number is None):
                while waiting and stop.number is None and len(running) < slots.processes:
                    one = _start(context, waiting.pop(0), _free_slot(running.values(), slots), slots)
                    running[one.process.sentinel] = one
                if stop.number is not None:
                    _tell(running.values())
                for sentinel in wait(list(running), timeout=_LOOK_S):
                    one = running.pop(sentinel)  # type: ignore[arg-type]
                    one.process.join()
                    if stop.number is None or read_outcome(one.job.run_dir):
                        ended.append(_ended(one))
                        on_end(ended[-1])
        finally:
            for one in running.values():
                one.process.kill()
        if stop.number is not None:
            raise Interrupted(stop.number)
    return ended


def _start(context: ForkServerContext, job: Job, slot: int, slots: Slots) -> _Running:
    (job.run_dir / OUTCOME_FILE).unlink(missing_ok=True)
    process = context.Process(target=run_job, args=(job, slots.gpus[slot]))
    process.start()
    return _Running(job=job, process=process, slot=slot, started=time.perf_counter())


def _free_slot(running: Iterable[_Running], slots: Slots) -> int:
    taken = {one.slot for one in running}
    return next(slot for slot in range(slots.processes) if slot not in taken)


def _tell(running: Iterable[_Running]) -> None:
    """Ask each process once to finish its step and end."""
    for one in running:
        if not one.was_told and one.process.pid is not None:
            one.was_told = True
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(one.process.pid, signal.SIGTERM)


def _ended(one: _Running) -> Ended:
    outcome, wall_s = read_outcome(one.job.run_dir), time.perf_counter() - one.started
    if outcome.get("state") == FINISHED:
        return Ended(job=one.job, reason="", wall_s=wall_s)
    reason = outcome.get("reason") or f"its process ended early ({describe_exit(one.process.exitcode or 0)})"
    return Ended(job=one.job, reason=str(reason), wall_s=wall_s)
