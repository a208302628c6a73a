"""Draws a study: mean success, informative groups, regret and wasted picks by step, all selectors in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from insight_rl.report.curves import GREY, STYLE, Look, smooth
from insight_rl.simulation.study import ORACLE, Study, half_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = (
    ("mean_success", "Mean success rate of the pool"),
    ("informative_fraction", "Informative groups (share of the groups rolled out)"),
    ("regret", "Regret: informative groups lost to the oracle (share)"),
    ("hopeless_fraction", "Groups spent on hopeless prompts (share)"),
)


def draw_study(study: Study, output: Path, *, title: str) -> None:
    """Draw the mean over seeds with its 95 % interval into ``output``; its suffix decides the format."""
    # Not pyplot: it would choose a window system and keep every figure.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    looks = {label: look_of(study, label) for label in study.labels}
    with rc_context(STYLE):
        figure = Figure(figsize=(12, 8.6), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (name, heading) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
            for label in study.labels:
                _draw(axes, study.curve(label, name), looks[label], smoothed=name != "mean_success")
            axes.set_title(heading)
            axes.set_xlabel("training step")
            axes.margins(x=0.02)
            if name != "mean_success":
                axes.set_ylim(-0.03, 1.03)
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

    with rc_context(STYLE):
        figure = Figure(figsize=(10, 5.4), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        bounds, selectors = list(fractions)[:2], list(fractions)[2:]
        for label, values in fractions.items():
            look = Look(colour=GREY, marker="", line=("--", ":")[bounds.index(label)]) if label in bounds else None
            look = look or _look_among(selectors, label)
            mean, window = smooth(values.mean(axis=0))
            axes.plot(steps, mean, color=look.colour, linestyle=look.line, linewidth=1.9, label=label)
        axes.set_title(f"Informative groups among the picks (mean of {window} steps)")
        axes.set_xlabel("training step")
        axes.set_ylim(-0.03, 1.03)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=13)
        figure.legend(loc="outside lower center", ncols=4, fontsize=10.5)
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, pil_kwargs={"optimize": True} if output.suffix == ".png" else None)


def look_of(study: Study, label: str) -> Look:
    """The oracle is grey and dotted; a variant of a selector has its colour and another line."""
    if label == ORACLE:
        return Look(colour=GREY, marker="", line=":")
    return _look_among([other for other in study.labels if other != ORACLE], label)


def _look_among(labels: list[str], label: str) -> Look:
    bases = list(dict.fromkeys(other.partition(":")[0] for other in labels))
    base = label.partition(":")[0]
    siblings = [other for other in labels if other.partition(":")[0] == base]
    line = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (5, 1.5, 1, 1.5)))[siblings.index(label) % 4]
    return Look(colour=Look.of(bases.index(base)).colour, marker="", line=line)


def _draw(axes: Axes, values: np.ndarray, look: Look, *, smoothed: bool) -> None:
    if smoothed:
        values = np.stack([smooth(one)[0] for one in values])
    steps = np.arange(1, values.shape[1] + 1)
    mean, width = values.mean(axis=0), half_width(values)
    axes.plot(steps, mean, color=look.colour, linestyle=look.line, linewidth=1.9)
    axes.fill_between(steps, mean - width, mean + width, color=look.colour, alpha=0.15, linewidth=0)
