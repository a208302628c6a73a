"""What a dashboard of runs shows, for every tracker: sections of charts, by the keys of the metric dictionary.

Trackers lay it out in their own ways: :mod:`insight_rl.monitor.wandb_dashboard`, :mod:`insight_rl.monitor.tensorboard`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OTHER_AXES = {"rollouts": "rollout/num_rollouts", "tokens": "rollout/num_tokens"}
"""``eval_by_tokens/accuracy`` is ``eval/accuracy`` once more, over tokens: in a tracker a metric has one axis only."""

ARM = "arm"
"""Key of a tracked run's configuration: what is compared, and averaged over seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One picture: ``keys`` over ``axis``, a line for each arm, its seeds averaged.

    Example::

        Chart(title="Held-out accuracy over tokens", keys=("eval/accuracy",), axis="tokens")
    """

    title: str
    keys: tuple[str, ...]
    """Of the metric dictionary."""

    axis: str = "step"
    """``step``, or one of :data:`OTHER_AXES`, which evaluations are logged over as well."""

    kind: str = "lines"
    """``lines``; ``bars``, the latest value of each key; ``histogram``, of each run by itself."""

    @property
    def logged_keys(self) -> tuple[str, ...]:
        """The keys under which trackers have them."""
        if self.axis == "step":
            return self.keys
        return tuple(f"eval_by_{self.axis}/{key.removeprefix('eval/')}" for key in self.keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    title: str
    charts: tuple[Chart, ...]


def _lines(title: str, *keys: str, axis: str = "step") -> Chart:
    return Chart(title=title, keys=keys, axis=axis)


SECTIONS = (
    Section(
        title="Accuracy",
        charts=(
            _lines("Held-out accuracy over steps", "eval/accuracy"),
            _lines("Held-out accuracy over rollouts", "eval/accuracy", axis="rollouts"),
            _lines("Held-out accuracy over generated tokens", "eval/accuracy", axis="tokens"),
        ),
    ),
    Section(
        title="Informative groups",
        charts=(
            _lines("Share of groups with both outcomes", "selector/informative_fraction"),
            _lines("Share of groups that were trained on", "gate/admitted_fraction"),
            _lines("Share of rollouts that succeed", "reward/accuracy"),
        ),
    ),
    Section(
        title="Beliefs",
        charts=(
            _lines("Mean belief", "selector/mean_belief"),
            _lines("Mean evidence", "selector/mean_evidence"),
            _lines("Share of the pool that was visited", "selector/visited_fraction"),
            Chart(title="Beliefs of the pool", keys=("selector/belief_histogram",), kind="histogram"),
            Chart(title="Evidence of the pool", keys=("selector/evidence_histogram",), kind="histogram"),
        ),
    ),
    Section(
        title="Calibration",
        charts=(
            _lines("Brier score", "selector/brier"),
            _lines("Coverage of the 90 % interval", "selector/coverage"),
            Chart(
                title="Reliability: success rate of the rollouts foretold at 0 to 0.1, ..., 0.9 to 1",
                keys=tuple(f"selector/reliability_{number}" for number in range(10)),
                kind="bars",
            ),
        ),
    ),
    Section(
        title="Throughput",
        charts=(
            _lines("Tokens generated a second", "rollout/tokens_per_s"),
            _lines("Tokens trained on a second", "learner/tokens_per_s"),
            _lines("Seconds a step", "time/step_s"),
        ),
    ),
    Section(
        title="Cost",
        charts=(
            _lines("Rollouts so far", "rollout/num_rollouts"),
            _lines("Generated tokens so far", "rollout/num_tokens"),
            _lines("Seconds to select", "time/select_s"),
        ),
    ),
)


def over_other_axes(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The evaluation of a step under the names of each of :data:`OTHER_AXES`; empty where there was none.

    Example::

        over_other_axes({"eval/accuracy": 0.5})["tokens"]  # {"eval_by_tokens/accuracy": 0.5}
    """
    evaluation = {key.removeprefix("eval/"): value for key, value in metrics.items() if key.startswith("eval/")}
    return {word: {f"eval_by_{word}/{name}": value for name, value in evaluation.items()} for word in OTHER_AXES}


def arm_of(config: Mapping[str, Any]) -> str | None:
    """The arm of a run by its composed configuration: as given, or the selector's name."""
    return config.get(ARM) or config.get("selector_name")


def tags_of(config: Mapping[str, Any]) -> list[str]:
    """``["selector=insight", "task=countdown", "model=tiny", "seed=3"]``, as far as the configuration says."""
    words = {name: config.get(f"{name}_name") for name in ("selector", "task", "model")} | {"seed": config.get("seed")}
    # W&B takes 64 characters.
    return [f"{word}={value}"[:64] for word, value in words.items() if value is not None]
