"""Judges completions in the trainer's own process, for rewards that bound their own time (Countdown)."""

from __future__ import annotations

from collections.abc import Sequence

from insight_rl.reward.base import RewardFn
from insight_rl.types import Completion, Prompt, Reward


class InProcessJudge:
    """See :class:`~insight_rl.reward.base.Judge`; a reward that can hang belongs into a ``JudgeProcesses``."""

    def __init__(self, reward: RewardFn) -> None:
        self._reward = reward
        self._submitted: list[tuple[Prompt, Sequence[Completion]]] = []

    def submit(self, prompt: Prompt, completions_G: Sequence[Completion]) -> None:
        self._submitted.append((prompt, completions_G))

    def collect(self) -> list[tuple[Reward, ...]]:
        submitted, self._submitted = self._submitted, []
        return [tuple(self._reward(prompt, c) for c in completions_G) for prompt, completions_G in submitted]

    def close(self) -> None:
        self._submitted.clear()
