"""What both judges promise, whatever the reward does: InProcessJudge and JudgeProcesses."""

from __future__ import annotations

import pytest

from insight_rl.errors import RunStopped, UsageError
from insight_rl.reward.base import BaseReward
from insight_rl.reward.judge import InProcessJudge
from insight_rl.reward.judge_processes import JudgeProcesses
from insight_rl.types import Completion, Prompt, Reward


class Scripted(BaseReward):
    """Does what the completion says."""

    def __call__(self, prompt, completion):
        word, _, argument = completion.text.partition(" ")
        if word == "raise":
            raise {"value": ValueError, "usage": UsageError, "memory": MemoryError, "stack": RecursionError}[argument](
                "so it is"
            )
        if word == "return":
            return None
        success = completion.text == prompt.answer
        return Reward(
            value=float(success) + 0.5,
            success=success,
            status="correct" if success else "wrong",
            parts={"bonus": 0.5},
            reason=f"{completion.finish_reason} {completion.policy_version} {len(completion.token_ids)}",
        )


@pytest.fixture(params=["in_process", "processes"])
def make_judge(request):
    opened = []

    def make(**settings):
        if request.param == "in_process":
            opened.append(InProcessJudge(Scripted(), **settings))
        else:
            opened.append(JudgeProcesses(Scripted(), num_workers=1, deadline_s=60.0, **settings))
        return opened[-1]

    yield make
    for judge in opened:
        judge.close()


def prompt(answer):
    return Prompt(id=answer, task="t", text="?", token_ids=(1, 2), answer=answer)


def completions(*texts):
    return [
        Completion(token_ids=(1, 2, 3), logprobs=(0.0,) * 3, text=text, finish_reason="length", policy_version=7)
        for text in texts
    ]


def test_rewards_come_whole_and_in_the_order_of_submission(make_judge):
    judge = make_judge()
    for answer in "abcdef":
        judge.submit(prompt(answer), completions("a", "c"))
    collected = judge.collect()
    assert [[reward.success for reward in group] for group in collected] == [
        [answer == "a", answer == "c"] for answer in "abcdef"
    ]
    expected = Reward(value=1.5, success=True, status="correct", parts={"bonus": 0.5}, reason="length 7 3")
    assert collected[0][0] == expected
    assert judge.collect() == []


def test_an_exception_of_the_reward_is_an_error_and_the_others_are_judged(make_judge):
    judge = make_judge()
    texts = ("a", "raise value", "raise usage", "raise memory", "raise stack", "return none", "a")
    judge.submit(prompt("a"), completions(*texts))
    (rewards,) = judge.collect()
    assert [reward.status for reward in rewards] == ["correct", *["error"] * 5, "correct"]
    assert all(reward.success is None and reward.value == 0 for reward in rewards[1:6])
    reasons = ["ValueError: so it is", "so it is", "MemoryError", "RecursionError: so it is", "NoneType, not Reward"]
    for reward, reason in zip(rewards[1:6], reasons, strict=True):
        assert reason in reward.reason


def test_too_many_without_a_verdict_stop_the_run_with_key_and_reason(make_judge):
    judge = make_judge(max_unjudged_fraction=0.2)
    judge.submit(prompt("a"), completions(*("raise value" if index % 10 == 0 else "a" for index in range(100))))
    assert sum(not reward.is_judged for reward in judge.collect()[0]) == 10
    judge.submit(prompt("a"), completions(*["raise value"] * 40))
    with pytest.raises(RunStopped, match=r"judge.max_unjudged_fraction=0.2: .* x error: ValueError: so it is; test"):
        judge.collect()


def test_a_reward_that_never_judges_stops_the_run_before_the_window_is_full(make_judge):
    judge = make_judge(max_unjudged_fraction=0.2)
    judge.submit(prompt("a"), completions(*["raise value"] * 20))
    with pytest.raises(RunStopped, match="13 of the last 13 completions"):
        judge.collect()


def test_the_alarm_can_be_switched_off_and_its_setting_is_checked(make_judge):
    judge = make_judge(max_unjudged_fraction=1.0)
    judge.submit(prompt("a"), completions(*["raise value"] * 100))
    assert not any(reward.is_judged for reward in judge.collect()[0])
    with pytest.raises(UsageError, match=r"judge\.max_unjudged_fraction=0"):
        make_judge(max_unjudged_fraction=0)


def test_empty_groups_keep_their_place(make_judge):
    judge = make_judge()
    judge.submit(prompt("a"), [])
    judge.submit(prompt("a"), completions("a"))
    assert [len(group) for group in judge.collect()] == [0, 1]
