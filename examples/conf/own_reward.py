"""A reward: an expression is right only if it needs no parentheses."""

from typing import Any

from insight_rl.errors import check
from insight_rl.reward.base import BaseReward
from insight_rl.reward.countdown import judge_countdown
from insight_rl.types import Completion, Prompt, Reward


class NoParentheses(BaseReward):
    bounded = True  # every call ends soon, so it needs no worker process with a deadline

    def __init__(self, *, near_miss: float) -> None:
        check(0 <= near_miss < 1, "reward.near_miss", near_miss, "must be from 0 to below 1")
        self.near_miss = near_miss

    def __call__(self, prompt: Prompt, completion: Completion) -> Reward:
        status = judge_countdown(completion.text, prompt.answer["numbers"], prompt.answer["target"])
        if status == "correct" and "(" in completion.text:
            return Reward(value=self.near_miss, success=False, status="wrong")
        return Reward(value=float(status == "correct"), success=status == "correct", status=status)

    def explain_unusable(self, answer: Any) -> str | None:
        is_usable = isinstance(answer, dict) and answer.keys() == {"numbers", "target"}
        return None if is_usable else 'it must be {"numbers": [3, 7], "target": 21}'
