"""The report of a comparison: one HTML page, the same in Markdown, pictures, and the tables behind them as CSV."""

from __future__ import annotations

import csv
import io
import math
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from insight_rl.compare import figures, words
from insight_rl.compare.analysis import INSIGHT, Analysis, analyse
from insight_rl.compare.page import Pictures, closing, front, setting_section
from insight_rl.compare.results import AXES, CURVE_COLUMNS, load_results
from insight_rl.compare.speedup import speed_up_csv
from insight_rl.errors import check
from insight_rl.files import write_atomically
from insight_rl.report.blocks import Picture, to_html, to_markdown
from insight_rl.report.looks import Look

DIFFERENCE_COLUMNS = (
    "setting",
    "selector",
    "baseline",
    "metric",
    "axis",
    "budget",
    "primary",
    "seeds",
    "score",
    "difference",
    "deviation",
    "low",
    "high",
    "bootstrap_low",
    "bootstrap_high",
    "p",
    "p_holm",
    "p_level_holm",
    "probability_of_improvement",
    "verdict",
    "seeds_needed",
)


def analyse_folders(folders: Sequence[Path]) -> list[Analysis]:
    """Analyse one comparison, or several that go on one page.

    Raises ``UsageError`` for a folder that is not that of a comparison, or two of one setting.
    """
    analyses = [analyse(load_results(folder)) for folder in folders]
    settings = [analysis.results.plan.setting for analysis in analyses]
    twice = sorted({setting for setting in settings if settings.count(setting) > 1})
    check(not twice, "report", ",".join(map(str, folders)), f"setting {', '.join(twice)} is there twice; name it apart")
    return analyses


def write_report(analyses: Sequence[Analysis], *, into: Path | None = None) -> list[Path]:
    """Write the report of one comparison, or of several on one page: a section a setting, and a table of all.

    Writes report.html, report.md, differences.csv, speedup.csv and pictures into the folder ``into`` (default: that of
    the first comparison); of several also comparison_curves.csv, their curves one below the other. Returns what was
    written, the page first.
    """
    folders = [analysis.results.folder for analysis in analyses]
    target = into or folders[0]
    target.mkdir(parents=True, exist_ok=True)
    looks = figures.highlights(analyses)
    plans = [analysis.results.plan for analysis in analyses]
    pictures: list[Picture] = []

    def keep(drawing: figures.Drawing, description: str) -> Picture:
        pictures.append(Picture(drawing.png, drawing.svg, description))
        return pictures[-1]

    differences = keep(
        figures.draw_differences(analyses, looks, target / "differences.png"),
        f"Difference to {plans[0].baseline} by the primary metric, with 95 % intervals (t over paired seeds). Shaded: "
        "differences below the smallest effect of interest. Filled dots: better or worse; squares: level; hollow "
        "dots: not settled.",
    )
    blocks = front(analyses, differences)
    for analysis in analyses:
        drawn = _draw_setting(analysis, looks, target, keep, is_only=len(analyses) == 1)
        blocks += setting_section(analysis, drawn, is_only=len(analyses) == 1)
    blocks += closing(analyses, _commands(folders), _versions())
    title = f"Comparison {', '.join(plan.setting for plan in plans)}"
    texts = {
        "report.html": to_html(title, blocks),
        "report.md": to_markdown(blocks),
        "differences.csv": _differences_csv(analyses),
        "speedup.csv": speed_up_csv([(a.results.plan.setting, each) for a in analyses for each in a.speed_ups]),
    }
    if len(analyses) > 1:
        texts["comparison_curves.csv"] = pooled_curves(analyses)
    for name, text in texts.items():
        write_atomically(target / name, text)
    return [*(target / name for name in texts), *(picture.png for picture in pictures)]


def headline(analyses: Sequence[Analysis]) -> str:
    """The answer as a short table for the console."""
    lines = []
    for analysis in analyses:
        plan = analysis.results.plan
        width = max(map(len, analysis.curves))
        budget = words.budget_name(plan.axis, analysis.budgets[plan.axis])
        lines.append(
            f"setting {plan.setting}: {plan.metric} of accuracy at {budget}, points above {plan.baseline} "
            f"(95 % interval, {words.seed_range(analysis)})"
        )
        for each in sorted(analysis.primary, key=lambda each: -each.mean):
            speed = analysis.speed_up(each.selector, plan.axis)
            lines.append(
                f"  {each.selector:{width}}  {words.points(each.mean):>6} ({words.point_interval(each.interval)})"
                f"  {words.verdict_in_words(each)}"
                + (f"; {words.speed_in_words(speed)} by {plan.axis}" if speed else "")
            )
        lines += [f"  {text}" for text in words.warnings(analysis)]
    return "\n".join(lines)


def pooled_curves(analyses: Sequence[Analysis]) -> str:
    """The curves of several comparisons as one CSV with the columns of curves.csv, whole runs alone."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CURVE_COLUMNS)
    for analysis in analyses:
        for name, runs in analysis.curves.items():
            for seed, run in runs.items():
                known = [run.budgets.get(axis, np.full(len(run.accuracy), math.nan)) for axis in AXES]
                for row in zip(*known, run.accuracy, run.informative_fraction, strict=True):
                    writer.writerow((analysis.results.plan.setting, name, seed, *map(_number, row)))
    return text.getvalue()


def _draw_setting(
    analysis: Analysis,
    looks: Mapping[str, Look],
    target: Path,
    keep: Callable[[figures.Drawing, str], Picture],
    *,
    is_only: bool,
) -> Pictures:
    plan = analysis.results.plan
    ending = "" if is_only else f"_{plan.setting}"
    grey = "; the other arms are grey" if len(analysis.curves) > len(looks) else ""
    return Pictures(
        curves=keep(
            figures.draw_curves(analysis, looks, target / f"curves{ending}.png"),
            "Accuracy against each budget: mean over the seeds with its 95 % interval, as far as every seed of the arm "
            f"goes{grey}. Dotted: the budget at which all arms are compared on this axis. An arm that spends far more "
            "leaves the picture on the right.",
        ),
        arms=keep(
            figures.draw_arms(analysis, looks, target / f"arms{ending}.png"),
            f"Every arm by itself, best first, at equal {plan.axis}: mean and 95 % interval. Dashed: {plan.baseline}.",
        ),
        speed_ups=keep(
            figures.draw_speed_ups(analysis, looks, target / f"speedup{ending}.png"),
            f"Budget of {plan.baseline} over budget of the arm to the same accuracy, with 95 % intervals; an arrow: "
            "the interval goes on. Right of 1x: the arm needs less.",
        ),
        rollouts=keep(
            figures.draw_rollouts(analysis, looks, target / f"rollouts{ending}.png"),
            f"Left: share of groups with both outcomes, the only ones that teach{grey}. Right: share of rollouts in "
            "groups that were all right or all wrong, over the whole run, with 95 % intervals.",
        ),
    )


def _differences_csv(analyses: Sequence[Analysis]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(DIFFERENCE_COLUMNS)
    for analysis in analyses:
        plan = analysis.results.plan
        rows = [(plan.baseline, each) for found in analysis.differences.values() for each in found]
        rows += [(INSIGHT, each) for each in analysis.against_insight]
        for baseline, each in rows:
            is_primary = (baseline, each.metric, each.axis) == (plan.baseline, plan.metric, plan.axis)
            numbers = (
                each.score,
                each.mean,
                each.deviation,
                each.interval.low,
                each.interval.high,
                each.bootstrap.low,
                each.bootstrap.high,
                each.p,
                each.p_holm,
                each.p_equivalent_holm,
                each.improvement,
            )
            names = (plan.setting, each.selector, baseline, each.metric, each.axis, _number(each.budget))
            cells = map(_number, numbers)
            writer.writerow((*names, int(is_primary), each.num_seeds, *cells, each.verdict, each.seeds_needed or ""))
    return text.getvalue()


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}" if abs(value) < 1e6 else f"{value:.0f}"


def _commands(folders: Sequence[Path]) -> list[str]:
    lines = []
    for number, folder in enumerate(folders):
        name, plan = f"again{number or ''}", shlex.quote(str(folder / "plan.yaml"))
        lines += [
            f"mkdir -p again/compare && (echo '# @package _global_'; cat {plan}) > again/compare/{name}.yaml",
            f"insight-rl compare --config-dir again compare={name} output_dir=runs/{name}",
        ]
    return [*lines, f"insight-rl compare report={','.join(shlex.quote(str(folder)) for folder in folders)}"]


def _versions() -> dict[str, str]:
    import matplotlib
    import numpy
    import scipy

    from insight_rl import __version__

    return {
        "insight-rl": __version__,
        "Python": platform.python_version(),
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "matplotlib": matplotlib.__version__,
    }
