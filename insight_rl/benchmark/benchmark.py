"""A benchmark: held-out problems, the reward that judges them, and the field that its figures are split by."""

from __future__ import annotations

from insight_rl.errors import check
from insight_rl.reward.base import RewardFn
from insight_rl.task.base import Task
from insight_rl.types import Prompt


class Benchmark:
    """The test problems of ``task``, judged by ``reward``; ``group_by`` is a metadata field of its prompts, or None."""

    def __init__(self, *, task: Task, reward: RewardFn, group_by: str | None = None) -> None:
        check(hasattr(task, "test_prompts"), "benchmark.task", task, "must be a task")
        check(callable(reward), "benchmark.reward", reward, "must be a reward function")
        self.task = task
        self.reward = reward
        self.group_by = group_by

    def group_of(self, prompt: Prompt) -> str:
        """The group that ``prompt`` is counted in: the value of ``group_by``, or else the prompt's task."""
        return prompt.task if self.group_by is None else str(prompt.metadata.get(self.group_by, "none"))
