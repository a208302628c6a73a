"""Reads the folder of a comparison: its plan, and the CSV files that its runs left. Computes nothing.

plan.yaml, plan.sha256   what was planned, and the hash that it had before the first run
curves.csv               setting,selector,seed,step,rollouts,tokens,seconds,accuracy,informative_fraction
problems.csv             setting,selector,seed,step,problem,successes,samples  at the last evaluation (optional)
costs.csv                setting,selector,seed and the totals of each run (optional)
tuning.csv               the trials that chose each arm's learning rate (optional)
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import yaml

from insight_rl.errors import UsageError, check, is_number

Axis = Literal["steps", "rollouts", "tokens", "seconds"]
AXES: tuple[Axis, ...] = ("steps", "rollouts", "tokens", "seconds")
METRICS = ("area", "final")
CURVE_COLUMNS = (
    "setting",
    "selector",
    "seed",
    "step",
    "rollouts",
    "tokens",
    "seconds",
    "accuracy",
    "informative_fraction",
)
PROBLEM_COLUMNS = ("setting", "selector", "seed", "step", "problem", "successes", "samples")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What one run had at each of its E evaluations; all arrays are float64 of shape [E]."""

    selector: str
    seed: int
    budgets: Mapping[Axis, np.ndarray]
    """Used up so far: training steps, rollouts (gated ones too), generated tokens, device seconds. What was not
    measured (tokens of a simulation, say) is left out."""
    accuracy: np.ndarray
    """Share of right answers, 0 to 1."""
    informative_fraction: np.ndarray
    """Share of groups with both outcomes since the evaluation before; nan at step 0."""

    def end(self, axis: Axis) -> float:
        """The budget at the last evaluation."""
        return float(self.budgets[axis][-1])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the report needs to know of plan.yaml."""

    setting: str
    kind: str
    baseline: str
    arms: tuple[str, ...]
    overrides: Mapping[str, Sequence[str]]
    seeds: tuple[int, ...]
    metric: Literal["area", "final"]
    axis: Axis
    budget_axis: Axis
    budget_size: float
    smallest_effect: float
    """In accuracy: 0.01 is one point."""
    exclusions: Mapping[str, str]
    """Runs that the plan leaves out, and why."""
    matches_hash: bool
    """Whether plan.yaml still has the hash that was written before the first run."""
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Results:
    """One comparison as its folder holds it. Tables are lists of rows as the CSV has them, text by column."""

    folder: Path
    plan: Plan
    curves: Mapping[tuple[str, int], Curve]
    """By selector and seed."""
    problems: Mapping[tuple[str, int], Mapping[str, float]]
    """By selector and seed: the share of right samples of each problem at the last evaluation."""
    costs: Mapping[tuple[str, int], Mapping[str, float]]
    """By selector and seed: the totals of the run; columns that were empty are left out."""
    tuning: Sequence[Mapping[str, str]]
    failed: Mapping[str, str]
    """Runs that failed, and why."""
    changes: Sequence[str]
    """What was changed after the first run, a sentence each."""
    versions: Mapping[str, str]

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The budgets on which arms can be compared. In a simulation only choosing takes time, which is no budget."""
        measured = set.intersection(*(set(curve.budgets) for curve in self.curves.values()))
        if self.plan.kind == "simulate":
            measured.discard("seconds")
        return tuple(axis for axis in AXES if axis in measured)

    @property
    def selectors(self) -> tuple[str, ...]:
        """The arms that have at least one run, in the plan's order, then any that the plan does not know."""
        found = dict.fromkeys(selector for selector, _ in self.curves)
        return (*(arm for arm in self.plan.arms if arm in found), *(arm for arm in found if arm not in self.plan.arms))

    def of(self, selector: str) -> dict[int, Curve]:
        """The arm's runs by seed, in order."""
        return {seed: curve for (name, seed), curve in sorted(self.curves.items()) if name == selector}


def load_results(folder: Path) -> Results:
    """Read the folder of a comparison.

    Raises ``UsageError`` that names the file, the line and the column where something is missing or no number.
    """
    check(folder.is_dir(), "report", str(folder), "is not a folder; give the output_dir of a comparison")
    plan = read_plan(folder)
    status = _json(folder / "status.json")
    failed, changes = status.get("failed"), status.get("changes")
    return Results(
        folder=folder,
        plan=plan,
        curves=_curves(folder / "curves.csv", plan.setting),
        problems=_problems(folder / "problems.csv"),
        costs=_costs(folder / "costs.csv"),
        tuning=_rows(folder / "tuning.csv", required=()) if (folder / "tuning.csv").is_file() else (),
        failed={str(run): str(reason) for run, reason in failed.items()} if isinstance(failed, dict) else {},
        changes=tuple(map(str, changes)) if isinstance(changes, list) else (),
        versions={name: str(version) for name, version in _json(folder / "versions.json").items()},
    )


def read_plan(folder: Path) -> Plan:
    """The plan of a comparison. Raises ``UsageError`` for one that cannot be read."""
    path = folder / "plan.yaml"
    try:
        content = path.read_bytes()
        raw = yaml.safe_load(content)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({type(error).__name__}); give the output_dir of a comparison") from (
            error
        )
    if not isinstance(raw, dict):
        raise UsageError(f"{path}: must hold keys and values; it has been changed since the comparison began")
    arms = {name: given for name, given in _mapping(raw, "arms", path).items() if given is not None}
    seeds, primary, budget = (_mapping(raw, key, path) for key in ("seeds", "primary", "budget"))
    first = int(_number(seeds, "first", path))
    plan = Plan(
        setting=str(raw.get("setting", "")),
        kind=str(raw.get("kind", "train")),
        baseline=str(raw.get("baseline", "")),
        arms=tuple(map(str, arms)),
        overrides={str(name): tuple(map(str, given)) for name, given in arms.items()},
        seeds=tuple(range(first, first + int(_number(seeds, "number", path)))),
        metric=cast('Literal["area", "final"]', _one_of(primary, "metric", METRICS, path)),
        axis=cast(Axis, _one_of(primary, "axis", AXES, path)),
        budget_axis=cast(Axis, _one_of(budget, "axis", AXES, path)),
        budget_size=_number(budget, "size", path),
        smallest_effect=_number(raw, "smallest_effect", path),
        exclusions={str(run): str(reason) for run, reason in _mapping(raw, "exclusions", path).items()},
        matches_hash=_hash_matches(folder, content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    check(plan.baseline in plan.arms, f"{path}: baseline", plan.baseline, f"is none of the arms {', '.join(plan.arms)}")
    check(plan.smallest_effect > 0, f"{path}: smallest_effect", plan.smallest_effect, "must be above 0")
    return plan


def _hash_matches(folder: Path, content: bytes) -> bool:
    path = folder / "plan.sha256"
    written = path.read_text(encoding="utf-8", errors="replace").split() if path.is_file() else []
    return bool(written) and written[0] == hashlib.sha256(content).hexdigest()


def _curves(path: Path, setting: str) -> dict[tuple[str, int], Curve]:
    table: dict[tuple[str, int], list[dict[str, float]]] = {}
    for number, row in enumerate(_rows(path, required=CURVE_COLUMNS), start=2):
        values = {key: _float(row[key], path, number, key) for key in CURVE_COLUMNS[3:]}
        missing = next((key for key in ("step", "accuracy") if math.isnan(values[key])), None)
        check(missing is None, f"{path}, line {number}: {missing}", "", "is empty; run the comparison again")
        table.setdefault(_run_of(row, path, number), []).append(values)
    check(bool(table), str(path), "", f"has no rows: no run of setting {setting} has come to an end yet")
    curves = {}
    for (selector, seed), rows in table.items():
        rows.sort(key=lambda row: row["step"])
        column = {key: np.array([row[key] for row in rows], dtype=np.float64) for key in CURVE_COLUMNS[3:]}
        budgets: dict[Axis, np.ndarray] = {}
        for axis in AXES:
            used = column["step" if axis == "steps" else axis]
            if np.isnan(used).all():
                continue
            is_rising = bool((np.diff(used) >= 0).all())
            key = f"{path}: {axis} of {selector}, seed {seed}"
            check(is_rising, key, used.tolist(), "must be known at every evaluation, and not fall along a run")
            budgets[axis] = used
        curves[selector, seed] = Curve(
            selector=selector,
            seed=seed,
            budgets=budgets,
            accuracy=column["accuracy"],
            informative_fraction=column["informative_fraction"],
        )
    return curves


def _problems(path: Path) -> dict[tuple[str, int], dict[str, float]]:
    problems: dict[tuple[str, int], dict[str, float]] = {}
    if path.is_file():
        for number, row in enumerate(_rows(path, required=PROBLEM_COLUMNS), start=2):
            samples = _float(row["samples"], path, number, "samples")
            if samples > 0:
                share = _float(row["successes"], path, number, "successes") / samples
                problems.setdefault(_run_of(row, path, number), {})[row["problem"]] = share
    return problems


def _costs(path: Path) -> dict[tuple[str, int], dict[str, float]]:
    costs: dict[tuple[str, int], dict[str, float]] = {}
    if path.is_file():
        for number, row in enumerate(_rows(path, required=("setting", "selector", "seed")), start=2):
            totals = {
                key: _float(value, path, number, key)
                for key, value in row.items()
                if key not in ("setting", "selector", "seed") and value
            }
            costs[_run_of(row, path, number)] = totals
    return costs


def _json(path: Path) -> dict[str, Any]:
    """Empty where there is no such file: what it tells is then told as unknown."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({type(error).__name__}); delete it") from error
    check(isinstance(found, dict), str(path), found, "must hold keys and values; delete it")
    return cast("dict[str, Any]", found)


def _rows(path: Path, *, required: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = [{key: value or "" for key, value in row.items() if key is not None} for row in reader]
            columns = reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read ({type(error).__name__}); run the comparison again") from error
    missing = [name for name in required if name not in columns]
    check(not missing, str(path), ",".join(columns), f"lacks the columns {', '.join(missing)}")
    return rows


def _run_of(row: Mapping[str, str], path: Path, number: int) -> tuple[str, int]:
    seed = _float(row["seed"], path, number, "seed")
    check(seed == int(seed), f"{path}, line {number}: seed", row["seed"], "must be a whole number")
    return row["selector"], int(seed)


def _float(text: str, path: Path, number: int, column: str) -> float:
    """nan for an empty cell."""
    try:
        value = float(text) if text else math.nan
    except ValueError:
        value = math.inf
    check(not math.isinf(value), f"{path}, line {number}: {column}", text, "must be a finite number")
    return value


def _mapping(raw: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = raw.get(key)
    check(isinstance(value, dict), f"{path}: {key}", value, "must hold keys and values")
    return cast("dict[str, Any]", value)


def _number(raw: Mapping[str, Any], key: str, path: Path) -> float:
    check(is_number(raw.get(key)), f"{path}: {key}", raw.get(key), "must be a number")
    return float(raw[key])


def _one_of(raw: Mapping[str, Any], key: str, options: Sequence[str], path: Path) -> str:
    check(raw.get(key) in options, f"{path}: {key}", raw.get(key), f"must be one of {', '.join(options)}")
    return str(raw[key])
