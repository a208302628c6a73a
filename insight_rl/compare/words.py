"""What a comparison found, in sentences. ``better`` is said only where :class:`Difference` says so."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from insight_rl.compare.analysis import FEW_SEEDS, Analysis, Difference
from insight_rl.compare.results import Axis
from insight_rl.compare.speedup import SpeedUp
from insight_rl.compare.statistics import Interval, mean_interval

UNITS = {"steps": "training steps", "rollouts": "rollouts", "tokens": "generated tokens", "seconds": "device seconds"}


def points(value: float, *, signed: bool = True) -> str:
    """Accuracy in points (hundredths): ``+1.24``; ``?`` for what is unknown."""
    if math.isnan(value):
        return "?"
    return f"{100 * value:+.2f}" if signed else f"{100 * value:.2f}"


def point_interval(interval: Interval, *, signed: bool = True) -> str:
    return f"{points(interval.low, signed=signed)} to {points(interval.high, signed=signed)}"


def count(value: float) -> str:
    """``850``, ``12.3k``, ``4.5M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (size if letter != 'k' else 1e3):.4g}{letter}"
    return f"{value:.4g}"


def p_value(value: float) -> str:
    if math.isnan(value):
        return "?"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def budget_name(axis: Axis, budget: float) -> str:
    return f"{count(budget)} {UNITS[axis]}"


def margin_name(smallest_effect: float) -> str:
    """``1 point``, ``0.5 points``."""
    text = f"{100 * smallest_effect:g}"
    return f"{text} point{'' if text == '1' else 's'}"


def metric_meaning(metric: str, axis: Axis, budget: float) -> str:
    """What the score of a run is."""
    if metric == "area":
        return f"the mean accuracy of a run from its start to {budget_name(axis, budget)} (area under its curve)"
    return f"the accuracy of a run at {budget_name(axis, budget)}"


def verdict_in_words(each: Difference) -> str:
    """One cell: ``better``, ``level within 1 point``, ``not settled: 34 seeds needed``."""
    margin = margin_name(each.smallest_effect)
    if each.verdict in ("better", "worse"):
        return f"{each.verdict}, by less than {margin}" if each.is_within_margin else each.verdict
    if each.verdict == "level":
        return f"level within {margin}"
    return f"not settled: {_seeds_in_words(each)}"


def _seeds_in_words(each: Difference) -> str:
    if math.isnan(each.deviation):
        return "one seed"
    needed = each.seeds_needed
    if needed is None:
        return "more than 10,000 seeds needed"
    # A comparison may have the seeds for a difference of this size and still meet one that lies between.
    return f"{needed} seeds needed" if needed > each.num_seeds else "near the smallest effect"


def seed_range(analysis: Analysis) -> str:
    """``10 seeds``, or ``9 to 10 seeds`` where some arms have fewer."""
    numbers = sorted({len(runs) for runs in analysis.curves.values()})
    number = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    return f"{number} seed{'' if numbers == [1] else 's'}"


def answer(analysis: Analysis) -> str:
    """The result of the primary metric in a few short sentences."""
    plan, found = analysis.results.plan, sorted(analysis.primary, key=lambda each: -each.mean)
    better, worse, level, open_ = (
        [each for each in found if each.verdict == verdict] for verdict in ("better", "worse", "level", "not settled")
    )
    sentences = [_about_better(better, len(found), plan.baseline)]
    if worse:
        # The worst first.
        sentences.append(f"Worse: {_listed([f'{each.selector} ({points(each.mean)})' for each in worse[::-1]])}.")
    if level:
        sentences.append(f"Level with {plan.baseline} within {margin_name(plan.smallest_effect)}: {_names(level)}.")
    if open_:
        sentences.append(f"Not settled by {seed_range(analysis)}: {_names(open_)}.")
    return " ".join(sentences)


def _about_better(better: Sequence[Difference], num_arms: int, baseline: str) -> str:
    if not better:
        return f"No arm is shown to be better than {baseline}."
    best = f"{better[0].selector} ({points(better[0].mean)} points, 95 % interval {point_interval(better[0].interval)})"
    others = [f"{each.selector} ({points(each.mean)})" for each in better[1:]]
    if not others:
        return f"Better than {baseline}: {best}, alone of {num_arms}."
    return f"Better than {baseline}: {_listed([best, *others])}, {len(better)} of {num_arms}."


def warnings(analysis: Analysis) -> list[str]:
    """What limits the conclusions, a sentence or two each."""
    results, plan = analysis.results, analysis.results.plan
    found = []
    if not plan.matches_hash:
        found.append(
            "Exploratory: plan.yaml does not have the hash that was recorded before the first run. The plan may have "
            "been changed after results were seen, so nothing on this page confirms anything."
        )
    found += [f"Not as planned at first: {change}." for change in results.changes]
    if analysis.num_seeds < FEW_SEEDS:
        found.append(
            f"Only {seed_range(analysis)}. With fewer than "
            f"{FEW_SEEDS} seeds intervals are wide and chance finds are common: read this as a first look."
        )
    lost = missing_runs(analysis)
    if lost:
        found.append(f"{len(lost)} of {len(plan.arms) * len(plan.seeds)} planned runs are in no number: see Runs.")
    found += [
        f"{name} ends at {budget_name(plan.axis, end)}, long before the others, and is compared with {plan.baseline} "
        "there; its score stands beside those of longer runs."
        for name, end in analysis.early[plan.axis].items()
    ]
    if (rise := baseline_rise(analysis)) is not None and rise.low <= 0:
        found.append(
            f"{plan.baseline} did not clearly rise above its start (from {point_interval(rise)} points): how much "
            "less an arm needs to reach its accuracy means little here."
        )
    return found


def baseline_rise(analysis: Analysis) -> Interval | None:
    """Interval of the baseline's last accuracy less its first; None for one seed."""
    runs = analysis.curves[analysis.results.plan.baseline].values()
    rises = np.array([run.accuracy[-1] - run.accuracy[0] for run in runs])
    return mean_interval(rises) if len(rises) > 1 else None


def missing_runs(analysis: Analysis) -> dict[str, str]:
    """Planned runs that are in no number, and why."""
    results, plan = analysis.results, analysis.results.plan
    short = {f"{name}_seed{seed}": share for name, seed, share in analysis.short}
    found = {}
    for seed in plan.seeds:
        for arm in plan.arms:
            run = f"{arm}_seed{seed}"
            if run in plan.exclusions:
                found[run] = f"excluded by the plan: {plan.exclusions[run]}"
            elif run in results.failed:
                found[run] = f"failed: {results.failed[run]}"
            elif run in short:
                found[run] = f"ended at {short[run]:.0%} of its budget"
            elif seed not in analysis.curves.get(arm, {}):
                found[run] = "not run, or not finished"
    return found


def speed_in_words(each: SpeedUp) -> str:
    """``2.31x (1.90 to 2.80)``, or that the level was not reached."""
    if each.ratio is None:
        return f"not reached (below {each.bound:.2f}x)"
    if math.isnan(each.interval.low):
        return f"{each.ratio:.2f}x (one seed)"
    return f"{each.ratio:.2f}x ({each.interval.low:.2f} to {each.interval.high:.2f})"


def _names(found: Sequence[Difference]) -> str:
    return _listed([each.selector for each in found])


def _listed(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
