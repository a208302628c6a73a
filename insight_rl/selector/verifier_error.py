"""Beliefs where a share of the verdicts is wrong: `selector.verifier_error`. Off by default.

A verifier flips verdicts independently of each other: a failure is called a success with rate e1 (false positive), a
success a failure with rate e0 (false negative). Then one verdict is positive with chance

    q = e1 + (1 - e0 - e1) phi

and S positives in K are no longer conjugate to phi ~ Beta(a, b). With T, the hidden number of true successes,

    P(T = t | S) ~ BB(t | K, a, b) P(S | T = t),   S | T = t  is  Bin(t, 1 - e0) + Bin(K - t, e1)
    phi | S      = sum_t P(T = t | S) Beta(a + t, b + K - t)                                    exactly

which is a mixture of K + 1 Betas. It is replaced by the one Beta of the same mean and variance, after every group
(assumed-density filtering). The mean is that of counting E[T | S] successes, (a + E[T | S]) / (a + b + K); the variance
also says how unsure T is. A learnt prior learns from E[T | S].

The belief stays one about the *true* phi, and so do the scores. GRPO trains on the observed verdicts, but the
expectation of a centred policy gradient under flips is (1 - e0 - e1) times the true one, the same factor for every
prompt, and what the flips add has expectation zero: a hopeless prompt whose group is mixed by wrong verdicts teaches
nothing. So the mixture of outcomes that is worth choosing is the true one. Only the calibration (Brier, coverage)
compares with verdicts as they were observed, and uses the belief about q for it.

Source: our own derivation; the noise model is the usual one of classification with noisy labels (Natarajan et al.,
"Learning with Noisy Labels", NeurIPS 2013). Estimation: :class:`RateEstimate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import betaln, comb

from insight_rl.errors import check, is_number
from insight_rl.selector.belief import Floats, predictive_mass

MAX_RATE = 0.45
"""Of either rate; at 0.5 a verdict says nothing."""


def verdict_chances(num_rollouts: int, false_positive: float, false_negative: float) -> Floats:
    """P(S = s | T = t) for K rollouts of which t truly succeed: float64 ``[K + 1, K + 1]``, one row for each t."""
    right, wrong = _binomials(num_rollouts, 1.0 - false_negative), _binomials(num_rollouts, false_positive)
    rest = num_rollouts - np.arange(num_rollouts + 1)
    return np.stack([np.convolve(right[t, : t + 1], wrong[left, : left + 1]) for t, left in enumerate(rest.tolist())])


def _binomials(num_rollouts: int, chance: float) -> Floats:
    """Mass of Bin(n, chance) at k for n, k = 0..K: float64 ``[K + 1, K + 1]``."""
    n, k = np.ogrid[: num_rollouts + 1, : num_rollouts + 1]
    mass: Floats = comb(n, k) * chance**k * (1.0 - chance) ** np.maximum(n - k, 0)
    return mass


def matched_posterior(
    alpha: Floats, beta: Floats, positives: np.ndarray, num_rollouts: int, false_positive: float, false_negative: float
) -> tuple[Floats, Floats]:
    """alpha and beta of the Beta with the mean and the variance of phi given ``positives`` (S) of K verdicts."""
    chances = verdict_chances(num_rollouts, false_positive, false_negative)
    weights = predictive_mass(alpha, beta, num_rollouts) * chances[:, positives].T
    total = weights.sum(axis=-1, keepdims=True)
    # Where every term underflows, the verdicts are taken as they are.
    as_seen = np.eye(num_rollouts + 1)[positives]
    weights = np.where(total > 0.0, weights / np.where(total > 0.0, total, 1.0), as_seen)
    t = np.arange(num_rollouts + 1.0)
    expected = weights @ t
    evidence = alpha + beta + num_rollouts
    mean = (alpha + expected) / evidence
    within = ((alpha[:, None] + t) * (beta[:, None] + num_rollouts - t) * weights).sum(axis=-1) / (evidence + 1.0)
    between = ((t - expected[:, None]) ** 2 * weights).sum(axis=-1)
    matched = mean * (1.0 - mean) * evidence**2 / (within + between) - 1.0
    return mean * matched, (1.0 - mean) * matched


class RateEstimate:
    """e1 and e0 from the run itself: by groups of prompts that are hopeless or mastered.

    Each group is one of three kinds, with shares that are learnt too:

        hopeless   S ~ Bin(K, e1)               every positive verdict is a false one
        mastered   S ~ Bin(K, 1 - e0)           every negative verdict is a false one
        other      S ~ BB(K, c, d), c, d >= 1   one hump or flat, by the moments of these groups

    Expectation-maximisation on the counts of (K, S), which forget 2 % a step, from the present fit and from a fresh
    start; the likelier of the two is kept. Either rate has a Beta(1, 50) prior with its mode at 0.

    The counts cannot tell a wrong verdict from a rare true one: what is assumed is that hopeless prompts never succeed
    and mastered ones never fail. With many prompts of a chance of some per cent, these are taken for hopeless. Where
    neither kind makes up a good part of the groups, the estimates stay near 0, and nothing is corrected.

    Example: fed groups of 8 of which most have S = 0 or 1 and the rest are spread, ``rates`` moves to a false-positive
    rate of about the share of positives among the former.
    """

    DECAY = 0.98
    PRIOR_TRIALS = 49.0
    NUM_ITERATIONS = 12
    FRESH = np.array([0.15, 0.15, 1 / 3, 1 / 3, 1 / 3, 2.0, 2.0])

    def __init__(self) -> None:
        self.counts = np.zeros((0, 3))
        """Rows (K, S, groups) by K and S."""
        self.fit = np.array([0.02, 0.02, *self.FRESH[2:]])
        """e1, e0, the shares of the three kinds, c and d."""

    @property
    def rates(self) -> tuple[float, float]:
        return float(self.fit[0]), float(self.fit[1])

    def observe(self, positives: np.ndarray, judged: np.ndarray) -> None:
        """One step's groups with ``judged`` > 0."""
        if not len(judged):
            return
        old = self.counts * (1.0, 1.0, self.DECAY)
        rows = np.concatenate([old, np.stack([judged, positives, np.ones(len(judged))], axis=1)])
        keys, slots = np.unique(rows[:, :2], axis=0, return_inverse=True)
        self.counts = np.column_stack([keys, np.bincount(slots.ravel(), rows[:, 2], len(keys))])
        fits = [self._converged(start) for start in (self.fit, self.FRESH)]
        self.fit = max(fits, key=self._log_posterior)

    def _converged(self, fit: Floats) -> Floats:
        judged, positives, groups = self.counts.T
        for _ in range(self.NUM_ITERATIONS):
            kinds = self._kinds(fit)
            kinds *= groups / kinds.sum(axis=0)
            sizes = kinds.sum(axis=1)
            low = kinds[0] @ positives / (kinds[0] @ judged + self.PRIOR_TRIALS)
            high = kinds[1] @ (judged - positives) / (kinds[1] @ judged + self.PRIOR_TRIALS)
            hump = _hump(positives / judged, kinds[2] / sizes[2], float(kinds[2] @ judged / sizes[2]))
            fit = np.array([*np.clip([low, high], 1e-6, MAX_RATE), *((sizes + 1.0) / (sizes.sum() + 3.0)), *hump])
        return fit

    def _kinds(self, fit: Floats) -> Floats:
        """Likelihood of each row of ``counts`` under each kind times its share, without the binomial coefficient."""
        judged, positives, _ = self.counts.T
        negatives = judged - positives
        low, high, *shares, c, d = fit
        kinds: Floats = np.exp(
            [
                positives * np.log(low) + negatives * np.log1p(-low),
                positives * np.log1p(-high) + negatives * np.log(high),
                betaln(c + positives, d + negatives) - betaln(c, d),
            ]
        )
        return kinds * np.array(shares)[:, None]

    def _log_posterior(self, fit: Floats) -> float:
        prior = self.PRIOR_TRIALS * np.log1p(-fit[:2]).sum() + np.log(fit[2:5]).sum()
        return float(self.counts[:, 2] @ np.log(self._kinds(fit).sum(axis=0)) + prior)

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self.counts.copy(), "fit": self.fit.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.counts = np.array(state["counts"], np.float64).reshape(-1, 3)
        self.fit = np.array(state["fit"], np.float64)


def _hump(share: Floats, weights: Floats, num_rollouts: float) -> tuple[float, float]:
    """c and d of a Beta-Binomial by the first two moments of S / K, neither below 1."""
    mean = min(max(float(weights @ share), 0.05), 0.95)
    variance = float(weights @ (share - mean) ** 2)
    correlation = (variance * num_rollouts / (mean * (1.0 - mean)) - 1.0) / max(num_rollouts - 1.0, 1.0)
    evidence = 1.0 / min(max(correlation, 0.01), 1.0) - 1.0
    return max(evidence * mean, 1.0), max(evidence * (1.0 - mean), 1.0)


class VerifierError:
    """The setting ``selector.verifier_error``: ``None`` (off), one rate for both kinds, ``[e1, e0]`` or ``"estimate"``.

    Example::

        error = VerifierError([0.05, 0.05])
        success, failure = error.gained(alpha, beta, positives, judged)     # instead of S and K - S
    """

    def __init__(self, setting: float | str | Sequence[float] | None = None) -> None:
        rates = [setting, setting] if is_number(setting) else setting
        is_pair = isinstance(rates, Sequence) and not isinstance(rates, str) and len(rates) == 2
        check(
            setting is None
            or setting == "estimate"
            or (is_pair and all(is_number(rate) and 0 <= rate <= MAX_RATE for rate in rates)),  # type: ignore[union-attr,operator]
            "selector.verifier_error",
            setting,
            f"must be null, estimate, a rate in [0, {MAX_RATE}], or two of them: [false positive, false negative]",
        )
        self._given = (float(rates[0]), float(rates[1])) if is_pair else None  # type: ignore[index,arg-type]
        self.is_on = setting is not None
        self.reset()

    def reset(self) -> None:
        self._estimate = RateEstimate() if self.is_on and self._given is None else None

    @property
    def rates(self) -> tuple[float, float]:
        """False positive and false negative rate in use."""
        if self._estimate is not None:
            return self._estimate.rates
        return self._given or (0.0, 0.0)

    def observe(self, positives: np.ndarray, judged: np.ndarray) -> dict[str, float]:
        """Learn the rates from a step's groups, where they are estimated; returns them as metrics, nothing if off."""
        if not self.is_on:
            return {}
        if self._estimate is not None:
            has_verdict = judged > 0
            self._estimate.observe(positives[has_verdict], judged[has_verdict])
        false_positive, false_negative = self.rates
        return {
            "selector/verifier_false_positive": false_positive,
            "selector/verifier_false_negative": false_negative,
        }

    def gained(self, alpha: Floats, beta: Floats, positives: Floats, judged: Floats) -> tuple[Floats, Floats]:
        """What a group adds to successes and failures, float64; below 0 where it makes the belief less sure.

        Without error that is S and K - S.
        """
        success, failure = positives.copy(), judged - positives
        false_positive, false_negative = self.rates
        if false_positive == false_negative == 0.0:
            return success, failure
        for num_rollouts in np.unique(judged[judged > 0]):
            rows = np.flatnonzero(judged == num_rollouts)
            matched = matched_posterior(
                alpha[rows], beta[rows], positives[rows].astype(int), int(num_rollouts), false_positive, false_negative
            )
            success[rows], failure[rows] = matched[0] - alpha[rows], matched[1] - beta[rows]
        return success, failure

    def observed(self, alpha: Floats, beta: Floats) -> tuple[Floats, Floats]:
        """The belief about q, the chance of a positive verdict: a Beta of its mean and variance."""
        false_positive, false_negative = self.rates
        if false_positive == false_negative == 0.0:
            return alpha, beta
        slope, evidence = 1.0 - false_positive - false_negative, alpha + beta
        mean = false_positive + slope * alpha / evidence
        variance = slope**2 * alpha * beta / (evidence**2 * (evidence + 1.0))
        matched = mean * (1.0 - mean) / variance - 1.0
        return mean * matched, (1.0 - mean) * matched

    def state_dict(self) -> dict[str, Any]:
        return {} if self._estimate is None else self._estimate.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._estimate is not None:
            self._estimate.load_state_dict(state)
