"""Stops a run that would go on learning from garbage, with the reason. Pure checks on what a step produced."""

from __future__ import annotations

from insight_rl.errors import RunStopped
from insight_rl.types import Metrics

MEAN_LOGPROB_GAP_LIMITS = {"float32": 1e-3, "bfloat16": 0.2}
"""Nats, by ``model.dtype``, where ``trainer.max_mean_logprob_gap`` is null. Measured in sound runs: about 1e-6 in
float32, 0.03 to 0.07 in bfloat16 (docs/results.md)."""


def stop_if_logprobs_diverge(metrics: Metrics, *, max_mean_gap: float) -> None:
    """Raise ``RunStopped`` when the engine's log-probs are not the learner's (before the step's first update).

    The mean over the step's tokens decides: other weights shift all of them, while the largest gap of millions of
    tokens is an outlier in a sound run too. A step without an update has measured nothing.
    """
    gap = metrics.get("rollout/logprob_gap_mean")
    if gap is None:
        return
    assert isinstance(gap, float)
    if not gap <= max_mean_gap:
        raise RunStopped(
            f"rollout/logprob_gap_mean={gap:.3g} exceeds trainer.max_mean_logprob_gap={max_mean_gap}: the rollout "
            "engine does not sample from the learner's weights (a failed weight sync, another dtype or temperature); "
            "compare model.dtype with the engine's settings"
        )
