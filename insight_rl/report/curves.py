"""Draws runs in one picture: accuracy against steps, rollouts and tokens, and the informative fraction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from insight_rl.report.looks import GREY, STYLE, Look, looks_of
from insight_rl.report.runs import Run, group_runs, load_runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACCURACY = "eval/accuracy"
INFORMATIVE = "selector/informative_fraction"
AXES = {"step": "training step", "rollout/num_rollouts": "rollouts", "rollout/num_tokens": "generated tokens"}
NUM_GRID_POINTS = 200

MAX_BANDS = 3
"""Groups whose spread is drawn as a band; of more, bands lie over each other, and points get bars instead."""


def draw_curves(run_dirs: Sequence[Path], output: Path) -> None:
    """Draw the runs in ``run_dirs`` (or those in the folders in it) into ``output``; its suffix decides the format.

    Runs that differ in their seed only share a colour: their mean is thick, with one standard deviation as a band (as
    bars where there are many groups). A single run has the 95 % interval of its evaluations instead. Raises
    ``UsageError`` for a folder without metrics.
    """
    runs = load_runs(run_dirs)
    groups = group_runs(runs)
    looks = looks_of({label: members[0].option("selector") for label, members in groups.items()})

    # Not pyplot: it would choose a window system and keep every figure.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(11, 7.8), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        (by_step, informative), (by_rollouts, by_tokens) = figure.subplots(2, 2)
        for axes, against in zip((by_step, by_rollouts, by_tokens), AXES, strict=True):
            for label, members in groups.items():
                _draw_accuracy(axes, members, against, looks[label], has_band=len(groups) <= MAX_BANDS)
            if len(groups) > 1:
                _label_ends(axes, groups, against, looks)
            _decorate(axes, runs, against, f"Held-out accuracy by {AXES[against]}")
        _widen(by_step)
        by_rollouts.sharey(by_step)
        by_tokens.sharey(by_step)
        for label, members in groups.items():
            _draw_informative(informative, members, looks[label], has_band=len(groups) <= MAX_BANDS)
        _decorate(informative, runs, "step", "Informative groups (share of each step's groups)")
        informative.set_ylim(-0.03, 1.03)
        if len(runs) == 1:
            _annotate_single(by_step, informative, runs[0], next(iter(looks.values())))
        _head(figure, groups, looks)
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output)


def smooth(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Centred moving average and its window, about a 25th of the length; the ends average what there is."""
    window = int(np.clip(len(values) // 25, 3, 25)) | 1
    if len(values) < window:
        return values, 1
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same"), window


def mean_and_deviation(
    curves: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """``(x, mean, standard deviation)`` over curves on the range that all of them cover, or None if there is none.

    Values between two points of a curve are interpolated linearly; the deviation is that of a sample (n - 1).
    """
    if any(len(x) == 0 for x, _ in curves):
        return None
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if end <= start:
        return None
    # Where all curves have the same points, these are drawn and nothing between them is made up.
    first = curves[0][0]
    shared = all(np.array_equal(x[x <= end], first[first <= end]) for x, _ in curves)
    grid = first[first <= end] if shared else np.linspace(start, end, NUM_GRID_POINTS)
    values = np.stack([np.interp(grid, x, y) for x, y in curves])
    return grid, values.mean(axis=0), values.std(axis=0, ddof=1)


def _draw_accuracy(axes: Axes, members: Sequence[Run], against: str, look: Look, *, has_band: bool) -> None:
    curves = [run.series(ACCURACY, against=against) for run in members]
    _draw_group(axes, curves, look, marker=look.marker, has_band=has_band)
    if len(members) == 1 and has_band:
        x, y = curves[0]
        _, half_width = members[0].series(f"{ACCURACY}_half_width", against=against)
        if len(half_width) == len(x):
            axes.fill_between(x, y - half_width, y + half_width, color=look.colour, alpha=0.13, linewidth=0)


def _draw_informative(axes: Axes, members: Sequence[Run], look: Look, *, has_band: bool) -> None:
    raw = [run.series(INFORMATIVE) for run in members]
    if len(raw) == 1 and has_band:
        axes.plot(*raw[0], ".", color=look.colour, alpha=0.5, markersize=6, markeredgewidth=0)
    _draw_group(axes, [(x, smooth(y)[0]) for x, y in raw], look, marker="", has_band=has_band)


def _draw_group(
    axes: Axes, curves: Sequence[tuple[np.ndarray, np.ndarray]], look: Look, *, marker: str, has_band: bool
) -> None:
    """One curve as it is; several as a mean with its spread: a band and thin single lines, or bars at some points."""
    line: dict[str, Any] = {"color": look.colour, "linestyle": look.line, "linewidth": 2.0, "markersize": 4.5}
    if len(curves) == 1:
        axes.plot(*curves[0], marker=marker, **line)
        return
    if has_band:
        for curve in curves:
            axes.plot(*curve, color=look.colour, linewidth=0.7, alpha=0.4)
    if (averaged := mean_and_deviation(curves)) is None:
        return
    x, mean, deviation = averaged
    # Markers sit on measured points only, never on interpolated ones.
    axes.plot(x, mean, marker=marker if len(x) != NUM_GRID_POINTS else "", **line)
    if has_band:
        axes.fill_between(x, mean - deviation, mean + deviation, color=look.colour, alpha=0.13, linewidth=0)
    else:
        at = slice(None, None, -max(1, len(x) // 4))
        bars = axes.errorbar(
            x[at], mean[at], deviation[at], fmt="none", ecolor=look.colour, elinewidth=1.0, capsize=2.5, alpha=0.6
        )
        bars.set_label("_")


def _label_ends(axes: Axes, groups: Mapping[str, Sequence[Run]], against: str, looks: Mapping[str, Look]) -> None:
    """The final accuracy of each group to the right of its line, moved apart where two would overlap."""
    ends = []
    for label, members in groups.items():
        series = [run.series(ACCURACY, against=against) for run in members]
        if all(len(x) for x, _ in series):
            ends.append((float(np.mean([y[-1] for _, y in series])), max(x[-1] for x, _ in series), label))
    if not ends:
        return
    low, high = axes.get_ylim()
    gap = 0.055 * max(high - low, 0.1)
    heights: list[float] = []
    for value, _, _ in sorted(ends):
        heights.append(max(value, heights[-1] + gap) if heights else value)
    right = max(x for _, x, _ in ends)
    for height, (value, _, label) in zip(heights, sorted(ends), strict=True):
        axes.annotate(
            f"{value:.1%}",
            (right, height),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=looks[label].colour,
            fontsize=8.5,
            annotation_clip=False,
        )


def _decorate(axes: Axes, runs: Sequence[Run], against: str, title: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

    axes.set_title(title)
    axes.set_xlabel(AXES[against])
    # All panels show the whole run, also where the last steps were not evaluated.
    end = max(1.0, *(record.get(against) or 0.0 for run in runs for record in run.records[-1:]))
    axes.set_xlim(-0.03 * end, (1.03 if len(runs) == 1 else 1.13) * end)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], min_n_ticks=4))
    axes.margins(y=0.12)
    if not any(np.size(line.get_xdata()) for line in axes.lines):
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=GREY)


def _widen(axes: Axes) -> None:
    """Show ten points of accuracy at least: a smaller range makes the noise of an evaluation look like a trend."""
    low, high = axes.get_ylim()
    missing = max(0.0, 0.1 - (high - low)) / 2
    axes.set_ylim(low - missing, high + missing)


def _annotate_single(accuracy: Axes, informative: Axes, run: Run, look: Look) -> None:
    """Figures a reader looks for first: accuracy before and after, and the step by which every prompt was seen."""
    steps, values = run.series(ACCURACY)
    if len(values):
        accuracy.axhline(values[0], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        # On the side that the curve does not come from or go to.
        for index, neighbour in {0: 1, len(values) - 1: -2}.items():
            is_lower = len(values) > 1 and values[index] < values[neighbour]
            accuracy.annotate(
                f"{values[index]:.1%}",
                (steps[index], values[index]),
                xytext=(0, -15 if is_lower else 8),
                textcoords="offset points",
                ha="left" if index == 0 else "right",
                color=look.colour,
                fontweight="bold",
            )
    steps, fractions = run.series("selector/visited_fraction")
    all_visited = steps[fractions >= 1.0]
    if len(all_visited) and all_visited[0] < steps[-1]:
        informative.axvline(all_visited[0], color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
        on_left = all_visited[0] > steps.mean()
        informative.annotate(
            f"every prompt visited once (step {all_visited[0]:.0f})",
            (all_visited[0], 0.0),
            xytext=(-5 if on_left else 5, 2),
            textcoords="offset points",
            ha="right" if on_left else "left",
            color=GREY,
            fontsize=9,
        )


def _head(figure: Figure, groups: dict[str, list[Run]], looks: Mapping[str, Look]) -> None:
    """Title, and below the picture a legend with what the lines and bands mean."""
    from matplotlib.lines import Line2D

    runs = [run for members in groups.values() for run in members]
    figure.suptitle(_title(groups), x=0.01, ha="left", fontweight="bold", fontsize=13)
    window = smooth(max((run.series(INFORMATIVE)[1] for run in runs), key=len))[1]
    meaning = [f"informative groups: mean of {window} steps"] if window > 1 else []
    if any(len(members) == 1 for members in groups.values()) and len(groups) <= MAX_BANDS:
        meaning.append("dots: single steps; band of one run's accuracy: 95 % interval over the problems")
    if any(len(members) > 1 for members in groups.values()):
        spread = "thin: single seeds, band" if len(groups) <= MAX_BANDS else "bars"
        meaning.append(f"thick: mean over seeds, {spread}: one standard deviation")
    note = "; ".join(meaning)
    if len(groups) == 1:
        figure.supxlabel(note, fontsize=9, color=GREY)
        return
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.line, linewidth=2.0, markersize=5)
        for look in looks.values()
    ]
    labels = [f"{label} ({len(members)} seeds)" if len(members) > 1 else label for label, members in groups.items()]
    num_columns = max(1, min(len(labels), 110 // (max(map(len, labels)) + 8)))
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=num_columns, title=note, fontsize=11)
    legend.get_title().set(fontsize=9, color=GREY)


def _title(groups: dict[str, list[Run]]) -> str:
    runs = [run for members in groups.values() for run in members]
    tasks = ", ".join(dict.fromkeys(filter(None, (run.option("task") for run in runs))))
    if len(runs) == 1:
        run = runs[0]
        _, values = run.series(ACCURACY)
        names = ", ".join(filter(None, [tasks, run.option("selector"), "" if run.seed is None else f"seed {run.seed}"]))
        num_steps = run.records[-1]["step"]
        title = f"{names or run.run_dir.name}, {num_steps} step{'' if num_steps == 1 else 's'}"
        if len(values) < 2:
            return title
        change = 100 * (values[-1] - values[0])
        return f"{title}: held-out accuracy {values[0]:.1%} to {values[-1]:.1%} ({change:+.1f} points)"
    return ": ".join(filter(None, [tasks, f"{len(groups)} settings, {len(runs)} runs"]))
