"""MaPP's selection: prompts drawn with probability proportional to the chance that their group is mixed.

MaPP extends InSight (arXiv 2603.01907) by this score and by an advantage, which is `algorithm.advantage=mapp`.
Deviation: as for every selector here, the draw is among `candidate_ratio * M` uniform candidates, not the whole pool;
a candidate_ratio of N / M or more draws from all of it. `greedy` (not in the paper) takes the top M instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from insight_rl.errors import check
from insight_rl.selector.acquisition import mixed_outcome_chance
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.selector.decision import Decision


class MappSelector(BeliefSelector):
    """Draws M candidates without replacement, each time in proportion to V; or takes those of the largest V."""

    def __init__(self, *, greedy: bool = False, **settings: Any) -> None:
        check(isinstance(greedy, bool), "selector.greedy", greedy, "must be true or false")
        super().__init__(score=mixed_outcome_chance, **settings)
        self._greedy = greedy

    def pick(self, scores: np.ndarray, num_prompts: int) -> np.ndarray:
        """The M smallest of exponential waiting times at rate V: distributed as M draws in proportion to V."""
        if self._greedy:
            return super().pick(scores, num_prompts)
        with np.errstate(divide="ignore"):
            return super().pick(-self._rng.exponential(size=len(scores)) / scores, num_prompts)

    def visits_unseen_first(self) -> bool:
        return self._greedy and super().visits_unseen_first()

    def chance_of_pick(self, decision: Decision, num_picked: int) -> np.ndarray:
        """Probability of being drawn, given that it was a candidate; NaN where ``greedy``.

        1 - exp(-V t), where t is the time at which the expected number of elapsed waiting times is M: exact as M grows.
        """
        if self._greedy:
            return super().chance_of_pick(decision, num_picked)
        if num_picked == len(decision.scores):
            return np.ones(len(decision.scores))
        low, high = 0.0, 1.0
        while -np.expm1(-decision.scores * high).sum() < num_picked:
            high *= 2.0
            if not np.isfinite(high):  # fewer candidates of positive V than draws: those are certain
                break
        for _ in range(60):
            middle = 0.5 * (low + high)
            elapsed = -np.expm1(-decision.scores * middle).sum()
            low, high = (middle, high) if elapsed < num_picked else (low, middle)
        chance: np.ndarray = -np.expm1(-decision.scores * high)
        return chance
