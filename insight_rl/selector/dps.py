"""DPS, dynamics-predictive sampling, arXiv 2603.10887: each prompt is a hidden Markov model of how far it is solved.

Read from the authors' published sampler and README (github.com/maoyixiu/DPS) and the paper's abstract, not from the
paper's full text. Three states:
1 no rollout right, 2 some, 3 all. For each prompt a belief mu over its state at the next step and Dirichlet counts A of
its transitions (A[j, i] from state i to state j); the B prompts of the largest mu(2) are selected. At each step

    posterior   = the observed state, or mu where the prompt was not rolled out
    A          <- lambda A + (1 - lambda) A_0 + xi,   xi ~ posterior[j] P[j, i] previous[i] if observed, else 0
    mu         <- P posterior,                        P = A with its columns normalised

where `previous` is the posterior of the step before and xi is normalised to sum to 1. Settings as in the
authors' Countdown scripts: A_0 = 1 everywhere, mu uniform at first, lambda = 0.5, candidates 8 times the batch.

Deviations: a group counts by its judged rollouts, and one without any is as if it had not been rolled out; ties (every
prompt starts with the same mu) are broken at random. The Beta belief is kept beside it, for the metrics only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from insight_rl.errors import check, is_number
from insight_rl.selector.belief import Floats
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.selector.decision import Decision
from insight_rl.selector.indexed_pool import IndexedPool
from insight_rl.types import Outcome, Prompt

UNIFORM = np.full(3, 1.0 / 3.0)


class DpsSelector(BeliefSelector):
    """Selects the prompts most probably partly solved at this step.

    Only visited prompts have a state of their own; that of the others never moves, since A_0 and the first mu are
    uniform. Each step costs time in the number of visited prompts, besides the candidates.
    """

    def __init__(self, *, transition_prior: float = 1.0, transition_forgetting: float = 0.5, **settings: Any) -> None:
        check(
            is_number(transition_prior) and transition_prior > 0,
            "selector.transition_prior",
            transition_prior,
            "must be a number above 0",
        )
        check(
            is_number(transition_forgetting) and 0 <= transition_forgetting <= 1,
            "selector.transition_forgetting",
            transition_forgetting,
            "must be a number in [0, 1]; 1 forgets nothing",
        )
        super().__init__(score=None, **settings)
        self._transition_prior = float(transition_prior)
        self._transition_forgetting = float(transition_forgetting)

    def open(self, pool: Sequence[Prompt] | IndexedPool, *, num_rollouts: int, seed: int) -> None:
        super().open(pool, num_rollouts=num_rollouts, seed=seed)
        self._transitions, self._predicted, self._previous = self._unseen(0)

    def _unseen(self, size: int) -> tuple[Floats, Floats, Floats]:
        """Transition counts [size, 3, 3], predicted state [size, 3] and last posterior [size, 3] before any visit."""
        transitions = np.full((size, 3, 3), self._transition_prior)
        return transitions, np.tile(UNIFORM, (size, 1)), np.tile(UNIFORM, (size, 1))

    def score_candidates(self, candidates: np.ndarray, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
        visited = self._pool.visited
        scores = np.full(len(candidates), UNIFORM[1])
        if len(visited):
            slots = np.minimum(np.searchsorted(visited, candidates), len(visited) - 1)
            known = visited[slots] == candidates
            scores[known] = self._predicted[slots[known], 1]
        return scores

    def propensity(self, decision: Decision) -> np.ndarray:
        return np.full(len(decision.candidates), np.nan)

    def observe(self, outcomes: Sequence[Outcome], /) -> None:
        before = self._pool.visited
        super().observe(outcomes)
        self._make_room(before)
        judged = np.array([each.num_judged for each in outcomes], np.int64)
        successes = np.array([each.num_successes for each in outcomes], np.int64)
        indices = np.array([self._pool.index_of(each.prompt_id) for each in outcomes], np.int64)
        has_verdict = judged > 0
        state = np.where(successes == 0, 0, np.where(successes == judged, 2, 1))
        self._advance(np.searchsorted(self._pool.visited, indices[has_verdict]), state[has_verdict])

    def _make_room(self, before: np.ndarray) -> None:
        """Rows for the prompts that this step visited first; all rows run along ``pool.visited``."""
        known = np.isin(self._pool.visited, before, assume_unique=True)
        rows = self._unseen(len(known))
        for row, old in zip(rows, (self._transitions, self._predicted, self._previous), strict=True):
            row[known] = old
        self._transitions, self._predicted, self._previous = rows

    def _advance(self, observed: np.ndarray, state: np.ndarray) -> None:
        """One step of every visited prompt; those in rows ``observed`` were seen in ``state`` (0, 1 or 2)."""
        posterior = self._predicted.copy()
        posterior[observed] = np.eye(3)[state]
        joint = posterior[observed, :, None] * _normalised(self._transitions[observed])
        joint *= self._previous[observed, None, :]
        self._transitions *= self._transition_forgetting
        self._transitions += (1.0 - self._transition_forgetting) * self._transition_prior
        self._transitions[observed] += joint / joint.sum(axis=(1, 2), keepdims=True)
        self._predicted = np.einsum("pji,pi->pj", _normalised(self._transitions), posterior)
        self._previous = posterior

    def state_dict(self) -> dict[str, Any]:
        own = {
            "transitions": self._transitions.copy(),
            "predicted": self._predicted.copy(),
            "previous": self._previous.copy(),
        }
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._transitions = np.array(state["transitions"], np.float64)
        self._predicted = np.array(state["predicted"], np.float64)
        self._previous = np.array(state["previous"], np.float64)


def _normalised(transitions: Floats) -> Floats:
    """Expected transition matrices: the columns (from-states) of each [3, 3] sum to 1."""
    expected: Floats = transitions / transitions.sum(axis=1, keepdims=True)
    return expected
