"""How much better each rollout was than the others of its group. Pure functions of one group.

Every estimator is an :class:`AdvantageFn`, chosen by name in the config (``algorithm.advantage=centered``). NaN marks a
rollout that was not judged: it is left out of the baseline, and its advantage is NaN.

Unlike the published formulas, a group whose values differ by no more than ``FLAT_TOLERANCE`` gets exact zeros: dividing
a rounding error by its own standard deviation would make it look like a signal. ``mapp`` is the exception: it weighs by
beliefs, so it rates such groups too.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

Belief = tuple[float, float]
"""(alpha, beta) of the Beta belief about a prompt's success rate, after the update with this group."""

FLAT_TOLERANCE = 1e-6
STD_FLOOR = 1e-4


class AdvantageFn(Protocol):
    """An estimator of advantages; your own is named by ``algorithm.advantage={_target_: ..., _partial_: true}``."""

    def __call__(self, values_G: np.ndarray, successes_G: np.ndarray, belief: Belief | None) -> np.ndarray:
        """Advantages, float64, shape (G,).

        ``values_G`` are the shaped rewards, ``successes_G`` the verifier's verdicts as 1 and 0; both float64 with NaN
        where there was no verdict. ``belief`` is ``None`` where the selector keeps none.
        """
        ...


def group_std(values_G: np.ndarray, successes_G: np.ndarray, belief: Belief | None) -> np.ndarray:
    """(r - mean) / (std + 1e-4), unbiased std: GRPO (arXiv 2402.03300, section 4.1.2) as TRL defines it."""
    judged = values_G[~np.isnan(values_G)]
    if _is_flat(judged):
        return _zeros(values_G)
    return (values_G - judged.mean()) / (judged.std(ddof=1) + STD_FLOOR)


def centered(values_G: np.ndarray, successes_G: np.ndarray, belief: Belief | None) -> np.ndarray:
    """r - mean: Dr. GRPO (arXiv 2503.20783), which does not weigh easy and hard prompts up."""
    judged = values_G[~np.isnan(values_G)]
    if _is_flat(judged):
        return _zeros(values_G)
    return values_G - judged.mean()


def leave_one_out(values_G: np.ndarray, successes_G: np.ndarray, belief: Belief | None) -> np.ndarray:
    """r minus the mean of the *other* rollouts: RLOO (arXiv 2402.14740). Never divided by a std, see the top."""
    num_judged = int(np.count_nonzero(~np.isnan(values_G)))
    return centered(values_G, successes_G, belief) * (num_judged / max(num_judged - 1, 1))


def mapp(values_G: np.ndarray, successes_G: np.ndarray, belief: Belief | None) -> np.ndarray:
    """MaPP's expectation, under the belief, of the group-normalised advantage (the project's method notes, section 3).

    For a rollout with verdict r, take its own verdict out of the belief, a = alpha - r and b = beta - (1 - r); then

        A = + sum_{s=1}^{G-1} BB(s-1 | G-1, a, b) sqrt((G-s)/s)   if r = 1
        A = - sum_{s=1}^{G-1} BB(s-1 | G-1, b, a) sqrt((G-s)/s)   if r = 0

    Raises ``ValueError`` without a belief, or for one that does not contain the group's own verdicts.
    """
    if belief is None:
        raise ValueError("algorithm.advantage=mapp needs a selector that keeps a belief per prompt, and got none")
    num_judged = int(np.count_nonzero(~np.isnan(successes_G)))
    alpha, beta = belief
    advantages_G = np.full_like(successes_G, np.nan)
    for verdict, own, other in ((1.0, alpha - 1, beta), (0.0, beta - 1, alpha)):
        members = successes_G == verdict
        if members.any():
            if own <= 0 or other <= 0:
                raise ValueError(f"the belief ({alpha}, {beta}) does not contain the verdicts of its own group")
            magnitude = _expected_magnitude(num_judged, own, other)
            advantages_G[members] = magnitude if verdict else -magnitude
    return advantages_G


ADVANTAGES: dict[str, AdvantageFn] = {
    "group_std": group_std,
    "centered": centered,
    "leave_one_out": leave_one_out,
    "mapp": mapp,
}


def _expected_magnitude(num_rollouts: int, a: float, b: float) -> float:
    others = num_rollouts - 1
    return math.fsum(
        beta_binomial(s - 1, others, a, b) * math.sqrt((num_rollouts - s) / s) for s in range(1, num_rollouts)
    )


def beta_binomial(k: int, m: int, a: float, b: float) -> float:
    """BB(k | m, a, b) = C(m, k) B(a + k, b + m - k) / B(a, b), by rising factorials: no cancellation at large a, b."""
    log_mass = math.fsum(math.log(a + i) for i in range(k))
    log_mass += math.fsum(math.log(b + i) for i in range(m - k))
    log_mass -= math.fsum(math.log(a + b + i) for i in range(m))
    return math.comb(m, k) * math.exp(log_mass)


def _is_flat(judged: np.ndarray) -> bool:
    return judged.size < 2 or float(np.ptp(judged)) <= FLAT_TOLERANCE


def _zeros(values_G: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values_G), np.nan, 0.0)
