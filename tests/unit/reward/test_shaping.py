"""Each part of the shaping adds what it says, under its own name, and leaves the verdict alone."""

from __future__ import annotations

import pytest

from insight_rl.errors import UsageError
from insight_rl.reward.base import BaseReward
from insight_rl.reward.shaping import FormatBonus, OverlongPenalty, ShapedReward, TruncationMask, Verdict, shape
from insight_rl.types import Completion, Prompt, Reward

PROMPT = Prompt(id="p", task="t", text="?", token_ids=(1,), answer="1")
RIGHT = Reward(value=1.0, success=True, status="correct")
WRONG = Reward(value=0.0, success=False, status="wrong")
UNJUDGED = Reward(value=0.0, success=None, status="timeout")


def completion(text="x", *, num_tokens=3, truncated=False):
    return Completion(
        token_ids=(7,) * num_tokens,
        logprobs=(0.0,) * num_tokens,
        text=text,
        finish_reason="length" if truncated else "stop",
        policy_version=0,
    )


@pytest.mark.parametrize(
    ("num_tokens", "penalty"), [(0, 0.0), (60, 0.0), (61, -0.025), (80, -0.5), (100, -1.0), (101, -1.0), (500, -1.0)]
)
def test_overlong_penalty_follows_dapo(num_tokens, penalty):
    part = OverlongPenalty(max_tokens=100, buffer_tokens=40)
    assert part(PROMPT, completion(num_tokens=num_tokens), RIGHT) == pytest.approx(penalty)
    doubled = OverlongPenalty(max_tokens=100, buffer_tokens=40, weight=2.0)
    assert doubled(PROMPT, completion(num_tokens=num_tokens), RIGHT) == pytest.approx(2 * penalty)


def test_format_bonus_by_pattern():
    assert FormatBonus(weight=0.2)(PROMPT, completion("so \\boxed{3}"), WRONG) == 0.2
    assert FormatBonus(weight=0.2)(PROMPT, completion("so \\boxed{}"), WRONG) == 0.0
    assert FormatBonus(pattern="</think>")(PROMPT, completion("<think>a</think>b"), WRONG) == 0.1


def test_parts_add_up_in_order_and_success_stands():
    parts = [FormatBonus(weight=0.2), OverlongPenalty(max_tokens=4, buffer_tokens=4)]
    shaped = shape(RIGHT, PROMPT, completion("\\boxed{1}", num_tokens=2), parts)
    assert shaped.parts == {"verdict": 1.0, "format": 0.2, "overlong": -0.5}
    assert shaped.value == pytest.approx(sum(shaped.parts.values()))
    assert (shaped.success, shaped.status) == (True, "correct")


@pytest.mark.parametrize("reward", [RIGHT, WRONG])
def test_a_truncated_completion_is_worth_the_masks_value_and_keeps_its_verdict(reward):
    parts = [FormatBonus(weight=0.2), TruncationMask(value=-0.3)]
    shaped = shape(reward, PROMPT, completion("\\boxed{1}", truncated=True), parts)
    assert shaped.value == pytest.approx(-0.3)
    assert shaped.success is reward.success
    assert shape(reward, PROMPT, completion("\\boxed{1}"), parts).value == pytest.approx(reward.value + 0.2)


def test_what_was_not_judged_is_not_shaped():
    assert shape(UNJUDGED, PROMPT, completion("\\boxed{1}"), [FormatBonus()]) is UNJUDGED


def test_a_part_given_twice_is_logged_as_their_sum():
    shaped = shape(WRONG, PROMPT, completion("ab"), [FormatBonus(pattern="a"), FormatBonus(pattern="b", weight=0.5)])
    assert shaped.parts["format"] == pytest.approx(0.6)


class NeedsNumber(BaseReward):
    bounded = True
    worker_modules = ("json",)

    def __call__(self, prompt, completion):
        return WRONG

    def explain_unusable(self, answer):
        return None if answer.isdigit() else "no number"


def test_shaped_reward_keeps_what_it_wraps():
    reward = ShapedReward(reward=NeedsNumber(), shaping=[FormatBonus(pattern="x")])
    assert reward(PROMPT, completion("x")).value == pytest.approx(0.1)
    assert reward.bounded is True
    assert reward.worker_modules == ("json",)
    assert reward.explain_unusable("12") is None
    assert reward.explain_unusable("twelve") == "no number"


def test_what_is_no_reward_is_told_what_it_lacks():
    with pytest.raises(UsageError, match=r"reward.reward=function: .*no bounded, worker_modules, explain_unusable; "):
        ShapedReward(reward=lambda prompt, completion: WRONG, shaping=[])


def test_a_verdict_becomes_a_reward():
    assert Verdict(success=True, status="correct").as_reward() == RIGHT
    error = Verdict(success=None, status="error", reason="no gold").as_reward()
    assert (error.value, error.success, error.reason) == (0.0, None, "no gold")


@pytest.mark.parametrize(
    "make",
    [
        lambda: OverlongPenalty(max_tokens=0, buffer_tokens=1),
        lambda: OverlongPenalty(max_tokens=10, buffer_tokens=11),
        lambda: OverlongPenalty(max_tokens=10, buffer_tokens=0),
        lambda: FormatBonus(pattern="("),
    ],
)
def test_bad_settings_are_refused(make):
    with pytest.raises(UsageError, match=r"reward\.shaping"):
        make()
