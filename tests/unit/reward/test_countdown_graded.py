from __future__ import annotations

import pytest

from insight_rl.build import build_part
from insight_rl.config import compose_config
from insight_rl.errors import UsageError
from insight_rl.reward.countdown_graded import GradedCountdownReward
from insight_rl.types import Completion, Prompt


def grade(text, numbers=(3, 7, 12), target=24, **settings):
    reward = GradedCountdownReward(
        **{"style": "bare", "partial_value": 0.5, "max_distance": 10, "allow_latex": False} | settings
    )
    prompt = Prompt(
        id="p", task="countdown", text="", token_ids=(1,), answer={"numbers": list(numbers), "target": target}
    )
    completion = Completion(token_ids=(1,), logprobs=(0.0,), text=text, finish_reason="stop", policy_version=0)
    return reward(prompt, completion)


@pytest.mark.parametrize(
    ("text", "value", "status"),
    [
        ("7*3+12", 0.5 * (1 - 9 / 10), "wrong"),
        ("3*7+12", 0.05, "wrong"),
        ("3+7+12", 0.4, "wrong"),  # 22
        ("12/3+7", 0.0, "wrong"),  # 11: too far
        ("12+12", 0.0, "wrong"),  # hits the target with other numbers
        ("3*7", 0.0, "wrong"),  # leaves one out
        ("12/(3-3)+7", 0.0, "wrong"),
        ("12/(7-7)", 0.0, "wrong"),
        ("3+7+", 0.0, "unparsable"),
        ("", 0.0, "no_answer"),
    ],
)
def test_wrong_answers_are_graded_by_their_distance(text, value, status):
    reward = grade(text)
    assert (reward.value, reward.success, reward.status) == (pytest.approx(value), False, status)


def test_a_fraction_counts_exactly():
    assert grade("(7+12)/3", target=6).value == pytest.approx(0.5 * (1 - (19 / 3 - 6) / 10))


def test_a_right_answer_earns_one():
    reward = grade("12*(7-3)/2", numbers=(12, 7, 3, 2))
    assert (reward.value, reward.success, reward.status) == (1.0, True, "correct")


def test_numbers_beyond_a_float_are_no_trouble():
    nines = "*".join(["999999999"] * 40)
    assert grade(nines, numbers=[999999999] * 40, target=1).value == 0.0


@pytest.mark.parametrize(
    ("setting", "value"), [("partial_value", 1.0), ("partial_value", "x"), ("max_distance", 0), ("style", "free")]
)
def test_bad_settings_are_named(setting, value):
    with pytest.raises(UsageError, match=rf"reward\.{setting}"):
        grade("1", **{setting: value})


def test_the_command_line_reaches_it():
    config = compose_config(["reward=countdown_graded", "reward.max_distance=5"])
    node = config.reward
    assert isinstance(build_part("reward", dict(node)), GradedCountdownReward)
