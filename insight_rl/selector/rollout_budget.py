"""Rollouts per prompt by a budget rule: `selector.rollout_budget`. An ablation; every prompt gets K by default.

    even        K rollouts for each selected prompt (default; the papers)
    knapsack    N_i rollouts, 2 <= N_i <= 4 K, of the same total M K, by value

A group of N at success rate p is worth

    value(N, p) = (1 - p^N - (1 - p)^N) p (1 - p)^2

the chance that it is mixed times the gain of a successful update there. The knapsack maximises the sum over the
selected prompts. The value is concave in N, so giving each next rollout where it gains most is optimal.
Here p is not a point: the value is averaged over the belief Beta(a, b), in closed form,

    E value(N) = [ B(a+1, b+2) - B(a+N+1, b+2) - B(a+1, b+N+2) ] / B(a, b)

so that a prompt little is known of gets about as many rollouts as before, and one known to be hard gets more.

Source: Knapsack RL, arXiv 2509.25849 (which takes the rate of the last epoch for p, and N up to 128).

Where it helps: where the selected prompts differ much in difficulty, hard ones above all (a group of 8 at p = 0.05 is
mixed with chance 0.34, one of 32 with 0.81). Where it does not: a good selector has already chosen prompts near p = 0.3
to 0.5, where nearly every group of 8 is mixed. There is one engine call for each distinct N, which waits for its
slowest completion. No gain is promised.
"""

from __future__ import annotations

import numpy as np
from scipy.special import betaln

from insight_rl.errors import check
from insight_rl.selector.belief import Floats

RULES = ("even", "knapsack")
MIN_ROLLOUTS = 2
"""Of a prompt: GRPO compares at least two."""
MAX_RATIO = 4
"""Most rollouts of a prompt, in units of K."""


def expected_value(alpha: Floats, beta: Floats, num_rollouts: np.ndarray) -> Floats:
    """E value(N) under each belief, for each N of ``num_rollouts``: float64 ``[len(alpha), len(num_rollouts)]``."""
    a, b, n = alpha[:, None], beta[:, None], num_rollouts[None, :].astype(np.float64)
    whole = betaln(a, b)
    uniform = np.exp(betaln(a + n + 1.0, b + 2.0) - whole) + np.exp(betaln(a + 1.0, b + n + 2.0) - whole)
    value: Floats = np.exp(betaln(a + 1.0, b + 2.0) - whole) - uniform
    return value


def knapsack(alpha: Floats, beta: Floats, num_rollouts: int) -> np.ndarray:
    """N of each prompt, int64, summing to K for each of them on average.

    Example: of two prompts with beliefs of mean 0.5 and 0.05 and K = 8, the second gets most of the 16.
    """
    counts = np.arange(MIN_ROLLOUTS, MAX_RATIO * num_rollouts + 1)
    gains = np.diff(expected_value(alpha, beta, counts), axis=1)
    num_free = (num_rollouts - MIN_ROLLOUTS) * len(alpha)
    # By N first, so that of equal gains the smaller group is served before a larger one can be.
    order = np.argsort(-gains.T.ravel(), kind="stable")[:num_free]
    extra = np.bincount(order % len(alpha), minlength=len(alpha))
    return MIN_ROLLOUTS + extra


class RolloutBudget:
    """The setting ``selector.rollout_budget``. Example: ``RolloutBudget("knapsack").divide(alpha, beta, 8)``."""

    def __init__(self, rule: str = "even") -> None:
        check(rule in RULES, "selector.rollout_budget", rule, f"must be one of {', '.join(RULES)}")
        self.rule = rule

    def divide(self, alpha: Floats, beta: Floats, num_rollouts: int) -> np.ndarray:
        """N of each selected prompt given its belief, int64; the total is K times their number."""
        if self.rule == "even" or not len(alpha):
            return np.full(len(alpha), num_rollouts)
        return knapsack(alpha, beta, num_rollouts)
