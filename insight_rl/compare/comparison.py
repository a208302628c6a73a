"""A comparison from its plan to its tables: check, record, tune, run, check again, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from insight_rl.compare.jobs import FINISHED, Ended, Job, OwnCode, read_outcome
from insight_rl.compare.pairing import check_identities, check_pairs, check_simulated_pairs, read_arms, write_arms
from insight_rl.compare.plan import Plan, run_name
from insight_rl.compare.plan_record import check_hash, read_plan, read_status, record_plan, write_status
from insight_rl.compare.report import analyse_folders, headline, write_report
from insight_rl.compare.runner import Slots, check_jobs, find_slots, run_jobs
from insight_rl.compare.simulations import check_simulation, read_curve, simulate_jobs
from insight_rl.compare.tables import FinishedRun, Row, curve_rows, primary_value, write_csv, write_tables
from insight_rl.compare.tuning import COLUMNS, Trial, choose, tuning_rows
from insight_rl.errors import Interrupted, RunStopped
from insight_rl.files import lock_folder
from insight_rl.monitor.records import METRICS_FILE, read_records
from insight_rl.nested import flatten

RUNS, TUNING, STARTS = "runs", "tuning", "starts"
TUNING_FILE = "tuning.csv"


@dataclass
class Comparison:
    """One plan in one folder. Example: ``Comparison(plan, Path("runs/compare_a"), say=print).run()``."""

    plan: Plan
    folder: Path
    say: Callable[[str], None]
    own_code: OwnCode = field(default_factory=OwnCode)

    def run(self) -> list[Path]:
        """Run what has not been run, and write the tables and the report; returns the files.

        Raises ``UsageError`` before the first run for a plan that cannot be run, or is not the one that was begun here;
        ``Interrupted`` when a signal has stopped it, once all runs have stopped.
        """
        lock = lock_folder(
            self.folder,
            key="output_dir",
            occupied="another comparison is running in it now; wait for it or take another folder",
            remedy="choose another folder with output_dir=...",
        )
        with lock:
            self.check_and_record()
            try:
                chosen = self.tune()
                self.run_arms(chosen)
            except Interrupted:
                self.say(f"stopped; the same command with output_dir={self.folder} goes on from there")
                raise
            return finish(self.folder, self.say)

    @property
    def is_simulated(self) -> bool:
        return self.plan.kind == "simulate"

    def check_and_record(self) -> None:
        """Everything that can be wrong is found here; only then is the plan written, before the first run."""
        for notice in self.plan.notices():
            self.say(f"warning: {notice}")
        self.slots: Slots = find_slots(self.plan.processes, use_gpus=not self.is_simulated)
        first = self.plan.seeds.first
        jobs = [self._job(arm, first, ()) for arm in self.plan.arms]
        if self.is_simulated:
            configs = {job.arm: flatten(check_simulation(job)) for job in jobs}
        else:
            checked = check_jobs(jobs, self.slots.processes)
            check_identities({job.arm: run.identity for job, run in zip(jobs, checked, strict=True)})
            configs = {job.arm: run.config for job, run in zip(jobs, checked, strict=True)}
        for change in record_plan(self.plan, self.folder):
            self.say(f"changed since the first run: {change}")
        write_arms(self.folder, configs)

    def tune(self) -> dict[str, Any]:
        """The tuned value of each arm; empty where nothing is tuned. Writes ``tuning.csv``."""
        tuning = self.plan.tuning
        if tuning is None:
            return {}
        jobs = {
            (arm, index, seed): self._job(
                arm, seed, (f"{tuning.key}={value}",), folder=TUNING, name=f"{arm}_value{index}_seed{seed}"
            )
            for seed in tuning.seeds
            for index, value in enumerate(tuning.values)
            for arm in self.plan.arms
        }
        self._run(list(jobs.values()), "tuning")
        trials = [
            Trial(arm=arm, value=tuning.values[index], seed=seed, result=self._result(job))
            for (arm, index, seed), job in sorted(jobs.items())
        ]
        try:
            chosen = choose(trials, tuning)
        except ValueError as error:
            raise RunStopped(
                f"arm {error}: every value of {tuning.key} had a trial that failed; see {self.folder / TUNING}"
            ) from None
        metric = f"{self.plan.primary.metric} by {self.plan.primary.axis}"
        rows = tuning_rows(trials, chosen, setting=self.plan.setting, key=tuning.key, metric=metric)
        write_csv(self.folder / TUNING_FILE, COLUMNS, rows)
        self.say(f"{tuning.key}: " + ", ".join(f"{arm} {value}" for arm, value in chosen.items()))
        return chosen

    def run_arms(self, chosen: dict[str, Any]) -> None:
        """Seed by seed, every arm of it, so that a comparison that is cut short is balanced."""
        tuning = self.plan.tuning
        jobs = [
            self._job(arm, seed, (f"{tuning.key}={chosen[arm]}",) if tuning is not None else ())
            for seed in self.plan.seeds.all
            for arm in self.plan.arms
        ]
        if tuning is not None:
            arms = read_arms(self.folder)
            write_arms(self.folder, {arm: {**arms[arm], tuning.key: chosen[arm]} for arm in arms})
        failed = {ended.job.name: ended.reason for ended in self._run(jobs, "runs") if ended.reason}
        write_status(self.folder, {**read_status(self.folder), "failed": failed})

    def _run(self, jobs: Sequence[Job], what: str) -> list[Ended]:
        todo = [job for job in jobs if read_outcome(job.run_dir).get("state") != FINISHED]
        done = len(jobs) - len(todo)
        begun = time.monotonic()
        self.say(
            f"{len(jobs)} {what}, {done} of them finished before; {self.slots.processes} at a time, in {self.folder}"
        )

        def tell(ended: Ended) -> None:
            nonlocal done
            done += 1
            so_far = done - (len(jobs) - len(todo))
            left_s = (time.monotonic() - begun) / so_far * (len(todo) - so_far)
            self.say(
                f"[{done:{len(str(len(jobs)))}}/{len(jobs)}] {ended.job.name}: {self._accuracy(ended)}, "
                f"{_duration(ended.wall_s)}; {_duration(left_s)} left"
            )

        if self.is_simulated:
            return simulate_jobs(todo, self.slots.processes, tell, self.say)
        return run_jobs(todo, self.slots, tell, self.say)

    def _job(self, arm: str, seed: int, more: Sequence[str], *, folder: str = RUNS, name: str | None = None) -> Job:
        name = name or run_name(arm, seed)
        return Job(
            name=name,
            arm=arm,
            seed=seed,
            overrides=(*self.plan.base, *self.plan.overrides[arm], *more),
            budget=self.plan.budget,
            run_dir=self.folder / folder / name,
            starts=self.folder / STARTS,
            own_code=self.own_code,
            keep_models=self.plan.keep_models,
        )

    def _rows(self, job: Job) -> list[Row]:
        if self.is_simulated:
            return read_curve(job.run_dir)
        return curve_rows(read_records(job.run_dir / METRICS_FILE), setting="", arm=job.arm, seed=job.seed)

    def _result(self, job: Job) -> float | None:
        if read_outcome(job.run_dir).get("state") != FINISHED:
            return None
        return primary_value(self._rows(job), metric=self.plan.primary.metric, axis=self.plan.primary.axis)

    def _accuracy(self, ended: Ended) -> str:
        if ended.reason:
            return f"failed: {ended.reason}"
        rows = self._rows(ended.job)
        return f"accuracy {rows[-1]['accuracy']:.4f}" if rows else "no accuracy measured"


def finish(folder: Path, say: Callable[[str], None]) -> list[Path]:
    """The tables and the report of the runs that have finished; returns their files.

    Raises ``UsageError`` where the plan was edited or the runs do not match: then there is no report.
    """
    plan = read_plan(folder)
    check_hash(folder)
    runs = finished_runs(plan, folder)
    missing = plan.seeds.number * len(plan.arms) - len(runs) - len(plan.exclusions)
    status = read_status(folder)
    for name, reason in status["failed"].items():
        say(f"{name} failed and is left out: {reason}")
    if missing > len(status["failed"]):
        say(f"{missing - len(status['failed'])} runs of the plan have not been run yet")
    if plan.kind == "simulate":
        check_simulated_pairs(runs)
    else:
        check_pairs(runs, read_arms(folder))
    write_status(folder, {**status, "plan_intact": True})
    files = write_tables(runs, setting=plan.setting, folder=folder)
    analyses = analyse_folders([folder])
    files += write_report(analyses)
    say(headline(analyses))
    return files


def finished_runs(plan: Plan, folder: Path) -> list[FinishedRun]:
    """Those of the plan that have finished and are not excluded, seed by seed."""
    found = []
    for seed in plan.seeds.all:
        for arm in plan.arms:
            name = run_name(arm, seed)
            run_dir = folder / RUNS / name
            if name not in plan.exclusions and read_outcome(run_dir).get("state") == FINISHED:
                found.append(FinishedRun(arm=arm, seed=seed, run_dir=run_dir))
    return found


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
