"""The loss of an update, whole: the policy losses, the KL term and the correction between rollout and learner.

    loss   = sum over completion tokens of  weight of the sequence x loss of the token
    token  = (surrogate + kl_coef x KL) x correction

:func:`token_losses` is the second line. A policy loss (``GRPO``, ``DAPO``, ``DrGRPO``, ``GSPO``, ``CISPO``, or a class
of your own named by ``algorithm.loss._target_``) supplies the ratio, the surrogate and the weight of each sequence.

The weights come from counts over the whole update, all ranks and skipped groups included, so the gradient does not
depend on how the tokens are split into micro-batches. The correction (:func:`importance_weights`) also multiplies the
KL term, whose estimate is unbiased only under the policy that sampled the tokens, and a token that it masks stays in
these counts.

Token tensors are flat, shape (N,): the completion tokens of one micro-batch, sequence after sequence. Only tensor
methods are used, so that a configuration can be checked without importing torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from insight_rl.errors import check

if TYPE_CHECKING:
    from torch import Tensor

IMPORTANCE_MODES = ("none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
"""What :func:`importance_weights` can do."""

OLD_LOGPROBS = ("learner", "rollout")
"""Whose log-probs stand for the policy before the step's first update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The completion tokens of a micro-batch under the policies that the loss compares. All natural log-probs, (N,)."""

    logprobs_N: Tensor
    """Under the policy being trained: the only one with a gradient."""
    old_logprobs_N: Tensor
    """Under the policy before the step's first update (``algorithm.old_logprobs``: as the learner or the rollout has
    them)."""
    rollout_logprobs_N: Tensor
    """As the rollout engine sampled them."""
    reference_logprobs_N: Tensor | None
    """Under the frozen start model; needed where ``kl_coef`` > 0."""
    advantages_N: Tensor
    """Each sequence's advantage, repeated for its tokens."""
    sequences_N: Tensor
    """int64: number of the token's sequence, 0 <= s < ``num_sequences``."""
    num_sequences: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLosses:
    """Results for each token, (N,); only ``value`` carries a gradient."""

    value: Tensor
    """What is minimised, before the sequence weight."""
    ratio: Tensor
    is_clipped_low: Tensor
    is_clipped_high: Tensor
    importance: Tensor | None
    """Weight of the correction between rollout and learner; ``None`` without a correction."""
    is_kept: Tensor | None
    """Where that weight was neither truncated nor masked."""


class PolicyLoss(Protocol):
    """A policy loss. Constructed by the config (``algorithm.loss._target_``) and sent to every rank by pickle."""

    def ratio(self, tokens: Tokens) -> Tensor:
        """Probability ratio of the new to the old policy for each token, (N,), with its gradient."""
        ...

    def surrogate(self, tokens: Tokens, ratio_N: Tensor, *, low: float, high: float) -> Tensor:
        """What is minimised for each token, (N,); ``low`` and ``high`` are the bounds that the ratio is clipped to."""
        ...

    def sequence_weights(self, lengths_S: np.ndarray, *, max_completion_tokens: int) -> np.ndarray:
        """Weight of every token of each sequence, float64, shape (S,).

        ``lengths_S`` (int64) are the completion lengths of **all** sequences of one update that count: judged, not
        masked, those of skipped groups included. There may be none.
        """
        ...


class GRPO:
    """PPO's clipped surrogate; mean over sequences of the mean over tokens (arXiv 2402.03300)."""

    def ratio(self, tokens: Tokens) -> Tensor:
        return (tokens.logprobs_N - tokens.old_logprobs_N).exp()

    def surrogate(self, tokens: Tokens, ratio_N: Tensor, *, low: float, high: float) -> Tensor:
        clipped_N = ratio_N.clamp(low, high)
        return -(ratio_N * tokens.advantages_N).minimum(clipped_N * tokens.advantages_N)

    def sequence_weights(self, lengths_S: np.ndarray, *, max_completion_tokens: int) -> np.ndarray:
        return 1.0 / (lengths_S.size * lengths_S)


class DrGRPO(GRPO):
    """Token sums over the longest allowed length, so that length is not rewarded (arXiv 2503.20783)."""

    def sequence_weights(self, lengths_S: np.ndarray, *, max_completion_tokens: int) -> np.ndarray:
        return np.full(lengths_S.size, 1.0 / (max(lengths_S.size, 1) * max_completion_tokens))


class DAPO(GRPO):
    """Mean over all tokens of the update (arXiv 2503.14476)."""

    def sequence_weights(self, lengths_S: np.ndarray, *, max_completion_tokens: int) -> np.ndarray:
        return np.full(lengths_S.size, 1.0 / max(lengths_S.sum(), 1))


class GSPO(GRPO):
    """One ratio for a whole sequence, the geometric mean over its tokens (arXiv 2507.18071)."""

    def ratio(self, tokens: Tokens) -> Tensor:
        log_ratio_N = tokens.logprobs_N - tokens.old_logprobs_N
        return sequence_mean(log_ratio_N, tokens.sequences_N, tokens.num_sequences)[tokens.sequences_N].exp()


class CISPO(DAPO):
    """The clipped ratio is a constant weight on the log-prob: every token keeps a gradient (arXiv 2506.13585)."""

    def surrogate(self, tokens: Tokens, ratio_N: Tensor, *, low: float, high: float) -> Tensor:
        return -ratio_N.clamp(low, high).detach() * tokens.advantages_N * tokens.logprobs_N


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """What the learner minimises: a policy loss, and what is common to all of them.

    Raises ``UsageError`` for values no loss can have. Example::

        LossSettings(loss=GRPO(), clip_low=0.2, clip_high=0.2, kl_coef=0.01)
    """

    loss: PolicyLoss
    """``GRPO()``, ``DAPO()``, ... below, or one of your own."""

    clip_low: float
    clip_high: float
    """The ratio of new to old policy is clipped to [1 - clip_low, 1 + clip_high]."""

    kl_coef: float = 0.0
    """Weight of the KL divergence to the reference, the model that training started from; 0 loads no reference."""

    importance: str = "token_truncate"
    """Correction for rollouts that were sampled with other log-probs than the learner's: one of ``IMPORTANCE_MODES``,
    see :func:`importance_weights`."""

    importance_low: float | None = None
    importance_high: float | None = 2.0
    """Bounds of the weight; ``None``: unbounded. They enclose 1, the weight where rollout and learner agree."""

    old_logprobs: str = "learner"
    """``learner``: the policy before the step is scored by the learner, which takes one more forward pass for every
    update but the first. ``rollout``: the rollout's log-probs serve, so that the clipped ratio is p_learner / p_rollout
    and holds the correction itself."""

    mask_truncated: bool = False
    """Leave truncated completions out of the loss and of its counts. They stay in their group's baseline."""

    def __post_init__(self) -> None:
        missing = [name for name in ("ratio", "surrogate", "sequence_weights") if not hasattr(self.loss, name)]
        check(
            not missing,
            "algorithm.loss",
            self.loss,
            f"has no {', '.join(missing)}; give a class with the methods of insight_rl.algorithm.loss.PolicyLoss",
        )
        check(0 <= self.clip_low <= 1, "algorithm.clip_low", self.clip_low, "must be within 0 and 1 (1 clips nothing)")
        check(self.clip_high >= 0, "algorithm.clip_high", self.clip_high, "must be at least 0")
        check(self.kl_coef >= 0, "algorithm.kl_coef", self.kl_coef, "must be at least 0 (0 switches it off)")
        self._check_importance()

    def _check_importance(self) -> None:
        mode, low, high = self.importance, self.importance_low, self.importance_high
        check(mode in IMPORTANCE_MODES, "algorithm.importance", mode, f"must be one of {', '.join(IMPORTANCE_MODES)}")
        check(low is None or 0 <= low <= 1, "algorithm.importance_low", low, "must be within 0 and 1, or null")
        check(high is None or high >= 1, "algorithm.importance_high", high, "must be at least 1, or null")
        check(
            self.old_logprobs in OLD_LOGPROBS,
            "algorithm.old_logprobs",
            self.old_logprobs,
            f"must be one of {', '.join(OLD_LOGPROBS)}",
        )
        check(
            self.old_logprobs == "learner" or mode == "none",
            "algorithm.old_logprobs",
            self.old_logprobs,
            f"needs algorithm.importance=none instead of {mode}: the ratio p_learner / p_rollout is the correction, "
            "which would be made twice",
        )

    @property
    def uses_reference(self) -> bool:
        return self.kl_coef > 0


def token_losses(settings: LossSettings, tokens: Tokens) -> TokenLosses:
    """The loss of each token: surrogate, KL term and correction."""
    low, high = 1 - settings.clip_low, 1 + settings.clip_high
    ratio_N = settings.loss.ratio(tokens)
    value_N = settings.loss.surrogate(tokens, ratio_N, low=low, high=high)
    if settings.uses_reference:
        assert tokens.reference_logprobs_N is not None
        # Weighted by the ratio, whose gradient is kept, the k3 estimator has the gradient of the KL divergence itself:
        # ratio * (log p - log p_ref) * grad log p.
        value_N = value_N + settings.kl_coef * ratio_N * k3(tokens.logprobs_N - tokens.reference_logprobs_N)
    importance_N = is_kept_N = None
    if settings.importance != "none":
        importance_N, is_kept_N = importance_weights(settings, tokens)
        value_N = value_N * importance_N
    detached_N = ratio_N.detach()
    return TokenLosses(
        value=value_N,
        ratio=detached_N,
        is_clipped_low=(detached_N < low) & (tokens.advantages_N < 0),
        is_clipped_high=(detached_N > high) & (tokens.advantages_N > 0),
        importance=importance_N,
        is_kept=is_kept_N,
    )


def importance_weights(settings: LossSettings, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Weight of each token, (N,), and where it was left as it is. ``settings.importance`` is not ``none``.

    The weight is w = p_old / p_rollout: of the token (``token_*``), or of its whole completion, the product over its
    tokens (``sequence_*``). Outside of [``importance_low``, ``importance_high``] it becomes the nearer bound
    (``*_truncate``) or 0 (``*_mask``). On policy every weight is 1.

    With the weight of the sequence and no bounds the gradient estimate is unbiased, at a variance that grows
    exponentially with the length; the weight of the token ignores that the text before it was sampled by the rollout,
    too. A bound trades bias for variance: truncation keeps outliers at the bound, a mask leaves them out.

    Sources: truncated importance sampling (Ionides 2008, doi 10.1198/106186008X320456) as used for this correction by
    Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"; ``token_mask`` is IcePop
    (arXiv 2510.18855); ``sequence_mask`` is Liu, Li et al. 2025, "When speed kills stability". TRL and verl define the
    weight of a sequence in the same way.
    """
    log_weight_N = tokens.old_logprobs_N - tokens.rollout_logprobs_N
    if settings.importance.startswith("sequence"):
        log_weight_N = sequence_sum(log_weight_N, tokens.sequences_N, tokens.num_sequences)[tokens.sequences_N]
    weight_N = log_weight_N.exp()
    low = 0.0 if settings.importance_low is None else settings.importance_low
    high = math.inf if settings.importance_high is None else settings.importance_high
    # Not "inside": a weight that is not a number has to reach the gradient, where it stops the run.
    is_outside_N = (weight_N < low) | (weight_N > high)
    if settings.importance.endswith("mask"):
        return weight_N.masked_fill(is_outside_N, 0.0), ~is_outside_N
    return weight_N.clamp(low, high), ~is_outside_N


def k3(log_ratio_N: Tensor) -> Tensor:
    """Estimate of KL(p || q), never negative, from log p - log q of tokens sampled from p (Schulman's k3)."""
    return (-log_ratio_N).exp() - 1 + log_ratio_N


def sequence_mean(values_N: Tensor, sequences_N: Tensor, num_sequences: int) -> Tensor:
    """Mean over the tokens of each sequence, shape (num_sequences,); 0 for a sequence without tokens."""
    counts = sequences_N.bincount(minlength=num_sequences).clamp(min=1)
    return sequence_sum(values_N, sequences_N, num_sequences) / counts


def sequence_sum(values_N: Tensor, sequences_N: Tensor, num_sequences: int) -> Tensor:
    """Sum over the tokens of each sequence, shape (num_sequences,)."""
    return values_N.new_zeros(num_sequences).index_add(0, sequences_N, values_N)
