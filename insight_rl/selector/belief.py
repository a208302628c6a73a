"""The Beta belief about a prompt's success rate: pure functions over arrays.

phi ~ Beta(alpha, beta) is the belief about the chance that one rollout of the prompt succeeds under the current policy.
S successes in K judged rollouts are conjugate to it. InSight, arXiv 2603.01907.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def updated(
    alpha: Floats,
    beta: Floats,
    successes: Floats,
    failures: Floats,
    *,
    has_verdict: NDArray[np.bool_],
    prior_alpha: float | Floats,
    prior_beta: float | Floats,
    forgetting: float,
) -> tuple[Floats, Floats]:
    """The belief after ``successes`` (S) and ``failures`` (K - S); ``forgetting`` is lambda, 1 keeps all evidence.

        alpha <- lambda alpha + (1 - lambda) alpha_0 + S
        beta  <- lambda beta  + (1 - lambda) beta_0  + K - S

    A prompt without a judged rollout keeps its belief: nothing was observed, so nothing is forgotten either.
    """
    new_alpha = forgetting * alpha + (1.0 - forgetting) * prior_alpha + successes
    new_beta = forgetting * beta + (1.0 - forgetting) * prior_beta + failures
    return np.where(has_verdict, new_alpha, alpha), np.where(has_verdict, new_beta, beta)


def predictive_mass(alpha: Floats, beta: Floats, num_rollouts: int) -> Floats:
    """Beta-Binomial mass P(S = s), s = 0..K: float64 of shape ``alpha.shape + (K + 1,)``.

    Built from the ratios of neighbouring masses, so that no Gamma function can overflow or cancel:
    P(s+1) / P(s) = (K - s) (alpha + s) / ((s + 1) (beta + K - s - 1)).
    """
    s = np.arange(num_rollouts, dtype=np.float64)
    a, b = np.asarray(alpha, np.float64)[..., None], np.asarray(beta, np.float64)[..., None]
    log_ratio = np.log((num_rollouts - s) * (a + s)) - np.log((s + 1.0) * (b + num_rollouts - s - 1.0))
    log_mass = np.concatenate([np.zeros_like(a), np.cumsum(log_ratio, axis=-1)], axis=-1)
    mass: Floats = np.exp(log_mass - log_mass.max(axis=-1, keepdims=True))
    mass /= mass.sum(axis=-1, keepdims=True)
    return mass
