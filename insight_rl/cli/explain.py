"""``insight-rl explain``: why a step's prompts were chosen, or one was not, from the run's decision log."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from insight_rl.cli.settings import read_settings
from insight_rl.errors import UsageError, check

if TYPE_CHECKING:
    from rich.console import Console

    from insight_rl.report.explanation import StepView

_EPILOG = """
examples:
  insight-rl explain run_dir=runs/demo                            the last step as a whole
  insight-rl explain run_dir=runs/demo step=12                    step 12
  insight-rl explain run_dir=runs/demo step=12 prompt=countdown/3f9c0a   one prompt in it; the start of an id will do
"""

_KEYS = ("run_dir", "step", "prompt")
_NUM_SHOWN = 4
_BAR_WIDTH = 20


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="insight-rl explain", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="run_dir=..., step=..., prompt=...")
    given = read_settings(parser.parse_args(argv).settings, _KEYS)
    if "run_dir" not in given:
        raise UsageError("run_dir has no value: give the folder of a run, e.g. run_dir=runs/demo")

    from rich.console import Console

    from insight_rl.report.explanation import explain_prompt, explain_step, find_prompt, load_step
    from insight_rl.report.explanation_picture import draw_step
    from insight_rl.selector.decision_log import logged_steps, read_history

    run_dir = Path(given["run_dir"]).expanduser()
    step = given.get("step", str(logged_steps(run_dir)[-1]))
    check(step.isdigit(), "step", step, "must be the number of a step")
    view = load_step(run_dir, int(step))
    console = Console()
    if "prompt" not in given:
        console.print(" ".join(explain_step(view)), highlight=False)
        _print_step(console, view)
        output = run_dir / "explain" / f"step_{view.step:06d}.png"
        draw_step(view, output, prompt_id=None, history=None)
    else:
        prompt_id = find_prompt(run_dir, view, given["prompt"])
        history = read_history(run_dir, prompt_id=prompt_id)
        text = view.texts.get(prompt_id, "")
        console.print(f"Prompt {prompt_id}{f': {text!r}' if text else ''}", highlight=False, markup=False)
        console.print(" ".join(explain_prompt(view, prompt_id, history)), highlight=False)
        _print_neighbours(console, view, view.row_of(prompt_id))
        output = run_dir / "explain" / f"step_{view.step:06d}_{re.sub(r'[^A-Za-z0-9._-]', '_', prompt_id)}.png"
        draw_step(view, output, prompt_id=prompt_id, history=history)
    print(output)
    return 0


def _print_step(console: Console, view: StepView) -> None:
    """Print a table of the candidates, by how often they had been rolled out before this step."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    headings = ("rolled out\nbefore", "candi-\ndates", "chosen", "", "mean\nscore", "mean\nbelief", "mixed\ngroups")
    for heading in headings:
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    levels = sorted(set(np.minimum(view.visits, 5).tolist()))
    for level in levels:
        inside = np.minimum(view.visits, 5) == level
        chosen = inside & view.candidates.chosen
        judged = chosen & (view.candidates.judged > 0)
        mixed = judged & (view.candidates.successes > 0) & (view.candidates.successes < view.candidates.judged)
        share = chosen.sum() / max(view.candidates.chosen.sum(), 1)
        table.add_row(
            ("never", "once", "twice", "3 times", "4 times", "more often")[level],
            str(inside.sum()),
            str(chosen.sum()),
            "█" * round(share * _BAR_WIDTH),
            f"{view.candidates.score[inside].mean():.4g}" if view.is_scored else "",
            f"{view.mean[inside].mean():.2f}",
            f"{mixed.sum()} of {judged.sum()}" if judged.any() else "",
        )
    console.print(table)


def _print_neighbours(console: Console, view: StepView, marked: int | None) -> None:
    """The best candidates, those around the last place, and the marked one, by rank. ``nats``: the information."""
    from rich import box
    from rich.table import Table

    if not view.is_scored:
        return
    order = np.lexsort((~view.candidates.chosen, -view.candidates.score)).tolist()
    num_chosen = int(view.candidates.chosen.sum())
    places = {*range(_NUM_SHOWN - 1), *range(num_chosen - 2, num_chosen + 2)}
    if marked is not None:
        places.add(order.index(marked))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("")
    table.add_column("prompt", overflow="fold", min_width=22)
    for heading in ("rank", "belief", "weight", "nats", "score", "chosen", "right"):
        table.add_column(heading, justify="right")
    weight, information = view.weight, view.information
    for place in sorted(each for each in places if 0 <= each < len(order)):
        row = order[place]
        judged = int(view.candidates.judged[row])
        table.add_row(
            ">" if row == marked else "",
            str(view.candidates.prompt_id[row]),
            str(view.rank(row)),
            f"{view.candidates.alpha[row]:.3g}, {view.candidates.beta[row]:.3g}",
            f"{weight[row]:.3g}" if weight is not None else "",
            f"{information[row]:.3g}",
            f"{view.candidates.score[row]:.4g}",
            "yes" if view.candidates.chosen[row] else "no",
            f"{view.candidates.successes[row]} of {judged}" if judged > 0 else "",
            style="bold" if row == marked else "",
        )
    console.print(table)
