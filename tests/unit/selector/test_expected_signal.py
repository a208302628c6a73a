from __future__ import annotations

from functools import partial

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from insight_rl.errors import UsageError
from insight_rl.selector.expected_signal import ExpectedSignalSelector, expected_signal, signal, signal_moments
from insight_rl.selector.learnt_prior import LearntPrior
from insight_rl.types import Counts, Prompt

BELIEFS = [(1.0, 1.0), (0.05, 0.3), (0.02, 0.02), (3.5, 7.25), (40.0, 2.0), (0.001, 900.0), (1e5, 3e4)]


def reference(a, b, num_rollouts, mu, eta):
    """Both moments by integrals over phi at 40 digits, and the mean as the definition's sum too."""
    with mpmath.workdps(40):
        a, b, k = mpmath.mpf(a), mpmath.mpf(b), num_rollouts

        def u(s):
            rate = mpmath.mpf(s) / k
            return 2 * mpmath.sqrt(rate * (1 - rate)) * mpmath.exp(-mpmath.mpf(eta) * (rate - mpmath.mpf(mu)) ** 2)

        # In terms of E[phi^m (1 - phi)^n] = B(a + m, b + n) / B(a, b), term by term: no grouping by m = s + t.
        def moment(m, n):
            return mpmath.beta(a + m, b + n) / mpmath.beta(a, b)

        weights = [mpmath.binomial(k, s) * u(s) for s in range(k + 1)]
        mean = sum(w * moment(s, k - s) for s, w in enumerate(weights))
        square = sum(w * v * moment(s + t, 2 * k - s - t) for s, w in enumerate(weights) for t, v in enumerate(weights))
        return float(mean), float(mpmath.sqrt(square - mean**2))


@pytest.mark.parametrize(("num_rollouts", "mu", "eta"), [(8, 0.3, 3.0), (1, 0.3, 3.0), (2, 0.5, 0.0), (32, 0.1, 7.0)])
def test_moments_agree_with_exact_arithmetic(num_rollouts, mu, eta):
    beliefs = BELIEFS if num_rollouts < 32 else BELIEFS[:2]
    alpha, beta = np.array(beliefs).T
    mean, spread = signal_moments(alpha, beta, num_rollouts, mu, eta)
    expected = np.array([reference(a, b, num_rollouts, mu, eta) for a, b in beliefs])
    np.testing.assert_allclose(mean, expected[:, 0], rtol=1e-12)
    np.testing.assert_allclose(spread**2, expected[:, 1] ** 2, rtol=1e-9, atol=1e-14)


def test_moments_agree_with_draws():
    """The definition played out: a rate from the belief, and the mean signal of groups at that rate."""
    rng = np.random.default_rng(0)
    rate = rng.beta(0.4, 1.1, 400_000)
    u = signal(np.arange(9) / 8, 0.3, 3.0)
    given_rate = stats.binom.pmf(np.arange(9), 8, rate[:, None]) @ u
    mean, spread = signal_moments(np.array([0.4]), np.array([1.1]), 8)
    assert mean[0] == pytest.approx(given_rate.mean(), abs=2e-3)
    assert spread[0] == pytest.approx(given_rate.std(), abs=2e-3)


counts = st.floats(-3.0, 9.0).map(lambda power: 10.0**power)


@given(st.lists(st.tuples(counts, counts), min_size=1, max_size=300), st.sampled_from([1, 4, 8, 64]))
@settings(max_examples=30, deadline=None)
def test_any_belief_has_moments_within_the_bounds_of_the_signal(beliefs, num_rollouts):
    alpha, beta = np.array(beliefs).T
    mean, spread = signal_moments(alpha, beta, num_rollouts)
    assert np.isfinite(mean).all() and np.isfinite(spread).all()
    assert (mean >= 0).all() and (mean <= 1).all() and (spread <= 0.5).all()
    alone = [signal_moments(alpha[i : i + 1], beta[i : i + 1], num_rollouts)[0][0] for i in range(len(alpha))]
    assert mean.tolist() == alone  # wherever a belief stands in the array


def test_without_tilt_right_and_wrong_change_places():
    alpha, beta = np.array(BELIEFS).T
    np.testing.assert_allclose(
        expected_signal(alpha, beta, 8, eta=0.0), expected_signal(beta, alpha, 8, eta=0.0), rtol=1e-13
    )


def test_the_signal_of_a_group_is_the_mean_size_of_its_normalised_advantages():
    for successes in range(1, 8):
        rewards = np.array([1.0] * successes + [0.0] * (8 - successes))
        advantages = (rewards - rewards.mean()) / rewards.std()
        assert signal(rewards.mean(keepdims=True), 0.3, 0.0)[0] == pytest.approx(np.abs(advantages).mean())
    assert signal(np.array([0.0, 1.0]), 0.3, 3.0).tolist() == [0.0, 0.0]


def prompts(size):
    return [Prompt(id=str(i), task="toy", text="", token_ids=(i,), answer=None) for i in range(size)]


def opened(size=5, **settings):
    selector = ExpectedSignalSelector(**settings)
    selector.open(prompts(size), num_rollouts=8, seed=0)
    return selector


def observe(selector, successes, judged=8):
    selector.observe([Counts(prompt_id=str(i), num_judged=judged, num_successes=s) for i, s in successes.items()])


def scores(selector, indices):
    indices = np.array(indices)
    return selector.score_candidates(indices, *selector._pool.beliefs(indices))


def test_the_score_discounts_repeats_by_their_number():
    plain, discounted = opened(novelty=0.0), opened(novelty=0.2)
    for selector in (plain, discounted):
        for _ in range(3):
            observe(selector, {0: 3, 1: 3})
        observe(selector, {1: 0}, judged=0)  # no verdict: no visit
        observe(selector, {2: 5})
    np.testing.assert_allclose(
        scores(discounted, [0, 1, 2, 3]), scores(plain, [0, 1, 2, 3]) / (1 + np.array([3.0, 3.0, 1.0, 0.0])) ** 0.2
    )


def test_hopeless_and_solved_prompts_rank_behind_an_unseen_one_and_a_mixed_one_before_it():
    selector = opened(prior=LearntPrior(), forgetting=0.85)
    observe(selector, {0: 0, 1: 0, 2: 8, 3: 3})
    hopeless, _, solved, mixed, unseen = scores(selector, range(5))
    assert mixed > unseen > max(hopeless, solved)


def test_under_a_learnt_prior_the_pool_decides_whether_unseen_prompts_come_first():
    def best_is_unseen(outcomes):
        selector = opened(40, prior=LearntPrior(), forgetting=0.85)
        assert not selector.visits_unseen_first()
        observe(selector, outcomes)
        seen, unseen = scores(selector, range(len(outcomes))), scores(selector, [39])
        return unseen[0] > seen.max()

    assert not best_is_unseen({i: 3 if i == 0 else 0 for i in range(20)})  # mostly hopeless
    assert best_is_unseen(dict.fromkeys(range(20), 3))  # all alike: what is new teaches more
    assert opened().visits_unseen_first()
    assert not opened(novelty=0.0).visits_unseen_first()


def test_the_whole_pool_is_scored_where_no_ratio_is_given():
    selector = opened(50, candidate_ratio=None)
    selector.select(3)
    assert sorted(selector.last_decision.candidates.tolist()) == list(range(50))
    selector.select(2)
    assert len(selector.last_decision.candidates) == 47


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"novelty": -1.0}, r"selector\.novelty"),
        ({"mu": 3.0}, r"selector\.mu"),
        ({"eta": -1.0}, r"selector\.eta"),
        ({"candidate_ratio": 0.5}, r"selector\.candidate_ratio=0\.5.*null"),
    ],
)
def test_bad_settings_are_named(settings, key):
    with pytest.raises(UsageError, match=key):
        opened(**settings)


def test_many_rollouts_need_no_more_than_python_numbers_hold():
    mean, _ = signal_moments(np.array([2.0]), np.array([3.0]), 128)
    uniform = partial(signal, mu=0.3, eta=3.0)
    expected = stats.betabinom.pmf(np.arange(129), 128, 2.0, 3.0) @ uniform(np.arange(129) / 128)
    assert mean[0] == pytest.approx(expected, rel=1e-10)
