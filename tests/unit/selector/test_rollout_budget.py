from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import integrate, stats

from insight_rl.config import compose_config
from insight_rl.errors import UsageError
from insight_rl.selector.acquisition import mixed_outcome_chance
from insight_rl.selector.base import ChoosesRollouts, check_needs_counts_only
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.selector.rollout_budget import RolloutBudget, expected_value, knapsack
from insight_rl.simulation.settings import load
from insight_rl.types import Counts, Prompt


@pytest.mark.parametrize("belief", [(1.0, 1.0), (0.3, 4.0), (40.0, 2.5)])
@pytest.mark.parametrize("num_rollouts", [2, 8, 32])
def test_the_value_is_averaged_over_the_belief(belief, num_rollouts):
    def integrand(p):
        mixed = 1.0 - p**num_rollouts - (1.0 - p) ** num_rollouts
        return mixed * p * (1.0 - p) ** 2 * stats.beta.pdf(p, *belief)

    expected, _ = integrate.quad(integrand, 0.0, 1.0, limit=200)
    got = expected_value(*np.array(belief)[:, None], np.array([num_rollouts]))
    assert got[0, 0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_no_other_division_is_worth_more(seed):
    """All divisions of 3 K rollouts over three prompts, K = 3: N from 2 to 5 is all that can occur, 12 the limit."""
    rng = np.random.default_rng(seed)
    alpha, beta = rng.uniform(0.2, 3.0, 3), rng.uniform(0.2, 30.0, 3)
    values = expected_value(alpha, beta, np.arange(2, 6))
    divisions = [each for each in itertools.product(range(2, 6), repeat=3) if sum(each) == 9]
    worth = [values[np.arange(3), np.array(each) - 2].sum() for each in divisions]
    assert tuple(knapsack(alpha, beta, 3)) == divisions[int(np.argmax(worth))]


def test_the_total_and_the_limits_hold():
    rng = np.random.default_rng(1)
    alpha, beta = rng.gamma(1.0, 10.0, 64) + 1e-3, rng.gamma(1.0, 100.0, 64) + 1e-3
    counts = knapsack(alpha, beta, 8)
    assert counts.sum() == 64 * 8
    assert counts.min() >= 2
    assert counts.max() <= 32
    assert np.array_equal(knapsack(np.ones(5), np.ones(5), 8), [8] * 5)
    # At the extremes no gain differs from 0 any more: the total still holds.
    assert knapsack(np.full(4, 1e-3), np.full(4, 1e9), 8).sum() == 32


def test_a_hard_prompt_gets_more_and_a_mastered_one_least():
    mastered, even, hard = knapsack(np.array([60.0, 20.0, 4.0]), np.array([1.0, 20.0, 60.0]), 8)
    assert hard > even > mastered == 2


def opened(rollout_budget):
    selector = BeliefSelector(score=mixed_outcome_chance, candidate_ratio=1000, rollout_budget=rollout_budget)
    pool = [Prompt(id=str(i), task="toy", text="", token_ids=(i,), answer=None) for i in range(20)]
    selector.open(pool, num_rollouts=4, seed=0)
    return selector


def test_a_selector_says_how_often_each_prompt_is_rolled_out():
    even, knapsack_ = opened("even"), opened("knapsack")
    for selector in (even, knapsack_):
        assert isinstance(selector, ChoosesRollouts)
        for step in range(6):
            prompts = selector.select(20)
            rollouts = selector.last_rollouts()
            assert sum(rollouts) == 80
            assert min(rollouts) >= 2
            selector.observe(
                [
                    Counts(prompt_id=p.id, num_judged=n, num_successes=n * ((int(p.id) + step) % 5) // 9)
                    for p, n in zip(prompts, rollouts, strict=True)
                ]
            )
    assert even.last_rollouts() == [4] * 20
    assert len(set(knapsack_.last_rollouts())) > 1
    assert not even.varies_rollouts
    resumed = opened("knapsack")
    resumed.load_state_dict(knapsack_.state_dict())
    assert resumed.last_rollouts() == knapsack_.last_rollouts()


def test_who_cannot_follow_refuses_by_name():
    check_needs_counts_only(opened("even"), "a simulation")
    check_needs_counts_only(object(), "a simulation")
    with pytest.raises(UsageError, match=r"selector\.rollout_budget='knapsack': TRL"):
        check_needs_counts_only(opened("knapsack"), "TRL")
    with pytest.raises(UsageError, match=r"rollout_budget='knapsack': a simulation"):
        load(["selectors=insight:rollout_budget=knapsack"])
    with pytest.raises(UsageError, match=r"selector\.evidence='value': a simulation"):
        load(["selectors=insight:evidence=value"])


def test_settings():
    with pytest.raises(UsageError, match=r"selector\.rollout_budget='greedy'"):
        RolloutBudget("greedy")
    assert compose_config(["selector=insight"]).selector.rollout_budget == "even"
