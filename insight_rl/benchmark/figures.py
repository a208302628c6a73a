"""From outcomes to figures: avg@k, unbiased pass@k and bootstrap intervals.

Intervals are percentile bootstraps over problems, not over samples: the problems are a sample of those that could have
been asked, while the samples of one problem depend on each other. A mean over n problems drawn with replacement depends
only on how often each distinct value was drawn, so one multinomial draw replaces n.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from insight_rl.evaluation import pass_at_k
from insight_rl.seeding import derive_seed

NUM_RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemOutcome:
    """How the samples of one problem came out. A sample that could not be judged counts as wrong."""

    group: str
    num_samples: int
    num_correct: int
    num_unjudged: int
    num_truncated: int
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over problems and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One row of the report."""

    benchmark: str
    group: str | None
    """None: the whole benchmark."""
    num_problems: int
    num_samples: int
    accuracy: Estimate
    """avg@k: the mean over problems of the share of right samples, which is unbiased pass@1."""
    pass_at: Mapping[int, Estimate]
    """By k, the powers of two from 2 to the number of samples."""
    truncated_fraction: float
    unjudged_fraction: float
    mean_tokens: float

    @property
    def label(self) -> str:
        return self.benchmark if self.group is None else f"{self.benchmark}: {self.group}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteFigures:
    rows: tuple[Figures, ...]
    average: Estimate | None
    """Mean accuracy of the benchmarks, a benchmark with groups counted by its groups; None for a single benchmark."""


def suite_figures(outcomes: Mapping[str, Sequence[ProblemOutcome]], *, seed: int) -> SuiteFigures:
    """The figures of every benchmark, in order, and of its groups where it has several; the same for the same seed."""
    rows: list[Figures] = []
    averaged: list[tuple[float, NDArray[np.float64]]] = []
    for name, outcomes_P in outcomes.items():
        groups: defaultdict[str, list[ProblemOutcome]] = defaultdict(list)
        for outcome in outcomes_P:
            groups[outcome.group].append(outcome)
        parts: list[tuple[str | None, Sequence[ProblemOutcome]]] = [(None, outcomes_P)]
        if len(groups) > 1:
            parts += sorted(groups.items())
        for group, members in parts:
            row, draws = _figures(name, group, members, seed=seed)
            rows.append(row)
            if len(parts) == 1 or group is not None:
                averaged.append((row.accuracy.value, draws))
    average = None
    if len(outcomes) > 1:
        value = float(np.mean([accuracy for accuracy, _ in averaged]))
        average = _estimate(value, np.mean([draws for _, draws in averaged], axis=0))
    return SuiteFigures(rows=tuple(rows), average=average)


def _figures(
    benchmark: str, group: str | None, outcomes_P: Sequence[ProblemOutcome], *, seed: int
) -> tuple[Figures, NDArray[np.float64]]:
    """One row, and the bootstrap means of its accuracy."""
    num_samples = outcomes_P[0].num_samples
    total = sum(outcome.num_samples for outcome in outcomes_P)
    means: dict[int, tuple[float, NDArray[np.float64]]] = {}
    k = 1
    while k <= num_samples:
        values_P = np.array([pass_at_k(o.num_samples, o.num_correct, k) for o in outcomes_P])
        rng = np.random.default_rng(derive_seed(seed, "bootstrap", benchmark, str(group)))
        means[k] = float(values_P.mean()), bootstrap_means(values_P, rng)
        k *= 2
    row = Figures(
        benchmark=benchmark,
        group=group,
        num_problems=len(outcomes_P),
        num_samples=num_samples,
        accuracy=_estimate(*means[1]),
        pass_at={k: _estimate(*mean) for k, mean in means.items() if k > 1},
        truncated_fraction=sum(o.num_truncated for o in outcomes_P) / total,
        unjudged_fraction=sum(o.num_unjudged for o in outcomes_P) / total,
        mean_tokens=sum(o.num_tokens for o in outcomes_P) / total,
    )
    return row, means[1][1]


def bootstrap_means(values_P: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """:data:`NUM_RESAMPLES` means of as many values drawn with replacement."""
    distinct, counts = np.unique(values_P, return_counts=True)
    draws = rng.multinomial(len(values_P), counts / len(values_P), size=NUM_RESAMPLES)
    means: NDArray[np.float64] = draws @ distinct / len(values_P)
    return means


def _estimate(value: float, draws: NDArray[np.float64]) -> Estimate:
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value=value, low=float(low), high=float(high))
