"""What the ranks measure in a step, and the metrics made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from insight_rl.learner.plan import StepPlan
from insight_rl.types import Group, Metrics


@dataclass(slots=True, kw_only=True)
class StepSums:
    """One rank's measurements: sums over its tokens (to be added up over ranks), a maximum, and a norm per update."""

    sums: dict[str, float] = field(default_factory=dict)
    gap_max: float = -math.inf
    gaps_by_sequence: dict[int, float] = field(default_factory=dict)
    """By number in the rank's table, the mean gap of a sequence; without those that were not measured."""
    grad_norms: list[float] = field(default_factory=list)
    flops: int = 0
    """Floating-point operations of the step's passes through the model (:mod:`insight_rl.learner.flops`)."""
    gpu_bytes: dict[str, int] = field(default_factory=dict)
    """``allocated`` and ``reserved``: the step's largest, as PyTorch's allocator counts them; empty without a GPU."""

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value


def gaps_by_prompt(plan: StepPlan, sums_R: Sequence[StepSums], groups_P: Sequence[Group]) -> dict[str, np.ndarray]:
    """See :meth:`~insight_rl.learner.base.MeasuresCompletions.completion_gaps`."""
    gaps = {
        id(plan.completions_R[rank][number]): gap
        for rank, of_rank in enumerate(sums_R)
        for number, gap in of_rank.gaps_by_sequence.items()
    }
    return {
        group.prompt.id: np.array([gaps.get(id(completion.token_ids), math.nan) for completion in group.completions_G])
        for group in groups_P
    }


def to_metrics(plan: StepPlan, sums_R: Sequence[StepSums], lr: float) -> Metrics:
    """Metrics of a step from the sums of all ranks. Means are over the completion tokens that went through the model.

    A step that measured no token has counts only, since there is nothing to take a mean of: no group was kept, or no
    completion had a token.
    """
    total = StepSums()
    for of_rank in sums_R:
        total.add(of_rank.sums)
    grad_norms = sums_R[0].grad_norms if sums_R else []
    metrics: Metrics = {
        "learner/lr": lr,
        "learner/num_sequences": plan.num_sequences,
        "learner/num_tokens": plan.num_tokens,
        "learner/num_input_tokens": plan.num_inputs,
        "learner/num_skipped_groups": plan.num_skipped_groups,
        "learner/num_updates": len(grad_norms),
        "learner/num_extra_forwards": int(total.sums.get("extra_forwards", 0)),
    }
    for rank, of_rank in enumerate(sums_R):
        for kind, count in of_rank.gpu_bytes.items():
            metrics[f"memory/learner_rank_{rank}_gpu_{kind}_gib"] = count / 2**30
    sums = total.sums
    if "num_tokens" not in sums:
        return metrics
    num_tokens, num_gaps = sums["num_tokens"], sums["num_gaps"]
    metrics |= {
        "learner/loss": sums["loss"] / len(grad_norms),
        "learner/grad_norm": float(np.mean(grad_norms)),
        "learner/entropy": sums["entropy"] / num_tokens,
        "learner/ratio_mean": sums["ratio"] / num_tokens,
        "learner/clip_fraction_low": sums["clipped_low"] / num_tokens,
        "learner/clip_fraction_high": sums["clipped_high"] / num_tokens,
        "learner/kl_to_rollout": sums["kl_to_rollout"] / num_gaps,
        "rollout/logprob_gap_mean": sums["gap"] / num_gaps,
        "rollout/logprob_gap_max": max(of_rank.gap_max for of_rank in sums_R),
    }
    if math.isnan(sums["entropy"]):
        del metrics["learner/entropy"]  # learner.head=liger knows none
    if "importance" in sums:
        metrics["learner/importance_weight_mean"] = sums["importance"] / num_tokens
        metrics["learner/importance_kept_fraction"] = sums["importance_kept"] / num_tokens
    if "kl_to_reference" in sums:
        metrics["learner/kl_to_reference"] = sums["kl_to_reference"] / num_tokens
    return metrics
