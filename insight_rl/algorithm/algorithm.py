"""The algorithm as the config names it: an advantage estimator and a policy loss under one set of flat keys."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from insight_rl.algorithm.advantage import ADVANTAGES, Belief
from insight_rl.algorithm.loss_settings import PolicyLoss, Variant
from insight_rl.errors import check
from insight_rl.types import Group


class Algorithm:
    """What a step does with scored groups. Built by the config: ``algorithm=dapo algorithm.kl_coef=0.01``."""

    def __init__(
        self,
        *,
        variant: Variant,
        advantage: str,
        clip_low: float,
        clip_high: float,
        kl_coef: float = 0.0,
        importance_cap: float | None = 2.0,
        mask_truncated: bool = False,
        num_epochs: int = 1,
    ) -> None:
        check(advantage in ADVANTAGES, "algorithm.advantage", advantage, f"must be one of {', '.join(ADVANTAGES)}")
        check(num_epochs >= 1, "algorithm.num_epochs", num_epochs, "must be at least 1")
        self.advantage = advantage
        self.num_epochs = num_epochs
        """Passes over the groups of a step."""
        self.loss = PolicyLoss(
            variant=variant,
            clip_low=clip_low,
            clip_high=clip_high,
            kl_coef=kl_coef,
            importance_cap=importance_cap,
            mask_truncated=mask_truncated,
        )

    @property
    def needs_beliefs(self) -> bool:
        """Whether :meth:`advantages` must be given the beliefs after the selector observed these groups."""
        return self.advantage == "mapp"

    def advantages(self, groups_P: Sequence[Group], beliefs_P: Sequence[Belief] | None = None) -> list[np.ndarray]:
        """Advantages of each group, float64 of length G, NaN where a rollout was not judged."""
        estimate = ADVANTAGES[self.advantage]
        beliefs: Sequence[Belief | None] = [None] * len(groups_P) if beliefs_P is None else beliefs_P
        return [
            estimate(values_of(group), successes_of(group), belief)
            for group, belief in zip(groups_P, beliefs, strict=True)
        ]


def values_of(group: Group) -> np.ndarray:
    """Shaped rewards of a group, float64 of length G, NaN where a rollout was not judged."""
    return np.array([reward.value if reward.is_judged else np.nan for reward in group.rewards_G], dtype=np.float64)


def successes_of(group: Group) -> np.ndarray:
    """Verdicts of a group as 1 and 0, float64 of length G, NaN where a rollout was not judged."""
    return np.array([np.nan if reward.success is None else reward.success for reward in group.rewards_G], dtype=float)
