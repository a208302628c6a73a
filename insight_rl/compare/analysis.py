"""From the curves of a comparison to its verdicts: scores at equal budgets, paired differences, speed-ups.

One metric on one axis is primary, by the plan; it alone decides, with Holm's correction over the arms. Everything else
is exploratory: reported with plain intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from insight_rl.compare import statistics as st
from insight_rl.compare.results import Axis, Curve, Plan, Results
from insight_rl.compare.speedup import Fits, SpeedUp, Target, speed_ups
from insight_rl.errors import check

Metric = Literal["area", "final"]
Verdict = Literal["better", "worse", "level", "not settled"]
METRICS: tuple[Metric, ...] = ("area", "final")
ALPHA = 1 - st.LEVEL
FEW_SEEDS = 5
"""Below this number of seeds an interval says little, and the report warns."""
INSIGHT = "insight"
"""The arm with which all others are compared, too: the question of this project."""
EARLY = 0.7
"""An arm that ends before this share of the baseline's end on an axis does not shorten the others."""
TOLERANCE = 0.02
"""A run counts as whole if its last evaluation lies at this share of the budget from its end, or nearer."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """An arm less the baseline, over the seeds of both, in accuracy (0.01 is one point)."""

    selector: str
    metric: Metric
    axis: Axis
    budget: float
    """The same for all arms."""
    num_seeds: int
    score: float
    """Mean of the arm over its seeds."""
    mean: float
    deviation: float
    """Standard deviation (n - 1) of the paired differences; nan for one seed."""
    interval: st.Interval
    """Student's t."""
    bootstrap: st.Interval
    """Over seeds."""
    p: float
    p_equivalent: float
    """Of the two one-sided tests that the difference is below the smallest effect of interest."""
    improvement: float
    """P(X > Y): a run of the arm beats a run of the baseline, any seed against any."""
    improvement_interval: st.Interval
    smallest_effect: float
    p_holm: float = math.nan
    p_equivalent_holm: float = math.nan

    @property
    def is_exact(self) -> bool:
        """Whether the arm is the baseline run by run."""
        return self.num_seeds > 1 and self.deviation == 0 and self.mean == 0

    @property
    def verdict(self) -> Verdict:
        """What may be said. ``better`` and ``worse`` need Holm's p and an interval without 0 from t and bootstrap."""
        is_clear = self.p_holm < ALPHA and not self.interval.holds(0.0) and not self.bootstrap.holds(0.0)
        if is_clear:
            return "better" if self.mean > 0 else "worse"
        return "level" if self.is_within_margin else "not settled"

    @property
    def is_within_margin(self) -> bool:
        """Whether a difference beyond the smallest effect of interest is ruled out."""
        return self.p_equivalent_holm < ALPHA

    @property
    def seeds_needed(self) -> int | None:
        """Pairs with which the smallest effect of interest would be found with 80 %; None: unknown or above 10,000."""
        if math.isnan(self.deviation):
            return None
        return st.seeds_needed(self.deviation, self.smallest_effect)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm by the primary metric."""

    selector: str
    seeds: tuple[int, ...]
    scores_S: np.ndarray
    interquartile_mean: float
    interquartile_interval: st.Interval


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """All that the report shows of one comparison."""

    results: Results
    budgets: Mapping[Axis, float]
    """The largest budget that every whole run has reached, but for those of the arms in ``early``."""
    limits: Mapping[Axis, str]
    """The arm that sets it; left out where all end alike."""
    early: Mapping[Axis, Mapping[str, float]]
    """Arms that end long before the baseline on an axis, because their steps cost more on another, and where: they are
    compared there. To compare all arms there would leave nearly nothing of the others."""
    curves: Mapping[str, Mapping[int, Curve]]
    """The whole runs, by selector and seed."""
    short: Sequence[tuple[str, int, float]]
    """Runs that ended early: selector, seed, share of the budget. They are in no number."""
    arms: Sequence[Arm]
    differences: Mapping[tuple[Metric, Axis], Sequence[Difference]]
    problem_intervals: Mapping[str, tuple[float, st.Interval, bool]]
    """By selector, accuracy at the last evaluation: mean difference, its interval over seeds and problems, and whether
    the problems are the same at every seed."""
    speed_ups: Sequence[SpeedUp]
    """Over the baseline, and over INSIGHT where it is another arm."""
    against_insight: Sequence[Difference]
    """By the primary metric, exploratory; empty where no arm is called insight, or it is the baseline."""

    @property
    def primary(self) -> Sequence[Difference]:
        """The differences that decide, in the plan's order."""
        plan = self.results.plan
        return self.differences[plan.metric, plan.axis]

    @property
    def num_seeds(self) -> int:
        """Of the arm that has the fewest."""
        return min(len(runs) for runs in self.curves.values())

    def speed_up(
        self, selector: str, axis: Axis, target: Target = "final", *, over: str | None = None
    ) -> SpeedUp | None:
        """The speed-up over the baseline, or over another arm; None where there is none."""
        wanted = (selector, over or self.results.plan.baseline, axis, target)
        return next((s for s in self.speed_ups if (s.selector, s.baseline, s.axis, s.target) == wanted), None)


def analyse(results: Results) -> Analysis:
    """Compute everything. Raises ``UsageError`` if there is no whole pair of runs, or no figure for a planned axis."""
    plan = results.plan
    for key, axis in {"primary.axis": plan.axis, "budget.axis": plan.budget_axis}.items():
        check(axis in results.axes, key, axis, f"was not measured; there are {', '.join(results.axes)}")
    curves, short = _whole_runs(results)
    check(
        plan.baseline in curves,
        "baseline",
        plan.baseline,
        f"has no run in {results.folder} that went through its budget; finish the comparison first",
    )
    pairs = [
        name for name, runs in curves.items() if name != plan.baseline and runs.keys() & curves[plan.baseline].keys()
    ]
    check(
        bool(pairs),
        "report",
        str(results.folder),
        f"no other arm has a whole run at a seed of {plan.baseline} yet; finish the comparison first",
    )
    budgets, limits, early = _common_budgets(results, curves)
    references = [plan.baseline, *([INSIGHT] if INSIGHT in curves and plan.baseline != INSIGHT else [])]
    known: dict[tuple[str, tuple[int, ...]], Fits] = {}
    return Analysis(
        results=results,
        budgets=budgets,
        limits=limits,
        early=early,
        curves=curves,
        short=short,
        arms=[
            _arm(name, scores_of(runs, plan.metric, plan.axis, early[plan.axis].get(name, budgets[plan.axis])))
            for name, runs in curves.items()
        ],
        differences={
            (metric, axis): _differences(
                curves, plan.baseline, metric, axis, ends=_ends(curves, budgets[axis], early[axis]), plan=plan
            )
            for metric in METRICS
            for axis in results.axes
        },
        problem_intervals=_problem_intervals(results, curves),
        speed_ups=[
            each
            for reference in references
            for name, runs in curves.items()
            if name != reference
            for each in speed_ups(runs, curves[reference], results.axes, known)
        ],
        against_insight=[
            each
            for reference in references[1:]
            for each in _differences(
                curves,
                reference,
                plan.metric,
                plan.axis,
                ends=_ends(curves, budgets[plan.axis], early[plan.axis]),
                plan=plan,
            )
        ],
    )


def _differences(
    curves: Mapping[str, Mapping[int, Curve]],
    reference: str,
    metric: Metric,
    axis: Axis,
    *,
    ends: Mapping[str, float],
    plan: Plan,
) -> Sequence[Difference]:
    found = []
    for name, runs in curves.items():
        if name != reference and runs.keys() & curves[reference].keys():
            budget = min(ends[name], ends[reference])
            own, base = (scores_of(each, metric, axis, budget) for each in (runs, curves[reference]))
            found.append(difference(name, own, base, metric, axis, budget, plan.smallest_effect))
    different = st.holm({each.selector: each.p for each in found})
    equivalent = st.holm({each.selector: each.p_equivalent for each in found})
    return [
        replace(each, p_holm=different[each.selector], p_equivalent_holm=equivalent[each.selector]) for each in found
    ]


def _ends(curves: Iterable[str], budget: float, early: Mapping[str, float]) -> dict[str, float]:
    return {name: early.get(name, budget) for name in curves}


def scores_of(runs: Mapping[int, Curve], metric: Metric, axis: Axis, budget: float) -> dict[int, float]:
    """By seed: the accuracy at ``budget`` of an axis (``final``), or its mean from the start until there (``area``)."""
    score = st.area if metric == "area" else st.value_at
    return {seed: score(run.budgets[axis], run.accuracy, budget) for seed, run in runs.items()}


def difference(
    selector: str,
    arm: Mapping[int, float],
    baseline: Mapping[int, float],
    metric: Metric,
    axis: Axis,
    budget: float,
    smallest_effect: float,
) -> Difference:
    """Compare an arm's scores with the baseline's, seed by seed. Needs one common seed at least."""
    seeds = sorted(arm.keys() & baseline.keys())
    own_S, base_S = np.array([arm[seed] for seed in seeds]), np.array([baseline[seed] for seed in seeds])
    paired_S = own_S - base_S
    return Difference(
        selector=selector,
        metric=metric,
        axis=axis,
        budget=budget,
        num_seeds=len(seeds),
        score=float(own_S.mean()),
        mean=float(paired_S.mean()),
        deviation=float(np.std(paired_S, ddof=1)) if len(seeds) > 1 else math.nan,
        interval=st.mean_interval(paired_S),
        bootstrap=st.seed_bootstrap(paired_S),
        p=st.t_test(paired_S),
        p_equivalent=st.equivalence_test(paired_S, smallest_effect),
        improvement=st.probability_of_improvement(own_S, base_S),
        improvement_interval=st.improvement_interval(own_S, base_S),
        smallest_effect=smallest_effect,
    )


def _whole_runs(results: Results) -> tuple[dict[str, dict[int, Curve]], list[tuple[str, int, float]]]:
    plan = results.plan
    curves: dict[str, dict[int, Curve]] = {}
    short = []
    for name in results.selectors:
        for seed, curve in results.of(name).items():
            run = f"{name}_seed{seed}"
            if run in plan.exclusions or run in results.failed:
                continue
            share = curve.end(plan.budget_axis) / plan.budget_size
            if share < 1 - TOLERANCE:
                short.append((name, seed, share))
            else:
                curves.setdefault(name, {})[seed] = curve
    return curves, short


def _common_budgets(
    results: Results, curves: Mapping[str, Mapping[int, Curve]]
) -> tuple[dict[Axis, float], dict[Axis, str], dict[Axis, dict[str, float]]]:
    budgets: dict[Axis, float] = {}
    limits: dict[Axis, str] = {}
    early: dict[Axis, dict[str, float]] = {}
    for axis in results.axes:
        ends = {name: min(run.end(axis) for run in runs.values()) for name, runs in curves.items()}
        least = EARLY * ends[results.plan.baseline]
        early[axis] = {name: end for name, end in ends.items() if end < least}
        near = {name: end for name, end in ends.items() if name not in early[axis]}
        budgets[axis] = min(near.values())
        if max(near.values()) > (1 + TOLERANCE) * budgets[axis]:
            limits[axis] = min(near, key=lambda name: near[name])
    axis = results.plan.budget_axis
    budgets[axis] = min(budgets[axis], results.plan.budget_size)
    return budgets, limits, early


def _arm(name: str, scores: Mapping[int, float]) -> Arm:
    values = np.array(list(scores.values()))
    return Arm(
        selector=name,
        seeds=tuple(scores),
        scores_S=values,
        interquartile_mean=float(st.interquartile_mean(values)),
        interquartile_interval=st.stratified_bootstrap([values], st.interquartile_mean),
    )


def _problem_intervals(
    results: Results, curves: Mapping[str, Mapping[int, Curve]]
) -> dict[str, tuple[float, st.Interval, bool]]:
    found = {}
    baseline = results.plan.baseline
    for name, runs in curves.items():
        pairs = [
            (results.problems[name, seed], results.problems[baseline, seed])
            for seed in runs
            if seed in curves[baseline] and {(name, seed), (baseline, seed)} <= results.problems.keys()
        ]
        if name == baseline or not pairs or any(own.keys() != base.keys() for own, base in pairs):
            continue
        sizes = {len(own) for own, _ in pairs}
        if len(sizes) > 1:
            continue
        names = [sorted(own) for own, _ in pairs]
        shared = all(each == names[0] for each in names)
        paired_SP = np.array(
            [[own[key] - base[key] for key in keys] for keys, (own, base) in zip(names, pairs, strict=True)]
        )
        interval = st.seed_and_problem_bootstrap(paired_SP, shared_problems=shared)
        found[name] = (float(paired_SP.mean()), interval, shared)
    return found
