"""Expected signal: the prompts whose next group promises most to train on, judged by the whole belief.

InSight asks what a group would tell about the success rate. This rule asks what it would *teach*, and counts what the
belief leaves open as uncertainty about that. Symbols: phi ~ Beta(a, b) is the belief about a prompt's success rate, K
the rollouts of a group, s its successes.

    signal    u_s = 2 sqrt(s/K (1 - s/K)) exp(-eta (s/K - mu)^2),                 s = 0..K
    mean      E   = sum_s BB(s | K, a, b) u_s
    spread    U(phi) = sum_s Bin(s | K, phi) u_s,   sd^2 = E[U(phi)^2] - E^2
    score     A   = (E + optimism sd) (1 + v)^(-novelty),        v = how often the prompt was observed

The signal is the mean size of the normalised advantages of GRPO in a group with s of K right,

    mean |(r - s/K) / sqrt(s/K (1 - s/K))| = 2 sqrt(s/K (1 - s/K)),

which is 0 for a uniform group and 1 for half right. The tilt to mu < 1/2 prefers prompts that will stay useful as the
policy improves.

Both moments are exact. BB is the Beta-Binomial, so E is a finite sum. For the spread, the square of a sum over
binomials of K is one sum over binomials of 2K: with two independent groups of the same prompt, m = s + t successes in
all, s is hypergeometric given m, whatever phi is, and

    E[U(phi)^2] = sum_{m=0..2K} BB(m | 2K, a, b) d_m,      d_m = sum_s C(K, s) C(K, m - s) / C(2K, m) u_s u_{m-s}

The tables u and d are made once for each K. A belief costs 3K steps of a recurrence
(:mod:`insight_rl.selector.signal_kernel`).

What each part is for: E is averaged over the belief rather than taken at its mean, because a wide or U-shaped belief
whose mean looks ideal is mostly hopeless or solved. A prompt known to be hopeless, or solved, has neither E nor sd, so
that it is not revisited in cycles. optimism gives the benefit of the doubt about the signal, and no more. novelty takes
account of a repeated prompt's teaching less. With the prior learnt from the pool (``conf/selector/prior/pool.yaml``) an
unseen prompt is taken at what such a prompt is worth, so that it does not outrank a known good one, and there is no
forced first pass.

Ablations: ``optimism=0``, ``novelty=0``, ``eta=0`` (no tilt), ``forgetting=1``, ``selector/prior=flat``.

Where it does not help: where repeats teach little and the pool is large, exploitation of known prompts is the wrong
thing, and a small novelty exponent does not undo it. Where every prompt is learnable, the simpler ``weight_only`` with
forgetting does as well.

Source: this project. The tilt is that of InSight's weight (arXiv 2603.01907).
"""

from __future__ import annotations

from functools import lru_cache
from math import comb
from typing import Any

import numpy as np

from insight_rl.errors import check, is_number
from insight_rl.selector.belief import Floats
from insight_rl.selector.belief_selector import BeliefSelector


def signal(success_rate: Floats, mu: float, eta: float) -> Floats:
    """u of groups with this share of successes, in [0, 1]; 0 for uniform groups."""
    spread = np.sqrt(np.clip(success_rate * (1.0 - success_rate), 0.0, None))
    tilted: Floats = 2.0 * spread * np.exp(-eta * (success_rate - mu) ** 2)
    return tilted


def signal_moments(
    alpha: Floats, beta: Floats, num_rollouts: int, mu: float = 0.3, eta: float = 3.0
) -> tuple[Floats, Floats]:
    """Mean and standard deviation of U(phi) under each belief, both of the beliefs' length.

    The mean is exact to 1e-13 of itself. The standard deviation is a difference of moments: its square is off by at
    most 1e-15 times the square of the mean.
    """
    check(0 <= mu <= 1, "selector.mu", mu, "must be a success rate in [0, 1]")
    check(eta >= 0, "selector.eta", eta, "must be at least 0; 0 removes the tilt")
    from insight_rl.selector import signal_kernel

    mean, mean_square = np.empty(len(alpha)), np.empty(len(alpha))
    tables = _tables(num_rollouts, float(mu), float(eta))
    signal_kernel.moments(
        np.ascontiguousarray(alpha, np.float64), np.ascontiguousarray(beta, np.float64), *tables, mean, mean_square
    )
    return mean, np.sqrt(np.maximum(mean_square - mean**2, 0.0))


def expected_signal(
    alpha: Floats, beta: Floats, num_rollouts: int, mu: float = 0.3, eta: float = 3.0, optimism: float = 0.5
) -> Floats:
    """E + optimism sd of the signal of a group of ``num_rollouts``: the score before the discount for repeats."""
    mean, spread = signal_moments(alpha, beta, num_rollouts, mu, eta)
    return mean + optimism * spread


@lru_cache(maxsize=8)
def _tables(num_rollouts: int, mu: float, eta: float) -> tuple[Floats, Floats]:
    """u_s for s = 0..K and d_m for m = 0..2K."""
    u = signal(np.arange(num_rollouts + 1) / num_rollouts, mu, eta)
    ways = [comb(num_rollouts, s) for s in range(num_rollouts + 1)]
    d = np.zeros(2 * num_rollouts + 1)
    for m in range(2 * num_rollouts + 1):
        all_ways = comb(2 * num_rollouts, m)
        for s in range(max(0, m - num_rollouts), min(m, num_rollouts) + 1):
            d[m] += ways[s] * ways[m - s] / all_ways * u[s] * u[m - s]
    return u, d


class ExpectedSignalSelector(BeliefSelector):
    """The top M by the expected signal with optimism, less the discount for repeats; the rule on top of this file."""

    def __init__(self, *, novelty: float = 0.35, **settings: Any) -> None:
        check(
            is_number(novelty) and novelty >= 0,
            "selector.novelty",
            novelty,
            "must be a number of at least 0; 0 takes a repeated prompt for as good as a new one",
        )
        super().__init__(score=expected_signal, **settings)
        self._novelty = float(novelty)

    def score_candidates(self, candidates: np.ndarray, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
        visits = self._pool.visits_of(candidates)
        discounts: Floats = (1.0 + np.arange(visits.max(initial=0) + 1)) ** -self._novelty
        discounted: Floats = super().score_candidates(candidates, alpha, beta) * discounts[visits]
        return discounted

    def _scores_unseen_and_seen_once(self) -> tuple[float, np.ndarray]:
        unseen, seen_once = super()._scores_unseen_and_seen_once()
        return unseen, seen_once * 2.0**-self._novelty
