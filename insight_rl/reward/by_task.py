"""``reward=by_task``: each prompt is judged by its own task's reward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from insight_rl.errors import UsageError, check
from insight_rl.reward.base import RewardFn, check_reward, check_start, longest_s
from insight_rl.types import Completion, Prompt, Reward


class ByTaskReward:
    """Dispatches on ``prompt.task``; ``reward_of_task`` maps a task's name to one of ``rewards``."""

    def __init__(self, *, rewards: Mapping[str, RewardFn], reward_of_task: Mapping[str, str]) -> None:
        for task, name in reward_of_task.items():
            key = f"reward.reward_of_task.{task}"
            check(name in rewards, key, name, f"must be one of reward.rewards: {', '.join(rewards)}")
        self._used = {name: rewards[name] for name in dict.fromkeys(reward_of_task.values())}
        for name, reward in self._used.items():
            check_reward(f"reward.rewards.{name}", reward)
        self._reward_of_task = {task: rewards[name] for task, name in reward_of_task.items()}
        self.bounded = all(reward.bounded for reward in self._used.values())
        modules = [module for reward in self._used.values() for module in reward.worker_modules]
        self.worker_modules = tuple(dict.fromkeys(modules))
        self.concurrency = min(getattr(reward, "concurrency", 1) for reward in self._used.values())
        self.deadline_s = longest_s(self._used.values())

    def __call__(self, prompt: Prompt, completion: Completion) -> Reward:
        reward = self._reward_of_task.get(prompt.task)
        if reward is None:
            raise UsageError(
                f"reward.reward_of_task: no reward for task {prompt.task}, only for {', '.join(self._reward_of_task)}; "
                f"add reward.reward_of_task.{prompt.task}=..."
            )
        return reward(prompt, completion)

    def check_start(self) -> None:
        for reward in self._used.values():
            check_start(reward, judge_deadline_s=math.inf)

    def explain_unusable(self, answer: Any) -> str | None:
        """``None`` if one of the rewards in use can judge against ``answer``, else the reason of each of them."""
        reasons = {name: reward.explain_unusable(answer) for name, reward in self._used.items()}
        if None in reasons.values():
            return None
        return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
