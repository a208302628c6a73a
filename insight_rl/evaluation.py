"""Accuracy on held-out problems, with the run's own engine and reward. Pure estimators and one small driver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from insight_rl.reward.base import Judge
from insight_rl.rollout.base import RolloutEngine
from insight_rl.rollout.groups import collect_groups, roll_out
from insight_rl.types import Group, Metrics, Prompt, Sampling


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased chance that one of ``k`` of the samples is right: 1 - C(n - c, k) / C(n, k) (arXiv 2107.03374)."""
    if not 1 <= k <= num_samples:
        raise ValueError(f"k={k}: must be between 1 and num_samples={num_samples}")
    if num_samples - num_correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(num_samples - num_correct + 1, num_samples + 1)))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What one evaluation found: its metrics, and how many of each problem's samples were right.

    Example::

        Evaluation(metrics={"eval/accuracy": 0.75}, samples=4, successes={"9f3c": 4, "01ab": 2})
    """

    metrics: Metrics
    samples: int
    successes: dict[str, int]
    """By the problem's id, in the order of the problems."""


class EvaluationStore(Protocol):
    """Where the evaluations of a run are recorded, and where the one before training may be found."""

    def log(self, step: int, evaluation: Evaluation) -> None: ...

    def known(self, step: int) -> Evaluation | None:
        """The evaluation of this step where another run has made it already, with equal weights and sampling."""
        ...


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Evaluates on the same problems with the same sampling seed every time, so that steps compare in pairs."""

    problems: Sequence[Prompt]
    sampling: Sampling
    store: EvaluationStore | None = None

    def evaluate(self, rollout: RolloutEngine, judge: Judge, *, step: int) -> Metrics:
        """``eval/*`` after ``step``, recorded in the store; empty without problems."""
        if not self.problems:
            return {}
        known = self.store.known(step) if self.store is not None else None
        evaluation = known or summarise_groups(self.roll_out(rollout, judge))
        if self.store is not None:
            self.store.log(step, evaluation)
        return dict(evaluation.metrics)

    def roll_out(self, rollout: RolloutEngine, judge: Judge) -> list[Group]:
        finished = roll_out(rollout, judge, self.problems, self.sampling)
        return collect_groups(judge, self.problems, finished)


def summarise_groups(groups: Sequence[Group]) -> Evaluation:
    return Evaluation(
        metrics=evaluation_metrics(groups),
        samples=len(groups[0].completions_G),
        successes={group.prompt.id: group.num_successes for group in groups},
    )


def evaluation_metrics(groups: Sequence[Group]) -> Metrics:
    """avg@k (``eval/accuracy``), unbiased pass@k for powers of two, share without a verdict, truncation and length.

    A completion that could not be judged counts as wrong here: a benchmark's denominator never shrinks. How many there
    were stands beside the accuracy, which a judge that fails makes too low.
    """
    num_samples = len(groups[0].completions_G)
    completions = [completion for group in groups for completion in group.completions_G]
    rates = np.array([group.num_successes / num_samples for group in groups])
    metrics: Metrics = {"eval/accuracy": float(rates.mean())}
    if len(rates) > 1:
        metrics["eval/accuracy_half_width"] = float(1.96 * rates.std(ddof=1) / np.sqrt(len(rates)))
    k = 1
    while k <= num_samples:
        metrics[f"eval/pass_at_{k}"] = float(
            np.mean([pass_at_k(num_samples, group.num_successes, k) for group in groups])
        )
        k *= 2
    unjudged = [reward.success is None for group in groups for reward in group.rewards_G]
    metrics["eval/unjudged_fraction"] = float(np.mean(unjudged))
    metrics["eval/truncated_fraction"] = float(np.mean([completion.is_truncated for completion in completions]))
    metrics["eval/mean_tokens"] = float(np.mean([len(completion.token_ids) for completion in completions]))
    return metrics
