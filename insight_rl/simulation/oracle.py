"""The best choice of a step: selection by the true success rates, which only a synthetic learner can tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from insight_rl.selector.decision import top
from insight_rl.types import Outcome, Prompt


class KnowsRates(Protocol):
    """A learner that can tell the true success rates of its pool, float64 [N]."""

    def success_rates(self) -> np.ndarray: ...


def mixed_chance(rates: np.ndarray, num_rollouts: int) -> np.ndarray:
    """The chance that K rollouts at success rate phi are neither all right nor all wrong: 1 - phi^K - (1 - phi)^K."""
    chance: np.ndarray = 1.0 - rates**num_rollouts - (1.0 - rates) ** num_rollouts
    return chance


def regret(chances: np.ndarray, chosen: np.ndarray) -> float:
    """Expected share of informative groups lost against the best choice of as many prompts; never negative.

    ``chances`` are the true :func:`mixed_chance` of the whole pool *now*, under the policy that this very selector has
    made. Regret is per step, at the policy this selector produced. A selector that teaches quickly leaves fewer mixed
    prompts, which also lowers its oracle's score.
    """
    best = np.partition(chances, len(chances) - len(chosen))[len(chances) - len(chosen) :]
    return max(float(best.mean() - chances[chosen].mean()), 0.0)


class OracleSelector:
    """Takes the M prompts with the best true chance of a mixed group. This is greedy, not optimal: it looks at this
    step only, not at what later steps gain from it.
    """

    def __init__(self, learner: KnowsRates) -> None:
        self._learner = learner

    def open(self, pool: Sequence[Prompt], *, num_rollouts: int, seed: int) -> None:
        self._pool, self._num_rollouts, self._rng = pool, num_rollouts, np.random.default_rng(seed)
        self._withheld: set[str] = set()

    def withhold(self, prompt_ids: Sequence[str]) -> None:
        self._withheld.update(prompt_ids)

    def release(self, prompt_ids: Sequence[str]) -> None:
        self._withheld.difference_update(prompt_ids)

    def select(self, num_prompts: int) -> Sequence[Prompt]:
        order = self._rng.permutation(len(self._pool))  # ties fall at random
        if self._withheld:
            order = order[[self._pool[index].id not in self._withheld for index in order.tolist()]]
        chances = mixed_chance(self._learner.success_rates()[order], self._num_rollouts)
        return [self._pool[index] for index in order[top(chances, min(num_prompts, len(order)))].tolist()]

    def observe(self, outcomes: Sequence[Outcome], /) -> None:
        """Nothing to learn: it reads the true success rates."""
