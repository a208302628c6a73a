"""Uniform selection: the baseline, and what dynamic sampling draws with. Beliefs are kept for the metrics only."""

from __future__ import annotations

from insight_rl.selector.belief_selector import BeliefSelector


class RandomSelector(BeliefSelector):
    """M prompts uniformly without replacement from those that are not out for roll-out."""

    def __init__(self, *, prior_alpha: float = 1.0, prior_beta: float = 1.0, forgetting: float = 1.0) -> None:
        super().__init__(
            score=None, prior_alpha=prior_alpha, prior_beta=prior_beta, forgetting=forgetting, candidate_ratio=1
        )
