"""Selection by a score of the belief: draw candidates, score them, take the best. Never sees the model or a completion.

InSight, arXiv 2603.01907, algorithm 1. Every selector keeps beliefs, those that do not look at them too, so that their
metrics can be compared.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from insight_rl.errors import check
from insight_rl.seeding import derive_seed
from insight_rl.selector.diagnostics import pool_metrics, step_metrics
from insight_rl.selector.guards import Guards
from insight_rl.selector.pool import BeliefPool, IndexedPool
from insight_rl.selector.prior import Prior, is_number
from insight_rl.types import Group, Metrics, Prompt

Score = Callable[..., np.ndarray]
"""``score(alpha, beta, **)``: see :mod:`insight_rl.selector.acquisition` for what else it may ask for."""

_NUM_REDRAWS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One call of ``select``, for logs and explanations: arrays run along the candidates, in the order drawn."""

    candidates: np.ndarray
    """Positions in the pool, int64."""
    alpha: np.ndarray
    beta: np.ndarray
    scores: np.ndarray
    chosen: np.ndarray
    """Which candidates were selected: positions in the arrays of this object, best first."""
    num_available: int
    """Prompts that could have been candidates: the pool less those out for roll-out."""


class BeliefSelector:
    """Draws ``candidate_ratio * M`` candidates uniformly without replacement, scores them and selects the top M.

    ``score`` is a function or a ``_partial_`` of one; ``None`` selects uniformly. Settings that this class does not
    know go to the score, so that they stand flat beside it in the config (``selector.mu=0.5``).
    """

    def __init__(
        self,
        *,
        score: Score | None,
        prior_alpha: float = 1.0,
        prior_beta: float = 1.0,
        task_priors: Mapping[str, Sequence[float]] | None = None,
        chance_levels: Mapping[str, float | str] | None = None,
        forgetting: float = 1.0,
        candidate_ratio: float = 16,
        guards: Guards | None = None,
        **score_settings: Any,
    ) -> None:
        self._prior = Prior(alpha=prior_alpha, beta=prior_beta, by_task=task_priors, chance_levels=chance_levels)
        check(
            is_number(forgetting) and 0 <= forgetting <= 1,
            "selector.forgetting",
            forgetting,
            "must be a number in [0, 1]; 1 forgets nothing",
        )
        check(
            is_number(candidate_ratio) and candidate_ratio >= 1,
            "selector.candidate_ratio",
            candidate_ratio,
            "must be a number of at least 1: candidates scored per prompt selected",
        )
        self._score, self._asks_for = _bound_score(score, score_settings)
        self._forgetting = float(forgetting)
        self._candidate_ratio = candidate_ratio
        self._guards = Guards() if guards is None else guards

    def open(self, pool: Sequence[Prompt] | IndexedPool, *, num_rollouts: int, seed: int) -> None:
        self._pool = BeliefPool(pool, prior=self._prior)
        self._num_rollouts = num_rollouts
        self._rng = np.random.default_rng(derive_seed(seed, "selector"))
        self._guards.reset()
        self._step = 0
        self._last_scores = np.empty(0)
        self._score_sum, self._num_scored = 0.0, 0
        self._step_metrics: dict[str, float] = {}
        self.last_decision: Decision | None = None
        self._decisions: list[Decision] = []
        # A score that is broken or badly set shows itself here rather than after the model is loaded.
        self._scores(np.full(2, self._prior.alpha), np.full(2, self._prior.beta), np.random.default_rng(0))

    def select(self, num_prompts: int) -> Sequence[Prompt]:
        check(num_prompts >= 1, "trainer.prompts_per_step", num_prompts, "must be at least 1")
        num_available = len(self._pool) - len(self._pool.pending)
        return self._select_among(self._draw_candidates(num_prompts), num_prompts, num_available)

    def select_among(self, prompt_ids: Sequence[str], num_prompts: int) -> Sequence[Prompt]:
        """As :meth:`select`, with these prompts as the candidates; none of them may be out for roll-out."""
        candidates = self._rng.permutation(np.array([self._pool.index_of(each) for each in prompt_ids], np.int64))
        return self._select_among(candidates, num_prompts, len(candidates))

    def _select_among(self, candidates: np.ndarray, num_prompts: int, num_available: int) -> Sequence[Prompt]:
        alpha, beta = self._pool.beliefs(candidates)
        scores = self._score_candidates(candidates, alpha, beta)
        chosen = self._choose(scores, min(num_prompts, len(candidates)))
        self.last_decision = Decision(
            candidates=candidates,
            alpha=alpha,
            beta=beta,
            scores=scores,
            chosen=chosen,
            num_available=num_available,
        )
        self._decisions.append(self.last_decision)
        self._last_scores = scores[chosen]
        if not np.isnan(self._last_scores).any():
            self._score_sum += float(self._last_scores.sum())
            self._num_scored += len(chosen)
        prompts = [self._pool.prompts[index] for index in candidates[chosen].tolist()]
        self._pool.pending.update(zip((prompt.id for prompt in prompts), candidates[chosen].tolist(), strict=True))
        return prompts

    def visits_unseen_first(self) -> bool:
        """Whether a prompt never observed outscores one observed once, whatever came of that.

        Such a selector goes through the whole pool before it comes back to any prompt. False for rules that draw.
        """
        if self._score is None or "rng" in self._asks_for:
            return False
        successes = np.arange(self._num_rollouts + 1.0)
        alpha, beta = self._prior.alpha + successes, self._prior.beta + self._num_rollouts - successes
        counts = np.append(self._prior.alpha, alpha), np.append(self._prior.beta, beta)
        unseen, *seen_once = self._scores(*counts, np.random.default_rng(0))
        return bool(unseen > max(seen_once))

    def last_scores(self) -> Sequence[float]:
        return self._last_scores.tolist()

    def take_decisions(self) -> list[Decision]:
        """The decisions since the last call of this or of :meth:`observe`, in order; what nobody takes is let go."""
        taken, self._decisions = self._decisions, []
        return taken

    def prompt_ids(self, indices: np.ndarray) -> list[str]:
        """The ids of the prompts at these positions of the pool."""
        return [self._pool.prompts[index].id for index in indices.tolist()]

    def propensity(self, decision: Decision) -> np.ndarray:
        """The chance that each candidate, being one, had of being chosen; NaN where nothing was left to chance.

        Uniform selection has no other candidates than its choice: there it is M / A, with A prompts available.
        """
        num_chosen, size = len(decision.chosen), len(decision.candidates)
        if self._score is None:
            return np.full(size, num_chosen / max(decision.num_available, 1))
        num_explored = self._guards.num_explored(num_chosen)
        chance = self._rule_chance(decision, num_chosen - num_explored)
        num_left = size - num_chosen + num_explored
        if num_explored == 0 or num_left == 0:
            return chance
        if np.isnan(chance).all():
            chance = np.zeros(size)
            chance[decision.chosen[: num_chosen - num_explored]] = 1.0
        return chance + (1.0 - chance) * num_explored / num_left

    def _rule_chance(self, decision: Decision, num_picked: int) -> np.ndarray:
        """As :meth:`propensity`, of being among the ``num_picked`` that the rule itself picks.

        Where the score is drawn: how often each candidate wins in fresh draws, off by up to 0.1 and never 0.
        """
        if "rng" not in self._asks_for:
            return np.full(len(decision.candidates), math.nan)
        counts = self._pool.prior.beyond_chance(decision.alpha, decision.beta, decision.candidates)
        rng = np.random.default_rng(self._step)  # not the selector's own: looking must not change what comes next
        wins = np.ones(len(decision.candidates))
        for _ in range(_NUM_REDRAWS):
            wins[top(self._scores(*counts, rng), num_picked)] += 1.0
        return wins / (_NUM_REDRAWS + 1)

    def _score_candidates(self, candidates: np.ndarray, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
        return self._scores(*self._pool.prior.beyond_chance(alpha, beta, candidates), self._rng)

    def _scores(self, alpha: np.ndarray, beta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self._score is None:
            return np.full(len(alpha), np.nan)
        provided = {"num_rollouts": self._num_rollouts, "rng": rng}
        scores = np.asarray(self._score(alpha, beta, **{name: provided[name] for name in self._asks_for}), np.float64)
        check(scores.shape == alpha.shape, "selector.score", scores.shape, f"must return shape {alpha.shape}")
        if np.isnan(scores).any():
            worst = int(np.flatnonzero(np.isnan(scores))[0])
            check(False, "selector.score", "nan", f"is not a number at alpha={alpha[worst]}, beta={beta[worst]}")
        return scores

    def _draw_candidates(self, num_prompts: int) -> np.ndarray:
        """Uniform candidates below the cap on repeats; prompts at it only where the step would stay short."""
        capped = self._guards.capped()
        candidates = self._pool.draw_available(int(self._candidate_ratio * num_prompts), self._rng, capped)
        missing = num_prompts - len(candidates)
        if missing > 0 and len(capped):
            free = capped[~np.isin(capped, np.fromiter(self._pool.pending.values(), np.int64))]
            candidates = np.append(candidates, self._rng.choice(free, min(missing, len(free)), replace=False))
        return candidates

    def _choose(self, scores: np.ndarray, num_prompts: int) -> np.ndarray:
        """The rule's picks, best first, then those of the exploration floor: candidates come in random order."""
        num_explored = self._guards.num_explored(num_prompts)
        if num_explored == 0:
            return self._pick(scores, num_prompts)
        picked = self._pick(scores, num_prompts - num_explored)
        left = np.setdiff1d(np.arange(len(scores)), picked)
        return np.append(picked, left[:num_explored])

    def _pick(self, scores: np.ndarray, num_prompts: int) -> np.ndarray:
        """Positions of the winners, best first. Candidates come in random order, so ties fall at random."""
        return top(scores, num_prompts)

    def observe(self, groups: Sequence[Group]) -> None:
        indices = np.array([self._pool.index_of(group.prompt.id) for group in groups], np.int64)
        if len(np.unique(indices)) < len(indices):
            raise ValueError("a prompt occurs in two groups of one step; its rollouts belong into one group")
        successes = np.array([group.num_successes for group in groups], np.float64)
        judged = np.array([group.num_judged for group in groups], np.float64)
        self._step += 1
        self._decisions = []
        alpha, beta = self._pool.beliefs(indices)
        ages = self._pool.age(indices, self._step)
        self._step_metrics = step_metrics(alpha, beta, successes, judged, ages)
        if self._num_scored:
            self._step_metrics["selector/score_mean"] = self._score_sum / self._num_scored
        self._score_sum, self._num_scored = 0.0, 0
        self._step_metrics |= self._guards.observe(indices, successes, judged)
        self._pool.update(indices, successes, judged, forgetting=self._forgetting, step=self._step)
        for group in groups:
            self._pool.pending.pop(group.prompt.id, None)

    def belief(self, prompt_id: str) -> tuple[float, float]:
        return self.beliefs([prompt_id])[0]

    def beliefs(self, prompt_ids: Sequence[str]) -> list[tuple[float, float]]:
        """alpha and beta of each of these prompts: :meth:`belief` for a whole step at once."""
        alpha, beta = self._pool.beliefs(np.array([self._pool.index_of(each) for each in prompt_ids], np.int64))
        return list(zip(alpha.tolist(), beta.tolist(), strict=True))

    def metrics(self) -> Metrics:
        return {**pool_metrics(self._pool), **self._step_metrics}

    def state_dict(self) -> dict[str, Any]:
        return {
            "pool": self._pool.state_dict(),
            "guards": self._guards.state_dict(),
            "num_rollouts": self._num_rollouts,
            "rng": self._rng.bit_generator.state,
            "step": self._step,
            "last_scores": self._last_scores.copy(),
            "score_sum": self._score_sum,
            "num_scored": self._num_scored,
            "step_metrics": dict(self._step_metrics),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        missing = self.state_dict().keys() - state.keys()
        missing |= self._pool.state_dict().keys() - state.get("pool", {}).keys()
        if missing:
            raise ValueError(f"the saved selector state lacks {sorted(missing)}; the checkpoint is damaged or foreign")
        self._pool.load_state_dict(state["pool"])
        self._guards.load_state_dict(state["guards"])
        self._num_rollouts = int(state["num_rollouts"])
        self._rng.bit_generator.state = state["rng"]
        self._step = int(state["step"])
        self._last_scores = np.array(state["last_scores"], np.float64)
        self._score_sum, self._num_scored = float(state["score_sum"]), int(state["num_scored"])
        self._step_metrics = dict(state["step_metrics"])


def top(scores: np.ndarray, size: int) -> np.ndarray:
    """Positions of the ``size`` largest scores, largest first; linear in the number of scores but for that sort."""
    if size == 0:
        return np.empty(0, np.int64)
    if size < len(scores):
        winners = np.argpartition(scores, len(scores) - size)[len(scores) - size :]
    else:
        winners = np.arange(len(scores))
    return winners[np.argsort(-scores[winners], kind="stable")]


def _bound_score(score: Score | None, settings: dict[str, Any]) -> tuple[Score | None, tuple[str, ...]]:
    """``score`` with its settings, and which of ``num_rollouts`` and ``rng`` it asks for."""
    if score is None:
        for name, value in settings.items():
            check(False, f"selector.{name}", value, "this selector has no such setting; remove it")
        return None, ()
    check(callable(score), "selector.score", score, "must be a function; give _target_ and _partial_: true")
    parameters = inspect.signature(score).parameters
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    provided = ("num_rollouts", "rng")
    settable = [name for name in list(parameters)[2:] if name not in provided]
    known = ", ".join(settable) or "none"
    for name, value in settings.items():
        check(takes_any or name in settable, f"selector.{name}", value, f"no such setting; this score has: {known}")
        if name in settable and is_number(parameters[name].default):
            check(is_number(value), f"selector.{name}", value, "must be a finite number")
    unset = [name for name in settable if parameters[name].default is inspect.Parameter.empty and name not in settings]
    unset = [name for name in unset if parameters[name].kind is not inspect.Parameter.VAR_KEYWORD]
    check(not unset, "selector", unset, "this score needs these settings; give each a value")
    return partial(score, **settings), tuple(name for name in provided if name in parameters)
