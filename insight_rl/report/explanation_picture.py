"""Draws a step's decisions: scores against the bar, beliefs of chosen and passed over, and what came of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import betaincinv

from insight_rl.report.explanation import StepView
from insight_rl.report.looks import COLOURS, GREY, STYLE
from insight_rl.selector.decision_log import StepDecisions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHOSEN, MARKED = COLOURS[0], COLOURS[1]
_PASSED_OVER = "#B8B8B8"


def draw_step(view: StepView, output: Path, *, prompt_id: str | None, history: StepDecisions | None) -> None:
    """Draw the step into ``output``; with a prompt, mark it and draw its own ``history`` as well."""
    # Not pyplot: it would choose a window system and keep every figure.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    row = view.row_of(prompt_id) if prompt_id is not None else None
    with rc_context(STYLE):
        figure = Figure(figsize=(13, 4.6), dpi=110, layout=ConstrainedLayoutEngine(w_pad=0.12, wspace=0.05))
        FigureCanvasAgg(figure)
        scores, beliefs, outcomes = figure.subplots(1, 3)
        _draw_scores(scores, view, row)
        _draw_beliefs(beliefs, view, row)
        if history is None:
            _draw_outcomes(outcomes, view)
        else:
            _draw_history(outcomes, view, history)
        what = f", prompt {prompt_id}" if prompt_id is not None else ""
        figure.suptitle(f"{view.selector}, step {view.step}{what}", x=0.01, ha="left", fontweight="bold", fontsize=13)
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output)


def _draw_scores(axes: Axes, view: StepView, row: int | None) -> None:
    axes.set_title("Scores of the candidates, best first")
    axes.set_xlabel("rank")
    if not view.is_scored:
        axes.text(0.5, 0.5, "this rule has no scores", transform=axes.transAxes, ha="center", color=GREY)
        return
    order = np.lexsort((~view.candidates.chosen, -view.candidates.score))
    chosen = view.candidates.chosen[order]
    ranks, scores = np.arange(1, len(order) + 1), view.candidates.score[order]
    axes.plot(ranks[~chosen], scores[~chosen], ".", color=_PASSED_OVER, markersize=4, label="passed over")
    axes.plot(ranks[chosen], scores[chosen], ".", color=CHOSEN, markersize=7, label="chosen")
    if row is not None:
        place = int(np.flatnonzero(order == row)[0])
        axes.plot(ranks[place], scores[place], "D", color=MARKED, markersize=9, label="this prompt")
    axes.axhline(view.bar(0), color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.annotate(
        "last place",
        (len(order), view.bar(0)),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color=GREY,
    )
    axes.legend(loc="best", framealpha=0.8, frameon=True, edgecolor="none")
    if np.ptp(scores) == 0.0:
        note = "all candidates have the same score: the draw decided"
        axes.text(0.5, 0.06, note, transform=axes.transAxes, ha="center", color=GREY)


def _draw_beliefs(axes: Axes, view: StepView, row: int | None) -> None:
    """Many share a belief: the area of its disc is how many have it, that of the inner one how many were chosen."""
    axes.set_title("Beliefs (area: candidates, filled: chosen)")
    axes.set_xlabel("success rate believed")
    axes.set_ylabel("evidence (alpha + beta)")
    points = np.stack([view.mean, view.evidence], axis=1).round(6)
    unique, inverse, counts = np.unique(points, axis=0, return_inverse=True, return_counts=True)
    num_chosen = np.bincount(inverse.reshape(-1), weights=view.candidates.chosen, minlength=len(unique))
    scale = 900 / max(counts.max(), 30)
    axes.scatter(
        unique[:, 0], unique[:, 1], s=counts * scale + 8, facecolor="#E8E8E8", edgecolor=_PASSED_OVER, linewidth=0.8
    )
    some = num_chosen > 0
    axes.scatter(
        unique[some, 0], unique[some, 1], s=num_chosen[some] * scale + 8, color=CHOSEN, alpha=0.85, linewidth=0
    )
    if row is not None:
        axes.plot(view.mean[row], view.evidence[row], "D", color=MARKED, markersize=9)
    axes.set_xlim(-0.04, 1.04)
    low, high = unique[:, 1].min(), unique[:, 1].max()
    axes.set_ylim(low - 0.12 * (high - low) - 0.5, high + 0.12 * (high - low) + 0.5)


def _draw_outcomes(axes: Axes, view: StepView) -> None:
    axes.set_title("What the chosen did")
    axes.set_xlabel("right rollouts (blue: mixed groups, which teach)")
    axes.set_ylabel("prompts")
    judged = view.candidates.rows(view.candidates.judged > 0)
    if not len(judged):
        axes.text(0.5, 0.5, "nothing was judged", transform=axes.transAxes, ha="center", color=GREY)
        return
    size = int(judged.judged.max())
    counts = np.bincount(judged.successes, minlength=size + 1)
    mixed = np.arange(size + 1) % size != 0
    axes.bar(np.arange(size + 1), counts, color=np.where(mixed, CHOSEN, _PASSED_OVER), width=0.8)
    axes.set_xticks(range(size + 1))
    axes.grid(visible=False, axis="x")


def _draw_history(axes: Axes, view: StepView, history: StepDecisions) -> None:
    axes.set_title("This prompt over the run")
    axes.set_xlabel("training step")
    axes.set_ylabel("success rate")
    axes.set_ylim(-0.04, 1.04)
    axes.axvline(view.step, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
    if not len(history):
        axes.text(0.5, 0.5, "never a candidate", transform=axes.transAxes, ha="center", color=GREY)
        return
    mean = history.alpha / (history.alpha + history.beta)
    low, high = (betaincinv(history.alpha, history.beta, tail) for tail in (0.05, 0.95))
    axes.errorbar(
        history.step,
        mean,
        [mean - low, high - mean],
        fmt="o",
        color=GREY,
        markersize=4,
        elinewidth=1,
        label="belief, 90 %",
    )
    seen = history.rows(history.judged > 0)
    axes.plot(seen.step, seen.successes / seen.judged, "D", color=MARKED, markersize=8, label="rolled out: share right")
    axes.legend(loc="best", framealpha=0.8, frameon=True, edgecolor="none")
