from __future__ import annotations

import itertools

import numpy as np
import pytest

from insight_rl.selector.acquisition import mixed_outcome_chance
from insight_rl.selector.mapp import MappSelector
from insight_rl.types import Prompt


def opened(**settings):
    selector = MappSelector(**settings)
    pool = [Prompt(id=str(i), task="toy", text="", token_ids=(i,), answer=None) for i in range(4)]
    selector.open(pool, num_rollouts=8, seed=0)
    return selector


def test_draws_follow_successive_sampling():
    """Two of four without replacement, against the law written out."""
    selector = opened()
    values = np.array([0.8, 0.4, 0.2, 0.1])
    drawn = [tuple(selector._pick(values, 2).tolist()) for _ in range(20_000)]
    chance = values / values.sum()
    for first, second in itertools.permutations(range(4), 2):
        expected = chance[first] * chance[second] / (1 - chance[first])
        assert drawn.count((first, second)) / len(drawn) == pytest.approx(expected, abs=0.012)


def test_greedy_takes_the_largest_chance():
    selector = opened(greedy=True)
    assert selector._pick(np.array([0.1, 0.8, 0.2, 0.4]), 2).tolist() == [1, 3]


def test_propensity_sums_to_the_draws_and_grows_with_the_chance():
    selector = opened()
    selector.select(2)
    decision = selector.last_decision
    assert selector.propensity(decision).tolist() == pytest.approx([0.5] * 4)
    rng = np.random.default_rng(0)
    many = MappSelector()
    many.open(
        [Prompt(id=str(i), task="toy", text="", token_ids=(), answer=None) for i in range(400)], num_rollouts=8, seed=0
    )
    many.select(100)
    decision = many.last_decision
    scores = mixed_outcome_chance(rng.uniform(1, 30, 400), rng.uniform(1, 30, 400), 8)
    object.__setattr__(decision, "scores", scores)
    propensity = many.propensity(decision)
    assert propensity.sum() == pytest.approx(100)
    counts = np.zeros(400)
    for _ in range(2000):
        counts[many._pick(scores, 100)] += 1
    assert np.abs(counts / 2000 - propensity).max() < 0.05
    assert np.abs(counts / 2000 - propensity).mean() < 0.01
