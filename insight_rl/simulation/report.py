"""A study as a table on the console and as a file of raw numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from insight_rl.checkpoint import write_atomically
from insight_rl.simulation.experiment import CURVES
from insight_rl.simulation.settings import SimulationConfig
from insight_rl.simulation.study import ORACLE, Study, estimate, half_width

if TYPE_CHECKING:
    from rich.table import Table

BASELINE = "random"
_NUM_DIGITS = 5


def table(study: Study, *, title: str) -> Table:
    """One row a selector, best mean success at the end first; every figure with its 95 % interval."""
    from rich.table import Table

    result = Table(title=title, title_justify="left")
    result.add_column("selector")
    columns = ["mean success\nat the end", "over the run\n(area)", "informative\nfraction", "regret", "spent on\nhopeless"]
    keys = ["mean_success_at_end", "area_under_curve", "informative_fraction", "regret", "hopeless_fraction"]
    compared = BASELINE in study.labels
    columns.insert(1, f"less {BASELINE}\n(paired)") if compared else None
    gated = any(np.ptp(study.figures(label)["num_groups"]) or _cost(study, label) != 1 for label in study.labels)
    for column in [*columns, *(["groups\nrolled out"] if gated else [])]:
        result.add_column(column, justify="right", no_wrap=True)
    for label in sorted(study.labels, key=lambda label: -study.figures(label)["mean_success_at_end"].mean()):
        figures = study.figures(label)
        cells = [str(estimate(figures[key])) for key in keys]
        if compared:
            cells.insert(1, str(study.difference(label, BASELINE)) if label != BASELINE else "")
        if gated:
            cells.append(f"{figures['num_groups'].mean():.0f}")
        result.add_row(label, *cells, style="dim" if label == ORACLE else "")
    return result


def _cost(study: Study, label: str) -> float:
    """Groups rolled out as a multiple of the oracle's, which has no gate."""
    return float(study.figures(label)["num_groups"].mean() / study.figures(ORACLE)["num_groups"].mean())


def raw_numbers(study: Study, config: SimulationConfig) -> dict[str, Any]:
    """Settings, every seed's figures, and the curves as mean over seeds and half width of the 95 % interval."""
    settings = {"pool": config.pool, "seed": config.seed, "seeds": config.seeds}
    for name in ("num_prompts", "num_steps", "prompts_per_step", "rollouts_per_prompt"):
        settings[name] = getattr(config, name)
    selectors = {
        label: {
            "figures": {name: _rounded(values) for name, values in study.figures(label).items()},
            "curves": {
                name: {
                    "mean": _rounded(study.curve(label, name).mean(axis=0)),
                    "half_width": _rounded(half_width(study.curve(label, name))),
                }
                for name in CURVES
            },
        }
        for label in study.labels
    }
    return {"settings": settings, "selectors": selectors}


def write_raw_numbers(study: Study, config: SimulationConfig, path: Path) -> None:
    write_atomically(path, json.dumps(raw_numbers(study, config)) + "\n")


def _rounded(values: np.ndarray) -> list[float]:
    return [round(value, _NUM_DIGITS) for value in values.tolist()]
