"""Selection by a score of the belief: draw candidates, score them, take the best.

InSight, arXiv 2603.01907, algorithm 1. Every selector keeps beliefs, even if its rule does not use them, so that their
metrics can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from insight_rl.errors import check, is_number
from insight_rl.seeding import derive_seed
from insight_rl.selector.adaptive_weight import AdaptiveWeight
from insight_rl.selector.bound_score import BoundScore, Score
from insight_rl.selector.decision import Decision, chance_by_redraws, top, with_exploration
from insight_rl.selector.diagnostics import pool_metrics, step_metrics
from insight_rl.selector.drift import Drift
from insight_rl.selector.evidence import Evidence
from insight_rl.selector.guards import Guards
from insight_rl.selector.indexed_pool import IndexedPool
from insight_rl.selector.pool import BeliefPool
from insight_rl.selector.prior import Prior, PriorSource
from insight_rl.selector.retirement import Retirement
from insight_rl.selector.rollout_budget import RolloutBudget
from insight_rl.selector.verifier_error import VerifierError
from insight_rl.types import Metrics, Outcome, Prompt


class BeliefSelector:
    """Draws ``candidate_ratio * M`` candidates uniformly without replacement, scores them and selects the top M.
    A ``candidate_ratio`` of ``None`` scores the whole pool at every step.

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
        prior: PriorSource | None = None,
        chance_levels: Mapping[str, float | str] | None = None,
        forgetting: float = 1.0,
        drift: bool = False,
        evidence: str = "success",
        verifier_error: float | str | Sequence[float] | None = None,
        candidate_ratio: float | None = 16,
        guards: Guards | None = None,
        retirement: Retirement | None = None,
        rollout_budget: str = "even",
        adapt_weight: bool = False,
        **score_settings: Any,
    ) -> None:
        self._prior = Prior(
            alpha=prior_alpha, beta=prior_beta, by_task=task_priors, chance_levels=chance_levels, source=prior
        )
        check(
            is_number(forgetting) and 0 <= forgetting <= 1,
            "selector.forgetting",
            forgetting,
            "must be a number in [0, 1]; 1 forgets nothing",
        )
        check(
            candidate_ratio is None or (is_number(candidate_ratio) and candidate_ratio >= 1),
            "selector.candidate_ratio",
            candidate_ratio,
            "must be a number of at least 1, the candidates scored per prompt selected; or null for the whole pool",
        )
        self._score = BoundScore(score, score_settings)
        self._adapt_weight = _checked_adaptation(adapt_weight, self._score)
        self._forgetting = float(forgetting)
        self._drift = Drift(drift)
        self._candidate_ratio = candidate_ratio
        self._guards = Guards() if guards is None else guards
        self._retirement = Retirement() if retirement is None else retirement
        self._rollout_budget = RolloutBudget(rollout_budget)
        self._evidence = Evidence(evidence)
        self._verifier_error = VerifierError(verifier_error)
        check(
            evidence == "success" or not self._verifier_error.is_on,
            "selector.verifier_error",
            verifier_error,
            "is for verdicts of right and wrong; with selector.evidence=value it must be null",
        )

    def open(self, pool: Sequence[Prompt] | IndexedPool, *, num_rollouts: int, seed: int) -> None:
        self._pool = BeliefPool(pool, prior=self._prior, num_rollouts=num_rollouts, drift=self._drift)
        self._num_rollouts = num_rollouts
        self._rng = np.random.default_rng(derive_seed(seed, "selector"))
        self._guards.reset()
        self._retirement.reset()
        self._retirement.check_reachable(num_rollouts, self._forgetting)
        self._verifier_error.reset()
        self._adaptive_weight: AdaptiveWeight | None = None
        if self._adapt_weight:
            self._adaptive_weight = AdaptiveWeight(mu=self._score.setting("mu"), eta=self._score.setting("eta"))
            self._score.change()
        self._step = 0
        self._last_scores = np.empty(0)
        self._last_rollouts = np.empty(0, np.int64)
        self._score_sum, self._num_scored = 0.0, 0
        self._step_metrics: dict[str, float] = {}
        self._lags: Mapping[str, int] = {}
        self.last_decision: Decision | None = None
        self._decisions: list[Decision] = []
        # A score that is broken or badly set shows itself here rather than after the model is loaded.
        self._scores(np.full(2, self._prior.alpha), np.full(2, self._prior.beta), np.random.default_rng(0))

    def select(self, num_prompts: int) -> Sequence[Prompt]:
        check(num_prompts >= 1, "trainer.prompts_per_step", num_prompts, "must be at least 1")
        resting = self._retirement.resting(self._step)
        num_available = len(self._pool) - len(self._pool.pending) - len(resting)
        candidates = self._draw_candidates(num_prompts, resting)
        pending = np.fromiter(self._pool.pending.values(), np.int64)
        reviews = self._retirement.reviews(self._step, pending, num_prompts)
        if len(reviews):
            candidates = np.concatenate([reviews, candidates[~np.isin(candidates, reviews)]])
        return self._select_among(candidates, num_prompts, num_available, len(reviews))

    def select_among(self, prompt_ids: Sequence[str], num_prompts: int) -> Sequence[Prompt]:
        """As :meth:`select`, with these prompts as the candidates; none of them may be waiting for its outcome."""
        candidates = self._rng.permutation(np.array([self._pool.index_of(each) for each in prompt_ids], np.int64))
        return self._select_among(candidates, num_prompts, len(candidates))

    def _select_among(
        self, candidates: np.ndarray, num_prompts: int, num_available: int, num_reviews: int = 0
    ) -> Sequence[Prompt]:
        """The first ``num_reviews`` candidates are selected whatever their scores."""
        alpha, beta = self._pool.beliefs(candidates)
        scores = self.score_candidates(candidates, alpha, beta)
        by_score = self._choose(scores[num_reviews:], min(num_prompts, len(candidates)) - num_reviews)
        chosen = np.append(np.arange(num_reviews), num_reviews + by_score)
        self.last_decision = Decision(
            candidates=candidates,
            alpha=alpha,
            beta=beta,
            scores=scores,
            chosen=chosen,
            num_available=num_available,
            num_reviews=num_reviews,
        )
        self._decisions.append(self.last_decision)
        self._last_scores = scores[chosen]
        beliefs = self._pool.prior.beyond_chance(alpha[chosen], beta[chosen], candidates[chosen])
        self._last_rollouts = self._rollout_budget.divide(*beliefs, self._num_rollouts)
        if not np.isnan(self._last_scores).any():
            self._score_sum += float(self._last_scores.sum())
            self._num_scored += len(chosen)
        prompts = [self._pool.prompts[index] for index in candidates[chosen].tolist()]
        self._pool.pending.update(zip((prompt.id for prompt in prompts), candidates[chosen].tolist(), strict=True))
        return prompts

    def visits_unseen_first(self) -> bool:
        """Whether a prompt never observed scores higher than one observed once, whatever its outcome.

        Such a selector goes through the whole pool before it selects any prompt twice. False for scores that are drawn,
        and under priors that are learnt or looked up, where it depends on what the run finds.
        """
        if self._score.is_uniform or self._score.is_drawn or not self._prior.is_flat:
            return False
        unseen, seen_once = self._scores_unseen_and_seen_once()
        return bool(unseen > max(seen_once))

    def _scores_unseen_and_seen_once(self) -> tuple[float, np.ndarray]:
        """Scores under the configured prior: of a prompt never observed, and of one observed once by its outcome."""
        successes = np.arange(self._num_rollouts + 1.0)
        alpha, beta = self._prior.alpha + successes, self._prior.beta + self._num_rollouts - successes
        counts = np.append(self._prior.alpha, alpha), np.append(self._prior.beta, beta)
        unseen, *seen_once = self._scores(*counts, np.random.default_rng(0))
        return float(unseen), np.array(seen_once)

    def last_scores(self) -> Sequence[float]:
        return self._last_scores.tolist()

    @property
    def reads_grades(self) -> bool:
        return self._evidence.kind == "value"

    @property
    def varies_rollouts(self) -> bool:
        return self._rollout_budget.rule != "even"

    def last_rollouts(self) -> Sequence[int]:
        return self._last_rollouts.tolist()

    def take_decisions(self) -> list[Decision]:
        """The decisions made since the last call, in order. :meth:`observe` discards any that were not taken."""
        taken, self._decisions = self._decisions, []
        return taken

    def prompt_ids(self, indices: np.ndarray) -> list[str]:
        """The ids of the prompts at these positions of the pool."""
        return [self._pool.prompts[index].id for index in indices.tolist()]

    def propensity(self, decision: Decision) -> np.ndarray:
        """Probability of being selected, given that it was a candidate; NaN for deterministic rules.

        Uniform selection draws no extra candidates, so there it is M / (available prompts).
        """
        if decision.num_reviews:
            return np.append(np.ones(decision.num_reviews), self.propensity(decision.without_reviews()))
        num_chosen = len(decision.chosen)
        if self._score.is_uniform:
            return np.full(len(decision.candidates), num_chosen / max(decision.num_available, 1))
        num_explored = self._guards.num_explored(num_chosen)
        return with_exploration(decision, self.chance_of_pick(decision, num_chosen - num_explored), num_explored)

    def chance_of_pick(self, decision: Decision, num_picked: int) -> np.ndarray:
        """Probability that :meth:`pick` takes each candidate among its ``num_picked``; NaN for deterministic rules."""
        if not self._score.is_drawn:
            return np.full(len(decision.candidates), math.nan)
        counts = self._pool.prior.beyond_chance(decision.alpha, decision.beta, decision.candidates)
        rng = np.random.default_rng(self._step)  # not the selector's own, whose state must not change by looking
        return chance_by_redraws(lambda: self._scores(*counts, rng), len(decision.candidates), num_picked)

    def score_candidates(self, candidates: np.ndarray, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
        """A score for each prompt at ``candidates`` (positions in the pool), given its belief; higher is better."""
        return self._scores(*self._pool.prior.beyond_chance(alpha, beta, candidates), self._rng)

    def _scores(self, alpha: np.ndarray, beta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self._score(alpha, beta, num_rollouts=self._num_rollouts, rng=rng)

    def _draw_candidates(self, num_prompts: int, resting: np.ndarray) -> np.ndarray:
        """Uniform candidates. Neither the cap on repeats nor the rest of mastered prompts may leave a step short."""
        capped = np.union1d(self._guards.capped(), resting)
        ratio = self._candidate_ratio
        size = len(self._pool) if ratio is None else int(ratio * num_prompts)
        candidates = self._pool.draw_available(size, self._rng, capped)
        missing = num_prompts - len(candidates)
        if missing > 0 and len(capped):
            free = capped[~np.isin(capped, np.fromiter(self._pool.pending.values(), np.int64))]
            candidates = np.append(candidates, self._rng.choice(free, min(missing, len(free)), replace=False))
        return candidates

    def _choose(self, scores: np.ndarray, num_prompts: int) -> np.ndarray:
        """The rule's picks, best first, then the exploration floor: the next candidates, which come in random order."""
        num_explored = self._guards.num_explored(num_prompts)
        if num_explored == 0:
            return self.pick(scores, num_prompts)
        picked = self.pick(scores, num_prompts - num_explored)
        left = np.setdiff1d(np.arange(len(scores)), picked)
        return np.append(picked, left[:num_explored])

    def pick(self, scores: np.ndarray, num_prompts: int) -> np.ndarray:
        """Positions of the ``num_prompts`` winners, best first. Candidates come in random order, so that equal scores
        are put in random order too."""
        return top(scores, num_prompts)

    def expect_lags(self, lags: Mapping[str, int]) -> None:
        """See :class:`~insight_rl.selector.base.KnowsVersionLags`: an outcome ages from when it was sampled."""
        self._lags = dict(lags)

    def observe(self, outcomes: Sequence[Outcome], /) -> None:
        indices = np.array([self._pool.index_of(each.prompt_id) for each in outcomes], np.int64)
        if len(np.unique(indices)) < len(indices):
            raise ValueError("a prompt occurs in two groups of one step; its rollouts belong into one group")
        successes = self._evidence.successes(outcomes)
        judged = np.array([each.num_judged for each in outcomes], np.float64)
        lags = np.array([self._lags.get(each.prompt_id, 0) for each in outcomes], np.int64)
        self._lags = {}
        self._step += 1
        self._decisions = []
        alpha, beta = self._pool.beliefs(indices)
        ages = self._pool.age(indices, self._step)
        is_informative = np.array([each.is_informative for each in outcomes], bool)
        seen_alpha, seen_beta = self._verifier_error.observed(alpha, beta)
        self._step_metrics = step_metrics(seen_alpha, seen_beta, successes, judged, ages, is_informative)
        if lags.any():
            self._step_metrics["selector/version_lag"] = float(lags.mean())
        if self._num_scored:
            self._step_metrics["selector/score_mean"] = self._score_sum / self._num_scored
        self._score_sum, self._num_scored = 0.0, 0
        verdicts = np.array([each.num_successes for each in outcomes], np.float64)
        self._step_metrics |= self._guards.observe(indices, verdicts, judged)
        self._step_metrics |= self._verifier_error.observe(successes, judged)
        self._pool.update(
            *(indices, successes, judged),
            forgetting=self._forgetting,
            step=self._step,
            verifier_error=self._verifier_error,
            lags=lags,
        )
        has_verdict = judged > 0
        self._step_metrics |= self._retirement.observe(
            indices[has_verdict], *self._pool.beliefs(indices[has_verdict]), self._step
        )
        if self._adaptive_weight is not None:
            rates, shares = alpha / (alpha + beta), successes / np.maximum(judged, 1.0)
            columns: list[np.ndarray] = [each[has_verdict] for each in (indices, rates, shares, ages >= 0)]
            self._step_metrics |= self._adaptive_weight.observe(*columns)
            self._score.change(mu=self._adaptive_weight.mu, eta=self._adaptive_weight.eta)
        for each in outcomes:
            self._pool.pending.pop(each.prompt_id, None)

    def withhold(self, prompt_ids: Sequence[str]) -> None:
        """Keep these prompts from being selected until :meth:`release`, as if their rollouts were under way.

        For prompts that are part of the pool from the start but arrive later. Saved with the selector's state.
        """
        self._pool.pending.update({prompt_id: self._pool.index_of(prompt_id) for prompt_id in prompt_ids})

    def release(self, prompt_ids: Sequence[str]) -> None:
        """Let these prompts be selected."""
        for prompt_id in prompt_ids:
            self._pool.pending.pop(prompt_id, None)

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
            "retirement": self._retirement.state_dict(),
            "adaptive_weight": {} if self._adaptive_weight is None else self._adaptive_weight.state_dict(),
            "verifier_error": self._verifier_error.state_dict(),
            "num_rollouts": self._num_rollouts,
            "rng": self._rng.bit_generator.state,
            "step": self._step,
            "last_scores": self._last_scores.copy(),
            "last_rollouts": self._last_rollouts.copy(),
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
        self._retirement.load_state_dict(state["retirement"])
        if self._adaptive_weight is not None:
            self._adaptive_weight.load_state_dict(state["adaptive_weight"])
            self._score.change(mu=self._adaptive_weight.mu, eta=self._adaptive_weight.eta)
        self._verifier_error.load_state_dict(state["verifier_error"])
        self._num_rollouts = int(state["num_rollouts"])
        self._rng.bit_generator.state = state["rng"]
        self._step = int(state["step"])
        self._last_scores = np.array(state["last_scores"], np.float64)
        self._last_rollouts = np.array(state["last_rollouts"], np.int64)
        self._score_sum, self._num_scored = float(state["score_sum"]), int(state["num_scored"])
        self._step_metrics = dict(state["step_metrics"])


def _checked_adaptation(adapt_weight: bool, score: BoundScore) -> bool:
    check(isinstance(adapt_weight, bool), "selector.adapt_weight", adapt_weight, "must be true or false")
    has_weight = score.setting("mu") is not None and score.setting("eta") is not None
    check(
        has_weight or not adapt_weight,
        "selector.adapt_weight",
        adapt_weight,
        "needs a score with the settings mu and eta, as insight and weight_only have; leave it false",
    )
    return adapt_weight
