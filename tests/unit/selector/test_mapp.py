from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from insight_rl.selector.acquisition import mixed_outcome_chance
from insight_rl.selector.mapp import MappSelector
from insight_rl.types import Completion, Group, Prompt, Reward

K = 8
COMPLETION = Completion(token_ids=(1,), logprobs=(0.0,), text="", finish_reason="stop", policy_version=0)


def opened(outcomes, **settings):
    """A selector over one prompt for each (successes, failures) of ``outcomes``, which it has observed."""
    selector = MappSelector(**settings)
    pool = [Prompt(id=str(i), task="toy", text="", token_ids=(i,), answer=None) for i in range(len(outcomes))]
    selector.open(pool, num_rollouts=K, seed=0)
    selector.observe([group(prompt, *counts) for prompt, counts in zip(pool, outcomes, strict=True)])
    return selector


def group(prompt, successes, failures, unjudged=0):
    verdicts = [True] * successes + [False] * failures + [None] * unjudged
    rewards_G = tuple(Reward(value=0.0, success=verdict) for verdict in verdicts)
    return Group(prompt=prompt, completions_G=(COMPLETION,) * len(rewards_G), rewards_G=rewards_G)


def draw(selector, num_prompts):
    """The ids of one selection, given back without a verdict: the beliefs stay as they are."""
    prompts = selector.select(num_prompts)
    selector.observe([group(prompt, 0, 0, unjudged=1) for prompt in prompts])
    return tuple(int(prompt.id) for prompt in prompts)


def values(outcomes):
    successes, failures = np.array(outcomes, float).T
    return mixed_outcome_chance(1 + successes, 1 + failures, K)


def test_draws_follow_successive_sampling():
    """Two of four without replacement, against the law written out."""
    outcomes = [(4, 4), (0, 16), (0, 40), (0, 160)]
    selector = opened(outcomes)
    drawn = Counter(draw(selector, 2) for _ in range(3_000))
    chance = values(outcomes) / values(outcomes).sum()
    assert chance.max() > 4 * chance.min(), "the draws must be far from uniform for this test to mean anything"
    for first, second in itertools.permutations(range(4), 2):
        expected = chance[first] * chance[second] / (1 - chance[first])
        deviation = np.sqrt(expected * (1 - expected) / drawn.total())
        assert abs(drawn[first, second] / drawn.total() - expected) < 5 * deviation


def test_greedy_takes_the_largest_chance():
    selector = opened([(0, 160), (4, 4), (0, 40), (0, 16)], greedy=True)
    assert draw(selector, 2) == draw(selector, 2) == (1, 3)


def test_propensity_is_the_share_of_draws_and_sums_to_their_number():
    rng = np.random.default_rng(0)
    selector = opened([(int(a), int(b)) for a, b in rng.integers(0, 30, (400, 2))])
    draw(selector, 100)
    decision = selector.last_decision
    propensity = dict(zip(decision.candidates.tolist(), selector.propensity(decision).tolist(), strict=True))
    assert sum(propensity.values()) == pytest.approx(100)
    counts = Counter(index for _ in range(800) for index in draw(selector, 100))
    errors = np.array([counts[index] / 800 - chance for index, chance in propensity.items()])
    assert np.abs(errors).max() < 0.08
    assert np.abs(errors).mean() < 0.016


def test_propensity_among_equals_is_their_share():
    selector = opened([(0, 0)] * 4)
    draw(selector, 2)
    assert selector.propensity(selector.last_decision).tolist() == pytest.approx([0.5] * 4)
