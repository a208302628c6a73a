"""Draws a study: mean success, informative groups, regret and wasted picks by step, all selectors in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from insight_rl.report.curves import smooth
from insight_rl.report.looks import GREY, STYLE, Look, looks_of
from insight_rl.simulation.study import BASELINE, ORACLE, Study, half_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = (
    ("mean_success", "Mean success rate of the pool"),
    ("informative_fraction", "Informative groups, of those rolled out"),
    ("regret", "Regret: informative groups lost to the oracle"),
    ("hopeless_fraction", "Groups spent on hopeless prompts"),
)


def draw_study(study: Study, output: Path, *, title: str) -> None:
    """Draw the mean over seeds with its 95 % interval into ``output``; its suffix decides the format."""
    # Not pyplot: it would choose a window system and keep every figure.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import PercentFormatter

    looks = looks_in(study.labels)
    with rc_context(STYLE):
        figure = Figure(figsize=(12, 8.6), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (name, heading) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
            for label in study.labels:
                values = study.curve(label, name)
                if name == "mean_success" and BASELINE in study.labels:
                    # Both met the same pools: of the difference, what the pools differ in drops out.
                    values = values - study.curve(BASELINE, name)
                    heading = f"Mean success rate of the pool, less that of {BASELINE} (points)"
                _draw(axes, values, looks[label], smoothed=name != "mean_success")
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, symbol="" if "points" in heading else "%"))
            axes.set_title(heading)
            axes.set_xlabel("training step")
            axes.margins(x=0.02)
            if name != "mean_success":
                axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0))
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=13)
        handles = [Line2D([], [], color=look.colour, linestyle=look.line, linewidth=2.2) for look in looks.values()]
        num_seeds, _, num_steps = study.curves[ORACLE].shape
        window = smooth(np.zeros(num_steps))[1]
        note = f"mean of {num_seeds} seeds, band: 95 % interval of the mean"
        if window > 1:
            note += f"; shares: mean of {window} steps"
        legend = figure.legend(handles, study.labels, loc="outside lower center", ncols=4, title=note, fontsize=10.5)
        legend.get_title().set(fontsize=9, color=GREY)
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, pil_kwargs={"optimize": True} if output.suffix == ".png" else None)


def draw_replay(fractions: dict[str, np.ndarray], steps: np.ndarray, output: Path, *, title: str) -> None:
    """Draw the informative share of the picks by step: ``fractions[label]`` is ``(num_seeds, num_steps)``.

    The first two labels are the bounds that the run itself sets; they are grey.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    with rc_context(STYLE):
        figure = Figure(figsize=(10, 5.4), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        bounds, looks = list(fractions)[:2], looks_in(list(fractions)[2:])
        for label, values in fractions.items():
            look = looks.get(label, Look(colour=GREY, marker="", line="--" if label == bounds[0] else ":"))
            mean, window = smooth(values.mean(axis=0))
            axes.plot(steps, mean, color=look.colour, linestyle=look.line, linewidth=1.9, label=label)
        axes.set_title(f"Informative groups among the picks (mean of {window} steps)")
        axes.set_xlabel("training step")
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0))
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=13)
        figure.legend(loc="outside lower center", ncols=4, fontsize=10.5)
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, pil_kwargs={"optimize": True} if output.suffix == ".png" else None)


def looks_in(labels: Sequence[str]) -> dict[str, Look]:
    """The oracle is grey and dotted; the others have the colours that their selectors have in every picture."""
    looks = looks_of({label: label.partition(":")[0] for label in labels if label != ORACLE})
    return looks | {ORACLE: Look(colour=GREY, marker="", line=":")}


def _draw(axes: Axes, values: np.ndarray, look: Look, *, smoothed: bool) -> None:
    if smoothed:
        values = np.stack([smooth(one)[0] for one in values])
    steps = np.arange(1, values.shape[1] + 1)
    mean, width = values.mean(axis=0), half_width(values)
    axes.plot(steps, mean, color=look.colour, linestyle=look.line, linewidth=1.9)
    axes.fill_between(steps, mean - width, mean + width, color=look.colour, alpha=0.15, linewidth=0)
