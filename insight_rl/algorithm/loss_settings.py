"""What the policy minimises: the settings of the loss and the weight of each sequence in it. No tensors, no model.

The loss of one update is a plain **sum** over completion tokens of ``weight of the sequence x objective of the token``
(the objective is in :mod:`insight_rl.algorithm.loss`). The weights come from counts over the whole update, all
ranks and skipped groups included, so the gradient does not depend on how the tokens are split up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from insight_rl.errors import check

Variant = Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLoss:
    """Settings of the policy loss. Raises ``UsageError`` for values no loss can have."""

    variant: Variant
    """grpo (arXiv 2402.03300), dr_grpo (2503.20783), dapo (2503.14476), gspo (2507.18071), cispo (2506.13585)."""

    clip_low: float
    clip_high: float
    """The ratio to the old policy is clipped to [1 - clip_low, 1 + clip_high], for cispo without a pessimistic min."""

    kl_coef: float = 0.0
    """Weight of the KL divergence to the reference, the model that training started from; 0 loads no reference."""

    importance_cap: float | None = None
    """Truncated importance sampling: each token counts min(p_learner / p_rollout, cap) times. ``None``: once."""

    mask_truncated: bool = False
    """Leave truncated completions out of the loss and of its counts. They stay in their group's baseline."""

    def __post_init__(self) -> None:
        variants = get_args(Variant)
        check(self.variant in variants, "algorithm.variant", self.variant, f"must be one of {', '.join(variants)}")
        check(0 <= self.clip_low <= 1, "algorithm.clip_low", self.clip_low, "must be within 0 and 1 (1 clips nothing)")
        check(self.clip_high >= 0, "algorithm.clip_high", self.clip_high, "must be at least 0")
        check(self.kl_coef >= 0, "algorithm.kl_coef", self.kl_coef, "must be at least 0 (0 switches it off)")
        cap = self.importance_cap
        check(cap is None or cap > 0, "algorithm.importance_cap", cap, "must be above 0, or null for no correction")

    @property
    def uses_reference(self) -> bool:
        return self.kl_coef > 0


def sequence_weights(loss: PolicyLoss, lengths_S: np.ndarray, *, max_completion_tokens: int) -> np.ndarray:
    """Weight of every token of each sequence, float64, shape (S,).

    ``lengths_S`` are the completion lengths of **all** sequences of one update that count: judged, not masked, the ones
    of skipped groups included. Summed over tokens the weights give the mean over sequences of the token mean (grpo,
    gspo), of the token sum over the longest allowed length (dr_grpo), or the mean over all tokens (dapo, cispo).
    """
    lengths_S = np.asarray(lengths_S, dtype=np.float64)
    if lengths_S.size == 0:
        return np.zeros(0)
    if loss.variant in ("grpo", "gspo"):
        return 1.0 / (lengths_S.size * lengths_S)
    if loss.variant == "dr_grpo":
        return np.full_like(lengths_S, 1.0 / (lengths_S.size * max_completion_tokens))
    return np.full_like(lengths_S, 1.0 / lengths_S.sum())
