"""The algorithm as the config names it: an advantage estimator and a policy loss under one set of flat keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from insight_rl.algorithm.advantage import ADVANTAGES, AdvantageFn, Belief
from insight_rl.algorithm.loss import LossSettings, PolicyLoss  # noqa: F401 (the annotation of an inherited setting)
from insight_rl.errors import check
from insight_rl.types import Group


@dataclass(frozen=True, kw_only=True)
class Algorithm(LossSettings):
    """What a step does with scored groups: the settings of the loss, and how advantages are estimated.

    Built by the config, e.g. from ``algorithm=dapo algorithm.kl_coef=0.01 algorithm.advantage=mapp``.
    """

    advantage: str | AdvantageFn
    """A name in ``ADVANTAGES``, or a function of your own: ``algorithm.advantage={_target_: ..., _partial_: true}``."""

    num_epochs: int = 1
    """Passes over the groups of a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            callable(self.advantage) or self.advantage in ADVANTAGES,
            "algorithm.advantage",
            self.advantage,
            f"must be one of {', '.join(ADVANTAGES)}, or a mapping with _target_ and _partial_: true",
        )
        check(self.num_epochs >= 1, "algorithm.num_epochs", self.num_epochs, "must be at least 1")

    def advantages(self, groups_P: Sequence[Group], beliefs_P: Sequence[Belief] | None = None) -> list[np.ndarray]:
        """Advantages of each group, float64 of length G, NaN where a rollout was not judged."""
        estimate = ADVANTAGES[self.advantage] if isinstance(self.advantage, str) else self.advantage
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
