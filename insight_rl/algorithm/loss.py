"""The objective of each token, as tensors. Knows nothing of models, batches or ranks; its weights are in ``loss.py``.

All token tensors are flat, shape (N,): the completion tokens of one micro-batch, sequence after sequence.

Deviation from TRL, where both are on: the correction between rollout and learner also weighs the KL term, since the
expectation that makes the KL estimator unbiased is under the policy that sampled the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from insight_rl.algorithm.loss_settings import PolicyLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Per-token results, each of shape (N,); only ``value`` carries a gradient."""

    value: torch.Tensor
    """What is minimised, before the sequence weight."""
    ratio: torch.Tensor
    is_clipped_low: torch.Tensor
    is_clipped_high: torch.Tensor


def token_objective(
    loss: PolicyLoss,
    *,
    logprobs_N: torch.Tensor,
    old_logprobs_N: torch.Tensor,
    rollout_logprobs_N: torch.Tensor,
    reference_logprobs_N: torch.Tensor | None,
    advantages_N: torch.Tensor,
    sequences_N: torch.Tensor,
    num_sequences: int,
) -> Objective:
    """The objective of each token.

    ``old`` are the learner's log-probs before the step's first update, ``rollout`` the engine's when it sampled,
    ``reference`` those of the frozen start model (needed where ``loss.kl_coef`` > 0); ``advantages_N`` repeats each
    sequence's advantage and ``sequences_N`` is the number of the sequence, 0 <= s < ``num_sequences``.
    """
    log_ratio = logprobs_N - old_logprobs_N
    if loss.variant == "gspo":
        log_ratio = sequence_mean(log_ratio, sequences_N, num_sequences)[sequences_N]
    ratio = log_ratio.exp()
    low, high = 1 - loss.clip_low, 1 + loss.clip_high
    clipped = ratio.clamp(low, high)
    if loss.variant == "cispo":
        value = -clipped.detach() * advantages_N * logprobs_N
    else:
        value = -torch.minimum(ratio * advantages_N, clipped * advantages_N)
    if loss.uses_reference:
        assert reference_logprobs_N is not None
        gap = reference_logprobs_N - logprobs_N
        # Weighted by the ratio, whose gradient is kept, the k3 estimator has the gradient of the KL divergence itself:
        # ratio * (log p - log p_ref) * grad log p.
        value = value + loss.kl_coef * ratio * (gap.exp() - gap - 1)
    if loss.importance_cap is not None:
        value = value * (old_logprobs_N - rollout_logprobs_N).exp().clamp(max=loss.importance_cap)
    detached = ratio.detach()
    return Objective(
        value=value,
        ratio=detached,
        is_clipped_low=(detached < low) & (advantages_N < 0),
        is_clipped_high=(detached > high) & (advantages_N > 0),
    )


def sequence_mean(values_N: torch.Tensor, sequences_N: torch.Tensor, num_sequences: int) -> torch.Tensor:
    """Mean over the tokens of each sequence, shape (num_sequences,); 0 for a sequence without tokens."""
    sums = values_N.new_zeros(num_sequences).index_add(0, sequences_N, values_N)
    counts = torch.bincount(sequences_N, minlength=num_sequences).clamp(min=1)
    return sums / counts
