"""The tables of a comparison, made from the folders of its runs: ``curves.csv``, ``problems.csv`` and ``costs.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from insight_rl.compare.simulations import CURVE_FILE, read_curve
from insight_rl.compare.statistics import area
from insight_rl.evaluation_log import EVALUATIONS_FILE
from insight_rl.files import write_atomically
from insight_rl.monitor.records import METRICS_FILE, Record, read_records

CURVES = ("setting", "selector", "seed", "step", "rollouts", "tokens", "seconds", "accuracy", "informative_fraction")
PROBLEMS = ("setting", "selector", "seed", "step", "problem", "successes", "samples")
COSTS = (
    "setting",
    "selector",
    "seed",
    "steps",
    "rollouts",
    "tokens",
    "device_seconds",
    "extra_forwards",
    "select_seconds",
    "brier",
    "coverage",
    "wasted_fraction",
)

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    arm: str
    seed: int
    run_dir: Path


def curve_rows(records: Sequence[Record], *, setting: str, arm: str, seed: int) -> list[Row]:
    """One row per evaluation of a run, in the columns of :data:`CURVES`.

    ``informative_fraction`` is the share of informative groups among all that were rolled out since the evaluation
    before; empty at step 0 and where the selector does not report it.
    """
    rows: list[Row] = []
    informative, groups = 0.0, 0
    for record in records:
        num_groups = record.get("gate/num_groups") or 0
        fraction = record.get("selector/informative_fraction")
        if fraction is not None:
            informative, groups = informative + fraction * num_groups, groups + num_groups
        if record.get("eval/accuracy") is None:
            continue
        rows.append(
            {
                "setting": setting,
                "selector": arm,
                "seed": seed,
                "step": record["step"],
                "rollouts": record.get("rollout/num_rollouts") or 0,
                "tokens": record.get("rollout/num_tokens") or 0,
                "seconds": record.get("time/device_s") or 0.0,
                "accuracy": record["eval/accuracy"],
                "informative_fraction": informative / groups if groups else None,
            }
        )
        informative, groups = 0.0, 0
    return rows


def problem_rows(evaluations: Sequence[Record], *, setting: str, arm: str, seed: int) -> list[Row]:
    """One row per held-out problem, at the run's last evaluation."""
    if not evaluations:
        return []
    last = evaluations[-1]
    shared = {"setting": setting, "selector": arm, "seed": seed, "step": last["step"]}
    return [
        {**shared, "problem": problem, "successes": successes, "samples": last["samples"]}
        for problem, successes in last["successes"].items()
    ]


def cost_row(records: Sequence[Record], *, setting: str, arm: str, seed: int) -> Row:
    """What a run has spent in all; Brier score and coverage are means over its steps, by groups."""
    steps = [record for record in records if record["step"] > 0]
    last: Record = steps[-1] if steps else {"step": 0}
    informative = _mean_by_groups(steps, "selector/informative_fraction")
    return {
        "setting": setting,
        "selector": arm,
        "seed": seed,
        "steps": last["step"],
        "rollouts": last.get("rollout/num_rollouts") or 0,
        "tokens": last.get("rollout/num_tokens") or 0,
        "device_seconds": last.get("time/device_s") or 0.0,
        "extra_forwards": sum(record.get("learner/num_extra_forwards") or 0 for record in steps),
        "select_seconds": sum(record.get("time/select_s") or 0.0 for record in steps),
        "brier": _mean_by_groups(steps, "selector/brier"),
        "coverage": _mean_by_groups(steps, "selector/coverage"),
        "wasted_fraction": None if informative is None else 1.0 - informative,
    }


def simulated_cost_row(rows: Sequence[Mapping[str, Any]], *, setting: str, arm: str, seed: int) -> Row:
    """The same for a simulated run, whose only cost in seconds is the selector's; what it has not is empty."""
    last = rows[-1]
    spans = pairwise(rows)
    shares = [(b["informative_fraction"], b["rollouts"] - a["rollouts"]) for a, b in spans]
    total = sum(rollouts for _, rollouts in shares)
    wasted = 1.0 - sum(share * rollouts for share, rollouts in shares) / total if total else None
    return {
        **dict.fromkeys(COSTS),
        "setting": setting,
        "selector": arm,
        "seed": seed,
        "steps": last["step"],
        "rollouts": last["rollouts"],
        "select_seconds": last["seconds"],
        "wasted_fraction": wasted,
    }


def _mean_by_groups(steps: Sequence[Record], key: str) -> float | None:
    found = [(record[key], record.get("gate/num_groups") or 0) for record in steps if record.get(key) is not None]
    total = sum(groups for _, groups in found)
    return sum(value * groups for value, groups in found) / total if total else None


def write_tables(runs: Sequence[FinishedRun], *, setting: str, folder: Path) -> list[Path]:
    """Write the three tables of the runs, in their order."""
    curves: list[Row] = []
    problems: list[Row] = []
    costs: list[Row] = []
    for run in runs:
        names: dict[str, Any] = {"setting": setting, "arm": run.arm, "seed": run.seed}
        if (run.run_dir / CURVE_FILE).is_file():
            rows = read_curve(run.run_dir)
            curves += [{"setting": setting, "selector": run.arm, "seed": run.seed, **row} for row in rows]
            costs.append(simulated_cost_row(rows, **names))
            continue
        records = read_records(run.run_dir / METRICS_FILE)
        evaluations = run.run_dir / EVALUATIONS_FILE
        curves += curve_rows(records, **names)
        costs.append(cost_row(records, **names))
        problems += problem_rows(read_records(evaluations) if evaluations.is_file() else [], **names)
    tables = (("curves.csv", CURVES, curves), ("problems.csv", PROBLEMS, problems), ("costs.csv", COSTS, costs))
    return [write_csv(folder / name, columns, rows) for name, columns, rows in tables]


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(row[key]) for key in columns} for row in rows)
    write_atomically(path, text.getvalue())
    return path


def primary_value(rows: Sequence[Row], *, metric: str, axis: str) -> float:
    """The primary metric of one run: its last accuracy, or the mean of its accuracy over ``axis`` (trapezoids)."""
    accuracy = np.array([row["accuracy"] for row in rows], dtype=np.float64)
    if metric == "final" or len(rows) < 2:
        return float(accuracy[-1])
    x = np.array([row["step" if axis == "steps" else axis] for row in rows], dtype=np.float64)
    return area(x, accuracy, x[-1]) if x[-1] > x[0] else float(accuracy[-1])


def _cell(value: Any) -> Any:
    """Floats with 6 significant digits after rounding to what they are worth; None is an empty cell."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value
