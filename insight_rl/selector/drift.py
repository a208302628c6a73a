"""Beliefs that move with the policy while a prompt waits: ``selector.drift=true``. Off by default.

Between two visits the policy is trained on other prompts, and what was observed of this one ages in two ways: it says
less (process noise), and it says something slightly different (a trend that all prompts share). For a prompt with
evidence S, F beyond its prior (a0, b0) that has waited n steps

    fading    S <- rho^n S,   F <- rho^n F
    trend     logit of the mean of Beta(a0 + S, b0 + F)  <-  it + c + tau n,  at most 2 either way; strength as it was

c is what a visit itself moves, which must not be taken for a trend. The parameters are fitted online, on revisits, each
of which is a forecast that can be checked (s of K successes, m and e the mean and strength of the belief before it):

    rho       posterior (mean) on a grid of fading rates 1 - rho, by the Beta-Binomial likelihood of the outcomes
    c, tau    logistic regression of the outcomes with logit m as offset and x = (1, n): sequential Laplace as in
              :mod:`insight_rl.selector.feature_prior`, one Newton step a step; a revisit is worth
              K / (1 + (K - 1) / (e + 1)) trials

All of it forgets 2 % a step, towards no trend and a prior for little fading. Prompts never visited have no evidence to
age: they stay at their prior, which a learnt prior moves by itself.

It helps where the policy moves prompts that it is not trained on, and the selector comes back to prompts after long
waits: the forecasts of the revisits are better (tests/unit/selector/test_drift.py has the figures). It does not help
where only the visited prompts move, or where related prompts move and others do not: a trend common to all then raises
hopeless prompts with the rest. In simulations with such pools, earlier prototypes of a common trend and of ageing by
time selected worse than plain forgetting by visit; hence off by default.

Source: this project. Discounted evidence is the steady model of West and Harrison (Bayesian Forecasting, 1997, ch. 14).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import expit, gammaln, logit

from insight_rl.errors import check
from insight_rl.selector.belief import Floats

FADING = np.array([0.0, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16])
"""1 - rho: share of the evidence that each step of waiting takes."""
MEMORY = 0.98
MAX_SHIFT = 2.0
MAX_MOVE = 1.0
_INITIAL_PRECISION = np.array([25.0, 4e4])
"""Of c and tau: standard deviations of 0.2 and 0.005 a step in logit."""


class Drift:
    """What is learnt of the policy's movement, and beliefs carried forward by it."""

    def __init__(self, is_on: bool = False) -> None:
        check(isinstance(is_on, bool), "selector.drift", is_on, "must be true or false")
        self.is_on = is_on
        self.reset()

    def reset(self) -> None:
        self._log_likelihood = np.zeros(len(FADING))
        self._shift = np.zeros(2)
        self._precision = np.diag(_INITIAL_PRECISION)

    @property
    def fading(self) -> float:
        """1 - rho."""
        log_posterior = self._log_likelihood - FADING / 0.02
        posterior = np.exp(log_posterior - log_posterior.max())
        return float(posterior @ FADING / posterior.sum())

    def moved(
        self, success: Floats, failure: Floats, prior: tuple[Floats | float, Floats | float], waited: Floats
    ) -> tuple[Floats, Floats]:
        """Evidence after ``waited`` steps; 0 steps leave it as it is."""
        return _moved(success, failure, prior, waited, 1.0 - self.fading, self._shift)

    def observe(
        self,
        evidence: tuple[Floats, Floats],
        prior: tuple[Floats, Floats],
        waited: Floats,
        outcomes: tuple[Floats, Floats],
    ) -> None:
        """Learn from the revisits of a step: evidence as it was ``waited`` steps ago, and (successes, judged) now."""
        successes, judged = outcomes
        self._log_likelihood *= MEMORY
        self._precision = MEMORY * self._precision + (1.0 - MEMORY) * np.diag(_INITIAL_PRECISION)
        if not len(waited):
            return
        for index, fading in enumerate(FADING):
            success, failure = _moved(*evidence, prior, waited, 1.0 - fading, self._shift)
            belief = prior[0] + success, prior[1] + failure
            self._log_likelihood[index] += _log_likelihood(*belief, successes, judged)
        kept = (1.0 - self.fading) ** waited
        alpha, beta = prior[0] + kept * evidence[0], prior[1] + kept * evidence[1]
        worth = judged / (1.0 + (judged - 1.0) / (alpha + beta + 1.0))
        inputs = np.stack([np.ones_like(waited), waited], axis=1)
        offset = logit(np.clip(alpha / (alpha + beta), 1e-6, 1.0 - 1e-6))
        mean = expit(offset + np.clip(inputs @ self._shift, -MAX_SHIFT, MAX_SHIFT))
        precision = self._precision + (inputs.T * (worth * mean * (1.0 - mean))) @ inputs
        move = np.linalg.solve(precision, inputs.T @ (worth * (successes / judged - mean)))
        self._shift = self._shift + move * min(1.0, MAX_MOVE / max(np.abs(inputs @ move).max(), 1e-12))
        self._precision = precision

    def metrics(self) -> dict[str, float]:
        if not self.is_on:
            return {}
        return {"selector/drift_fading": self.fading, "selector/drift_trend": float(self._shift[1])}

    def state_dict(self) -> dict[str, Any]:
        return {
            "log_likelihood": self._log_likelihood.copy(),
            "shift": self._shift.copy(),
            "precision": self._precision.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._log_likelihood = np.array(state["log_likelihood"], np.float64)
        self._shift = np.array(state["shift"], np.float64)
        self._precision = np.array(state["precision"], np.float64)


def _moved(
    success: Floats,
    failure: Floats,
    prior: tuple[Floats | float, Floats | float],
    waited: Floats,
    rho: float,
    shift: Floats,
) -> tuple[Floats, Floats]:
    kept = rho**waited
    alpha, beta = prior[0] + kept * success, prior[1] + kept * failure
    moves = np.where(waited > 0, np.clip(shift[0] + shift[1] * waited, -MAX_SHIFT, MAX_SHIFT), 0.0)
    mean = expit(np.log(alpha) - np.log(beta) + moves)
    total = kept * (success + failure)
    new_success: Floats = np.where(waited > 0, np.clip((alpha + beta) * mean - prior[0], 0.0, total), success)
    return new_success, np.maximum(total - new_success, 0.0)


def _log_likelihood(alpha: Floats, beta: Floats, successes: Floats, judged: Floats) -> float:
    """Of the outcomes under Beta-Binomials, up to a constant."""
    gained = gammaln(alpha + successes) + gammaln(beta + judged - successes) - gammaln(alpha + beta + judged)
    return float((gained - gammaln(alpha) - gammaln(beta) + gammaln(alpha + beta)).sum())
