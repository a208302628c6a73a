"""Scores: how much a prompt is worth rolling out, given its belief. Pure functions; higher is better.

The first two parameters of a score are the arrays ``alpha`` and ``beta`` of the candidates; it returns one float64 for
each. It may also name ``num_rollouts`` (K) and ``rng`` (the selector's own generator), which the selector then fills
in; every further parameter is a setting of ``conf/selector``. Symbols as in InSight, arXiv 2603.01907.
"""

from __future__ import annotations

import numpy as np

from insight_rl.errors import check
from insight_rl.selector.belief import Floats, predictive_mass
from insight_rl.selector.information import in_chunks, mutual_information


def difficulty_weight(success_rate: Floats, mu: float, eta: float) -> Floats:
    """w(phi) = phi (1 - phi) exp(-eta (phi - mu)^2): InSight's weight, high for learnable prompts."""
    check(0 <= mu <= 1, "selector.mu", mu, "must lie in [0, 1] (the paper's 3.0 is a misprint of 0.3)")
    check(eta >= 0, "selector.eta", eta, "must be at least 0")
    sharpness: Floats = np.exp(-eta * (success_rate - mu) ** 2)
    return success_rate * (1.0 - success_rate) * sharpness


def weighted_mutual_information(
    alpha: Floats, beta: Floats, num_rollouts: int, mu: float = 0.3, eta: float = 3.0
) -> Floats:
    """A = w(phi_bar) I(R_1:K ; Phi), in nats: InSight.

    Chunk by chunk, so that a pool of any size streams through the cache on all cores.
    The paper's appendix prints mu = 3.0; its table 5 and its text use 0.3, and so does this.
    """

    def score(alpha: Floats, beta: Floats) -> Floats:
        return difficulty_weight(alpha / (alpha + beta), mu, eta) * mutual_information(alpha, beta, num_rollouts)

    return in_chunks(score, alpha, beta)


def information_only(alpha: Floats, beta: Floats, num_rollouts: int) -> Floats:
    """I(R_1:K ; Phi) alone: InSight's ablation without the weight."""
    return mutual_information(alpha, beta, num_rollouts)


def weight_only(alpha: Floats, beta: Floats, mu: float = 0.3, eta: float = 3.0) -> Floats:
    """w(phi_bar) alone: InSight's ablation without the information."""
    return difficulty_weight(alpha / (alpha + beta), mu, eta)


def insight_sampled(
    alpha: Floats,
    beta: Floats,
    num_rollouts: int,
    rng: np.random.Generator,
    mu: float = 0.3,
    eta: float = 3.0,
) -> Floats:
    """InSight's ablation with phi_hat ~ Beta(alpha, beta) in place of the mean in the weight."""
    return difficulty_weight(rng.beta(alpha, beta), mu, eta) * mutual_information(alpha, beta, num_rollouts)


def mopps(alpha: Floats, beta: Floats, rng: np.random.Generator, target: float = 0.5) -> Floats:
    """Closeness of phi_hat ~ Beta(alpha, beta), drawn afresh, to ``target``: MoPPS, arXiv 2507.04632."""
    return -np.abs(rng.beta(alpha, beta) - target)


def expected_difficulty(alpha: Floats, beta: Floats, target: float = 0.5) -> Floats:
    """Closeness of the mean phi_bar to ``target``: a baseline of InSight."""
    return -np.abs(alpha / (alpha + beta) - target)


def inverse_evidence(alpha: Floats, beta: Floats) -> Floats:
    """1 / (alpha + beta), the least observed first: a baseline of InSight."""
    return 1.0 / (alpha + beta)


def mixed_outcome_chance(alpha: Floats, beta: Floats, num_rollouts: int) -> Floats:
    """V = 1 - B(alpha + K, beta) / B(alpha, beta) - B(alpha, beta + K) / B(alpha, beta): MaPP's score.

    The chance that K rollouts come out neither all right nor all wrong. Summed over the mixed outcomes rather than
    subtracted from 1, which would cancel where the chance is small.
    """
    chance: Floats = predictive_mass(alpha, beta, num_rollouts)[..., 1:-1].sum(axis=-1)
    return chance
