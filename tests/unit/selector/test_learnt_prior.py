from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from insight_rl.errors import UsageError
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.selector.learnt_prior import LearntPrior
from insight_rl.selector.pool import BeliefPool
from insight_rl.selector.prior import Prior
from insight_rl.types import Counts, Prompt

K = 8


def prompts(size, tasks=("toy",)):
    return [Prompt(id=str(i), task=tasks[i % len(tasks)], text="", token_ids=(i,), answer=None) for i in range(size)]


def opened(size, tasks=("toy",), memory=1.0, **settings):
    return BeliefPool(prompts(size, tasks), prior=Prior(source=LearntPrior(memory=memory), **settings), num_rollouts=K)


def visit(pool, indices, successes, step=1, judged=K):
    judged = np.full(len(indices), float(judged))
    pool.update(np.array(indices, np.int64), np.array(successes, float), judged, forgetting=0.85, step=step)


def draws(rng, a, b, size):
    return rng.binomial(K, rng.beta(a, b, size)).astype(float)


@pytest.mark.parametrize(("a", "b"), [(0.2, 0.9), (0.1, 0.05), (4.0, 2.0)])
def test_the_parameters_of_the_pool_are_found_again(a, b):
    rng = np.random.default_rng(1)
    pool = opened(12_800)
    for step in range(50):
        visit(pool, np.arange(256) + 256 * step, draws(rng, a, b, 256), step)
    assert (pool.prior.alphas[0], pool.prior.betas[0]) == pytest.approx((a, b), rel=0.12)


def test_it_is_the_maximum_of_the_likelihood_that_scipy_finds():
    successes = draws(np.random.default_rng(2), 0.3, 0.7, 300)
    pool = opened(2000)
    visit(pool, np.arange(300), successes)
    for step in range(400):  # steps without first visits go on with the iteration
        visit(pool, [], [], step)

    def loss(logs):
        pseudo = stats.betabinom.logpmf(np.arange(K + 1), K, *np.exp(logs)).mean()
        return -stats.betabinom.logpmf(successes, K, *np.exp(logs)).sum() - pseudo

    best = np.exp(optimize.minimize(loss, np.zeros(2)).x)
    np.testing.assert_allclose([pool.prior.alphas[0], pool.prior.betas[0]], best, rtol=1e-4)


def test_groups_judged_in_part_count_at_their_own_number():
    rng = np.random.default_rng(3)
    pool = opened(9000)
    for step in range(30):
        for half, judged in enumerate((2, K)):
            indices = np.arange(150) + 300 * step + 150 * half
            visit(pool, indices, rng.binomial(judged, rng.beta(0.5, 1.5, 150)), step, judged)
    assert (pool.prior.alphas[0], pool.prior.betas[0]) == pytest.approx((0.5, 1.5), rel=0.15)


def test_only_first_visits_count_and_unjudged_ones_are_none():
    once, twice = opened(20), opened(20)
    for pool in (once, twice):
        visit(pool, [0, 1], [0.0, 1.0])
    visit(once, [], [], 2)
    visit(twice, [0, 1], [8.0, 8.0], 2)
    assert once.prior.alphas == twice.prior.alphas
    visit(once, [], [], 3)
    visit(twice, [5], [0.0], 3, judged=0)
    assert once.prior.alphas == twice.prior.alphas
    visit(twice, [5], [8.0], 4)  # its first verdicts
    visit(once, [], [], 4)
    assert once.prior.alphas < twice.prior.alphas


def test_a_fraction_is_shared_between_its_neighbours():
    pool = opened(20)
    visit(pool, [0], [2.25])
    by_success, by_failure, _ = pool.prior._seen
    assert by_success[0].tolist() == [0, 0, 0.75, 0.25, 0, 0, 0, 0, 0]
    assert by_failure[0].tolist() == [0, 0, 0, 0, 0, 0.25, 0.75, 0, 0][: K + 1]
    full = opened(20)
    visit(full, [0, 1], [8.0, 0.0])
    assert full.prior._seen[0, 0, [0, 8]].tolist() == [1.0, 1.0]


def test_every_belief_moves_with_the_prior_and_keeps_its_evidence():
    pool = opened(20)
    visit(pool, [0, 1, 2], [0.0, 0.0, 1.0])
    alpha, beta = pool.beliefs(np.arange(4))
    prior = pool.prior.alphas[0], pool.prior.betas[0]
    assert (alpha[3], beta[3]) == prior and prior[0] / sum(prior) < 0.5
    assert (alpha[2] - prior[0], beta[2] - prior[1]) == pytest.approx((1.0, 7.0))


def test_tasks_with_priors_of_their_own_learn_their_own():
    pool = opened(40, ("easy", "other"), by_task={"easy": [3.0, 1.0]})
    visit(pool, [1, 3, 5, 7], [0.0, 0.0, 0.0, 1.0])
    alpha, beta = pool.beliefs(np.array([10, 11]))
    assert alpha[0] / (alpha[0] + beta[0]) == pytest.approx(0.75, abs=0.02)  # nothing seen: the pseudo-group holds it
    assert alpha[1] / (alpha[1] + beta[1]) < 0.3


def test_the_pool_metrics_take_unseen_prompts_at_the_learnt_prior():
    selector = BeliefSelector(score=None, candidate_ratio=1, prior=LearntPrior())
    selector.open(prompts(100), num_rollouts=K, seed=0)
    selector.observe([Counts(prompt_id=str(i), num_judged=K, num_successes=0) for i in range(50)])
    metrics = selector.metrics()
    assert metrics["selector/prior_mean"] < 0.1
    alpha, beta = selector._pool.beliefs(np.arange(100))
    assert metrics["selector/mean_belief"] == pytest.approx((alpha / (alpha + beta)).mean())


@pytest.mark.parametrize("memory", [0, 1.5, "x", None])
def test_bad_settings_are_named(memory):
    with pytest.raises(UsageError, match=r"selector\.prior\.memory"):
        LearntPrior(memory=memory)
