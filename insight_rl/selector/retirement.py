"""Retire and review: mastered prompts rest, and come back to be tested. `selector.retirement`, off by default.

    mastered    P(phi > rate) > confidence under the belief Beta(alpha, beta)
    on a visit  mastered, and not resting before:  interval <- first_interval
                mastered, and due for review:      interval <- 2 interval          (passed)
                not mastered any more:             back among the others           (failed)
    resting     no candidate for `interval` steps, then due: up to review_share of a step's places go to those due,
                the longest due first; more of them wait, and are ordinary candidates meanwhile

Hopeless prompts are not its business: the policy may still come to learn them.

Sources: ScaleRL, arXiv 2510.13786 (No-Positive-Resampling drops prompts of running pass rate >= 0.9 for good); ReMind,
arXiv 2606.03087 (reviews mastered prompts); the doubling of intervals is that of spaced repetition.

Where it helps: rules that look at no belief (random, dynamic_sampling) in a pool with many mastered prompts, whose
rollouts teach nothing; and long runs in which the policy forgets, since nobody else looks at a mastered prompt again.
Where it does not: selectors that score by the belief rarely take a mastered prompt anyway, so that only the cost of the
reviews is left; and short runs, in which few beliefs become that sure (24 of 24 right with the prior Beta(1, 1)).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import betainc

from insight_rl.errors import check, is_number
from insight_rl.selector.belief import Floats


def mastered(alpha: Floats, beta: Floats, rate: float, confidence: float) -> np.ndarray:
    """Whether P(phi > rate) > confidence under each belief."""
    is_mastered: np.ndarray = betainc(beta, alpha, 1.0 - rate) > confidence
    return is_mastered


class Retirement:
    """The settings, and which prompts of the pool rest until when.

    Example: ``Retirement(rate=0.9)`` retires a prompt that was right 24 times out of 24, for 10 steps at first.
    """

    def __init__(
        self,
        *,
        rate: float | None = None,
        confidence: float = 0.9,
        first_interval: int = 10,
        review_share: float = 0.05,
    ) -> None:
        check(
            rate is None or (is_number(rate) and 0 < rate < 1),
            "selector.retirement.rate",
            rate,
            "must be null (nothing retires) or a success rate between 0 and 1",
        )
        check(
            is_number(confidence) and 0 < confidence < 1,
            "selector.retirement.confidence",
            confidence,
            "must be a probability between 0 and 1",
        )
        check(
            isinstance(first_interval, int) and not isinstance(first_interval, bool) and first_interval >= 1,
            "selector.retirement.first_interval",
            first_interval,
            "must be a number of steps, at least 1",
        )
        check(
            is_number(review_share) and 0 <= review_share <= 1,
            "selector.retirement.review_share",
            review_share,
            "must be a share of a step's prompts in [0, 1]",
        )
        self._rate, self._confidence = rate, float(confidence)
        self._first_interval, self._review_share = first_interval, float(review_share)
        self.reset()

    @property
    def is_on(self) -> bool:
        return self._rate is not None

    def check_reachable(self, num_rollouts: int, forgetting: float) -> None:
        """Raise ``UsageError`` if forgetting keeps every belief too unsure to retire anything."""
        if self._rate is None or forgetting == 1.0:
            return
        most = 1.0 + num_rollouts / (1.0 - forgetting)
        check(
            bool(mastered(np.array([most]), np.array([1.0]), self._rate, self._confidence)[0]),
            "selector.retirement.confidence",
            self._confidence,
            f"is never reached: with selector.forgetting={forgetting:g} a belief of {num_rollouts} rollouts a visit "
            f"stays below Beta({most:g}, 1); lower it, or raise selector.forgetting",
        )

    def reset(self) -> None:
        self._indices = np.empty(0, np.int64)
        """Retired prompts, ascending; the two arrays below run along it."""
        self._intervals = np.empty(0, np.int64)
        self._due = np.empty(0, np.int64)

    def resting(self, step: int) -> np.ndarray:
        """Positions, ascending, of the prompts that are left out of a selection at ``step``."""
        return self._indices[self._due > step]

    def reviews(self, step: int, pending: np.ndarray, num_prompts: int) -> np.ndarray:
        """Positions of the prompts to review among ``num_prompts``, the longest due first; none that is pending."""
        is_due = (self._due <= step) & ~np.isin(self._indices, pending)
        ranked = self._indices[is_due][np.argsort(self._due[is_due], kind="stable")]
        return ranked[: int(self._review_share * num_prompts)]

    def observe(self, indices: np.ndarray, alpha: Floats, beta: Floats, step: int) -> dict[str, float]:
        """Learn from the prompts at ``indices``, judged in this step, given their beliefs after it; returns metrics."""
        if self._rate is None:
            return {}
        is_mastered = mastered(alpha, beta, self._rate, self._confidence)
        was_retired = np.isin(indices, self._indices)
        slots = np.searchsorted(self._indices, indices[was_retired & is_mastered])
        self._intervals[slots] *= 2
        self._due[slots] = step + self._intervals[slots]
        new = np.sort(indices[is_mastered & ~was_retired])
        kept = ~np.isin(self._indices, indices[was_retired & ~is_mastered])
        self._indices, order = np.unique(np.concatenate([self._indices[kept], new]), return_index=True)
        first = np.full(len(new), self._first_interval)
        self._intervals = np.concatenate([self._intervals[kept], first])[order]
        self._due = np.concatenate([self._due[kept], step + first])[order]
        metrics = {"selector/num_retired": float(len(self._indices)), "selector/num_reviews": float(was_retired.sum())}
        if was_retired.any():
            metrics["selector/review_pass_rate"] = float(is_mastered[was_retired].mean())
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {"indices": self._indices.copy(), "intervals": self._intervals.copy(), "due": self._due.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._indices, self._intervals, self._due = (
            np.array(state[name], np.int64) for name in ("indices", "intervals", "due")
        )
