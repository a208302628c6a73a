"""A policy made of numbers: a latent success rate for every prompt, which moves as real ones do under GRPO.

How the rates start and how training moves them; which prompts are trained on is decided elsewhere.

    logit of prompt i = own_i + ability of its cluster
    g                 = sqrt(s (1 - s)),  s = S / K: the mean size of a GRPO advantage in the group; 0 for a uniform one
    own_i            += speed * g                 for the prompt itself
    ability          += speed * transfer * g      for every prompt of its cluster, the prompt itself included

Nothing is learnt from groups that are all right or all wrong. Prompts never get harder: the model has no forgetting and
no interference, so differences between selectors come from *which* groups they spend the step on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from insight_rl.errors import UsageError, check, is_number
from insight_rl.types import Prompt

KINDS = ("easy", "learnable", "hopeless")


@lru_cache(maxsize=1)
def make_pool(num_prompts: int) -> list[Prompt]:
    """Prompts without content; the position in the pool is the id."""
    return [
        Prompt(id=str(index), task="synthetic", text="", token_ids=(0,), answer=None) for index in range(num_prompts)
    ]


class SyntheticLearner:
    """Prompts of three kinds, in stated shares, and a policy that learns them."""

    def __init__(
        self,
        *,
        easy: float,
        learnable: float,
        hopeless: float,
        easy_logit: Sequence[float] = (3.0, 1.0),
        learnable_logit: Sequence[float] = (-0.5, 1.5),
        hopeless_logit: Sequence[float] = (-7.0, 1.0),
        speed: float = 0.3,
        transfer: float = 0.02,
        cluster_size: int = 50,
    ) -> None:
        """``easy``, ``learnable`` and ``hopeless`` are shares of the pool and add up to 1; each ``*_logit`` is the mean
        and the spread of that kind's logits at the start. A cluster has prompts of every kind.
        """
        self._shares = (easy, learnable, hopeless)
        self._logits = (easy_logit, learnable_logit, hopeless_logit)
        for kind, share, logit in zip(KINDS, self._shares, self._logits, strict=True):
            check(
                is_number(share) and 0 <= share <= 1,
                f"synthetic_learner.{kind}",
                share,
                "must be a share of the pool, 0 to 1",
            )
            is_pair = len(logit) == 2 and all(map(is_number, logit)) and logit[1] >= 0
            check(
                is_pair, f"synthetic_learner.{kind}_logit", logit, "must be [mean, spread] with a spread of at least 0"
            )
        shares = f"{easy} + {learnable} + {hopeless}"
        check(
            abs(sum(self._shares) - 1.0) < 1e-6,
            "synthetic_learner",
            shares,
            "easy, learnable and hopeless must add up to 1",
        )
        check(
            is_number(speed) and speed >= 0,
            "synthetic_learner.speed",
            speed,
            "must be a number of at least 0: logits per group",
        )
        check(
            is_number(transfer) and transfer >= 0,
            "synthetic_learner.transfer",
            transfer,
            "must be a number of at least 0",
        )
        check(cluster_size >= 1, "synthetic_learner.cluster_size", cluster_size, "must be at least 1 prompt")
        self._speed, self._transfer, self._cluster_size = float(speed), float(transfer), cluster_size

    def open(self, *, num_prompts: int | None, seed: int) -> None:
        """Draw the pool: N prompts, in random order, with their kinds, clusters and starting logits."""
        if num_prompts is None:
            raise UsageError("num_prompts=None: a synthetic pool needs the number of its prompts, e.g. 2000")
        rng = np.random.default_rng(seed)
        bounds = np.round(np.cumsum(self._shares) * num_prompts).astype(np.int64)
        kinds = np.searchsorted(bounds, np.arange(num_prompts), side="right")
        self.kinds = rng.permutation(np.minimum(kinds, len(KINDS) - 1))
        """Position in ``KINDS`` of each prompt."""
        self.prompts: Sequence[Prompt] = make_pool(num_prompts)
        self.hopeless = self.kinds == KINDS.index("hopeless")
        mean, spread = np.array(self._logits, np.float64).T
        self._own = mean[self.kinds] + spread[self.kinds] * rng.standard_normal(num_prompts)
        self._clusters = rng.permutation(np.arange(num_prompts) // self._cluster_size)
        self._ability = np.zeros(self._clusters.max() + 1)
        self._rng = rng
        self.late, self.late_step = np.empty(0, np.int64), 0  # every prompt is there from the start

    def success_rates(self) -> np.ndarray:
        """phi of every prompt now, float64 in (0, 1)."""
        rates: np.ndarray = 1.0 / (1.0 + np.exp(-(self._own + self._ability[self._clusters])))
        return rates

    def mean_success(self) -> float:
        """The mean of phi over the pool."""
        return float(self.success_rates().mean())

    def roll_out(self, indices: np.ndarray, num_rollouts: int) -> np.ndarray:
        """S of each prompt at ``indices``: successes among K rollouts with the present rates."""
        logits = self._own[indices] + self._ability[self._clusters[indices]]
        successes: np.ndarray = self._rng.binomial(num_rollouts, 1.0 / (1.0 + np.exp(-logits)))
        return successes

    def train(self, indices: np.ndarray, successes: np.ndarray, num_rollouts: int) -> None:
        """One step on the groups of the distinct prompts at ``indices``."""
        share = successes / num_rollouts
        gain = self._speed * np.sqrt(share * (1.0 - share))
        self._own[indices] += gain
        clusters = self._clusters[indices]
        self._ability += self._transfer * np.bincount(clusters, weights=gain, minlength=len(self._ability))
