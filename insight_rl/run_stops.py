"""Stops a run that would go on learning from garbage, with the reason. Pure checks on what a step produced."""

from __future__ import annotations

from collections.abc import Sequence

from insight_rl.errors import RunStopped
from insight_rl.types import Group, Metrics


def stop_if_unjudged(groups: Sequence[Group], *, max_fraction: float) -> None:
    """Raise ``RunStopped`` when the verifier reached no verdict on more than ``max_fraction`` of the rollouts."""
    num_rollouts = sum(len(group.rewards_G) for group in groups)
    num_unjudged = num_rollouts - sum(group.num_judged for group in groups)
    if num_unjudged > max_fraction * num_rollouts:
        raise RunStopped(
            f"{num_unjudged} of {num_rollouts} rollouts could not be judged (timeouts or errors of the verifier), more "
            f"than trainer.max_unjudged_fraction={max_fraction}; test the verifier on its own with `insight-rl judge`"
        )


def stop_if_logprobs_diverge(metrics: Metrics, *, max_gap: float) -> None:
    """Raise ``RunStopped`` when the engine's log-probs are not the learner's (before the step's first update)."""
    gap = metrics["rollout/logprob_gap_max"]
    assert isinstance(gap, float)
    if not gap <= max_gap:
        raise RunStopped(
            f"rollout/logprob_gap_max={gap:.3g} exceeds trainer.max_logprob_gap={max_gap}: the rollout engine does not "
            "sample from the learner's weights (a failed weight sync, another dtype or temperature); compare "
            "model.dtype with the engine's settings"
        )
