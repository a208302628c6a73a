"""Uniform selection: the baseline, and what dynamic sampling draws with. Beliefs are kept for the metrics only."""

from __future__ import annotations

from typing import Any

from insight_rl.selector.belief_selector import BeliefSelector


class RandomSelector(BeliefSelector):
    """M prompts uniformly without replacement from those that are not being rolled out."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(score=None, candidate_ratio=1, **settings)
