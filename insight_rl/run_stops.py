"""Stops a run that would go on learning from garbage, with the reason. Pure checks on what a step produced."""

from __future__ import annotations

from insight_rl.errors import RunStopped
from insight_rl.types import Metrics


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
