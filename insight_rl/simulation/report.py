"""A study as a table on the console and as a file of raw numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from insight_rl.checkpoint import write_atomically
from insight_rl.simulation.experiment import CURVES
from insight_rl.simulation.settings import SimulationConfig
from insight_rl.simulation.study import ORACLE, Estimate, Study, estimate, half_width

if TYPE_CHECKING:
    from rich.table import Table

BASELINE = "random"
_NUM_DIGITS = 5
_PAIRED = "paired"
_GROUPS = "groups"
_COLUMNS = {
    "mean_success_at_end": "success\nat the end",
    _PAIRED: f"less {BASELINE},\npool by pool",
    "area_under_curve": "success over\nthe run (area)",
    "informative_fraction": "informative\ngroups",
    "regret": "lost to the\noracle",
    _GROUPS: "groups\n(oracle = 1)",
}


def table(study: Study, *, title: str) -> Table:
    """One row a selector, best mean success at the end first: percent, with half the width of the 95 % interval."""
    from rich import box
    from rich.table import Table

    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    result.add_column("percent", overflow="fold", min_width=12)
    names = dict(_COLUMNS)
    if BASELINE not in study.labels:
        del names[_PAIRED]
    if all(_cost(study, label) == 1.0 for label in study.labels):
        del names[_GROUPS]
    for heading in names.values():
        result.add_column(heading, justify="right", no_wrap=True)
    for label in sorted(study.labels, key=lambda label: -study.figures(label)["mean_success_at_end"].mean()):
        cells = [_cell(study, label, name) for name in names]
        result.add_row(label, *cells, style="dim" if label == ORACLE else "")
    return result


def _cell(study: Study, label: str, name: str) -> str:
    if name == _PAIRED:
        return "" if label == BASELINE else _percent(study.difference(label, BASELINE), sign="+")
    if name == _GROUPS:
        return f"{_cost(study, label):.2f}"
    return _percent(estimate(study.figures(label)[name]))


def _percent(estimated: Estimate, sign: str = "") -> str:
    return f"{100 * estimated.mean:{sign}.2f} ±{100 * estimated.half_width:.2f}"


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
