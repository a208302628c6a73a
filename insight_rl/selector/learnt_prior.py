"""One prior for all prompts that were never rolled out, learnt from the first visits of the others.

A pool of prompts is rarely uniform: many are hopeless, many are solved, and Beta(1, 1) takes an unseen prompt for a
better one than most that are known. The outcomes of first visits, S of K, are draws of the Beta-Binomial whose
parameters are the pool's own distribution of success rates. So the prior is its maximum likelihood (empirical Bayes):

    h[s] <- memory h[s]  at each step, then + 1 for each prompt visited for the first time with s successes
    a    <- a sum_s h[s] (psi(s + a) - psi(a)) / sum_s h[s] (psi(K + a + b) - psi(a + b))
    b    <- b sum_s h[s] (psi(K - s + b) - psi(b)) / the same

The fixed point is Minka's (Estimating a Dirichlet distribution, 2000, section 4); two rounds of it at each step go on
from where the last step stopped. One pseudo-group, spread over s as the configured prior expects it, is added to h: it
decides while nothing was observed, and again as the memory of the first visits fades. Both parameters stay in
[0.02, 50].

Groups judged in part are taken at their own K, which needs no more than the histograms of successes, failures and
judged rollouts, each on its own. A success count that is a fraction is shared between the whole numbers next to it.

It helps where the pool's success rates are far from uniform, above all where most prompts are hopeless. It does not
help once every prompt was visited, and little where the rates are spread evenly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import psi

from insight_rl.errors import check, is_number
from insight_rl.selector.belief import Floats, predictive_mass
from insight_rl.selector.indexed_pool import IndexedPool
from insight_rl.selector.prior import PoolPrior
from insight_rl.types import Prompt

ROUNDS = 2
MIN_LEARNT, MAX_LEARNT = 0.02, 50.0


class LearntPrior:
    """Settings of ``selector.prior=pool``: what share of the first visits is remembered at each step."""

    def __init__(self, *, memory: float = 0.98) -> None:
        check(
            is_number(memory) and 0 < memory <= 1,
            "selector.prior.memory",
            memory,
            "must be a number above 0 and at most 1; 1 forgets nothing",
        )
        self._memory = float(memory)

    def of(self, prompts: Sequence[Prompt] | IndexedPool, configured: PoolPrior, num_rollouts: int) -> PoolPrior:
        return LearntPoolPrior(configured, num_rollouts, memory=self._memory)


class LearntPoolPrior(PoolPrior):
    """Starts at the configured priors; prompts that share one go on sharing one, which is learnt from them."""

    def __init__(self, configured: PoolPrior, num_rollouts: int, *, memory: float) -> None:
        super().__init__(configured.alphas.copy(), configured.betas.copy(), configured.codes, configured.chance)
        self._memory = memory
        pseudo = predictive_mass(self.alphas, self.betas, num_rollouts)
        self._pseudo = np.stack([pseudo, pseudo[:, ::-1], np.zeros_like(pseudo)])
        self._pseudo[2, :, num_rollouts] = 1.0
        self._seen = np.zeros_like(self._pseudo)
        """Remembered first visits by successes, by failures and by judged rollouts: [3, priors, 0..K]."""

    def observe(self, indices: np.ndarray, successes: Floats, judged: Floats) -> None:
        codes = np.zeros(len(indices), np.int64) if self.codes is None else self.codes[indices].astype(np.int64)
        missing = int(judged.max(initial=0)) + 1 - self._seen.shape[2]
        if missing > 0:  # more rollouts than K, by a budget rule
            self._seen, self._pseudo = (
                np.pad(each, ((0, 0), (0, 0), (0, missing))) for each in (self._seen, self._pseudo)
            )
        self._seen *= self._memory
        for seen, counts in zip(self._seen, (successes, judged - successes, judged), strict=True):
            _add(seen, codes, counts)
        by_success, by_failure, by_judged = self._seen + self._pseudo
        for _ in range(ROUNDS):
            rise = (by_judged * _steps(self.alphas + self.betas, by_judged.shape[1])).sum(axis=1)
            alphas = self.alphas * (by_success * _steps(self.alphas, by_success.shape[1])).sum(axis=1) / rise
            betas = self.betas * (by_failure * _steps(self.betas, by_failure.shape[1])).sum(axis=1) / rise
            self.alphas, self.betas = (np.clip(each, MIN_LEARNT, MAX_LEARNT) for each in (alphas, betas))

    def metrics(self) -> dict[str, float]:
        evidence = self.alphas + self.betas
        return {
            "selector/prior_mean": float((self.alphas / evidence).mean()),
            "selector/prior_evidence": float(evidence.mean()),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"alphas": self.alphas.copy(), "betas": self.betas.copy(), "seen": self._seen.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.alphas, self.betas = (np.array(state[name], np.float64) for name in ("alphas", "betas"))
        self._seen = np.array(state["seen"], np.float64)
        missing = self._seen.shape[2] - self._pseudo.shape[2]
        self._pseudo = np.pad(self._pseudo, ((0, 0), (0, 0), (0, max(missing, 0))))


def _add(seen: Floats, codes: np.ndarray, counts: Floats) -> None:
    """Count each value of ``counts`` (0..K) in the row of its code of ``seen``; fractions go to both neighbours."""
    whole = np.minimum(counts.astype(np.int64), seen.shape[1] - 2)
    part = counts - whole
    np.add.at(seen, (codes, whole), 1.0 - part)
    np.add.at(seen, (codes, whole + 1), part)


def _steps(counts: Floats, size: int) -> Floats:
    """psi(s + c) - psi(c) for s < ``size``: float64 of shape [len(counts), size]."""
    steps: Floats = psi(np.arange(size) + counts[:, None]) - psi(counts)[:, None]
    return steps
