from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit

from insight_rl.errors import UsageError
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.selector.drift import Drift, _moved
from insight_rl.selector.learnt_prior import LearntPrior
from insight_rl.types import Counts, Prompt

K = 8


def prompts(size):
    return [Prompt(id=str(i), task="toy", text="", token_ids=(i,), answer=None) for i in range(size)]


def opened(size, *, drift, **settings):
    selector = BeliefSelector(score=None, candidate_ratio=1, drift=drift, **settings)
    selector.open(prompts(size), num_rollouts=K, seed=0)
    return selector


def forecasts(*, drift, trend=0.0, walk=0.0, gain=0.0, size=600, steps=80, per_step=60):
    """Mean log-likelihood of the revisits in the second half of a run over prompts that move on their own.

    Each step, the logit of every prompt moves by ``trend`` and a normal of deviation ``walk``; a visit moves its own by
    ``gain``. Uniform selection, the same prompts and luck with and without drift.
    """
    rng = np.random.default_rng(0)
    abilities = logit(np.clip(rng.beta(0.8, 1.6, size), 0.01, 0.99))
    selector = opened(size, drift=drift, prior=LearntPrior())
    total = []
    for step in range(steps):
        selected = selector.select(per_step)
        ids = [prompt.id for prompt in selected]
        indices = np.array(ids, np.int64)
        successes = rng.binomial(K, expit(abilities[indices]))
        again = selector._pool.age(indices, step) >= 0
        alpha, beta = np.array(selector.beliefs(ids)).T
        if step >= steps // 2:
            total += stats.betabinom.logpmf(successes, K, alpha, beta)[again].tolist()
        outcomes = zip(ids, successes.tolist(), strict=True)
        selector.observe([Counts(prompt_id=i, num_judged=K, num_successes=s) for i, s in outcomes])
        abilities[indices] += gain
        abilities += trend + walk * rng.standard_normal(size)
    return float(np.mean(total)), selector


def gained(**movement):
    (without, _), (with_drift, selector) = (forecasts(drift=drift, **movement) for drift in (False, True))
    return with_drift - without, selector.metrics()


def test_where_the_policy_drifts_revisits_are_foretold_better():
    difference, metrics = gained(trend=0.03, walk=0.1)
    assert difference > 0.15
    assert 0.005 < metrics["selector/drift_trend"] < 0.04


def test_a_random_walk_alone_is_fading_without_a_trend():
    difference, metrics = gained(walk=0.2)
    assert difference > 0.1
    assert metrics["selector/drift_fading"] > 0.02 and abs(metrics["selector/drift_trend"]) < 0.005


def test_where_nothing_drifts_little_is_lost():
    difference, metrics = gained()
    assert difference > -0.01
    assert metrics["selector/drift_fading"] < 0.01 and abs(metrics["selector/drift_trend"]) < 0.005


def test_what_a_visit_moves_is_not_taken_for_a_trend():
    _, metrics = gained(gain=0.3)
    assert abs(metrics["selector/drift_trend"]) < 0.01


def test_the_move_is_fading_and_a_shift_of_the_logit():
    success, failure = _moved(*np.array([[6.0, 8.0], [2.0, 0.0]]), (1.0, 2.0), np.array([3.0, 0.0]), 0.9, [0.1, 0.05])
    alpha, beta = 1 + 0.9**3 * 6, 2 + 0.9**3 * 2
    mean = expit(logit(alpha / (alpha + beta)) + 0.1 + 3 * 0.05)
    assert success[0] == pytest.approx((alpha + beta) * mean - 1)
    assert success[0] + failure[0] == pytest.approx(0.9**3 * 8)
    assert (success[1], failure[1]) == (8.0, 0.0)  # no time has passed


def test_a_shift_never_takes_more_than_the_evidence():
    success, failure = _moved(np.array([1.0]), np.array([1.0]), (9.0, 9.0), np.array([50.0]), 1.0, [0.0, 0.5])
    assert (success[0], failure[0]) == (2.0, 0.0)


def test_prompts_never_seen_and_groups_without_verdict_stay_as_they_are():
    selector = opened(4, drift=True)
    selector._pool.drift._shift[:] = (0.2, 0.02)
    observed = {0: 3, 1: 2}
    selector.observe([Counts(prompt_id=str(i), num_judged=K, num_successes=s) for i, s in observed.items()])
    before = selector.beliefs(["0", "1", "2"])
    assert before[2] == (1.0, 1.0)
    raw = selector._pool.evidence().copy()
    selector.observe([Counts(prompt_id="0", num_judged=0, num_successes=0)])
    assert np.array_equal(selector._pool.evidence(), raw)
    after = selector.beliefs(["0", "1"])
    assert all(new[0] / sum(new) > old[0] / sum(old) for new, old in zip(after, before[:2], strict=True))


def test_a_killed_run_goes_on_the_same():
    _, whole = forecasts(drift=True, trend=0.02, steps=6)
    resumed = opened(600, drift=True, prior=LearntPrior())
    resumed.load_state_dict(whole.state_dict())
    assert resumed.metrics() == whole.metrics()
    assert resumed.beliefs(["3", "50"]) == whole.beliefs(["3", "50"])


def test_off_it_changes_nothing_and_a_bad_value_is_named():
    assert not [key for key in opened(4, drift=False).metrics() if "drift" in key]
    with pytest.raises(UsageError, match=r"selector\.drift='yes': must be true or false"):
        Drift("yes")


def test_outcomes_of_an_older_policy_age_from_when_they_were_sampled():
    """With the same lag for all, visits are as far apart as ever, and every belief is that many steps older."""
    lag, rng = 2, np.random.default_rng(0)
    plain, late = opened(60, drift=True, forgetting=0.9), opened(60, drift=True, forgetting=0.9)
    for _ in range(30):
        ids = [str(i) for i in rng.choice(60, 20, replace=False)]
        successes = rng.binomial(K, rng.random(20))
        outcomes = [
            Counts(prompt_id=i, num_judged=K, num_successes=int(s)) for i, s in zip(ids, successes, strict=True)
        ]
        plain.observe(outcomes)
        late.expect_lags(dict.fromkeys(ids, lag))
        late.observe(outcomes)
    one, other = plain._pool, late._pool
    np.testing.assert_array_equal(other.visited, one.visited)
    np.testing.assert_array_equal(other.last_observed, one.last_observed - lag)
    for name, value in one.drift.state_dict().items():
        np.testing.assert_array_equal(other.drift.state_dict()[name], value)
    waited = (31 - one.last_observed).astype(float)
    success, failure = one._success[one.visited], one._failure[one.visited]
    older = _moved(success, failure, (1.0, 1.0), waited + lag, 1.0 - one.drift.fading, one.drift._shift)
    np.testing.assert_allclose(other.beliefs(one.visited), np.array(older) + 1.0)
    assert late.metrics()["selector/version_lag"] == lag
    assert "selector/version_lag" not in plain.metrics()
    late.observe([Counts(prompt_id="0", num_judged=K, num_successes=1)])
    assert "selector/version_lag" not in late.metrics(), "a lag is of one observation"
