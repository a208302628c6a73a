"""A comparison whose truth is known, as a folder."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

SPEEDS = {"random": 1.0, "quick": 2.5, "same": 1.0, "slow": 0.4}
"""Points of accuracy that each arm gains per step, as a multiple of the baseline's."""


def write_comparison(
    folder: Path,
    *,
    speeds: dict[str, float] | None = None,
    num_seeds: int = 8,
    num_evaluations: int = 11,
    noise: float = 0.002,
    gain: float = 0.04,
    setting: str = "b",
    tokens_per_step: dict[str, float] | None = None,
    **changes: Any,
) -> Path:
    """Straight curves from 0.30 upward with noise; every arm spends as many tokens a step, unless told."""
    speeds = speeds or SPEEDS
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    plan = {
        "setting": setting,
        "kind": "train",
        "base": ["task=countdown"],
        "arms": {name: [f"selector={name}"] for name in speeds},
        "baseline": next(iter(speeds)),
        "seeds": {"first": 0, "number": num_seeds},
        "tuning": None,
        "primary": {"metric": "area", "axis": "tokens"},
        "budget": {"axis": "steps", "size": 100},
        "smallest_effect": 0.01,
        "exclusions": {},
        **changes,
    }
    text = yaml.safe_dump(plan, sort_keys=False)
    (folder / "plan.yaml").write_text(text)
    (folder / "plan.sha256").write_text(f"{hashlib.sha256(text.encode()).hexdigest()}  plan.yaml\n")
    curves, problems, costs = [], [], []
    for seed in range(num_seeds):
        start = 0.30 + rng.normal(0, 0.01)
        for name, speed in speeds.items():
            for index, x in enumerate(np.linspace(0, 1, num_evaluations)):
                step = round(100 * x)
                tokens = step * (tokens_per_step or {}).get(name, 1000.0)
                accuracy = start + gain * speed * x + (rng.normal(0, noise) if index else 0.0)
                share = "" if index == 0 else round(0.2 * speed + rng.normal(0, 0.01), 4)
                curves.append([setting, name, seed, step, 8 * step, tokens, 0.5 * step, accuracy, share])
            for problem in range(20):
                right = rng.binomial(4, min(1.0, 0.3 + gain * speed))
                problems.append([setting, name, seed, 100, f"p{problem}", right, 4])
            costs.append([setting, name, seed, 100, 800, 100_000, 50.0, 0, 1.5, 0.2, 0.9, 0.6])
    totals = "steps,rollouts,tokens,device_seconds,extra_forwards,select_seconds,brier,coverage,wasted_fraction"
    _write(
        folder / "curves.csv",
        "setting,selector,seed,step,rollouts,tokens,seconds,accuracy,informative_fraction",
        curves,
    )
    _write(folder / "problems.csv", "setting,selector,seed,step,problem,successes,samples", problems)
    _write(folder / "costs.csv", f"setting,selector,seed,{totals}", costs)
    return folder


def _write(path: Path, header: str, rows: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header.split(","), *rows])


@pytest.fixture
def comparison(tmp_path: Path) -> Callable[..., Path]:
    return lambda name="c", **given: write_comparison(tmp_path / name, **given)
