"""How much less an arm needs to reach the baseline's accuracy, with arms that never reach it.

A single evaluation is noisy, and a noisy curve crosses any level too early: with raw curves, seed by seed, an arm that
is the baseline itself seems over 2.5 times as quick where the noise is two thirds of what is learnt. So here

    mean      the curves of all paired seeds are averaged, evaluation by evaluation, budgets as well as accuracies
    monotone  each mean curve is fitted by the non-decreasing curve nearest to it (isotonic regression, least squares)
    level     A = the mean accuracy of the baseline's last evaluation  (target "best": the highest value of its fit)
    budget    T = where that fit first reaches A, by a straight line between two evaluations
    speed-up  T of the baseline / T of the arm: both by the same rule, so that an arm like the baseline has 1

The interval draws seeds with replacement and repeats all of this. Where an arm does not reach A, its T is only known to
lie beyond the last evaluation (right-censored): the speed-up is then between 0 and T of the baseline / last budget, and
the interval's ends take these bounds. A level that is reached at once counts as reached at the first evaluation after
the start, since nothing earlier was measured.

Beside it, seed by seed: how many fits of single seeds reach A, and the median of their T by Kaplan and Meier (1958),
which counts those that do not as "later than the end" instead of leaving them out.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import optimize, stats

from insight_rl.compare.results import AXES, Axis, Curve
from insight_rl.compare.statistics import Interval, expanded_tail, resample

Target = Literal["final", "best"]
COLUMNS = ("setting", "selector", "baseline", "axis", "median", "low", "high", "seeds")
NUM_RESAMPLES = 2000
MAX_POINTS = 60
"""Longer curves are thinned to as many points before they are fitted: a fit of 60 is as good and far quicker."""


@dataclass(frozen=True, kw_only=True)
class SpeedUp:
    """Budget of the baseline / budget of the arm, on one axis."""

    selector: str
    baseline: str
    axis: Axis
    target: Target
    level: float
    """The accuracy to be reached."""
    ratio: float | None
    """None: the arm's mean curve does not reach the level."""
    bound: float
    """The ratio is below this if the level is not reached."""
    interval: Interval
    """0 at its low end: the level may never be reached."""
    budget: float | None
    """What the arm needs to reach the level; None: more than ``end``."""
    baseline_budget: float
    end: float
    """The budget at the arm's last evaluation."""
    num_seeds: int
    num_reached: int
    """Seeds whose own curve reaches the level."""
    is_never_reached: bool
    """Whether all but a tail of the resamples, as small as that outside the interval, fail to reach the level."""
    seed_median: float | None
    """Median over seeds of the budget to the level (Kaplan-Meier); None: later than the end."""

    @property
    def verdict(self) -> str:
        """``faster`` or ``slower`` only where the interval leaves out 1; ``not reached``: in no resample, either."""
        if self.num_seeds < 2:
            return "not settled"
        if self.is_never_reached:
            return "not reached"
        if self.interval.holds(1.0):
            return "not settled"
        return "faster" if self.interval.low > 1 else "slower"


@dataclass(frozen=True)
class Fits:
    """The S paired curves of one arm, thinned or stretched to the same number E of evaluations, and their fits."""

    accuracy_SE: np.ndarray
    budgets_SE: Mapping[Axis, np.ndarray]
    rows_BS: np.ndarray
    """Seeds of each draw; the first row is what was observed, the others are the bootstrap's."""
    fits_BE: np.ndarray
    """The monotone fit of the mean curve of each draw."""

    def budgets_at(self, places_B: np.ndarray, axis: Axis, drawn_BS: np.ndarray) -> np.ndarray:
        """Mean budgets at fractional numbers of the evaluation, [B]; infinite where the place is."""
        means = self.budgets_SE[axis][drawn_BS].mean(axis=1)
        is_reached = np.isfinite(places_B)
        places = np.where(is_reached, places_B, 0.0)
        before = np.minimum(places.astype(np.int64), means.shape[1] - 2)
        rows = np.arange(len(means))
        low, high = means[rows, before], means[rows, before + 1]
        return np.where(is_reached, low + (places - before) * (high - low), math.inf)


def speed_ups(
    arm: Mapping[int, Curve],
    baseline: Mapping[int, Curve],
    axes: Sequence[Axis] = AXES,
    known: MutableMapping[tuple[str, tuple[int, ...]], Fits] | None = None,
) -> list[SpeedUp]:
    """The speed-ups of an arm over the baseline, for both targets and each of ``axes``, by the seeds that both have.

    ``arm`` and ``baseline`` map seeds to curves. Empty where no seed is common or a curve is a single evaluation.
    ``known`` keeps the fits between calls, by selector and seeds: they take most of the time.
    """
    seeds = tuple(sorted(arm.keys() & baseline.keys()))
    own_curves, base_curves = [arm[seed] for seed in seeds], [baseline[seed] for seed in seeds]
    if not seeds or min(len(curve.accuracy) for curve in (*own_curves, *base_curves)) < 2:
        return []
    known = {} if known is None else known
    for curves in (own_curves, base_curves):
        if (curves[0].selector, seeds) not in known:
            known[curves[0].selector, seeds] = _fitted(curves)
    own, base = known[own_curves[0].selector, seeds], known[base_curves[0].selector, seeds]
    rows_BS, own_fits, base_fits = own.rows_BS, own.fits_BE, base.fits_BE
    levels: dict[Target, np.ndarray] = {
        "final": base.accuracy_SE[rows_BS, -1].mean(axis=1),
        "best": base_fits[:, -1],
    }
    single_fits = _monotone(own.accuracy_SE)
    found = []
    for target, level_B in levels.items():
        own_places, base_places = _first_places(own_fits, level_B), _first_places(base_fits, level_B)
        single_places = _first_places(single_fits, np.full(len(seeds), level_B[0]))
        for axis in axes:
            own_B = own.budgets_at(own_places, axis, rows_BS)
            base_B = base.budgets_at(base_places, axis, rows_BS)
            ends_B = own.budgets_SE[axis][rows_BS, -1].mean(axis=1)
            single_S = own.budgets_at(single_places, axis, np.arange(len(seeds))[:, None])
            found.append(
                SpeedUp(
                    selector=own_curves[0].selector,
                    baseline=base_curves[0].selector,
                    axis=axis,
                    target=target,
                    level=float(level_B[0]),
                    ratio=float(base_B[0] / own_B[0]) if math.isfinite(own_B[0]) else None,
                    bound=float(base_B[0] / ends_B[0]),
                    interval=_interval(base_B[1:], own_B[1:], ends_B[1:], len(seeds)),
                    budget=_finite(own_B[0]),
                    baseline_budget=float(base_B[0]),
                    end=float(ends_B[0]),
                    num_seeds=len(seeds),
                    num_reached=int(np.isfinite(single_S).sum()),
                    is_never_reached=len(seeds) > 1 and _is_never_reached(own_B, len(seeds)),
                    seed_median=kaplan_meier_median(single_S, own.budgets_SE[axis][:, -1]),
                )
            )
    return found


def kaplan_meier_median(budgets_S: np.ndarray, ends_S: np.ndarray) -> float | None:
    """Median of budgets of which some are only known to be above ``ends_S``: those are infinite in ``budgets_S``.

    None where the estimated share of those not yet there does not fall to one half.
    """
    is_censored = ~np.isfinite(budgets_S)
    if is_censored.all():
        return None
    data = stats.CensoredData.right_censored(np.where(is_censored, ends_S, budgets_S), is_censored)
    waiting = stats.ecdf(data).sf
    is_half = waiting.probabilities <= 0.5 + 1e-12
    return float(waiting.quantiles[is_half][0]) if is_half.any() else None


def speed_up_csv(rows: Sequence[tuple[str, SpeedUp]]) -> str:
    """speedup.csv of (setting, speed-up) pairs, the target ``final`` alone.

    ``median`` is the speed-up; empty, as an unknown end of the interval is, where the level is not reached.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for setting, each in rows:
        if each.target == "final":
            numbers = (_cell(each.ratio), _cell(each.interval.low), _cell(each.interval.high))
            writer.writerow((setting, each.selector, each.baseline, each.axis, *numbers, each.num_seeds))
    return text.getvalue()


def _fitted(curves: Sequence[Curve]) -> Fits:
    num = min(max(len(curve.accuracy) for curve in curves), MAX_POINTS)

    def stretch(values: np.ndarray) -> np.ndarray:
        return np.interp(np.linspace(0, len(values) - 1, num), np.arange(len(values)), values)

    rows_BS = np.concatenate([np.arange(len(curves))[None], resample(len(curves), NUM_RESAMPLES)])
    accuracy_SE = np.stack([stretch(curve.accuracy) for curve in curves])
    return Fits(
        accuracy_SE=accuracy_SE,
        budgets_SE={axis: np.stack([stretch(curve.budgets[axis]) for curve in curves]) for axis in curves[0].budgets},
        rows_BS=rows_BS,
        fits_BE=_monotone(accuracy_SE[rows_BS].mean(axis=1)),
    )


def _monotone(curves_BE: np.ndarray) -> np.ndarray:
    return np.stack([optimize.isotonic_regression(curve).x for curve in curves_BE])


def _first_places(fits_BE: np.ndarray, level_B: np.ndarray) -> np.ndarray:
    """Where non-decreasing curves first reach a level, as fractional numbers of the evaluation; infinite: nowhere.

    A level that the first evaluation has already counts as reached at the second.
    """
    is_reached = fits_BE >= level_B[:, None] - 1e-12
    after = np.maximum(is_reached.argmax(axis=1), 1)
    rows = np.arange(len(fits_BE))
    low, high = fits_BE[rows, after - 1], fits_BE[rows, after]
    share = np.divide(level_B - low, high - low, out=np.ones_like(low), where=(high > low) & (level_B > low))
    return np.where(is_reached[:, -1], after - 1 + np.minimum(share, 1.0), math.inf)


def _interval(base_B: np.ndarray, own_B: np.ndarray, ends_B: np.ndarray, num_seeds: int) -> Interval:
    if num_seeds < 2:
        return Interval(math.nan, math.nan)
    tail = expanded_tail(num_seeds)
    at_most = np.where(np.isfinite(own_B), base_B / own_B, base_B / ends_B)
    return Interval(float(np.quantile(base_B / own_B, tail)), float(np.quantile(at_most, 1 - tail)))


def _is_never_reached(own_B: np.ndarray, num_seeds: int) -> bool:
    return bool(np.isinf(own_B[0]) and np.isfinite(own_B[1:]).mean() <= expanded_tail(num_seeds))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _cell(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4f}"
