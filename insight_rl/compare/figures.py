"""Pictures of a comparison: differences, curves, speed-ups, and where the rollouts went."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import optimize, stats

from insight_rl.compare import words
from insight_rl.compare.analysis import Analysis, Difference
from insight_rl.compare.results import Axis, Curve
from insight_rl.compare.statistics import LEVEL, Interval, mean_interval
from insight_rl.files import write_atomically
from insight_rl.report.looks import GREY, STYLE, Look, looks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXIS_LABELS: Mapping[Axis, str] = {
    "steps": "training steps",
    "rollouts": "rollouts",
    "tokens": "generated tokens",
    "seconds": "device seconds",
}
MAX_HIGHLIGHTS = 5
"""Arms with a colour in pictures that show all arms at once; the others are grey there and have panels of their own."""
MAX_BEYOND = 1.5
"""How far curves are drawn, in multiples of the budget that all arms have reached."""
INK, PALE, BAND = "#1A1A1A", "#B5B5B5", "#8A8A8A"
_NUM_GRID_POINTS = 100
_VARIABLES = {
    INK: "ink",
    GREY: "muted",
    "#E3E3E3": "grid",
    "#0072B2": "blue",
    "#D55E00": "orange",
    "#009E73": "green",
    "#CC79A7": "pink",
    "#56B4E9": "sky",
    "#E69F00": "amber",
    "#000000": "black",
}
"""Colours that the page gives by the reader's light or dark background."""


@dataclass(frozen=True)
class Drawing:
    png: Path
    svg: str


def highlights(analyses: Sequence[Analysis]) -> dict[str, Look]:
    """The few arms that have a colour: the baseline, INSIGHT, and the best by the primary metric, over all settings."""
    means: dict[str, list[float]] = {}
    for analysis in analyses:
        for each in analysis.primary:
            means.setdefault(each.selector, []).append(each.mean)
    by_mean = sorted(means, key=lambda name: -float(np.mean(means[name])))
    names = [analyses[0].results.plan.baseline, *(name for name in ("insight",) if name in means), *by_mean]
    return looks_of({name: name for name in list(dict.fromkeys(names))[:MAX_HIGHLIGHTS]})


def draw_differences(analyses: Sequence[Analysis], looks: Mapping[str, Look], png: Path) -> Drawing:
    """A forest plot: one panel a setting, one row an arm, the smallest effect of interest shaded."""
    means: dict[str, list[float]] = {}
    for analysis in analyses:
        for each in analysis.primary:
            means.setdefault(each.selector, []).append(each.mean)
    order = sorted(means, key=lambda name: float(np.mean(means[name])))
    places = {name: place for place, name in enumerate(order)}

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(analyses), sharey=True, squeeze=False)[0]
        for axes, analysis in zip(panels, analyses, strict=True):
            margin = 100 * analysis.results.plan.smallest_effect
            axes.axvspan(-margin, margin, color=BAND, alpha=0.18, linewidth=0)
            axes.axvline(0, color=GREY, linewidth=1)
            for each in analysis.primary:
                _draw_difference(axes, each, places[each.selector], looks.get(each.selector))
            # The words on the right need room.
            axes.margins(x=0.08)
            plan = analysis.results.plan
            title = f"setting {plan.setting}: " if len(analyses) > 1 else ""
            axes.set_title(f"{title}{len(analysis.curves)} arms, {words.seed_range(analysis)}")
            axes.set_xlabel(f"points above {plan.baseline}, at equal {plan.axis}")
            axes.grid(axis="y", visible=False)
        panels[0].set_yticks(range(len(order)), order)
        panels[0].set_ylim(-0.7, len(order) - 0.3)

    return _drawing(draw, (4.2 + 3.4 * len(analyses), 1.3 + 0.36 * len(order)), png)


def _draw_difference(axes: Axes, each: Difference, place: int, look: Look | None) -> None:
    colour = look.colour if look else GREY
    is_clear = each.verdict in ("better", "worse")
    axes.plot([100 * each.interval.low, 100 * each.interval.high], [place, place], color=colour, linewidth=2.2)
    axes.plot(
        100 * each.mean,
        place,
        marker="s" if each.verdict == "level" else "o",
        markersize=7,
        color=colour,
        markerfacecolor=colour if is_clear else "none",
        markeredgewidth=1.6,
    )
    axes.annotate(
        each.verdict,
        (1.01, place),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=8.5,
        color=INK if is_clear else GREY,
    )


def draw_curves(analysis: Analysis, looks: Mapping[str, Look], png: Path) -> Drawing:
    """Accuracy against each budget: highlighted arms with their 95 % interval, the rest as grey lines."""
    num_rows = -(-len(analysis.results.axes) // 2)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(num_rows, 2, sharey=True).ravel()
        for axes, axis in zip(panels, analysis.results.axes, strict=False):
            ends = []
            for name in sorted(analysis.curves, key=lambda name: name in looks):
                look = looks.get(name)
                x, mean, half = mean_curve(list(analysis.curves[name].values()), axis)
                if look is None:
                    axes.plot(x, 100 * mean, color=PALE, linewidth=1.0, zorder=1)
                    continue
                axes.plot(x, 100 * mean, color=look.colour, linestyle=look.line, linewidth=2.0)
                axes.fill_between(
                    x, 100 * (mean - half), 100 * (mean + half), color=look.colour, alpha=0.13, linewidth=0
                )
                at = min(float(x[-1]), _last_drawn(analysis, axis))
                ends.append((100 * float(np.interp(at, x, mean)), at, name, look.colour))
            _label_ends(axes, ends, height_in=3.0)
            axes.set_xlabel(AXIS_LABELS[axis])
            axes.axvline(analysis.budgets[axis], color=GREY, linewidth=0.9, linestyle=(0, (2, 3)))
            _count_axis(axes, analysis, axis)
        for axes in panels[::2]:
            axes.set_ylabel("accuracy, %")
        for axes in panels[len(analysis.results.axes) :]:
            axes.set_axis_off()

    return _drawing(draw, (11, 3.6 * num_rows), png)


def draw_arms(analysis: Analysis, looks: Mapping[str, Look], png: Path) -> Drawing:
    """Every arm in a panel of its own, with the baseline in grey, on the primary axis."""
    plan = analysis.results.plan
    verdicts = {each.selector: each.verdict for each in analysis.primary}
    names = [each.selector for each in sorted(analysis.primary, key=lambda each: -each.mean)]
    num_columns = min(4, len(names))
    num_rows = -(-len(names) // num_columns)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False).ravel()
        base_x, base_mean, _ = mean_curve(list(analysis.curves[plan.baseline].values()), plan.axis)
        for axes, name in zip(panels, names, strict=False):
            colour = looks[name].colour if name in looks else INK
            x, mean, half = mean_curve(list(analysis.curves[name].values()), plan.axis)
            axes.plot(base_x, 100 * base_mean, color=BAND, linewidth=1.6, linestyle="--")
            axes.plot(x, 100 * mean, color=colour, linewidth=1.8)
            axes.fill_between(x, 100 * (mean - half), 100 * (mean + half), color=colour, alpha=0.15, linewidth=0)
            axes.set_title(f"{name}: {verdicts[name]}", fontsize=9.5)
            _count_axis(axes, analysis, plan.axis)
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        figure.supxlabel(AXIS_LABELS[plan.axis], fontsize=10)
        figure.supylabel("accuracy, %", fontsize=10)

    return _drawing(draw, (11, 0.8 + 2.1 * num_rows), png)


def draw_speed_ups(analysis: Analysis, looks: Mapping[str, Look], png: Path) -> Drawing:
    """Budget of the baseline / budget of the arm, to the baseline's final accuracy, on a logarithmic scale."""
    baseline = analysis.results.plan.baseline
    finals = [each for each in analysis.speed_ups if (each.target, each.baseline) == ("final", baseline)]
    primary = analysis.results.plan.axis
    ranked = sorted((s for s in finals if s.axis == primary), key=lambda s: (s.ratio or 0.0, s.selector))
    places = {each.selector: place for place, each in enumerate(ranked)}
    highs = [each.interval.high for each in finals if np.isfinite(each.interval.high)]
    right = max(2.0, 1.15 * max([*highs, *(each.ratio or 0.0 for each in finals)], default=2.0))
    left = min(0.25, 1 / right)

    def draw(figure: Figure) -> None:
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        panels = figure.subplots(1, len(analysis.results.axes), sharey=True, squeeze=False)[0]
        for axes, axis in zip(panels, analysis.results.axes, strict=True):
            axes.set_xscale("log")
            axes.set_xlim(left, right)
            axes.axvline(1, color=GREY, linewidth=1)
            for each in finals:
                if each.axis == axis:
                    look = looks.get(each.selector)
                    colour = look.colour if look else GREY
                    _draw_speed_up(axes, each.ratio, each.interval, places[each.selector], colour, left)
            ticks = [2.0**power for power in range(-6, 7) if left <= 2.0**power <= right]
            axes.xaxis.set_major_locator(FixedLocator(ticks))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
            axes.set_title(axis)
            axes.grid(axis="y", visible=False)
        panels[0].set_yticks(range(len(places)), list(places))
        panels[0].set_ylim(-0.7, len(places) - 0.3)

    return _drawing(draw, (11, 1.2 + 0.34 * len(places)), png)


def _draw_speed_up(axes: Axes, ratio: float | None, interval: Interval, place: int, colour: str, left: float) -> None:
    if np.isfinite(interval.low):
        low, high = max(interval.low, left), max(interval.high, left)
        axes.plot([low, high], [place, place], color=colour, linewidth=2.0)
        if interval.low < left:
            axes.plot(left, place, marker="<", color=colour, markersize=7, clip_on=False)
    if ratio is None:
        axes.annotate(
            "not reached",
            (0.07, place),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=7.5,
        )
    else:
        axes.plot(max(ratio, left), place, marker="o", color=colour, markersize=6)


def draw_rollouts(analysis: Analysis, looks: Mapping[str, Look], png: Path) -> Drawing:
    """Share of informative groups along the run, and the share of rollouts spent on groups that taught nothing."""
    wasted = {
        name: np.array([totals[seed] for seed in sorted(totals)])
        for name in analysis.curves
        if (totals := _totals(analysis, name, "wasted_fraction"))
    }
    order = sorted(wasted, key=lambda name: -float(wasted[name].mean()))
    height = max(3.6, 1.0 + 0.32 * len(order))

    def draw(figure: Figure) -> None:
        informative, spent = figure.subplots(1, 2, width_ratios=(1.5, 1))
        informative.set_ylim(0, 100)
        ends = []
        for name in sorted(analysis.curves, key=lambda name: name in looks):
            look = looks.get(name)
            x, mean = _informative(list(analysis.curves[name].values()))
            if not len(x):
                continue
            if look is None:
                informative.plot(x, 100 * mean, color=PALE, linewidth=1.0, zorder=1)
            else:
                informative.plot(x, 100 * mean, color=look.colour, linestyle=look.line, linewidth=2.0)
                ends.append((100 * float(mean[-1]), float(x[-1]), name, look.colour))
        _label_ends(informative, ends, height_in=height - 0.7)
        informative.set_title("informative groups, % of those rolled out")
        informative.set_xlabel("training step")
        for place, name in enumerate(order):
            colour = looks[name].colour if name in looks else GREY
            interval = mean_interval(wasted[name])
            spent.plot([100 * interval.low, 100 * interval.high], [place, place], color=colour, linewidth=2.0)
            spent.plot(100 * wasted[name].mean(), place, marker="o", color=colour, markersize=6)
        spent.set_yticks(range(len(order)), order)
        spent.set_title("wasted rollouts, %")
        spent.set_xlim(0, 100)
        spent.grid(axis="y", visible=False)

    return _drawing(draw, (11, height), png)


def mean_curve(curves: Sequence[Curve], axis: Axis) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``(x, mean, half of the 95 % interval)`` over seeds, Student's t; half is 0 for one seed.

    At the evaluations themselves where all seeds have the same; otherwise on a common grid, between two evaluations by
    a straight line. It ends where the first seed ends.
    """
    start, end = (select(curve.budgets[axis][index] for curve in curves) for select, index in ((max, 0), (min, -1)))
    first = curves[0].budgets[axis]
    is_shared = all(np.array_equal(curve.budgets[axis], first) for curve in curves)
    x = first if is_shared else np.linspace(start, end, _NUM_GRID_POINTS)
    values = np.stack([np.interp(x, curve.budgets[axis], curve.accuracy) for curve in curves])
    num = len(curves)
    if num < 2:
        return x, values[0], np.zeros(len(x))
    half = stats.t.ppf((1 + LEVEL) / 2, num - 1) * values.std(axis=0, ddof=1) / np.sqrt(num)
    return x, values.mean(axis=0), half


def _informative(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    known = [
        (curve.budgets["steps"][is_known], curve.informative_fraction[is_known])
        for curve in curves
        if (is_known := ~np.isnan(curve.informative_fraction)).any()
    ]
    if not known:
        return np.zeros(0), np.zeros(0)
    x = max((steps for steps, _ in known), key=len)
    return x, np.mean([np.interp(x, *each) for each in known], axis=0)


def _totals(analysis: Analysis, name: str, column: str) -> dict[int, float]:
    costs = analysis.results.costs
    return {seed: costs[name, seed][column] for seed in analysis.curves[name] if column in costs.get((name, seed), {})}


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]], *, height_in: float) -> None:
    """The name of each line at its end, moved apart where two would overlap."""
    if not ends:
        return
    low, high = axes.get_ylim()
    gap = 0.17 / height_in * (high - low)
    ends = sorted(ends)
    steps = gap * np.arange(len(ends))
    # The heights nearest to the ends of the lines of which none is closer to another than the gap.
    heights = optimize.isotonic_regression(np.array([value for value, _, _, _ in ends]) - steps).x + steps
    for height, (_, x, name, colour) in zip(heights, ends, strict=True):
        axes.annotate(
            name,
            (x, height),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=colour,
            annotation_clip=False,
        )


def _count_axis(axes: Axes, analysis: Analysis, axis: Axis) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    end = _last_drawn(analysis, axis)
    axes.set_xlim(-0.03 * end, 1.04 * end)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _last_drawn(analysis: Analysis, axis: Axis) -> float:
    """The right edge: an arm that spends many times as much would press all others to the left."""
    end = max(run.end(axis) for runs in analysis.curves.values() for run in runs.values())
    return min(end, MAX_BEYOND * analysis.budgets[axis])


def _drawing(draw: Callable[[Figure], None], size: tuple[float, float], png: Path) -> Drawing:
    # Not pyplot: it would choose a window system and keep every figure.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    own = {"text.color": INK, "axes.labelcolor": INK, "svg.fonttype": "none", "svg.hashsalt": png.stem}
    with rc_context({**STYLE, **own}):
        figure = Figure(figsize=size, dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        picture, text = io.BytesIO(), io.StringIO()
        figure.savefig(picture, format="png")
        # The places that were found for the first hold for the second.
        figure.set_layout_engine("none")
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    write_atomically(png, picture.getvalue())
    return Drawing(png, _for_page(text.getvalue(), size[0]))


def _for_page(svg: str, width_in: float) -> str:
    """The drawing as part of a page: without its own head, in the page's colours and letters, not blown up."""
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg style="max-width: {100 * width_in:.0f}px"', 1)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour.lower(), f"var(--{variable})")
    return svg.replace("'DejaVu Sans', ", "").replace("px 'DejaVu Sans'", "px sans-serif")
