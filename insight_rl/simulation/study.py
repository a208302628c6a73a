"""Selectors side by side: each of them on the same synthetic learners, over several seeds, in several processes."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from insight_rl.allowed_code import allowed
from insight_rl.build import build_part
from insight_rl.gate.admit_all import AdmitAll
from insight_rl.seeding import derive_seed
from insight_rl.simulation.experiment import CURVES, SimulatedLearner, SimulatedSelector, Size, run
from insight_rl.simulation.oracle import OracleSelector
from insight_rl.simulation.settings import SimulationConfig, Variant

ORACLE = "oracle"
BASELINE = "random"
"""Selector that others are compared with, where it is among them."""


@dataclass(frozen=True, kw_only=True)
class MeanOverSeeds:
    """A mean and half the width of its 95 % interval by Student's t, for few values: one a seed, or one a step."""

    mean: float
    half_width: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.half_width:.4f}"


@dataclass(frozen=True, kw_only=True)
class Job:
    """The runs of one selector for some of the seeds; ``variant`` None is the oracle."""

    variant: Variant | None
    synthetic_learner: dict[str, Any]
    size: Size
    seeds: tuple[int, ...]


class Study:
    """The curves of all runs: ``curves[label]`` has shape ``(num_seeds, len(CURVES), num_steps)``."""

    def __init__(self, curves: dict[str, np.ndarray]) -> None:
        self.curves = curves

    @property
    def labels(self) -> list[str]:
        return list(self.curves)

    def curve(self, label: str, name: str) -> np.ndarray:
        """One curve of every seed: ``(num_seeds, num_steps)``."""
        values: np.ndarray = self.curves[label][:, CURVES.index(name)]
        return values

    def figures(self, label: str) -> dict[str, np.ndarray]:
        """What each seed's run comes down to, ``(num_seeds,)`` each."""
        num_groups = self.curve(label, "num_groups")
        total = num_groups.sum(axis=1)

        def per_group(name: str) -> np.ndarray:
            share: np.ndarray = (self.curve(label, name) * num_groups).sum(axis=1) / total
            return share

        return {
            "mean_success_at_end": self.curve(label, "mean_success")[:, -1],
            "area_under_curve": self.curve(label, "mean_success").mean(axis=1),
            "informative_fraction": per_group("informative_fraction"),
            "regret": per_group("regret"),
            "hopeless_fraction": per_group("hopeless_fraction"),
            "num_groups": total,
        }

    def difference(self, label: str, other: str, figure: str = "mean_success_at_end") -> MeanOverSeeds:
        """``label`` less ``other``, pool by pool: both met the same ones, so what the pools differ in drops out."""
        return estimate(self.figures(label)[figure] - self.figures(other)[figure])


def estimate(values: np.ndarray) -> MeanOverSeeds:
    """Mean and 95 % interval of one number a seed."""
    return MeanOverSeeds(mean=float(np.mean(values)), half_width=float(half_width(values)))


def half_width(values: np.ndarray) -> np.ndarray:
    """Half the width of the 95 % interval of the mean over the first axis (seeds), by Student's t."""
    num = len(values)
    width: np.ndarray = stdtrit(num - 1, 0.975) * np.std(values, axis=0, ddof=1) / math.sqrt(num)
    return width


def run_study(
    config: SimulationConfig, variants: Sequence[Variant], *, on_progress: Callable[[int, int], None] = lambda *_: None
) -> Study:
    """Run every variant and the oracle on ``config.num_seeds`` pools.

    ``on_progress`` is called with the number of jobs done and of all jobs.

    The result depends on the configuration only, not on the number of processes.
    """
    chunk = max(1, config.num_seeds // 4)
    seeds = [tuple(range(first, min(first + chunk, config.num_seeds))) for first in range(0, config.num_seeds, chunk)]
    jobs = [
        Job(
            variant=variant,
            synthetic_learner=config.synthetic_learner,
            size=config.size,
            seeds=tuple(derive_seed(config.seed, "simulation", seed) for seed in some),
        )
        for variant in (*variants, None)
        for some in seeds
    ]
    parts: dict[str, list[np.ndarray]] = {}
    for number, (job, curves) in enumerate(zip(jobs, _results(jobs, config.processes), strict=True), start=1):
        parts.setdefault(job.variant.label if job.variant else ORACLE, []).append(curves)
        on_progress(number, len(jobs))
    return Study({label: np.concatenate(some) for label, some in parts.items()})


def _results(jobs: Sequence[Job], num_processes: int) -> Iterator[np.ndarray]:
    if num_processes == 1:
        yield from map(run_job, jobs)
        return
    # Not fork: the parent may hold threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(num_processes, len(jobs)),
        mp_context=context,
        initializer=allowed.allow,
        initargs=(allowed.packages, allowed.folders),
    ) as executor:
        yield from executor.map(run_job, jobs)


def run_job(job: Job) -> np.ndarray:
    """Curves of one job: ``(num_seeds, len(CURVES), num_steps)``."""
    return np.stack([_run_one(job, seed) for seed in job.seeds])


def _run_one(job: Job, seed: int) -> np.ndarray:
    learner: SimulatedLearner = build_part("synthetic_learner", job.synthetic_learner)
    learner.open(num_prompts=job.size.num_prompts, seed=derive_seed(seed, "pool"))
    selector: SimulatedSelector = OracleSelector(learner)
    gate = AdmitAll()
    if job.variant is not None:
        selector = build_part("selector", job.variant.selector)
        gate = build_part("gate", job.variant.gate)
    return run(selector, gate, learner, size=job.size, seed=seed)
