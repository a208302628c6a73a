from __future__ import annotations

import numpy as np
import pytest

from insight_rl.errors import UsageError
from insight_rl.selector.dps import DpsSelector
from insight_rl.types import Completion, Group, Prompt, Reward

COMPLETION = Completion(token_ids=(1,), logprobs=(0.0,), text="", finish_reason="stop", policy_version=0)


def plain_dps(steps, size, decay=0.5):
    """The algorithm for one prompt after another, in matrices: predicted P(partly solved) after each step."""
    counts = [np.ones((3, 3)) for _ in range(size)]
    mu = [np.full(3, 1 / 3) for _ in range(size)]
    previous = [np.full(3, 1 / 3) for _ in range(size)]
    for observed in steps:
        for i in range(size):
            transition = counts[i] / counts[i].sum(axis=0)
            soft = np.zeros((3, 3))
            posterior = mu[i]
            if i in observed:
                posterior = np.eye(3)[observed[i]]
                soft = np.outer(posterior, previous[i]) * transition
                soft /= soft.sum()
            counts[i] = decay * counts[i] + (1 - decay) * np.ones((3, 3)) + soft
            mu[i] = (counts[i] / counts[i].sum(axis=0)) @ posterior
            previous[i] = posterior
    return [each[1] for each in mu]


def test_predictions_equal_a_plain_version():
    rng = np.random.default_rng(0)
    pool = [Prompt(id=str(i), task="toy", text="", token_ids=(i,), answer=None) for i in range(12)]
    selector = DpsSelector(candidate_ratio=100)
    selector.open(pool, num_rollouts=4, seed=0)
    steps = []
    for _ in range(25):
        prompts = selector.select(3)
        successes = rng.choice([0, 2, 4], len(prompts))
        steps.append({prompt.token_ids[0]: int(s) // 2 for prompt, s in zip(prompts, successes, strict=True)})
        selector.observe([group(prompt, int(s)) for prompt, s in zip(prompts, successes, strict=True)])
    selector.select(12)
    decision = selector.last_decision
    scores = dict(zip(decision.candidates.tolist(), decision.scores.tolist(), strict=True))
    expected = plain_dps(steps, 12)
    assert [scores[i] for i in range(12)] == pytest.approx(expected, rel=1e-12)
    ranked = decision.scores[decision.chosen]
    assert (np.diff(ranked) <= 0).all()


def group(prompt, successes, judged=4):
    rewards_G = tuple(Reward(value=0.0, success=i < successes if i < judged else None) for i in range(4))
    return Group(prompt=prompt, completions_G=(COMPLETION,) * 4, rewards_G=rewards_G)


def test_a_group_without_verdicts_is_no_observation():
    pool = [Prompt(id="0", task="toy", text="", token_ids=(), answer=None)]
    selector = DpsSelector()
    selector.open(pool, num_rollouts=4, seed=0)
    selector.observe([group(selector.select(1)[0], 0, judged=0)])
    selector.select(1)
    assert selector.last_scores() == [1 / 3]


def test_bad_settings_are_named():
    with pytest.raises(UsageError, match="transition_forgetting"):
        DpsSelector(transition_forgetting=1.5)
