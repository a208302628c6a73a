from __future__ import annotations

import logging

import numpy as np
import pytest

from insight_rl.config import compose_config
from insight_rl.errors import UsageError
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.selector.guards import Guards
from insight_rl.types import Completion, Group, Prompt, Reward

COMPLETION = Completion(token_ids=(1,), logprobs=(0.0,), text="", finish_reason="stop", policy_version=0)


def opened(size=40, **guards):
    """A selector that always wants the prompts of most evidence: unguarded it never leaves its first picks."""
    selector = BeliefSelector(score=lambda alpha, beta: alpha + beta, candidate_ratio=1000, guards=Guards(**guards))
    pool = [Prompt(id=str(i), task="toy", text="", token_ids=(i,), answer=None) for i in range(size)]
    selector.open(pool, num_rollouts=2, seed=0)
    return selector


def step(selector, num_prompts, outcomes_G=(True, False)):
    prompts = selector.select(num_prompts)
    rewards_G = tuple(Reward(value=0.0, success=outcome) for outcome in outcomes_G)
    completions_G = (COMPLETION,) * len(rewards_G)
    selector.observe([Group(prompt=each, completions_G=completions_G, rewards_G=rewards_G) for each in prompts])
    return [prompt.token_ids[0] for prompt in prompts]


def test_without_guards_the_score_alone_decides():
    selector = opened()
    first = set(step(selector, 4))
    assert all(set(step(selector, 4)) == first for _ in range(5))


def test_exploration_is_a_floor_of_uniform_picks():
    selector = opened(exploration=0.2)
    step(selector, 4)
    by_score = []
    for _ in range(150):
        picks = step(selector, 10)
        by_score.append(len({*picks[:8]} & {*picks[8:]}))
        assert len(set(picks)) == 10
    assert by_score == [0] * 150
    assert selector.metrics()["selector/visited_fraction"] == 1.0


def test_no_prompt_is_observed_more_often_than_the_cap_within_the_window():
    selector = opened(max_visits=2, window=5)
    steps = [step(selector, 6) for _ in range(20)]
    for start in range(16):
        counts = np.bincount(np.concatenate(steps[start : start + 5]), minlength=40)
        assert counts.max() <= 2
    assert np.bincount(np.concatenate(steps)).max() > 2  # beyond the window it may come back


def test_the_cap_yields_rather_than_leave_a_step_short():
    selector = opened(size=10, max_visits=1, window=5)
    assert [len(set(step(selector, 8))) for _ in range(4)] == [8, 8, 8, 8]


def test_the_alarm_says_once_why(caplog):
    selector = opened(alarm_below=0.5, alarm_after=3)
    step(selector, 4)
    assert selector.metrics()["selector/alarm"] == 0.0
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            step(selector, 4, outcomes_G=(False, False))
    assert selector.metrics()["selector/alarm"] == 1.0
    assert len(caplog.records) == 1
    assert "100% of the groups are all wrong" in caplog.text
    step(selector, 4)
    assert selector.metrics()["selector/alarm"] == 0.0


def test_guards_resume_where_they_were():
    settings = {"max_visits": 2, "window": 5, "alarm_below": 0.5, "exploration": 0.1}
    selector, resumed = opened(**settings), opened(**settings)
    for _ in range(4):
        step(selector, 6, outcomes_G=(True, True))
    resumed.load_state_dict(selector.state_dict())
    for _ in range(4):
        assert step(selector, 6, outcomes_G=(True, True)) == step(resumed, 6, outcomes_G=(True, True))
        assert selector.metrics() == resumed.metrics()


@pytest.mark.parametrize(
    ("setting", "value"),
    [("exploration", 1.5), ("max_visits", 0), ("window", 0), ("alarm_below", -1), ("alarm_after", 0)],
)
def test_bad_settings_are_named(setting, value):
    with pytest.raises(UsageError, match=rf"selector\.guards\.{setting}"):
        Guards(**{setting: value})


@pytest.mark.parametrize("option", ["insight", "dynamic_sampling", "mapp"])
def test_the_command_line_reaches_them(option):
    config = compose_config([f"selector={option}", "selector.guards.exploration=0.1"])
    assert config.selector.guards.exploration == 0.1
