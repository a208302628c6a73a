"""A study as a table on the console and as a file of raw numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from insight_rl.files import write_atomically
from insight_rl.simulation.experiment import CURVES
from insight_rl.simulation.settings import SimulationConfig
from insight_rl.simulation.study import BASELINE, ORACLE, MeanOverSeeds, Study, estimate, half_width

if TYPE_CHECKING:
    from rich.table import Table

_NUM_DIGITS = 5
_PAIRED = "paired"
_GROUPS = "groups"
_COLUMNS = {
    "mean_success_at_end": "success\nat end",
    _PAIRED: f"less\n{BASELINE}",
    "area_under_curve": "success\nall along",
    "informative_fraction": "groups\ninformed",
    "regret": "lost to\noracle",
    _GROUPS: "cost",
}
"""Heading of each figure: success is the mean over the pool; ``less random`` is paired, pool by pool; ``cost`` is the
number of groups rolled out, as a multiple of the oracle's."""


def table(study: Study, *, title: str) -> Table:
    """One row a selector, best mean success at the end first: percent, with half the width of the 95 % interval."""
    from rich import box
    from rich.table import Table

    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    result.add_column("percent", overflow="fold", min_width=15)
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


def _percent(estimated: MeanOverSeeds, sign: str = "") -> str:
    return f"{100 * estimated.mean:{sign}.2f}±{100 * estimated.half_width:.2f}"


def _cost(study: Study, label: str) -> float:
    """Groups rolled out as a multiple of the oracle's, which has no gate."""
    return float(study.figures(label)["num_groups"].mean() / study.figures(ORACLE)["num_groups"].mean())


def raw_numbers(study: Study, config: SimulationConfig) -> dict[str, Any]:
    """Settings, every seed's figures, and the curves as mean over seeds and half width of the 95 % interval."""
    settings = {"synthetic_learner": config.synthetic_learner, "seed": config.seed, "num_seeds": config.num_seeds}
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


def replay_table(fractions: dict[str, np.ndarray], *, title: str) -> Table:
    """Informative share of the picks: over the run, against all that was rolled out, and in its two halves.

    The interval is over steps, the mean over seeds standing for each: it says how much of the difference could be
    chance.
    """
    from rich import box
    from rich.table import Table

    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    result.add_column("percent of the picks informative", overflow="fold", min_width=15)
    recorded = next(iter(fractions.values())).mean(axis=0)
    for heading in ("whole run", "less all\nrolled out", "first half", "second half"):
        result.add_column(heading, justify="right", no_wrap=True)
    for label, values in fractions.items():
        mean = values.mean(axis=0)
        half = max(len(mean) // 2, 1)
        gain = "" if mean is recorded or len(mean) < 2 else _percent(estimate(mean - recorded), sign="+")
        cells = [f"{100 * mean.mean():.2f}", gain, f"{100 * mean[:half].mean():.2f}", f"{100 * mean[half:].mean():.2f}"]
        result.add_row(label, *cells)
    return result


def write_replay_numbers(
    fractions: dict[str, np.ndarray], steps: np.ndarray, config: SimulationConfig, path: Path
) -> None:
    settings = {"replay": config.replay, "replay_share": config.replay_share, "seed": config.seed}
    curves = {label: _rounded(values.mean(axis=0)) for label, values in fractions.items()}
    record = {"settings": settings, "steps": steps.tolist(), "informative_fraction": curves}
    write_atomically(path, json.dumps(record) + "\n")


def _rounded(values: np.ndarray) -> list[float]:
    return [round(value, _NUM_DIGITS) for value in values.tolist()]
