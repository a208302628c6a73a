"""The table at the end of a sweep."""

import io
from pathlib import Path

from rich.console import Console

from insight_rl.report.accuracies import accuracy_table
from insight_rl.report.runs import Run


def make_run(selector, seed, *accuracies):
    records = tuple({"step": step, "eval/accuracy": accuracy} for step, accuracy in enumerate(accuracies))
    config = {"seed": seed, "selector": {"_target_": selector}, "selector_name": selector}
    return Run(run_dir=Path(f"{selector}-{seed}"), records=records or ({"step": 0},), config=config)


def rows(runs):
    console = Console(file=io.StringIO(), width=100)
    console.print(accuracy_table(runs))
    return [line.split() for line in console.file.getvalue().splitlines()]


def test_a_row_for_each_setting_with_mean_and_spread_over_its_seeds():
    runs = [make_run("random", 1, 0.3, 0.4), make_run("insight", 1, 0.3, 0.5), make_run("insight", 2, 0.3, 0.6)]
    header, random, insight = rows(runs)
    assert header == ["held-out", "accuracy,", "%", "seed", "1", "seed", "2", "mean", "+-", "sd"]
    assert random == ["random", "40.0", "-", "40.0"]
    assert insight == ["insight", "50.0", "60.0", "55.0", "+-", "7.1"]


def test_a_run_without_an_evaluation_has_no_figure():
    assert rows([make_run("random", 1)])[1] == ["run", "-", "-"]
