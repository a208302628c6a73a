"""A policy made of numbers that starts at real pass rates, and of which relatives are alike.

    start          logit of p ~ Beta(S + 0.3, F + 0.3), drawn for each seed; S of S + F attempts of another model were
                   right. (With 0 of 128 right, p is 0.002 on average, not 0.)
    logit          own_i + ability of its cluster + ability common to all
    g              usefulness of a group, below; 0 where all verdicts agree
    r              what a repeat teaches others, after v earlier groups of the prompt that were of use:
                   (1 + v)^-repeat_exponent / (1 + diminishing v). A group whose verdicts all agree wears nothing off.
    own_i       += own g / (1 + own_diminishing v)            the prompt rolled out
    cluster     += transfer own g r * 50 / max(size of the cluster, 25)
    common      += common own g r                             every prompt, relative or not
    each step      cluster *= 1 - forgetting;  own_i += drift N(0, 1) for every prompt

Clusters are neighbours by their text (:mod:`insight_rl.simulation.relatives`), 50 prompts on average. Held-out prompts
are in the clusters and never in the selector's pool: they learn from relatives only, and the simulation's success is
theirs. Without them it is the pool's.

Usefulness. GRPO's advantage of a rollout with verdict r is (r - s) / sqrt(s (1 - s)), s the mean verdict. Let c be
whether the rollout is truly right. A group is worth what its advantages favour the right rollouts by:

    g = mean of advantage * c = cov(r, c) / sd(r)

With right verdicts r = c and this is sqrt(s (1 - s)), the mean size of an advantage. With wrong ones it is less, 0 for
a hopeless prompt that looks mixed by a false positive, and below 0 where wrong rollouts are favoured.
``hard_gain`` multiplies g by 1.6 (1 - s): hard prompts teach more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from insight_rl.errors import UsageError, check, is_number
from insight_rl.seeding import derive_seed
from insight_rl.simulation.pass_rates import PassRateFile, PassRates
from insight_rl.simulation.relatives import Floats, clusters
from insight_rl.types import Prompt

_CLUSTER_SIZE = 50
_HOPELESS_BELOW = 0.01
"""A prompt is called hopeless that starts below this success rate: mixed in fewer than 8 of 100 groups of 8."""


class PassRateLearner:
    """Learns the prompts of a :class:`~insight_rl.simulation.pass_rates.PassRateFile`; see the top of this file."""

    def __init__(
        self,
        *,
        pool: PassRateFile,
        own: float = 0.004,
        transfer: float = 0.08,
        common: float = 0.02,
        repeat_exponent: float = 0.35,
        diminishing: float = 0.0,
        own_diminishing: float = 0.2,
        forgetting: float = 0.0,
        drift: float = 0.005,
        hard_gain: bool = False,
        hardness: float = 0.0,
        held_out: float = 0.0,
        late_share: float = 0.0,
        late_step: int = 1,
        false_positive: float = 0.0,
        false_negative: float = 0.0,
        shuffled_texts: bool = False,
    ) -> None:
        """``hardness`` h draws the prompts with weight (1 - pass rate)^h; ``held_out`` and ``late_share`` are shares
        of them; ``false_positive`` is the chance that a wrong rollout is judged right. ``shuffled_texts`` gives every
        prompt the text and answer of another, so that features tell nothing."""
        check(isinstance(pool, PassRateFile), "pool", pool, "this learner needs a file of pass rates: pool=pass_rates")
        numbers = {
            "own": own,
            "transfer": transfer,
            "common": common,
            "repeat_exponent": repeat_exponent,
            "diminishing": diminishing,
            "own_diminishing": own_diminishing,
            "drift": drift,
            "hardness": hardness,
        }
        for name, value in numbers.items():
            check(is_number(value) and value >= 0, f"synthetic_learner.{name}", value, "must be a number of at least 0")
        shares = {
            "forgetting": forgetting,
            "held_out": held_out,
            "late_share": late_share,
            "false_positive": false_positive,
            "false_negative": false_negative,
        }
        for name, value in shares.items():
            check(is_number(value) and 0 <= value < 1, f"synthetic_learner.{name}", value, "must be in [0, 1)")
        check(
            isinstance(late_step, int) and late_step >= 1,
            "synthetic_learner.late_step",
            late_step,
            "must be a step, counted from 1",
        )
        for name, flag in (("hard_gain", hard_gain), ("shuffled_texts", shuffled_texts)):
            check(isinstance(flag, bool), f"synthetic_learner.{name}", flag, "must be true or false")
        self._file, self._hardness = pool, float(hardness)
        self._own_gain, self._transfer, self._common_gain = float(own), float(transfer), float(common)
        self._repeat_exponent, self._diminishing = float(repeat_exponent), float(diminishing)
        self._own_diminishing = float(own_diminishing)
        self._forgetting, self._drift, self._hard_gain = float(forgetting), float(drift), hard_gain
        self._held_out, self._late_share, self.late_step = float(held_out), float(late_share), late_step
        self._flips = float(false_negative), float(false_positive)
        self._shuffled_texts = shuffled_texts

    def open(self, *, num_prompts: int | None, seed: int) -> None:
        """Draw the prompts (None: all of the file), their starting rates, and which are held out or late.

        Seeds differ in the prompts drawn, their clusters and starting rates; of a whole file in the rates only.
        """
        data = self._file.read()
        num_prompts = len(data.prompts) if num_prompts is None else num_prompts
        check(
            num_prompts <= len(data.prompts),
            "num_prompts",
            num_prompts,
            f"is more than the {len(data.prompts)} different problems of the file; lower it, or null for all",
        )
        # All problems of a file are the same pool for every seed, held-out ones included: seeds are compared on them.
        of_all = num_prompts == len(data.prompts)
        drawn, self._cluster = _draw_once(data, num_prompts, self._hardness, 0 if of_all else seed)
        size = np.bincount(self._cluster)
        self._cluster_gain = self._transfer * self._own_gain * _CLUSTER_SIZE / np.maximum(size, _CLUSTER_SIZE // 2)
        self._rng = np.random.default_rng(derive_seed(seed, "learner"))
        successes = data.rates[drawn] * data.attempts[drawn]
        rates = self._rng.beta(successes + 0.3, data.attempts[drawn] - successes + 0.3)
        rates = np.clip(rates, 1e-12, 1.0 - 1e-12)
        self._own: Floats = np.log(rates) - np.log1p(-rates)
        self._ability, self._common = np.zeros(len(size)), 0.0
        # The prompts come in random order: the last ones are held out, those before them are late.
        self._num_pool = num_prompts - round(self._held_out * num_prompts)
        num_late = round(self._late_share * self._num_pool)
        self.late = np.arange(self._num_pool - num_late, self._num_pool)
        if self._num_pool - num_late < 1:
            raise UsageError(
                f"num_prompts={num_prompts}: none is left to begin with; raise it, or lower synthetic_learner.held_out "
                "and synthetic_learner.late_share"
            )
        self.prompts: Sequence[Prompt] = self._pool_of(data, drawn[: self._num_pool])
        self.hopeless = rates[: self._num_pool] < _HOPELESS_BELOW
        self._visits = np.zeros(self._num_pool, np.int64)
        self._truly_right = np.zeros(self._num_pool)
        self._rightly_right = np.zeros(self._num_pool)

    def _pool_of(self, data: PassRates, drawn: np.ndarray) -> Sequence[Prompt]:
        prompts = [data.prompts[index] for index in drawn.tolist()]
        if not self._shuffled_texts:
            return prompts
        order = self._rng.permutation(len(prompts)).tolist()
        return [dataclasses.replace(prompts[other], id=prompt.id) for prompt, other in zip(prompts, order, strict=True)]

    def success_rates(self) -> Floats:
        """phi of every prompt of the pool now, float64 in (0, 1)."""
        return self._rates(slice(None, self._num_pool))

    def mean_success(self) -> float:
        """The mean of phi over the held-out prompts, or over the pool without any."""
        has_held_out = self._num_pool < len(self._own)
        return float(self._rates(slice(self._num_pool, None) if has_held_out else slice(None)).mean())

    def _rates(self, which: slice | np.ndarray) -> Floats:
        rates: Floats = 1.0 / (1.0 + np.exp(-(self._own[which] + self._ability[self._cluster[which]] + self._common)))
        return rates

    def roll_out(self, indices: np.ndarray, num_rollouts: int) -> np.ndarray:
        """How many of K rollouts of each prompt the verifier calls right, int64."""
        right = self._rng.binomial(num_rollouts, self._rates(indices))
        false_negative, false_positive = self._flips
        rightly = right - self._rng.binomial(right, false_negative) if false_negative else right
        wrongly = self._rng.binomial(num_rollouts - right, false_positive) if false_positive else 0
        self._truly_right[indices], self._rightly_right[indices] = right, rightly
        verdicts: np.ndarray = rightly + wrongly
        return verdicts

    def train(self, indices: np.ndarray, successes: np.ndarray, num_rollouts: int) -> None:
        """One step on groups just rolled out of the distinct prompts at ``indices``; then what a step does to all."""
        gain = self._usefulness(indices, successes / num_rollouts, num_rollouts)
        visits = self._visits[indices]
        self._own[indices] += self._own_gain * gain / (1.0 + self._own_diminishing * visits)
        passed_on = gain * (1.0 + visits) ** -self._repeat_exponent / (1.0 + self._diminishing * visits)
        cluster = self._cluster[indices]
        self._ability *= 1.0 - self._forgetting
        self._ability += self._cluster_gain * np.bincount(cluster, weights=passed_on, minlength=len(self._ability))
        self._common += self._common_gain * self._own_gain * float(passed_on.sum())
        self._visits[indices] += gain != 0.0
        if self._drift:
            self._own += self._drift * self._rng.standard_normal(len(self._own))

    def _usefulness(self, indices: np.ndarray, share: Floats, num_rollouts: int) -> Floats:
        """cov(verdict, truth) / sd(verdict) of each group, 0 where all verdicts agree."""
        spread = np.sqrt(share * (1.0 - share))
        truth, both = self._truly_right[indices] / num_rollouts, self._rightly_right[indices] / num_rollouts
        gain = np.divide(both - share * truth, spread, out=np.zeros(len(share)), where=spread > 0)
        return gain * 1.6 * (1.0 - share) if self._hard_gain else gain


@lru_cache(maxsize=2)
def _draw_once(data: PassRates, num_prompts: int, hardness: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions in ``data`` of the prompts of a pool, in random order, and the cluster of each. Kept, because the arms
    of a comparison meet the same pools one after another."""
    rng = np.random.default_rng(derive_seed(seed, "prompts"))
    weights = (1.0 - data.rates) ** hardness
    possible = int(np.count_nonzero(weights))
    check(
        num_prompts <= possible,
        "num_prompts",
        num_prompts,
        f"is more than the {possible} problems that synthetic_learner.hardness={hardness} leaves; lower it",
    )
    drawn = rng.choice(len(weights), num_prompts, replace=False, p=weights / weights.sum(), shuffle=True)
    drawn = rng.permutation(drawn)  # a weighted draw without replacement is not in random order
    num_clusters = max(1, round(num_prompts / _CLUSTER_SIZE))
    return drawn, clusters(data.vectors[drawn], num_clusters, derive_seed(seed, "clusters"))
