"""mu and eta of the difficulty weight, adapted from what was learnt: `selector.adapt_weight`, off by default.

A prompt's gain is the change of its success share from one visit to the next. Over the belief phi_bar that the prompt
had *before* the first of the two (and only if it had been seen before), the gains are modelled as

    S'/K' - S/K  =  c + g w_{mu,eta}(phi_bar) + noise,      w = phi (1 - phi) exp(-eta (phi - mu)^2), at most 1

with a free constant c (what all prompts gain between visits), g ~ N(0, 0.1^2) and Gaussian noise of the gains' own
variance. phi_bar comes from other rollouts than S and S', so that a lucky S does not look like a loss to come. With
x = w - mean(w), y = gain - mean(gain), sums over the gains, c is integrated out, and a point of the grid mu = 0.1..0.9,
eta = 0..10 has the log evidence

    1/2 (sum x y)^2 / (s^2 (sum x^2 + s^2 / 0.1^2)) - 1/2 ln(1 + 0.1^2 sum x^2 / s^2)

to which a prior is added that is centred on the configured mu and eta: N(mu, 0.15^2) and N(ln(1 + eta), 0.5^2). The
configured values are moved by as much as the means over the grid (of mu, and of ln(1 + eta)) move from prior to
posterior, and used so at the next step. They keep to the grid's bounds, and without gains they stay where they are.
Sums forget 1 % a step; nothing is drawn at random.

Source: this project; the form of w is InSight's (arXiv 2603.01907).

Where it helps: long runs of many revisits in which the success rate that teaches most is far from the configured mu.
Where it does not: short runs or pools larger than the rollouts, as a gain of 0.02 is measured with a noise of 0.25 (a
thousand revisits say hardly anything); where prompts teach each other, since it sees a prompt's own gain alone; and
with a sharp weight, which selects prompts of one success rate (`selector.guards.exploration` then adds others).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from insight_rl.errors import check
from insight_rl.selector.belief import Floats

MU = np.linspace(0.1, 0.9, 17)
ETA = np.array([0.0, 1.0, 3.0, 5.0, 10.0])
GAIN_SPREAD = 0.1
DECAY = 0.99
MU_SPREAD, LOG_ETA_SPREAD = 0.15, 0.5


def weights_on_grid(success_rate: Floats) -> Floats:
    """w at each point of the grid, scaled to a largest value of 1: float64 ``[MU * ETA, len(success_rate)]``."""
    mu, eta = (each.ravel()[:, None] for each in np.meshgrid(MU, ETA, indexing="ij"))

    def weight(rate: Floats) -> Floats:
        value: Floats = rate * (1.0 - rate) * np.exp(-eta * (rate - mu) ** 2)
        return value

    return weight(success_rate) / weight(np.linspace(0.0, 1.0, 201)).max(axis=1, keepdims=True)


class AdaptiveWeight:
    """Learns mu and eta over a run. Example: ``AdaptiveWeight(mu=0.3, eta=3.0)`` starts there."""

    def __init__(self, *, mu: float, eta: float) -> None:
        check(MU[0] <= mu <= MU[-1], "selector.mu", mu, "must lie in [0.1, 0.9] with selector.adapt_weight")
        check(0 <= eta <= ETA[-1], "selector.eta", eta, "must lie in [0, 10] with selector.adapt_weight")
        self.mu, self.eta = self._start = float(mu), float(eta)
        grid_mu, grid_eta = (each.ravel() for each in np.meshgrid(MU, ETA, indexing="ij"))
        self._grid = np.stack([grid_mu, np.log1p(grid_eta)])
        distance = ((grid_mu - mu) / MU_SPREAD) ** 2 + (np.log((1 + grid_eta) / (1 + eta)) / LOG_ETA_SPREAD) ** 2
        self._log_prior = -0.5 * distance
        self._prior_mean = self._grid @ self.posterior(np.zeros(len(distance)))
        self._sums = np.zeros(3)
        """Gains: their number, sum and sum of squares."""
        self._weight_sums = np.zeros((3, len(grid_mu)))
        """Sums of w, of w^2 and of w times the gain, at each point of the grid."""
        self._last: dict[int, tuple[float, float]] = {}
        """Belief before the last visit and success share at it, of each prompt visited twice or more."""

    def observe(
        self, indices: np.ndarray, success_rate: Floats, share: Floats, has_been_seen: np.ndarray
    ) -> dict[str, float]:
        """One step: prompts at ``indices`` with their mean belief before it, S / K, and whether they were seen before.

        Updates ``mu`` and ``eta`` and returns them as metrics.
        """
        earlier = [self._last.get(index) for index in indices.tolist()]
        known = np.array([each is not None for each in earlier], bool)
        before = np.array([each for each in earlier if each is not None], np.float64).reshape(-1, 2)
        gains = share[known] - before[:, 1]
        weights = weights_on_grid(before[:, 0])
        self._sums = DECAY * self._sums + (len(gains), gains.sum(), gains @ gains)
        self._weight_sums *= DECAY
        self._weight_sums += (weights.sum(axis=1), (weights**2).sum(axis=1), weights @ gains)
        seen = (each[has_been_seen].tolist() for each in (indices, success_rate, share))
        self._last |= {index: (rate, own) for index, rate, own in zip(*seen, strict=True)}
        move_mu, move_log_eta = self._grid @ self.posterior(self.log_evidence()) - self._prior_mean
        self.mu = float(np.clip(self._start[0] + move_mu, MU[0], MU[-1]))
        self.eta = float(np.clip((1.0 + self._start[1]) * np.exp(move_log_eta) - 1.0, ETA[0], ETA[-1]))
        return {"selector/mu": self.mu, "selector/eta": self.eta}

    def log_evidence(self) -> Floats:
        """Of each point of the grid, up to a constant."""
        number, total, squares = self._sums
        if number < 2.0:
            return np.zeros(len(self._log_prior))
        noise = max((squares - total**2 / number) / number, 1e-6)
        mean_weight, square_weight, product = self._weight_sums
        x_x = np.maximum(square_weight - mean_weight**2 / number, 0.0)
        x_y = product - mean_weight * total / number
        evidence: Floats = 0.5 * x_y**2 / (noise * (x_x + noise / GAIN_SPREAD**2))
        return evidence - 0.5 * np.log1p(GAIN_SPREAD**2 * x_x / noise)

    def posterior(self, log_evidence: Floats) -> Floats:
        """Probability of each point of the grid."""
        log_posterior = self._log_prior + log_evidence
        probability: Floats = np.exp(log_posterior - log_posterior.max())
        return probability / probability.sum()

    def state_dict(self) -> dict[str, Any]:
        pairs = np.array(list(self._last.values()), np.float64).reshape(-1, 2)
        return {
            "mu": self.mu,
            "eta": self.eta,
            "sums": self._sums.copy(),
            "weight_sums": self._weight_sums.copy(),
            "last_indices": np.array(list(self._last), np.int64),
            "last": pairs,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.mu, self.eta = float(state["mu"]), float(state["eta"])
        self._sums = np.array(state["sums"], np.float64)
        self._weight_sums = np.array(state["weight_sums"], np.float64)
        pairs = np.array(state["last"], np.float64).reshape(-1, 2).tolist()
        indices = np.array(state["last_indices"], np.int64).tolist()
        self._last = {index: (rate, share) for index, (rate, share) in zip(indices, pairs, strict=True)}
