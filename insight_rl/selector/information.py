"""Information that K rollouts of a prompt carry about its success rate, in nats. Pure maths over arrays."""

from __future__ import annotations

import numpy as np
from scipy.special import betaln, psi

from insight_rl.selector.belief import Floats


def mutual_information(alpha: Floats, beta: Floats, num_rollouts: int) -> Floats:
    """I(R_1:K ; Phi) for Phi ~ Beta(alpha, beta) and K = ``num_rollouts`` Bernoulli rewards, float64."""
    a, b = np.broadcast_arrays(np.asarray(alpha, np.float64), np.asarray(beta, np.float64))
    n = a + b
    s = np.arange(num_rollouts + 1.0)
    log_binomial = -np.log(num_rollouts + 1.0) - betaln(1.0 + s, 1.0 + num_rollouts - s)
    log_mass = betaln(a[..., None] + s, b[..., None] + num_rollouts - s) - betaln(a, b)[..., None]
    entropy = -(np.exp(log_mass + log_binomial) * log_mass).sum(axis=-1)
    noise = -(a * (psi(a + 1.0) - psi(n + 1.0)) + b * (psi(b + 1.0) - psi(n + 1.0))) / n
    information: Floats = np.maximum(entropy - num_rollouts * noise, 0.0)
    return information
