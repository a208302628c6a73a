"""The numbers of a comparison, as pure functions: arrays in, numbers out. docs/comparison.md has the formulas.

Shapes: S seeds, P problems, B resamples of a bootstrap. Sources:

    Student's t, two one-sided tests        scipy.stats; Schuirmann 1987, J. Pharmacokinet. Biopharm. 15, 657
    step-down correction for several arms   Holm 1979, Scand. J. Statist. 6, 65
    interquartile mean, P(X > Y)            Agarwal et al. 2021, arXiv 2108.13264
    percentiles widened for few units       Hesterberg 2015, Am. Statist. 69, 371
    bootstrap over seeds and problems       Owen 2007, Ann. Appl. Stat. 1, 386
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

LEVEL = 0.95
"""Of every interval."""
POWER = 0.8
"""Chance to find an effect that is there, for the number of seeds that a comparison would need."""
NUM_RESAMPLES = 5000

Name = TypeVar("Name")


@dataclass(frozen=True)
class Interval:
    """``low`` to ``high``; both nan where there is too little to tell."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether ``value`` may be the truth; an interval that is unknown holds every value."""
        return not (self.low > value or self.high < value)


UNKNOWN = Interval(math.nan, math.nan)


def mean_interval(values_S: np.ndarray, level: float = LEVEL) -> Interval:
    """Student's t interval of the mean; unknown for fewer than two values."""
    if len(values_S) < 2:
        return UNKNOWN
    half = float(stats.t.ppf((1 + level) / 2, len(values_S) - 1)) * _standard_error(values_S)
    mean = float(np.mean(values_S))
    return Interval(mean - half, mean + half)


def t_test(differences_S: np.ndarray) -> float:
    """Two-sided p of Student's t test that the mean of paired differences is 0; nan for fewer than two seeds.

    Differences that are all alike have no spread to go by: p is 1 if they are 0, else 0.
    """
    if len(differences_S) < 2:
        return math.nan
    mean, error = float(np.mean(differences_S)), _standard_error(differences_S)
    if error == 0:
        return float(mean == 0)
    return float(2 * stats.t.sf(abs(mean) / error, len(differences_S) - 1))


def equivalence_test(differences_S: np.ndarray, margin: float) -> float:
    """p of the two one-sided t tests: small where the mean difference is shown to lie within ``margin`` of 0.

    It is below 0.05 exactly where the 90 % interval of :func:`mean_interval` lies within the margin. nan for fewer
    than two seeds.
    """
    if len(differences_S) < 2:
        return math.nan
    mean, error = float(np.mean(differences_S)), _standard_error(differences_S)
    if error == 0:
        return float(abs(mean) >= margin)
    return float(stats.t.sf((margin - abs(mean)) / error, len(differences_S) - 1))


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Holm's adjusted p: the chance of one false alarm or more among all arms stays below the level.

    The k-th smallest of m is multiplied by m - k + 1, and none is below the one before it. nan stays nan and does not
    count. ``{"a": 0.01, "b": 0.04, "c": 0.03}`` becomes ``{"a": 0.03, "b": 0.06, "c": 0.06}``.
    """
    known = sorted((name for name in p_values if not math.isnan(p_values[name])), key=lambda name: p_values[name])
    adjusted, largest = dict(p_values), 0.0
    for rank, name in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p_values[name]))
        adjusted[name] = largest
    return adjusted


def seeds_needed(deviation: float, effect: float, *, power: float = POWER, level: float = LEVEL) -> int | None:
    """Paired seeds with which a two-sided t test finds a difference of ``effect`` with chance ``power``.

    ``deviation`` is the standard deviation (n - 1) of the paired differences. Exact, by the noncentral t distribution;
    None where it would take more than 10,000.
    """
    low, high = 2, 10_000
    if _power(deviation, effect, high, level) < power:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(deviation, effect, middle, level) >= power else (middle + 1, high)
    return low


def _power(deviation: float, effect: float, num_seeds: int, level: float) -> float:
    shift = abs(effect) / deviation * math.sqrt(num_seeds) if deviation else math.inf
    critical = float(stats.t.ppf((1 + level) / 2, num_seeds - 1))
    # Beyond this the chance differs from 1 by less than 1e-12, and the noncentral t of scipy has no value for it.
    if shift > critical + 30:
        return 1.0
    # The chance to find the effect with the wrong sign.
    opposite = float(stats.nct.cdf(-critical, num_seeds - 1, shift)) if shift < 5 else 0.0
    return float(stats.nct.sf(critical, num_seeds - 1, shift)) + opposite


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half along the last axis: less moved by single runs than the mean, less wasteful than the
    median. Shape [..., R] becomes [...]."""
    return np.asarray(stats.trim_mean(values, 0.25, axis=-1))


def probability_of_improvement(x_S: np.ndarray, y_S: np.ndarray) -> float:
    """P(X > Y) + P(X = Y) / 2 for a run of each, any seed against any: the Mann-Whitney statistic over its largest."""
    signs = np.sign(np.subtract.outer(np.asarray(x_S), np.asarray(y_S)))
    return float((signs.mean() + 1) / 2)


def resample(num_units: int, num_resamples: int = NUM_RESAMPLES, *, seed: int = 0) -> np.ndarray:
    """Indices of a bootstrap, int64 [B, ``num_units``]: each row draws as many units as there are, with replacement."""
    return np.random.default_rng(seed).integers(num_units, size=(num_resamples, num_units))


def percentile_interval(replicates_B: np.ndarray, num_units: int, level: float = LEVEL) -> Interval:
    """Percentiles of a bootstrap's replicates, widened for few units.

    Plain percentiles are too narrow: they lack the factor n / (n - 1) and the tails of t. Hesterberg's remedy takes the
    percentiles Phi(-+ sqrt(n / (n - 1)) t) in place of 2.5 and 97.5; for 10 units these are 0.9 and 99.1.
    """
    if num_units < 2:
        return UNKNOWN
    tail = expanded_tail(num_units, level)
    low, high = np.quantile(replicates_B, [tail, 1 - tail])
    return Interval(float(low), float(high))


def expanded_tail(num_units: int, level: float = LEVEL) -> float:
    """Share of the replicates that :func:`percentile_interval` leaves out on each side."""
    critical = stats.t.ppf((1 + level) / 2, num_units - 1)
    return float(stats.norm.cdf(-math.sqrt(num_units / (num_units - 1)) * critical))


def seed_bootstrap(differences_S: np.ndarray) -> Interval:
    """Interval of the mean paired difference by drawing seeds with replacement."""
    num = len(differences_S)
    return percentile_interval(differences_S[resample(num)].mean(axis=1), num) if num > 1 else UNKNOWN


def seed_and_problem_bootstrap(differences_SP: np.ndarray, *, shared_problems: bool, seed: int = 0) -> Interval:
    """Interval of the mean paired difference by drawing seeds and problems: it also speaks for other problems.

    ``differences_SP`` holds the difference in the share of right samples, seed by problem. With ``shared_problems``
    (the same problems at every seed) the two are drawn independently, so that a problem is in or out at all seeds;
    otherwise problems are nested: drawn anew within each drawn seed. Both count the noise of the single samples more
    than once, so that the interval is a little wide (Owen 2007).
    """
    num_seeds, num_problems = differences_SP.shape
    if num_seeds < 2:
        return UNKNOWN
    rng = np.random.default_rng(seed)
    if shared_problems:
        seeds_BS = _counts(rng, num_seeds)
        problems_BP = _counts(rng, num_problems)
        replicates = ((seeds_BS @ differences_SP) * problems_BP).sum(axis=1) / (num_seeds * num_problems)
    else:
        replicates = np.zeros(NUM_RESAMPLES)
        drawn_BS = rng.integers(num_seeds, size=(NUM_RESAMPLES, num_seeds))
        for column in drawn_BS.T:
            replicates += (_counts(rng, num_problems) * differences_SP[column]).mean(axis=1) / num_seeds
    return percentile_interval(replicates, min(num_seeds, num_problems))


def stratified_bootstrap(
    strata: Sequence[np.ndarray], statistic: Callable[[np.ndarray], np.ndarray], *, seed: int = 0
) -> Interval:
    """Interval of a statistic of pooled runs: within each stratum (a setting), runs are drawn with replacement.

    ``strata`` holds the runs of each, float64 [R]; ``statistic`` goes along the last axis of all of them together.
    """
    sizes = [len(stratum) for stratum in strata]
    if min(sizes, default=0) < 2:
        return UNKNOWN
    drawn = [stratum[resample(len(stratum), seed=seed + number)] for number, stratum in enumerate(strata)]
    return percentile_interval(statistic(np.concatenate(drawn, axis=1)), min(sizes))


def improvement_interval(x_S: np.ndarray, y_S: np.ndarray) -> Interval:
    """Interval of :func:`probability_of_improvement` for paired seeds: both arms' runs of a seed are drawn together."""
    num = len(x_S)
    if num < 2:
        return UNKNOWN
    signs = (np.sign(np.subtract.outer(x_S, y_S)) + 1) / 2
    counts_BS = _counts(np.random.default_rng(0), num)
    return percentile_interval(((counts_BS @ signs) * counts_BS).sum(axis=1) / num**2, num)


def area(x_E: np.ndarray, y_E: np.ndarray, budget: float) -> float:
    """Mean of a curve from its first point to ``budget``: the area under straight lines, over the width.

    Values beyond the last point are never made up: raises ``ValueError`` for a budget that the curve does not reach.
    """
    inside = x_E < budget
    x, y = np.append(x_E[inside], budget), np.append(y_E[inside], value_at(x_E, y_E, budget))
    width = budget - float(x_E[0])
    return float(np.trapezoid(y, x)) / width if width > 0 else float(y_E[0])


def value_at(x_E: np.ndarray, y_E: np.ndarray, budget: float) -> float:
    """The curve at ``budget``, between two points by a straight line. Raises ``ValueError`` beyond its last point."""
    if not x_E[0] <= budget <= x_E[-1]:
        raise ValueError(f"budget={budget}: the curve goes from {x_E[0]} to {x_E[-1]} only")
    return float(np.interp(budget, x_E, y_E))


def _counts(rng: np.random.Generator, num: int) -> np.ndarray:
    """How often each of ``num`` units is drawn in each resample, float64 [B, ``num``]."""
    return rng.multinomial(num, np.full(num, 1 / num), size=NUM_RESAMPLES).astype(np.float64)


def _standard_error(values_S: np.ndarray) -> float:
    error = float(np.std(values_S, ddof=1)) / math.sqrt(len(values_S))
    # Equal values differ by rounding once their mean is taken off.
    return error if error > 1e-12 * float(np.max(np.abs(values_S))) else 0.0
