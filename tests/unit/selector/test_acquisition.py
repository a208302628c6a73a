from __future__ import annotations

import mpmath
import numpy as np
import pytest
from scipy import special

from insight_rl.errors import UsageError
from insight_rl.selector import acquisition
from insight_rl.selector.information import mutual_information

ALPHA, BETA = np.array([1.0, 3.0, 0.5, 20.0]), np.array([1.0, 7.0, 2.0, 2.0])


def test_weighted_mutual_information_is_weight_times_information():
    scores = acquisition.weighted_mutual_information(ALPHA, BETA, 8)
    for score, alpha, beta in zip(scores, ALPHA, BETA, strict=True):
        mean = mpmath.mpf(alpha) / (alpha + beta)
        weight = mean * (1 - mean) * mpmath.exp(-3 * (mean - mpmath.mpf("0.3")) ** 2)
        assert score == pytest.approx(float(weight * information(alpha, beta, 8)), rel=1e-10)


def information(alpha, beta, num_rollouts):
    """The definition: the entropy of the belief less its expected entropy after the rollouts."""

    def entropy(a, b):
        psi = mpmath.digamma
        return mpmath.log(mpmath.beta(a, b)) - (a - 1) * psi(a) - (b - 1) * psi(b) + (a + b - 2) * psi(a + b)

    a, b = mpmath.mpf(alpha), mpmath.mpf(beta)
    after = sum(
        mpmath.binomial(num_rollouts, s)
        * mpmath.beta(a + s, b + num_rollouts - s)
        / mpmath.beta(a, b)
        * entropy(a + s, b + num_rollouts - s)
        for s in range(num_rollouts + 1)
    )
    return entropy(a, b) - after


def test_mixed_outcome_chance_equals_its_definition():
    expected = (
        1
        - special.beta(ALPHA + 8, BETA) / special.beta(ALPHA, BETA)
        - special.beta(ALPHA, BETA + 8) / special.beta(ALPHA, BETA)
    )
    np.testing.assert_allclose(acquisition.mixed_outcome_chance(ALPHA, BETA, 8), expected, rtol=1e-12)


def test_preferences():
    alpha, beta = np.array([1.0, 40.0, 9.0]), np.array([1.0, 60.0, 1.0])
    assert np.argmax(acquisition.inverse_evidence(alpha, beta)) == 0
    assert np.argmax(acquisition.expected_difficulty(alpha, beta, target=0.4)) == 1
    assert np.argmax(acquisition.weight_only(alpha, beta)) == 1
    assert np.argmax(acquisition.information_only(alpha, beta, 8)) == 0


def test_thompson_draws_follow_the_belief_and_the_generator():
    alpha, beta = np.full(20_000, 2.0), np.full(20_000, 6.0)
    first = acquisition.mopps(alpha, beta, np.random.default_rng(1))
    assert np.array_equal(first, acquisition.mopps(alpha, beta, np.random.default_rng(1)))
    drawn = np.random.default_rng(1).beta(2.0, 6.0, 20_000)
    assert np.mean(first) == pytest.approx(-np.mean(np.abs(drawn - 0.5)), abs=0.01)
    sampled = acquisition.insight_sampled(alpha, beta, 8, np.random.default_rng(1))
    weight = drawn * (1 - drawn) * np.exp(-3 * (drawn - 0.3) ** 2)
    expected = mutual_information(np.array([2.0]), np.array([6.0]), 8)[0] * weight.mean()
    assert np.mean(sampled) == pytest.approx(expected, rel=0.02)


def test_the_misprinted_mu_is_refused():
    with pytest.raises(UsageError, match=r"selector\.mu"):
        acquisition.weight_only(ALPHA, BETA, mu=3.0)
