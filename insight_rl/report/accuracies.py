"""The final accuracies of several runs as a table: a row for each setting, a column for each seed, mean and spread."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev

from rich.table import Table

from insight_rl.report.runs import Run, group_runs


def accuracy_table(runs: Sequence[Run]) -> Table:
    """Held-out accuracy of each run's last evaluation, in per cent; ``-`` where it was not measured.

    The last column is the mean over the seeds and their standard deviation (n - 1), which needs two of them.
    """
    seeds = sorted({run.seed for run in runs}, key=str)
    table = Table(box=None, pad_edge=False)
    table.add_column("held-out accuracy, %")
    for seed in seeds:
        table.add_column(f"seed {seed}", justify="right")
    table.add_column("mean +- sd", justify="right")
    for label, members in group_runs(runs).items():
        by_seed = {run.seed: _final_accuracy(run) for run in members}
        measured = [accuracy for accuracy in by_seed.values() if accuracy is not None]
        spread = f" +- {100 * stdev(measured):.1f}" if len(measured) > 1 else ""
        average = f"{100 * mean(measured):.1f}{spread}" if measured else "-"
        table.add_row(label or "run", *(_cell(by_seed.get(seed)) for seed in seeds), average)
    return table


def _final_accuracy(run: Run) -> float | None:
    evaluated = [record["eval/accuracy"] for record in run.records if record.get("eval/accuracy") is not None]
    return float(evaluated[-1]) if evaluated else None


def _cell(accuracy: float | None) -> str:
    return "-" if accuracy is None else f"{100 * accuracy:.1f}"
