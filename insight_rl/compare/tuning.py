"""One setting of each arm, such as its learning rate, chosen with the same number of trials on seeds of their own.

A comparison in which only the favourite was tuned shows how well it was tuned. Here every arm gets the same values and
seeds; the value with the best mean of the primary metric wins, the earlier one of equals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from insight_rl.compare.plan import TuningPlan

COLUMNS = ("setting", "selector", "key", "value", "seed", "metric", "result", "chosen")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of an arm with one value. ``result`` is its primary metric; None: the run failed."""

    arm: str
    value: Any
    seed: int
    result: float | None


def choose(trials: Sequence[Trial], tuning: TuningPlan) -> dict[str, Any]:
    """The value of each arm. A value of which a trial failed (it diverged, say) is not chosen.

    Raises ``ValueError`` naming the arm all of whose values failed.
    """
    chosen: dict[str, Any] = {}
    for arm in dict.fromkeys(trial.arm for trial in trials):
        means: dict[int, float] = {}
        for index, value in enumerate(tuning.values):
            results = [trial.result for trial in trials if trial.arm == arm and str(trial.value) == str(value)]
            whole = [result for result in results if result is not None]
            if results and len(whole) == len(results):
                means[index] = sum(whole) / len(whole)
        if not means:
            raise ValueError(arm)
        chosen[arm] = tuning.values[max(means, key=lambda index: (means[index], -index))]
    return chosen


def tuning_rows(
    trials: Sequence[Trial], chosen: Mapping[str, Any], *, setting: str, key: str, metric: str
) -> list[dict[str, Any]]:
    """One row per trial, in the columns of :data:`COLUMNS`; ``chosen`` is 1 for the value that the runs use."""
    return [
        {
            "setting": setting,
            "selector": trial.arm,
            "key": key,
            "value": trial.value,
            "seed": trial.seed,
            "metric": metric,
            "result": trial.result,
            "chosen": int(str(chosen.get(trial.arm)) == str(trial.value)),
        }
        for trial in trials
    ]
