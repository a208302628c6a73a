"""What the best choice would have been: selection by someone who knows the true success rates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from insight_rl.selector.belief_selector import top
from insight_rl.simulation.learner import SyntheticLearner
from insight_rl.types import Group, Prompt


def mixed_chance(rates: np.ndarray, num_rollouts: int) -> np.ndarray:
    """The chance that K rollouts at success rate phi are neither all right nor all wrong: 1 - phi^K - (1 - phi)^K."""
    chance: np.ndarray = 1.0 - rates**num_rollouts - (1.0 - rates) ** num_rollouts
    return chance


def regret(chances: np.ndarray, chosen: np.ndarray) -> float:
    """Expected share of informative groups lost against the best choice of as many prompts; never negative.

    ``chances`` are the true :func:`mixed_chance` of the whole pool *now*, under the policy that this very selector has
    made. So it is the regret of the step, not of the path that led there: a selector that learns fast leaves fewer
    mixed prompts behind, to itself and to its oracle.
    """
    best = np.partition(chances, len(chances) - len(chosen))[len(chances) - len(chosen) :]
    return max(float(best.mean() - chances[chosen].mean()), 0.0)


class OracleSelector:
    """Takes the M prompts with the best true chance of a mixed group. As a rule of its own it is greedy, not optimal:
    it asks what this step will show, not what the next ones will have learnt from it.
    """

    def __init__(self, learner: SyntheticLearner) -> None:
        self._learner = learner

    def open(self, pool: Sequence[Prompt], *, num_rollouts: int, seed: int) -> None:
        self._pool, self._num_rollouts, self._rng = pool, num_rollouts, np.random.default_rng(seed)

    def select(self, num_prompts: int) -> Sequence[Prompt]:
        order = self._rng.permutation(len(self._pool))  # ties fall at random
        chances = mixed_chance(self._learner.success_rates()[order], self._num_rollouts)
        return [self._pool[index] for index in order[top(chances, min(num_prompts, len(order)))].tolist()]

    def observe(self, groups: Sequence[Group]) -> None:
        """It knows everything already."""
