"""One selection as data: the candidates, what was known of each, and the chance that each had of being chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_NUM_REDRAWS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One call of ``select``, for logs and explanations: arrays run along the candidates, in the order drawn."""

    candidates: np.ndarray
    """Positions in the pool, int64."""
    alpha: np.ndarray
    beta: np.ndarray
    scores: np.ndarray
    chosen: np.ndarray
    """Which candidates were selected: positions in the arrays of this object, best first."""
    num_available: int
    """Prompts that could have been candidates: the whole pool without those that are being rolled out, or resting."""
    num_reviews: int = 0
    """The first so many candidates are mastered prompts under review, selected whatever their scores."""

    def without_reviews(self) -> Decision:
        """The part of it that the rule decided."""
        first = self.num_reviews
        return Decision(
            candidates=self.candidates[first:],
            alpha=self.alpha[first:],
            beta=self.beta[first:],
            scores=self.scores[first:],
            chosen=self.chosen[first:] - first,
            num_available=self.num_available - first,
        )


def top(scores: np.ndarray, size: int) -> np.ndarray:
    """Positions of the ``size`` largest scores, largest first. Linear in the number of scores, plus a sort of the
    ``size`` winners."""
    if size == 0:
        return np.empty(0, np.int64)
    if size < len(scores):
        winners = np.argpartition(scores, len(scores) - size)[len(scores) - size :]
    else:
        winners = np.arange(len(scores))
    return winners[np.argsort(-scores[winners], kind="stable")]


def with_exploration(decision: Decision, chance: np.ndarray, num_explored: int) -> np.ndarray:
    """Probability of being selected where the last ``num_explored`` places go to candidates drawn uniformly.

    ``chance`` is the probability of being picked by the rule itself; NaN throughout for a deterministic rule.
    """
    num_chosen, size = len(decision.chosen), len(decision.candidates)
    num_left = size - num_chosen + num_explored
    if num_explored == 0 or num_left == 0:
        return chance
    if np.isnan(chance).all():
        chance = np.zeros(size)
        chance[decision.chosen[: num_chosen - num_explored]] = 1.0
    return chance + (1.0 - chance) * num_explored / num_left


def chance_by_redraws(redraw: Callable[[], np.ndarray], size: int, num_picked: int) -> np.ndarray:
    """How often each of ``size`` candidates is among the best ``num_picked`` of 100 fresh draws of the scores.

    Off by up to 0.1, and never 0: every candidate is given one extra win.
    """
    wins = np.ones(size)
    for _ in range(_NUM_REDRAWS):
        wins[top(redraw(), num_picked)] += 1.0
    return wins / (_NUM_REDRAWS + 1)
