from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from insight_rl.errors import UsageError
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.selector.verifier_error import RateEstimate, VerifierError, matched_posterior, verdict_chances
from insight_rl.types import Counts, Prompt

GRID = (np.arange(20_000) + 0.5) / 20_000


def brute_force(alpha, beta, groups, false_positive, false_negative):
    """Mean and variance of phi given ``groups`` of (S, K), by its density on a fine grid."""
    log_density = stats.beta.logpdf(GRID, alpha, beta)
    observed = false_positive + (1.0 - false_positive - false_negative) * GRID
    for positives, judged in groups:
        log_density += stats.binom.logpmf(positives, judged, observed)
    density = np.exp(log_density - log_density.max())
    density /= density.sum()
    mean = density @ GRID
    return mean, density @ (GRID - mean) ** 2


def moments(alpha, beta):
    return stats.beta.mean(alpha, beta), stats.beta.var(alpha, beta)


def test_verdict_chances_by_simulation():
    rng = np.random.default_rng(0)
    t, size = 3, 200_000
    seen = rng.binomial(t, 0.8, size) + rng.binomial(8 - t, 0.1, size)
    expected = np.bincount(seen, minlength=9) / size
    np.testing.assert_allclose(verdict_chances(8, 0.1, 0.2)[t], expected, atol=0.005)


@pytest.mark.parametrize("rates", [(0.05, 0.05), (0.2, 0.2), (0.3, 0.0), (0.0, 0.1)])
@pytest.mark.parametrize("belief", [(1.0, 1.0), (3.5, 1.2), (2.0, 30.0)])
@pytest.mark.parametrize("positives", [0, 1, 5, 8])
def test_one_group_gives_the_exact_mean_and_variance(belief, rates, positives):
    matched = matched_posterior(*np.array(belief)[:, None], np.array([positives]), 8, *rates)
    np.testing.assert_allclose(
        moments(*matched), np.array(brute_force(*belief, [(positives, 8)], *rates))[:, None], rtol=2e-4
    )


def test_without_error_it_is_the_conjugate_update():
    error = VerifierError([0.0, 0.0])
    success, failure = error.gained(*np.array([[2.0], [3.0]]), np.array([5.0]), np.array([8.0]))
    assert (success[0], failure[0]) == (5.0, 3.0)
    # The general path, at rates too small to matter, agrees.
    np.testing.assert_allclose(
        matched_posterior(np.ones(1), np.ones(1), np.array([5]), 8, 1e-12, 1e-12), [[6.0], [4.0]]
    )


@pytest.mark.parametrize("phi", [0.0, 0.15, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_many_groups_stay_near_the_exact_posterior(phi, rate):
    """Each group's posterior is replaced by a Beta; the errors must not add up."""
    rng = np.random.default_rng(7)
    groups = [(int(rng.binomial(8, rate + (1 - 2 * rate) * phi)), 8) for _ in range(10)]
    mean, variance = brute_force(1.0, 1.0, groups, rate, rate)
    alpha, beta = np.ones(1), np.ones(1)
    for positives, judged in groups:
        alpha, beta = matched_posterior(alpha, beta, np.array([positives]), judged, rate, rate)
    got_mean, got_variance = moments(alpha[0], beta[0])
    assert abs(got_mean - mean) < 0.35 * np.sqrt(variance)
    assert 0.5 < got_variance / variance < 2.0
    naive = (1 + sum(s for s, _ in groups)) / 82
    if phi in (0.0, 1.0):
        assert abs(got_mean - phi) < 0.6 * abs(naive - phi)


def test_the_belief_about_what_is_observed_has_its_mean_and_variance():
    error = VerifierError([0.1, 0.3])
    mean, variance = moments(*error.observed(np.array([2.0]), np.array([5.0])))
    phi = stats.beta(2.0, 5.0).rvs(400_000, random_state=1)
    assert mean[0] == pytest.approx(np.mean(0.1 + 0.6 * phi), abs=1e-3)
    assert variance[0] == pytest.approx(np.var(0.1 + 0.6 * phi), rel=0.02)


def pool(size=400):
    return [Prompt(id=str(i), task="toy", text="", token_ids=(i,), answer=None) for i in range(size)]


def observe(selector, phi, rng, steps, rates):
    """Random selection of 100 a step, K = 8, with verdicts flipped at ``rates``."""
    for _ in range(steps):
        prompts = selector.select(100)
        positive = rates[0] + (1 - rates[0] - rates[1]) * phi[[int(prompt.id) for prompt in prompts]]
        counts = rng.binomial(8, positive).tolist()
        selector.observe(
            [Counts(prompt_id=p.id, num_judged=8, num_successes=s) for p, s in zip(prompts, counts, strict=True)]
        )


def opened(**settings):
    selector = BeliefSelector(score=None, candidate_ratio=1, **settings)
    selector.open(pool(), num_rollouts=8, seed=0)
    return selector


@pytest.mark.parametrize("setting", [[0.1, 0.1], "estimate"])
def test_hopeless_prompts_look_hopeless_again(setting):
    phi = np.repeat([0.0, 0.5, 1.0], [200, 150, 50])
    corrected, naive = opened(verifier_error=setting), opened()
    for selector in (corrected, naive):
        observe(selector, phi, np.random.default_rng(3), 20, (0.1, 0.1))
    alpha, beta = np.array(corrected.beliefs([str(i) for i in range(200)])).T
    plain_alpha, plain_beta = np.array(naive.beliefs([str(i) for i in range(200)])).T
    assert np.mean(alpha / (alpha + beta)) < 0.65 * np.mean(plain_alpha / (plain_alpha + plain_beta))
    assert abs(corrected.metrics()["selector/coverage"] - naive.metrics()["selector/coverage"]) < 0.1


@pytest.mark.parametrize("rates", [(0.0, 0.0), (0.05, 0.05), (0.2, 0.1)])
def test_rates_are_estimated_where_hopeless_and_mastered_prompts_exist(rates):
    rng = np.random.default_rng(5)
    estimate = RateEstimate()
    for _ in range(60):
        phi = rng.choice([0.0, 1.0, 0.3, 0.6], size=64, p=[0.4, 0.2, 0.2, 0.2])
        estimate.observe(rng.binomial(8, rates[0] + (1 - rates[0] - rates[1]) * phi), np.full(64, 8))
    assert estimate.rates == pytest.approx(rates, abs=0.03)


def test_a_pool_without_extremes_teaches_nothing_about_the_verifier():
    rng = np.random.default_rng(5)
    estimate = RateEstimate()
    for _ in range(20):
        estimate.observe(rng.binomial(8, rng.uniform(0.3, 0.7, 64)), np.full(64, 8))
    assert max(estimate.rates) < 0.01


def test_an_estimate_resumes_where_it_was():
    phi = np.repeat([0.0, 0.5], [200, 200])
    selector, resumed = opened(verifier_error="estimate"), opened(verifier_error="estimate")
    observe(selector, phi, np.random.default_rng(1), 5, (0.1, 0.0))
    resumed.load_state_dict(selector.state_dict())
    for each in (selector, resumed):
        observe(each, phi, np.random.default_rng(2), 3, (0.1, 0.0))
    assert selector.metrics() == resumed.metrics()
    assert selector.belief("7") == resumed.belief("7")


@pytest.mark.parametrize("setting", [0.6, [0.1], [0.1, -0.1], "guess", [0.1, "x"], True])
def test_bad_settings_are_named(setting):
    with pytest.raises(UsageError, match=r"selector\.verifier_error"):
        VerifierError(setting)
