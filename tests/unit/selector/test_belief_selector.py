from __future__ import annotations

import numpy as np
import pytest

from insight_rl.errors import UsageError
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.selector.decision import top
from insight_rl.selector.pool import BeliefPool
from insight_rl.selector.prior import Prior
from insight_rl.types import Prompt


def prompts(size):
    return [Prompt(id=str(i), task="toy", text="", token_ids=(i,), answer=None) for i in range(size)]


def test_candidates_are_uniform_over_the_prompts_that_are_free():
    pool = BeliefPool(prompts(12), prior=Prior(), num_rollouts=8)
    pool.pending = {"0": 0, "4": 4, "5": 5, "11": 11}
    rng = np.random.default_rng(0)
    counts = np.zeros(12)
    for _ in range(4000):
        drawn = pool.draw_available(3, rng)
        assert len(set(drawn.tolist())) == 3
        counts[drawn] += 1
    assert counts[[0, 4, 5, 11]].sum() == 0
    free = counts[counts > 0]
    assert len(free) == 8
    assert ((free - 1500) ** 2 / 1500).sum() < 24.3  # chi-squared with 7 degrees of freedom, 99.9 %


def test_candidate_ratio_bounds_what_is_scored():
    sizes = []

    def score(alpha, beta):
        sizes.append(len(alpha))
        return alpha

    selector = BeliefSelector(score=score, candidate_ratio=4)
    selector.open(prompts(50), num_rollouts=8, seed=0)
    selector.select(10)
    selector.select(10)
    assert sizes == [2, 40, 40]  # the first is the trial at opening
    selector.select(20)
    assert sizes[-1] == 30


def test_top_takes_the_largest_first():
    scores = np.array([3.0, -np.inf, 5.0, 4.0, 5.0])
    assert sorted(top(scores, 2).tolist()) == [2, 4]
    assert scores[top(scores, 3)].tolist() == [5.0, 5.0, 4.0]
    assert len(top(scores, 5)) == 5


def test_a_score_gets_what_it_names_and_its_settings():
    def score(alpha, beta, num_rollouts, rng, power=1.0):
        assert num_rollouts == 8
        assert isinstance(rng, np.random.Generator)
        return -(np.arange(len(alpha)) ** power)

    selector = BeliefSelector(score=score, power=2.0)
    selector.open(prompts(50), num_rollouts=8, seed=0)
    selector.select(3)
    assert selector.last_scores() == [0.0, -1.0, -4.0]
    for settings, name in (({"powr": 2.0}, "powr"), ({"power": "two"}, "power")):
        with pytest.raises(UsageError, match=name):
            BeliefSelector(score=score, **settings)


def test_a_score_that_is_not_a_number_is_refused():
    selector = BeliefSelector(score=lambda alpha, beta: alpha * np.nan)
    with pytest.raises(UsageError, match=r"alpha=1\.0, beta=1\.0"):
        selector.open(prompts(5), num_rollouts=8, seed=0)


def test_duplicate_ids_are_refused_by_name():
    with pytest.raises(UsageError, match="'3'"):
        BeliefPool([*prompts(5), prompts(4)[3]], prior=Prior(), num_rollouts=8)


def test_visits_and_ages():
    pool = BeliefPool(prompts(10), prior=Prior(), num_rollouts=8)
    for step, indices in enumerate(([7, 2], [2, 9], [0])):
        chosen = np.array(indices)
        pool.update(chosen, np.ones(len(chosen)), np.full(len(chosen), 8.0), forgetting=1.0, step=step)
    assert pool.visited.tolist() == [0, 2, 7, 9]
    assert pool.visits.tolist() == [1, 2, 1, 1]
    assert pool.age(np.array([2, 3, 0, 9]), step=3).tolist() == [2, -1, 1, 2]
