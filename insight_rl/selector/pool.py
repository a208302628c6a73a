"""What is known about each prompt of the pool: belief, visits, and whether it is waiting for its outcome.

A belief takes 16 bytes a prompt (two float64), and only once it has been visited: the arrays hold the evidence beyond
the prior, so they start as zero pages that the operating system provides on first write. Visits are kept for visited
prompts only. So a pool of 10^7 prompts costs what its visited prompts cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from insight_rl.errors import check
from insight_rl.selector.belief import Floats, updated
from insight_rl.selector.drift import Drift
from insight_rl.selector.indexed_pool import IndexedPool, pool_fingerprint
from insight_rl.selector.prior import Prior
from insight_rl.selector.verifier_error import VerifierError
from insight_rl.types import Prompt


class BeliefPool:
    """Beliefs and visits of N prompts, by position in the pool."""

    def __init__(
        self, prompts: Sequence[Prompt] | IndexedPool, *, prior: Prior, num_rollouts: int, drift: Drift | None = None
    ) -> None:
        self.prompts = prompts
        self._index_by_id: dict[str, int] | None = None
        if isinstance(prompts, IndexedPool):
            self.fingerprint = prompts.fingerprint
        else:
            ids = [prompt.id for prompt in prompts]
            self._index_by_id = {prompt_id: index for index, prompt_id in enumerate(ids)}
            if len(self._index_by_id) < len(ids):
                twice = next(prompt_id for index, prompt_id in enumerate(ids) if self._index_by_id[prompt_id] != index)
                check(False, "task", twice, "this prompt id occurs twice in the pool; drop the duplicate prompts")
            self.fingerprint = pool_fingerprint(prompts)
        self.prior = prior.of(prompts, num_rollouts)
        self.drift = Drift() if drift is None else drift
        self.drift.reset()
        self._now = 0
        """Step of the last update; the next outcomes will be those of the step after it."""
        self._success = np.zeros(len(prompts))
        self._failure = np.zeros(len(prompts))
        self.visited = np.empty(0, np.int64)
        """Positions of the prompts observed at least once, ascending; the two arrays below run along it."""
        self.visits = np.empty(0, np.int64)
        self.last_observed = np.empty(0, np.int64)
        self.pending: dict[str, int] = {}
        """Prompts selected and not yet observed: id to position, in the order they were selected."""

    def __len__(self) -> int:
        return len(self.prompts)

    def index_of(self, prompt_id: str) -> int:
        """Position of a prompt; an id from elsewhere is a ``ValueError``."""
        if prompt_id in self.pending:
            return self.pending[prompt_id]
        try:
            if self._index_by_id is not None:
                return self._index_by_id[prompt_id]
            return self.prompts.index_of(prompt_id)  # type: ignore[union-attr]
        except KeyError:
            raise ValueError(f"prompt id {prompt_id!r} is not in this pool of {len(self)} prompts") from None

    def beliefs(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """alpha and beta at ``indices``, float64."""
        prior_alpha, prior_beta = self.prior.counts(indices)
        success, failure = self._evidence_now(indices)
        return prior_alpha + success, prior_beta + failure

    def _evidence_now(self, indices: np.ndarray, lags: np.ndarray | int = 0) -> tuple[Floats, Floats]:
        """Successes and failures beyond the prior, carried forward by the drift to the step that comes next.

        ``lags``: to so many steps before it.
        """
        success, failure = self._success[indices], self._failure[indices]
        if not self.drift.is_on:
            return success, failure
        waited = np.maximum(self.age(indices, self._now + 1) - lags, 0).astype(np.float64)
        return self.drift.moved(success, failure, self.prior.counts(indices), waited)

    def _learn_drift(self, indices: np.ndarray, successes: Floats, judged: Floats, lags: np.ndarray) -> None:
        """From the prompts that were observed before."""
        waited = self.age(indices, self._now + 1) - lags
        again = (judged > 0) & (waited > 0)
        indices = indices[again]
        alpha, beta = (np.broadcast_to(each, len(indices)) for each in self.prior.counts(indices))
        self.drift.observe(
            (self._success[indices], self._failure[indices]),
            (alpha, beta),
            waited[again].astype(np.float64),
            (successes[again], judged[again]),
        )

    def unseen_priors(self) -> tuple[Floats, Floats, np.ndarray]:
        """The priors of the prompts that were never observed: alpha, beta, and how many prompts have each."""
        return self.prior.of_unseen(self.visited, len(self))

    def visits_of(self, indices: np.ndarray) -> np.ndarray:
        """How often each prompt was observed, int64."""
        slots, known = self._slots(indices)
        return np.where(known, self.visits[slots], 0) if len(self.visited) else np.zeros(len(indices), np.int64)

    def age(self, indices: np.ndarray, step: int) -> np.ndarray:
        """Steps since each prompt was last observed, int64; -1 where it never was."""
        if not len(self.visited):
            return np.full(len(indices), -1, np.int64)
        slots, known = self._slots(indices)
        return np.where(known, step - self.last_observed[slots], -1)

    def _slots(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the prompts at ``indices`` stand in ``visited``, and whether they do."""
        slots = np.minimum(np.searchsorted(self.visited, indices), max(len(self.visited) - 1, 0))
        known = self.visited[slots] == indices if len(self.visited) else np.zeros(len(indices), bool)
        return slots, known

    def update(
        self,
        indices: np.ndarray,
        successes: np.ndarray,
        judged: np.ndarray,
        *,
        forgetting: float,
        step: int,
        verifier_error: VerifierError | None = None,
        lags: np.ndarray | None = None,
    ) -> None:
        """One belief update of the distinct prompts at ``indices``; those with ``judged == 0`` stay as they are.

        The prior learns from those that were never observed before. With ``verifier_error`` both learn from what the
        verdicts say of the true outcomes. ``lags`` (int64) has by how many versions the policy that sampled each
        outcome is behind that of this step; they age from then on. ``None``: by none.
        """
        lags = np.zeros(len(indices), np.int64) if lags is None else lags
        failures, true_successes = judged - successes, successes
        success, failure = self._evidence_now(indices, lags)
        if verifier_error is not None and verifier_error.is_on:
            prior_alpha, prior_beta = self.prior.counts(indices)
            alpha = prior_alpha + forgetting * success
            beta = prior_beta + forgetting * failure
            successes, failures = verifier_error.gained(alpha, beta, successes, judged)
            mean = (alpha + successes) / (alpha + successes + beta + failures)
            true_successes = np.clip(mean * (alpha + beta + judged) - alpha, 0.0, judged)
        if self.drift.is_on:
            self._learn_drift(indices, true_successes, judged, lags)
        has_verdict = judged > 0
        first = has_verdict & (self.age(indices, step) < 0)
        self.prior.observe(indices[first], true_successes[first], judged[first])
        success, failure = updated(
            success,
            failure,
            successes,
            failures,
            has_verdict=has_verdict,
            prior_alpha=0.0,  # evidence beyond the prior decays towards none of it
            prior_beta=0.0,
            forgetting=forgetting,
        )
        observed = indices[has_verdict]  # what waits on goes on being carried forward from its last visit
        self._success[observed] = np.maximum(success[has_verdict], 0.0)
        self._failure[observed] = np.maximum(failure[has_verdict], 0.0)
        order = np.argsort(observed)
        self._count_visits(observed[order], step - lags[has_verdict][order])
        self._now = step

    def age_all_but(self, indices: np.ndarray, success: Floats, failure: Floats, *, forgetting: float) -> None:
        """Forget at, and add evidence to, every prompt but those at ``indices``: one pass over the whole pool."""
        for counts, added in ((self._success, success), (self._failure, failure)):
            kept = counts[indices]
            counts *= forgetting
            counts += added
            counts[indices] = kept

    def evidence(self) -> Floats:
        """Successes and failures beyond the prior of all N prompts, float64 [2, N]."""
        return np.stack([self._success, self._failure])

    def load_evidence(self, evidence: Floats) -> None:
        self._success[:], self._failure[:] = evidence

    def _count_visits(self, indices: np.ndarray, steps: np.ndarray) -> None:
        """``indices`` in ascending order, and the step of each."""
        slots = np.searchsorted(self.visited, indices)
        known = np.zeros(len(indices), bool)
        inside = slots < len(self.visited)
        known[inside] = self.visited[slots[inside]] == indices[inside]
        new = slots[~known]
        self.visited = np.insert(self.visited, new, indices[~known])
        self.visits = np.insert(self.visits, new, 0)
        self.last_observed = np.insert(self.last_observed, new, 0)
        slots = np.searchsorted(self.visited, indices)
        self.visits[slots] += 1
        self.last_observed[slots] = steps

    def draw_available(self, size: int, rng: np.random.Generator, capped: np.ndarray | None = None) -> np.ndarray:
        """Positions of at most ``size`` prompts that are not pending: uniform, without replacement, in random order.

        Those at ``capped`` (ascending) are left out too. The cost follows ``size`` and the number left out, not the
        pool. Because the order is random, taking the first of several equal ones breaks the tie at random.
        """
        left_out = np.sort(np.fromiter(self.pending.values(), np.int64, len(self.pending)))
        if capped is not None:
            left_out = np.union1d(left_out, capped)
        available = len(self) - len(left_out)
        ranks = rng.choice(available, min(size, available), replace=False)
        # The r-th prompt that is not left out: skip every one at or before it that is.
        return ranks + np.searchsorted(left_out - np.arange(len(left_out)), ranks, side="right")

    def state_dict(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "visited": self.visited.copy(),
            "visits": self.visits.copy(),
            "last_observed": self.last_observed.copy(),
            "success": self._success[self.visited],
            "failure": self._failure[self.visited],
            "prior": self.prior.state_dict(),
            "drift": self.drift.state_dict(),
            "now": self._now,
            "pending_ids": list(self.pending),
            "pending_indices": list(self.pending.values()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["fingerprint"] != self.fingerprint:
            raise ValueError(
                f"the saved beliefs belong to another pool (fingerprint {state['fingerprint']}, this pool of "
                f"{len(self)} prompts has {self.fingerprint}); resume with the task the run was started with"
            )
        self.visited, self.visits, self.last_observed = (
            _int_array(state[name]) for name in ("visited", "visits", "last_observed")
        )
        self.prior.load_state_dict(state["prior"])
        self.drift.load_state_dict(state["drift"])
        self._now = int(state["now"])
        self._success[:] = 0.0
        self._failure[:] = 0.0
        self._success[self.visited] = state["success"]
        self._failure[self.visited] = state["failure"]
        self.pending = dict(zip(state["pending_ids"], map(int, state["pending_indices"]), strict=True))


def _int_array(values: Iterable[int]) -> np.ndarray:
    return np.array(values, np.int64)
