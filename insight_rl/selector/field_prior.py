"""Priors that differ from prompt to prompt, and the simplest of them: a pass rate that comes with the prompt.

    a_i = strength p_i,   b_i = strength (1 - p_i),   p_i clipped to [0.005, 0.995]

p_i is a metadata field: the share of attempts that another model, or an earlier policy, had right. ``strength`` says
how many rollouts of this policy it is worth.

It helps from the first step on, if the order of the prompts is similar for both models. It does harm where it is not,
the more the larger ``strength`` is: a prior is only outweighed by evidence, and prompts that it takes for hopeless get
none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from insight_rl.errors import check, is_number
from insight_rl.selector.belief import Floats
from insight_rl.selector.indexed_pool import IndexedPool
from insight_rl.selector.prior import PoolPrior
from insight_rl.types import Prompt

MIN_MEAN, MAX_MEAN = 0.005, 0.995
MIN_STRENGTH, MAX_STRENGTH = 0.2, 1e6


class PriorByPrompt(PoolPrior):
    """One prior for each prompt: ``alphas`` and ``betas`` run along the pool."""

    def counts(self, indices: np.ndarray) -> tuple[Floats, Floats]:
        return self.alphas[indices], self.betas[indices]

    def of_unseen(self, visited: np.ndarray, size: int) -> tuple[Floats, Floats, np.ndarray]:
        unseen = np.ones(size, bool)
        unseen[visited] = False
        return self.alphas[unseen], self.betas[unseen], np.ones(size - len(visited), np.int64)


class FieldPrior:
    """Settings of ``selector/prior=field``: name of the metadata field, and the rollouts that it is worth."""

    def __init__(self, *, field: str = "pass_rate", strength: float = 4.0) -> None:
        check(isinstance(field, str) and field != "", "selector.prior.field", field, "must name a metadata field")
        check(
            is_number(strength) and MIN_STRENGTH <= strength <= MAX_STRENGTH,
            "selector.prior.strength",
            strength,
            f"must be a number of rollouts from {MIN_STRENGTH:g} to {MAX_STRENGTH:g}",
        )
        self._field, self._strength = field, float(strength)

    def of(self, prompts: Sequence[Prompt] | IndexedPool, configured: PoolPrior, num_rollouts: int) -> PoolPrior:
        """Prompts without the field keep the configured prior. Raises ``UsageError`` if no prompt has it."""
        rates = np.array([self._rate(prompt) for prompt in prompts], np.float64)
        known = np.isfinite(rates)
        fields = sorted({str(name) for prompt in prompts for name in prompt.metadata}) if not known.any() else []
        check(
            bool(known.any()),
            "selector.prior.field",
            self._field,
            "no prompt of the pool has this metadata field; "
            + (
                f"those there are: {', '.join(fields[:10])}" if fields else "the pool's prompts have no metadata at all"
            ),
        )
        alphas, betas = (np.broadcast_to(each, len(rates)) for each in configured.counts(np.arange(len(rates))))
        means = np.clip(rates, MIN_MEAN, MAX_MEAN)
        return PriorByPrompt(
            np.where(known, self._strength * means, alphas),
            np.where(known, self._strength * (1.0 - means), betas),
            None,
            configured.chance,
        )

    def _rate(self, prompt: Prompt) -> float:
        rate: Any = prompt.metadata.get(self._field)
        if rate is None:
            return np.nan
        check(
            is_number(rate) and 0 <= rate <= 1,
            "selector.prior.field",
            self._field,
            f"prompt {prompt.id} has {self._field}={rate!r}; it must be a pass rate in [0, 1]",
        )
        return float(rate)
