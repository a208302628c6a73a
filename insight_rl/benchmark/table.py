"""The figures of a suite as a terminal table, as Markdown and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from insight_rl.benchmark.figures import Estimate, Figures, SuiteFigures

if TYPE_CHECKING:
    from rich.table import Table

CAPTION = "Per cent, but for the tokens; in brackets the 95 % bootstrap interval over problems"


def terminal_table(figures: SuiteFigures, *, title: str) -> Table:
    """Narrow enough for 80 columns: of pass@k only the largest k."""
    from rich import box
    from rich.table import Table

    columns, *rows = _cells(figures, all_k=False)
    table = Table(title=title, title_justify="left", caption=CAPTION, caption_justify="left", box=box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
    for row in rows:
        table.add_row(*row)
    return table


def markdown(figures: SuiteFigures, *, title: str, notes: Sequence[str]) -> str:
    columns, *rows = _cells(figures, all_k=True)
    lines = [f"# {title}", "", _line(columns), _line(["---"] + ["---:"] * (len(columns) - 1)), *map(_line, rows)]
    lines += ["", f"{CAPTION}.", "", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def as_json(figures: SuiteFigures) -> dict[str, Any]:
    """``rows`` and ``average``, figures between 0 and 1."""
    rows = [dataclasses.asdict(row) for row in figures.rows]
    return {"rows": rows, "average": dataclasses.asdict(figures.average) if figures.average else None}


def flat_metrics(row: Figures) -> Mapping[str, float]:
    """The keys of an evaluation in a training run, without its interval: the table has a bootstrapped one."""
    return {
        "eval/accuracy": row.accuracy.value,
        "eval/pass_at_1": row.accuracy.value,
        **{f"eval/pass_at_{k}": estimate.value for k, estimate in row.pass_at.items()},
        "eval/unjudged_fraction": row.unjudged_fraction,
        "eval/truncated_fraction": row.truncated_fraction,
        "eval/mean_tokens": row.mean_tokens,
    }


def _cells(figures: SuiteFigures, *, all_k: bool) -> list[list[str]]:
    """Column names, then the rows."""
    first = figures.rows[0]
    ks = list(first.pass_at) if all_k else list(first.pass_at)[-1:]
    has_unjudged = any(row.unjudged_fraction for row in figures.rows)
    columns = [
        "benchmark",
        "problems",
        f"avg@{first.num_samples}",
        *(f"pass@{k}" for k in ks),
        "cut off",
        "tokens",
    ]
    cells = [columns + ["not judged"] * has_unjudged]
    for row in figures.rows:
        line = [row.label, str(row.num_problems), _interval(row.accuracy)]
        line += [_percent(row.pass_at[k].value) for k in ks]
        line += [_percent(row.truncated_fraction), f"{row.mean_tokens:.0f}"]
        cells.append(line + [_percent(row.unjudged_fraction)] * has_unjudged)
    if figures.average is not None:
        cells.append(["average", "", _interval(figures.average), *[""] * (len(cells[0]) - 3)])
    return cells


def _interval(estimate: Estimate) -> str:
    return f"{_percent(estimate.value)} [{_percent(estimate.low)}, {_percent(estimate.high)}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell or ' ' for cell in cells)} |"
