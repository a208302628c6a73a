"""A prior for each prompt, learnt during the run from what the prompts look like: online Bayesian logistic regression.

The prompts of a pool differ before any is rolled out: by length, form of the answer, topic. A regression of the first
visits' outcomes on such features (:mod:`insight_rl.selector.features`) gives each unseen prompt a mean of its own, and
how far the prompts scatter about it gives the strength of that prior:

    x_i   = (1, z_i / sqrt(d)),   z_i the d standardised features of prompt i
    m_i   = sigma(x_i w), clipped to [0.005, 0.995]
    a_i   = n0 m_i,   b_i = n0 (1 - m_i)

    w     Laplace approximation N(w, Lam^-1), carried on from step to step. With the first visits of a step, s of K,

              Lam <- memory Lam + (1 - memory) Lam0,     Lam0 = diag(0.1, 20/d, ..., 20/d)
              w   <- w + (Lam + H)^-1 [ k X'(s/K - m) - Lam (w - w_old) ],   H = k X' diag(m (1 - m)) X,    twice
              Lam <- Lam + H

          k = K / (1 + (K - 1) / (n0 + 1)) is what K rollouts of one prompt are worth: they share the part of its
          success rate that the features do not tell, so that their number overstates what is learnt of w.
    n0    posterior (geometric mean) on 16 points from 0.2 to 12: likelihood of each step's outcomes under the prior
          before them, Beta-Binomial(n0 m_i, n0 (1 - m_i)), fading with the same memory; a log-normal prior about 1.5.

It helps in the first pass through a pool, and where the pool is larger than what a run can visit: the measured gain is
that of a better first guess, not of evidence (from text and answer alone, a quarter of the variance of the logit of the
pass rates). It does not help once every prompt was visited, or in a pool without contents (ids only, as the selector
service has it), where it becomes one prior for all. Features that tell nothing cost little: their weights stay near 0.

Sources: Spiegelhalter and Lauritzen, 1990 (sequential Laplace); the worth of K trials is the design effect of
overdispersed binomials (Williams, 1982).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import expit, gammaln, logit

from insight_rl.errors import check, is_number
from insight_rl.selector.belief import Floats
from insight_rl.selector.features import Matrix, prompt_features
from insight_rl.selector.field_prior import MAX_MEAN, MIN_MEAN, PriorByPrompt
from insight_rl.selector.indexed_pool import IndexedPool
from insight_rl.selector.prior import PoolPrior
from insight_rl.types import Prompt

STRENGTHS = np.geomspace(0.2, 12.0, 16)
TYPICAL_STRENGTH = 1.5
NEWTON_STEPS = 2
MAX_MOVE = 4.0
"""Most that one Newton step may move the logit of a prompt it learns from: far from the optimum it would overshoot."""


class FeaturePrior:
    """Settings of ``selector/prior=features``."""

    def __init__(
        self, *, memory: float = 0.98, embeddings: str | None = None, ignore: Sequence[str] = ("pass_rate",)
    ) -> None:
        check(
            is_number(memory) and 0 < memory <= 1,
            "selector.prior.memory",
            memory,
            "must be a number above 0 and at most 1; 1 forgets nothing",
        )
        check(
            embeddings is None or isinstance(embeddings, str),
            "selector.prior.embeddings",
            embeddings,
            "must be null or the path of a .npy file",
        )
        check(
            isinstance(ignore, Sequence) and not isinstance(ignore, str) and all(isinstance(i, str) for i in ignore),
            "selector.prior.ignore",
            ignore,
            "must be a list of metadata fields",
        )
        self._memory, self._embeddings, self._ignore = float(memory), embeddings, tuple(ignore)

    def of(self, prompts: Sequence[Prompt] | IndexedPool, configured: PoolPrior, num_rollouts: int) -> PoolPrior:
        contents = prompts if isinstance(prompts, list | tuple) else list(prompts)
        features = prompt_features(contents, embeddings=self._embeddings, ignore=self._ignore)
        return FeaturePoolPrior(features, configured, memory=self._memory)


class FeaturePoolPrior(PriorByPrompt):
    """The regression over one pool. It starts at the mean of the configured prior, the same for all prompts."""

    def __init__(self, features: Matrix, configured: PoolPrior, *, memory: float) -> None:
        size, width = features.shape
        self._inputs = np.empty((size, width + 1), np.float32)
        self._inputs[:, 0] = 1.0
        self._inputs[:, 1:] = features / np.sqrt(max(width, 1))
        self._memory = memory
        start = configured.alphas[0] / (configured.alphas[0] + configured.betas[0])
        self._weights = np.zeros(width + 1)
        self._weights[0] = logit(start)
        self._initial_precision = np.full(width + 1, 20.0 / max(width, 1))
        self._initial_precision[0] = 0.1
        self._precision = np.diag(self._initial_precision)
        self._log_likelihood = np.zeros(len(STRENGTHS))
        super().__init__(np.empty(0), np.empty(0), None, configured.chance)
        self._set_counts()

    def _set_counts(self) -> None:
        log_posterior = self._log_likelihood - 0.5 * np.log(STRENGTHS / TYPICAL_STRENGTH) ** 2
        posterior = np.exp(log_posterior - log_posterior.max())
        self._strength = float(np.exp(posterior @ np.log(STRENGTHS) / posterior.sum()))
        means = np.clip(expit((self._inputs @ self._weights.astype(np.float32)).astype(np.float64)), MIN_MEAN, MAX_MEAN)
        self.alphas = self._strength * means
        self.betas = self._strength - self.alphas

    def observe(self, indices: np.ndarray, successes: Floats, judged: Floats) -> None:
        means = self.alphas[indices] / self._strength
        self._log_likelihood *= self._memory
        self._log_likelihood += _log_likelihood(means, successes, judged)
        self._precision *= self._memory
        self._precision += (1.0 - self._memory) * np.diag(self._initial_precision)
        if len(indices):
            self._learn(self._inputs[indices].astype(np.float64), successes, judged)
        self._set_counts()

    def _learn(self, inputs: Floats, successes: Floats, judged: Floats) -> None:
        worth = judged / (1.0 + (judged - 1.0) / (self._strength + 1.0))
        before = self._weights
        for _ in range(NEWTON_STEPS):
            means = expit(inputs @ self._weights)
            gradient = inputs.T @ (worth * (successes / judged - means)) - self._precision @ (self._weights - before)
            move = np.linalg.solve(self._precision + _curvature(inputs, worth, means), gradient)
            largest = np.abs(inputs @ move).max()
            self._weights = self._weights + move * min(1.0, MAX_MOVE / max(largest, 1e-12))
        self._precision = self._precision + _curvature(inputs, worth, expit(inputs @ self._weights))

    def metrics(self) -> dict[str, float]:
        return {
            "selector/prior_mean": float(self.alphas.mean() / self._strength),
            "selector/prior_evidence": self._strength,
            "selector/prior_spread": float(self.alphas.std() / self._strength),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "weights": self._weights.copy(),
            "precision": self._precision.copy(),
            "log_likelihood": self._log_likelihood.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        weights = np.array(state["weights"], np.float64)
        if weights.shape != self._weights.shape:
            raise ValueError(
                f"the saved prior has {len(weights) - 1} features and this pool {len(self._weights) - 1}; resume with "
                "the embeddings and the metadata that the run was started with"
            )
        self._weights = weights
        self._precision = np.array(state["precision"], np.float64)
        self._log_likelihood = np.array(state["log_likelihood"], np.float64)
        self._set_counts()


def _curvature(inputs: Floats, worth: Floats, means: Floats) -> Floats:
    curvature: Floats = (inputs.T * (worth * means * (1.0 - means))) @ inputs
    return curvature


def _log_likelihood(means: Floats, successes: Floats, judged: Floats) -> Floats:
    """Of these outcomes at each of STRENGTHS, up to a constant."""
    a, b = STRENGTHS[:, None] * means, STRENGTHS[:, None] * (1.0 - means)
    ratio = gammaln(a + successes) + gammaln(b + judged - successes) - gammaln(a + b + judged)
    total: Floats = (ratio - gammaln(a) - gammaln(b) + gammaln(a + b)).sum(axis=1)
    return total
