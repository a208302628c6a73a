"""BOTS, Bayesian online task selection, arXiv 2510.26374: beliefs that also move for prompts that were not rolled out.

Read from the authors' implementation in Trinity-RFT (interpolation estimator) and a review of the update rule, not from
the paper's full text. After a step

    alpha <- (1 - lambda) alpha + lambda alpha_0 + s,   beta alike with f          for every prompt of the pool

with s, f the successes and failures of prompts that were rolled out (explicit evidence) and rho p K, rho (1 - p) K of
all others (implicit evidence), where p interpolates between the pass rates of a weak and a strong reference model:

    p = clip(weak + c (strong - weak), 0, 1),   c = (mean pass rate - mean weak) / (mean strong - mean weak)

with c over the prompts of the step, as a moving average with momentum 0.9. Thompson sampling: the prompts whose draws
from the beliefs are nearest to 1/2. Our `forgetting` is 1 - lambda of the paper.

Deviations: K is each group's judged count; candidates are drawn as for every selector here (the paper scores the whole
pool); the reference pass rates are metadata of the prompts, and as few pools have them, rho is 0 unless set, which is
the paper's ablation without implicit evidence. A step costs time in the size of the pool. The metrics of the pool
(mean_belief and the like) take prompts that were never rolled out at their prior.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from insight_rl.errors import check, is_number
from insight_rl.selector.acquisition import mopps
from insight_rl.selector.belief import Floats
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.selector.indexed_pool import IndexedPool
from insight_rl.types import Outcome, Prompt

MOMENTUM = 0.9


class BotsSelector(BeliefSelector):
    """Thompson sampling over beliefs that forget, and optionally interpolate, at every step for every prompt."""

    def __init__(
        self,
        *,
        target: float = 0.5,
        rho: float = 0.0,
        weak_field: str = "weak_pass_rate",
        strong_field: str = "strong_pass_rate",
        **settings: Any,
    ) -> None:
        check(is_number(target) and 0 <= target <= 1, "selector.target", target, "must be a rate in [0, 1]")
        check(is_number(rho) and 0 <= rho <= 1, "selector.rho", rho, "must be a share in [0, 1]; 0 is explicit only")
        super().__init__(score=partial(mopps, target=target), **settings)
        self._rho = float(rho)
        self._fields = weak_field, strong_field

    def open(self, pool: Sequence[Prompt] | IndexedPool, *, num_rollouts: int, seed: int) -> None:
        super().open(pool, num_rollouts=num_rollouts, seed=seed)
        self._capability: float | None = None
        if self._rho:
            self._weak, self._strong = (_pass_rates(pool, field) for field in self._fields)

    def observe(self, outcomes: Sequence[Outcome], /) -> None:
        judged = np.array([each.num_judged for each in outcomes], np.float64)
        has_verdict = judged > 0
        indices = np.array([self._pool.index_of(each.prompt_id) for each in outcomes], np.int64)
        successes = np.array([each.num_successes for each in outcomes], np.float64)
        self._age_unobserved(indices[has_verdict], successes[has_verdict] / judged[has_verdict])
        super().observe(outcomes)

    def _age_unobserved(self, observed: np.ndarray, pass_rates: Floats) -> None:
        """Forgetting and implicit evidence for all but ``observed``, whose update follows in ``observe``."""
        success, failure = np.zeros(len(self._pool)), np.zeros(len(self._pool))
        if self._rho and len(observed):
            self._follow_capability(observed, pass_rates)
            assert self._capability is not None
            expected = np.clip(self._weak + self._capability * (self._strong - self._weak), 0.0, 1.0)
            success = self._rho * self._num_rollouts * expected
            failure = self._rho * self._num_rollouts - success
        self._pool.age_all_but(observed, success, failure, forgetting=self._forgetting)

    def _follow_capability(self, observed: np.ndarray, pass_rates: Floats) -> None:
        """Where the policy stands between the weak (0) and the strong (1) reference, by this step's prompts."""
        weak, strong = self._weak[observed].mean(), self._strong[observed].mean()
        estimate = float((pass_rates.mean() - weak) / (strong - weak + 1e-6))
        self._capability = (
            estimate if self._capability is None else MOMENTUM * self._capability + (1.0 - MOMENTUM) * estimate
        )

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "capability": self._capability, "evidence": self._pool.evidence()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._capability = None if state["capability"] is None else float(state["capability"])
        self._pool.load_evidence(np.array(state["evidence"], np.float64))


def _pass_rates(pool: Sequence[Prompt] | IndexedPool, field: str) -> Floats:
    rates = np.empty(len(pool))
    for index, prompt in enumerate(pool):
        rate: Any = prompt.metadata.get(field)
        check(
            is_number(rate) and 0 <= rate <= 1,
            "selector.rho",
            field,
            f"prompt {prompt.id} has metadata {field}={rate!r}; implicit evidence needs a pass rate of every prompt "
            "under two reference models; add them or set selector.rho=0",
        )
        rates[index] = rate
    return rates
