"""The page of a comparison, section by section, as blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from insight_rl.compare import words
from insight_rl.compare.analysis import INSIGHT, METRICS, Analysis, Difference, scores_of
from insight_rl.compare.statistics import interquartile_mean, mean_interval, stratified_bootstrap
from insight_rl.report.blocks import Block, Bullets, Code, Heading, Picture, Table, Text, Warning


@dataclass(frozen=True)
class Pictures:
    """Those of one setting."""

    curves: Picture
    arms: Picture
    speed_ups: Picture
    rollouts: Picture


def front(analyses: Sequence[Analysis], differences: Picture) -> list[Block]:
    """The first screen: the question, what was compared, the answer, the main picture."""
    plans = [analysis.results.plan for analysis in analyses]
    names = ", ".join(plan.setting for plan in plans)
    baselines = list(dict.fromkeys(plan.baseline for plan in plans))
    mark = "" if all(plan.matches_hash for plan in plans) else "Exploratory: "
    title = f"{mark}Which arm learns more than {' or '.join(baselines)}? Setting{'s' if len(plans) > 1 else ''} {names}"
    blocks: list[Block] = [Heading(1, title)]
    for description, settings in _descriptions(analyses).items():
        which = f"Setting{'s' if len(settings) > 1 else ''} {', '.join(settings)}: " if len(plans) > 1 else ""
        blocks.append(Text(which + description))
    cautions: list[Block] = []
    for analysis in analyses:
        before = f"Setting {analysis.results.plan.setting}: " if len(analyses) > 1 else ""
        blocks.append(Text(before + words.answer(analysis), is_lead=True))
        cautions += [Warning(before + text) for text in words.warnings(analysis)]
    # Of one comparison they are few, and stand before the picture.
    blocks += [*cautions, differences] if len(analyses) == 1 else [differences, *cautions]
    blocks += _how_to_read(plans[0].smallest_effect)
    if len(analyses) > 1:
        blocks += _overview(analyses)
    return blocks


def _descriptions(analyses: Sequence[Analysis]) -> dict[str, list[str]]:
    """What was compared, and the settings of which it is true."""
    found: dict[str, list[str]] = {}
    for analysis in analyses:
        plan = analysis.results.plan
        what, same = "training runs", "start from the same model and see the same pool and the same evaluation problems"
        if plan.kind == "simulate":
            what, same = "simulated runs", "meet the same simulated pool; accuracy is its mean success rate"
        meaning = words.metric_meaning(plan.metric, plan.axis, analysis.budgets[plan.axis])
        text = (
            f"{len(analysis.curves)} arms, {words.seed_range(analysis)} each, {what} of "
            f"{words.budget_name(plan.budget_axis, plan.budget_size)}. At each seed all arms {same}. "
            f"The score is {meaning}, so arms are compared at equal {plan.axis}."
        )
        found.setdefault(text, []).append(plan.setting)
    return found


def _how_to_read(smallest_effect: float) -> list[Block]:
    return [
        Bullets(
            [
                "better, worse: the difference holds up against chance, with all arms counted (Holm's correction). It "
                "is never said of an interval that holds 0.",
                f"level: a difference beyond {words.margin_name(smallest_effect)}, the smallest that the plan calls of "
                "interest, is ruled out. This is a result, not a lack of one.",
                "not settled: neither of these. The table says how many seeds would settle it.",
            ]
        )
    ]


def _overview(analyses: Sequence[Analysis]) -> list[Block]:
    """Settings side by side."""
    found = [{each.selector: each for each in analysis.primary} for analysis in analyses]
    names = list(dict.fromkeys(name for each in found for name in each))
    rows: list[tuple[float, Sequence[str]]] = []
    for name in names:
        cells = [
            f"{words.points(each[name].mean)}, {each[name].verdict}" if name in each else "not in it" for each in found
        ]
        strata = [_paired(analysis, each[name]) for analysis, each in zip(analyses, found, strict=True) if name in each]
        pooled = float(interquartile_mean(np.concatenate(strata)))
        interval = stratified_bootstrap(strata, interquartile_mean)
        rows.append((pooled, (name, *cells, f"{words.points(pooled)} ({words.point_interval(interval)})")))
    columns = [
        ("arm", ""),
        *(
            (
                f"setting {analysis.results.plan.setting}",
                f"points above {analysis.results.plan.baseline}, and the verdict",
            )
            for analysis in analyses
        ),
        (
            "all settings",
            "interquartile mean of the paired differences of all settings, with its 95 % interval (runs drawn within "
            "each setting); exploratory, since settings differ in how much can be learnt",
        ),
    ]
    return [Heading(2, "All settings"), Table(columns, [row for _, row in sorted(rows, reverse=True)])]


def _paired(analysis: Analysis, each: Difference) -> np.ndarray:
    own, base = (
        scores_of(analysis.curves[name], each.metric, each.axis, each.budget)
        for name in (each.selector, analysis.results.plan.baseline)
    )
    return np.array([own[seed] - base[seed] for seed in sorted(own.keys() & base.keys())])


def setting_section(analysis: Analysis, pictures: Pictures, *, is_only: bool) -> list[Block]:
    """Everything about one setting."""
    plan = analysis.results.plan

    def heading(text: str) -> Heading:
        return Heading(2, text[0].upper() + text[1:] if is_only else f"Setting {plan.setting}: {text}")

    return [
        heading(f"who is ahead, by {plan.metric} at equal {plan.axis}"),
        *_primary(analysis),
        heading("accuracy along the run"),
        pictures.curves,
        pictures.arms,
        heading("budget to the baseline's accuracy"),
        *_speed_ups(analysis, pictures.speed_ups),
        *_against_insight(analysis, heading),
        heading("the other measures (exploratory)"),
        *_exploratory(analysis),
        heading("where the rollouts went, and what choosing cost"),
        pictures.rollouts,
        *_costs(analysis),
        *_tuning(analysis, heading),
        heading("runs and plan"),
        *_runs(analysis),
    ]


def _primary(analysis: Analysis) -> list[Block]:
    plan = analysis.results.plan
    margin = words.margin_name(plan.smallest_effect)
    by_name = {arm.selector: arm for arm in analysis.arms}
    rows = [_baseline_row(analysis)]
    for each in sorted(analysis.primary, key=lambda each: -each.mean):
        arm = by_name[each.selector]
        interquartile = words.point_interval(arm.interquartile_interval, signed=False)
        rows.append(
            (
                each.selector,
                words.verdict_in_words(each),
                words.points(each.mean),
                words.point_interval(each.interval),
                words.point_interval(each.bootstrap),
                words.p_value(each.p_holm),
                words.p_value(each.p_equivalent_holm),
                f"{each.improvement:.2f} ({each.improvement_interval.low:.2f} to {each.improvement_interval.high:.2f})",
                words.points(each.score, signed=False),
                f"{words.points(arm.interquartile_mean, signed=False)} ({interquartile})",
                str(each.num_seeds),
            )
        )
    columns = [
        ("arm", ""),
        ("verdict", f"seeds needed: pairs to find a difference of {margin} with 80 % at the spread seen here"),
        ("difference", f"points above {plan.baseline}, mean of the paired seeds"),
        ("95 % (t)", "interval of that difference by Student's t over the seeds"),
        ("95 % (bootstrap)", "the same by drawing seeds with replacement, widened for few seeds (Hesterberg 2015)"),
        ("p", "chance of such a difference if there were none, with Holm's correction for the number of arms"),
        ("p level", f"chance to look this level if the true difference were {margin} (two one-sided tests, Holm)"),
        ("P(improve)", f"chance that a run of the arm beats a run of {plan.baseline}, with its 95 % interval"),
        ("score", "mean over the seeds, in per cent"),
        ("IQM", "interquartile mean: the mean of the middle half of the seeds, with its 95 % bootstrap interval"),
        ("seeds", "pairs of runs"),
    ]
    return [Table(columns, rows), *_problems(analysis)]


def _baseline_row(analysis: Analysis) -> tuple[str, ...]:
    arm = next(arm for arm in analysis.arms if arm.selector == analysis.results.plan.baseline)
    iqm = words.points(arm.interquartile_mean, signed=False)
    interval = words.point_interval(arm.interquartile_interval, signed=False)
    score = words.points(float(arm.scores_S.mean()), signed=False)
    return (arm.selector, "baseline", *["-"] * 6, score, f"{iqm} ({interval})", str(len(arm.seeds)))


def _problems(analysis: Analysis) -> list[Block]:
    if not analysis.problem_intervals:
        return []
    plan = analysis.results.plan
    shared = all(is_shared for _, _, is_shared in analysis.problem_intervals.values())
    how = "seeds and problems independently" if shared else "problems within seeds"
    rows = [
        (name, words.points(mean), words.point_interval(interval))
        for name, (mean, interval, _) in analysis.problem_intervals.items()
    ]
    return [
        Heading(3, "And with other evaluation problems? (exploratory)"),
        Text(
            "The intervals above are about other seeds with the same problems. These are about other seeds and other "
            f"problems: accuracy at the last evaluation of each run, at equal {plan.budget_axis}; the bootstrap draws "
            f"{how}."
        ),
        Table(
            [
                ("arm", ""),
                ("last accuracy", f"points above {plan.baseline}"),
                ("95 %", "interval over seeds and problems; a little wide, see docs/comparison.md"),
            ],
            rows,
        ),
    ]


def _speed_ups(analysis: Analysis, picture: Picture) -> list[Block]:
    plan, axes = analysis.results.plan, analysis.results.axes
    wanted = ("final", plan.axis, plan.baseline)
    finals = [each for each in analysis.speed_ups if (each.target, each.axis, each.baseline) == wanted]
    if not finals:
        return [Text("There is no curve with two evaluations: nothing to tell.")]
    rows = []
    for each in sorted(finals, key=lambda each: -(each.ratio or 0.0)):
        cells = [
            words.speed_in_words(found) if (found := analysis.speed_up(each.selector, axis)) else "?" for axis in axes
        ]
        best = analysis.speed_up(each.selector, plan.axis, "best")
        median = f"later than {words.count(each.end)}" if each.seed_median is None else words.count(each.seed_median)
        rows.append(
            (
                each.selector,
                *cells,
                each.verdict,
                words.speed_in_words(best) if best else "?",
                f"{each.num_reached} of {each.num_seeds}",
                median,
            )
        )
    level = finals[0].level
    return [
        Text(
            f"How much less an arm needs to reach the accuracy that {plan.baseline} ends with "
            f"({words.points(level, signed=False)} %). 2x: half the budget. Mean curves of all seeds, made "
            "non-decreasing; both arms by the same rule, so that an arm no better than the baseline is at 1x. Single "
            "noisy curves would cross the level too early and flatter every arm. Exploratory: not the primary metric, "
            "not corrected for the number of arms."
        ),
        picture,
        Table(
            [
                ("arm", ""),
                *(
                    (f"by {axis}", f"{axis} of {plan.baseline} over {axis} of the arm, with its 95 % interval")
                    for axis in axes
                ),
                (
                    "verdict",
                    f"by {plan.axis}: faster or slower only if the interval leaves out 1x. An interval from 0.00: in "
                    "some resamples the arm does not get there",
                ),
                (f"to its best, {plan.axis}", f"the same to the highest accuracy on {plan.baseline}'s fitted curve"),
                ("seeds there", "single seeds whose own fitted curve reaches the level"),
                (
                    f"median {plan.axis}",
                    "median over the single seeds of what they need (Kaplan-Meier: those that do not get there count "
                    "as later than their end)",
                ),
            ],
            rows,
        ),
    ]


def _against_insight(analysis: Analysis, heading: Callable[[str], Heading]) -> list[Block]:
    found = sorted(analysis.against_insight, key=lambda each: -each.mean)
    if not found:
        return []
    axes = [axis for axis in analysis.results.axes if axis in ("steps", analysis.results.plan.axis)]
    rows = []
    for each in found:
        speeds = [analysis.speed_up(each.selector, one, over=INSIGHT) for one in axes]
        rows.append(
            (
                each.selector,
                words.points(each.mean),
                words.point_interval(each.interval),
                words.p_value(each.p_holm),
                words.verdict_in_words(each),
                *(words.speed_in_words(speed) if speed else "?" for speed in speeds),
            )
        )
    return [
        heading("every arm against INSIGHT (exploratory)"),
        Table(
            [
                ("arm", ""),
                ("difference", "points above insight by the primary metric, paired seeds"),
                ("95 % (t)", "interval of that difference by Student's t over the seeds"),
                ("p", "with Holm's correction for the arms of this table"),
                ("verdict", "by the same rules as above"),
                *(
                    (f"speed-up, {one}", "budget of insight over budget of the arm, to insight's last accuracy")
                    for one in axes
                ),
            ],
            rows,
        ),
    ]


_MEANINGS = {"area": "mean accuracy up to the common number of", "final": "accuracy at the common number of"}


def _exploratory(analysis: Analysis) -> list[Block]:
    plan = analysis.results.plan
    wanted = [(metric, axis) for metric in METRICS for axis in analysis.results.axes]
    by_measure = {key: {each.selector: each for each in analysis.differences[key]} for key in wanted}
    names = [each.selector for each in sorted(analysis.primary, key=lambda each: -each.mean)]
    rows = [
        (
            name,
            *(_cell(by_measure[key].get(name), analysis, is_primary=key == (plan.metric, plan.axis)) for key in wanted),
        )
        for name in names
    ]
    columns = [
        ("arm", ""),
        *(
            (f"{metric}, {axis}", f"points above {plan.baseline} in {_MEANINGS[metric]} {axis}")
            for metric, axis in wanted
        ),
    ]
    where = "; ".join(
        f"{axis}: {words.budget_name(axis, analysis.budgets[axis])}"
        + (f" (where {analysis.limits[axis]} ends)" if axis in analysis.limits else "")
        + "".join(f", but {name} at {words.count(end)}" for name, end in analysis.early[axis].items())
        for axis in analysis.results.axes
    )
    return [
        Text(
            f"Points above {plan.baseline} with the 95 % interval (t), not corrected for the number of arms or of "
            "measures. area: mean accuracy up to the budget; final: accuracy there. All arms are compared at the same "
            "budget on each axis, the largest that every run has reached; an arm that ends long before is compared "
            f"with {plan.baseline} where it ends. {where}. An arm that rolls out several times as much a step is far "
            "along by steps and not by rollouts or tokens: look at both. *: the primary measure, which decides above."
        ),
        Table(columns, rows),
    ]


def _cell(each: Difference | None, analysis: Analysis, *, is_primary: bool) -> str:
    if each is None:
        return "?"
    where = f" at {words.count(each.budget)}" if each.selector in analysis.early[each.axis] else ""
    return f"{words.points(each.mean)} ({words.point_interval(each.interval)}){where}" + (" *" if is_primary else "")


_COST_COLUMNS = {
    "steps": ("steps", "training steps done"),
    "rollouts": ("rollouts", "generated, those of groups that the gate rejected included"),
    "tokens": ("tokens", "generated"),
    "device_seconds": ("device s", "processor seconds on a CPU, wall seconds times GPUs on GPUs; no evaluation"),
    "extra_forwards": ("extra forwards", "forward passes that only this arm needs"),
    "select_seconds": ("selecting s", "seconds spent on choosing prompts"),
    "wasted_fraction": ("wasted %", "share of the groups that were all right or all wrong, and taught nothing"),
    "brier": (
        "Brier",
        "mean squared error of the predicted success rate against the observed share; lower is better",
    ),
    "coverage": ("coverage %", "how often the observed successes fall in the belief's 90 % range; 90 is ideal"),
}


def _costs(analysis: Analysis) -> list[Block]:
    costs = analysis.results.costs
    known = [column for column in _COST_COLUMNS if any(column in totals for totals in costs.values())]
    if not known:
        return [Text("The runs left no costs.csv.")]
    rows = []
    for name, runs in analysis.curves.items():
        cells = []
        for column in known:
            values = np.array([costs[name, seed][column] for seed in runs if column in costs.get((name, seed), {})])
            cells.append(_cost_cell(column, values))
        rows.append((name, *cells))
    return [
        Text(
            "Means over the seeds, of whole runs, with 95 % intervals (t) of shares and scores. Runs end at the same "
            f"{analysis.results.plan.budget_axis}; the other budgets may differ."
        ),
        Table([("arm", ""), *(_COST_COLUMNS[column] for column in known)], rows),
    ]


def _cost_cell(column: str, values: np.ndarray) -> str:
    if not len(values):
        return "-"
    mean = float(values.mean())
    if column not in ("wasted_fraction", "brier", "coverage"):
        return words.count(mean)
    scale, digits = (1.0, 3) if column == "brier" else (100.0, 1)
    interval = mean_interval(values)
    half = "" if math.isnan(interval.low) else f" ± {scale * (interval.high - mean):.{digits}f}"
    return f"{scale * mean:.{digits}f}{half}"


def _tuning(analysis: Analysis, heading: Callable[[str], Heading]) -> list[Block]:
    rows = analysis.results.tuning
    if not rows:
        return []
    key = rows[0].get("key", "a setting")
    by_arm: dict[str, dict[str, list[float]]] = {}
    chosen: dict[str, str] = {}
    for row in rows:
        trials = by_arm.setdefault(row.get("selector", "?"), {}).setdefault(row.get("value", "?"), [])
        if row.get("result"):
            trials.append(float(row["result"]))
        if row.get("chosen") in ("1", "True", "true"):
            chosen[row.get("selector", "?")] = row.get("value", "?")
    values = list(dict.fromkeys(value for trials in by_arm.values() for value in trials))
    num_trials = {arm: sum(map(len, trials.values())) for arm, trials in by_arm.items()}
    table = [
        (
            arm,
            *(f"{100 * np.mean(trials[value]):.2f}" if trials.get(value) else "failed" for value in values),
            chosen.get(arm, "-"),
            str(num_trials[arm]),
        )
        for arm, trials in by_arm.items()
    ]
    return [
        heading("tuning"),
        Text(
            f"Each arm's {key} was chosen by the primary metric, with the same trials on seeds that are not used above."
        ),
        Table(
            [
                ("arm", ""),
                *((value, f"score of the trials with {key}={value}, mean in per cent") for value in values),
                ("chosen", "the value of the runs above"),
                ("trials", "runs that finished"),
            ],
            table,
        ),
    ]


def _runs(analysis: Analysis) -> list[Block]:
    results, plan = analysis.results, analysis.results.plan
    lost = words.missing_runs(analysis)
    num_used, num_planned = sum(map(len, analysis.curves.values())), len(plan.arms) * len(plan.seeds)
    blocks: list[Block] = [
        Text(
            f"{num_used} of {num_planned} planned runs are in the numbers. Plan {plan.sha256[:12]}, "
            + ("as it was before the first run." if plan.matches_hash else "NOT as it was before the first run.")
        )
    ]
    if lost:
        blocks.append(Table([("run", ""), ("reason", "why it is in no number")], list(lost.items())))
    blocks.append(
        Table(
            [("arm", ""), ("overrides", "what makes it differ from the other arms")],
            [(name, " ".join(given) or "(none)") for name, given in plan.overrides.items()],
        )
    )
    if results.versions:
        versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
        blocks.append(Text(f"Versions at the first run: {versions}."))
    return blocks


def closing(analyses: Sequence[Analysis], commands: Sequence[str], versions: Mapping[str, str]) -> list[Block]:
    """How the numbers are made, how to make them again, and with what this page was made."""
    return [
        Heading(2, "How the numbers are made"),
        Bullets(
            [
                "Only seeds that both an arm and the baseline have are compared, seed by seed.",
                "One metric on one axis was named in the plan before the first run. It alone decides; all else on this "
                "page is exploratory.",
                "Curves are joined by straight lines between evaluations, and never continued beyond their end.",
                "docs/comparison.md has the formulas and their sources.",
            ]
        ),
        Heading(2, "Do it again"),
        Code("\n".join(commands)),
        Text("This page was made with " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "."),
    ]
