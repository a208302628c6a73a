from __future__ import annotations

import numpy as np
import pytest

from insight_rl.errors import UsageError
from insight_rl.selector.acquisition import mixed_outcome_chance
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.types import Completion, Counts, Group, Prompt, Reward

COMPLETION = Completion(token_ids=(1,), logprobs=(0.0,), text="", finish_reason="stop", policy_version=0)


def prompts(size=10, num_choices=4):
    return [
        Prompt(id=str(i), task="toy", text="", token_ids=(i,), answer=None, metadata={"num_choices": num_choices})
        for i in range(size)
    ]


def opened(**settings):
    selector = BeliefSelector(score=mixed_outcome_chance, **settings)
    selector.open(prompts(), num_rollouts=4, seed=0)
    return selector


def group(prompt, values, successes):
    rewards_G = tuple(Reward(value=value, success=success) for value, success in zip(values, successes, strict=True))
    return Group(prompt=prompt, completions_G=(COMPLETION,) * len(values), rewards_G=rewards_G)


def test_grades_count_as_parts_of_a_success():
    graded, counted = opened(evidence="value"), opened()
    for selector in (graded, counted):
        first, second = selector.select(2)
        selector.observe(
            [
                group(first, [0.5, 0.25, 1.0, 0.0], [False, False, True, None]),
                group(second, [0.4, 0.4, 0.4, 0.4], [False] * 4),
            ]
        )
        # The share of groups with both verdicts is that of the verifier, whatever counts as evidence.
        assert selector.metrics()["selector/informative_fraction"] == 0.5
        assert np.isfinite(selector.metrics()["selector/coverage"])
    first, second = opened().select(2)  # the same seed selects the same two
    assert graded.belief(first.id) == (2.75, 2.25)
    assert graded.belief(second.id) == pytest.approx((2.6, 3.4))
    assert counted.belief(first.id) == (2.0, 3.0)


@pytest.mark.parametrize("chance_level", [0.25, "num_choices"])
def test_chance_levels_take_what_guessing_explains_out_of_fractions(chance_level):
    """A mean grade at the level of guessing, 1/4, is no reason to select; the score sees a belief near 0."""
    selector = opened(evidence="value", chance_levels={"toy": chance_level})
    prompt = selector.select(1)[0]
    selector.observe([group(prompt, [0.2, 0.3, 0.25, 0.25], [False] * 4)])
    index = np.array([int(prompt.id)])
    alpha, beta = (np.array([each]) for each in selector.belief(prompt.id))
    assert (alpha[0], beta[0]) == (2.0, 4.0)
    corrected = selector._pool.prior.beyond_chance(alpha, beta, index)
    assert corrected[0][0] / 6.0 == pytest.approx((2.0 / 6.0 - 0.25) / 0.75)
    assert corrected[0][0] + corrected[1][0] == 6.0


@pytest.mark.parametrize("value", [1.2, -0.1])
def test_a_reward_that_is_no_grade_is_refused_by_name(value):
    selector = opened(evidence="value")
    prompt = selector.select(1)[0]
    with pytest.raises(UsageError, match=rf"selector\.evidence='value'.*{prompt.id} got a reward of {value}"):
        selector.observe([group(prompt, [0.5, value], [False, False])])


def test_counts_have_no_grades():
    selector = opened(evidence="value")
    prompt = selector.select(1)[0]
    with pytest.raises(UsageError, match="evidence=success"):
        selector.observe([Counts(prompt_id=prompt.id, num_judged=4, num_successes=1)])


def test_bad_settings_are_named():
    with pytest.raises(UsageError, match=r"selector\.evidence='grade'"):
        opened(evidence="grade")
    with pytest.raises(UsageError, match=r"selector\.verifier_error=0\.1"):
        opened(evidence="value", verifier_error=0.1)
