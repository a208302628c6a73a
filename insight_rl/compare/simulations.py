"""``kind: simulate``: many short simulated runs, spread over worker processes that each take one after the other.

A run leaves ``curve.json``, the rows of its learning curve, in its folder; a run that has one is not run again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from insight_rl.compare.jobs import FAILED, FINISHED, OUTCOME_FILE, Ended, Job, OwnCode, end_with_parent, read_outcome
from insight_rl.errors import Interrupted, UsageError
from insight_rl.files import write_atomically
from insight_rl.stop_signals import stop_on_signals

CURVE_FILE = "curve.json"
_LOOK_S = 1.0


def simulation_overrides(job: Job) -> list[str]:
    """Those of the arm, the user's own options, and the budget. A run cannot have more steps than rollouts allow."""
    from insight_rl.simulation.settings import compose_simulation

    overrides = list(job.overrides)
    if job.own_code.config_dir is not None:
        overrides.append(f"hydra.searchpath=[file://{job.own_code.config_dir}]")
    num_steps = job.budget.size
    if job.budget.axis == "rollouts":
        config = compose_simulation(overrides)
        num_steps = -(-job.budget.size // (config.prompts_per_step * config.rollouts_per_prompt))
    return [*overrides, f"num_steps={num_steps}"]


def check_simulation(job: Job) -> dict[str, Any]:
    """The composed configuration of an arm. Raises ``UsageError`` for what could not run."""
    from dataclasses import asdict

    from insight_rl.build import build_part
    from insight_rl.simulation.settings import compose_simulation

    job.own_code.allow()
    try:
        config = compose_simulation(simulation_overrides(job))
        for key in ("synthetic_learner", "selector", "gate"):
            build_part(key, getattr(config, key))
    except UsageError as error:
        raise UsageError(f"arm {job.arm}: {error}") from None
    return asdict(config)


def simulate_job(job: Job) -> None:
    """Run, and write the rows within the budget; a failure is recorded with its reason."""
    from insight_rl.simulation.single_run import simulated_run

    job.run_dir.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    state, reason = FINISHED, ""
    try:
        rows = simulated_run(simulation_overrides(job), job.seed)
        if job.budget.axis == "rollouts":
            rows = [row for row in rows if (row["rollouts"] or 0) <= job.budget.size]
        write_atomically(job.run_dir / CURVE_FILE, json.dumps(rows))
    except Exception as error:
        state, reason = FAILED, f"{type(error).__name__}: {error}".splitlines()[0]
    wall_s = round(time.perf_counter() - started, 3)
    write_atomically(job.run_dir / OUTCOME_FILE, json.dumps({"state": state, "reason": reason, "wall_s": wall_s}))


def read_curve(run_dir: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((run_dir / CURVE_FILE).read_text(encoding="utf-8"))
    return rows


def simulate_jobs(
    jobs: Sequence[Job], processes: int, on_end: Callable[[Ended], None], say: Callable[[str], None]
) -> list[Ended]:
    """Run those of ``jobs`` that have not finished. Raises ``Interrupted`` after a stop signal."""
    waiting = [job for job in jobs if read_outcome(job.run_dir).get("state") != FINISHED]
    ended: list[Ended] = []
    if not waiting:
        return ended
    own_code = waiting[0].own_code
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with (
        stop_on_signals() as stop,
        ProcessPoolExecutor(
            min(processes, len(waiting)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_prepare,
            initargs=(own_code,),
        ) as executor,
    ):
        running: dict[Future[None], Job] = {executor.submit(simulate_job, job): job for job in waiting}
        stop.finish_first(lambda: executor.shutdown(wait=False, cancel_futures=True), say)
        while running and stop.number is None:
            for future in wait(running, timeout=_LOOK_S, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                if not future.cancelled():
                    future.result()
                    ended.append(_ended(job))
                    on_end(ended[-1])
        if stop.number is not None:
            raise Interrupted(stop.number)
    return ended


def _ended(job: Job) -> Ended:
    outcome = read_outcome(job.run_dir)
    return Ended(job=job, reason=str(outcome.get("reason") or ""), wall_s=float(outcome.get("wall_s") or 0.0))


def _prepare(own_code: OwnCode) -> None:
    # Ctrl-C reaches every process of the terminal; the runner decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    own_code.allow()
