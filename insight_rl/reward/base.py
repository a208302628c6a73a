"""The interfaces of judging: :class:`RewardFn` judges one completion, :class:`Judge` applies it to groups of them.

A reward of your own derives from :class:`BaseReward`; docs/rewards.md has a complete example.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from insight_rl.errors import UsageError
from insight_rl.types import Completion, Prompt, Reward


class RewardFn(Protocol):
    """Judges one completion. Its text is untrusted data: never evaluated, bounded in size, depth and time.

    Constructed by the config with keyword-only settings; must be picklable, since it may run in worker processes.
    """

    @property
    def bounded(self) -> bool:
        """Whether every call ends soon whatever the text is; then it may run in the trainer's own process."""
        ...

    @property
    def worker_modules(self) -> Sequence[str]:
        """Modules that a worker process imports before the deadline of its first verdict starts."""
        ...

    def __call__(self, prompt: Prompt, completion: Completion) -> Reward:
        """The reward of ``completion``. Raises ``UsageError`` for a ``prompt.answer`` it cannot judge against."""
        ...

    def explain_unusable(self, answer: Any) -> str | None:
        """Why no completion can be judged against this ``Prompt.answer``; ``None`` if it can be.

        Cheap: called for many prompts when the pool opens, before a model loads.
        """
        ...


class BaseReward:
    """The defaults of a :class:`RewardFn`: judged in worker processes, any answer is usable.

    Example::

        class EndsWithAnswer(BaseReward):
            bounded = True

            def __call__(self, prompt: Prompt, completion: Completion) -> Reward:
                success = completion.text.strip().endswith(prompt.answer)
                return Reward(value=float(success), success=success, status="correct" if success else "wrong")
    """

    bounded: bool = False
    worker_modules: Sequence[str] = ()

    def explain_unusable(self, answer: Any) -> str | None:
        return None


def check_reward(key: str, reward: object) -> None:
    """Raise a ``UsageError`` that names what ``reward``, the object at ``key``, lacks to be a :class:`RewardFn`."""
    lacking = [name for name in ("bounded", "worker_modules", "explain_unusable") if not hasattr(reward, name)]
    if not callable(reward):
        lacking.append("__call__")
    if lacking:
        raise UsageError(
            f"{key}={type(reward).__qualname__}: is no reward, it has no {', '.join(lacking)}; derive it from "
            "insight_rl.reward.base.BaseReward"
        )


class Judge(Protocol):
    """Applies a reward function to groups of completions, in this process or in worker processes."""

    def submit(self, prompt: Prompt, completions_G: Sequence[Completion]) -> None:
        """Hand over a group as soon as it is generated; judging may begin while others are still generated."""
        ...

    def collect(self) -> list[tuple[Reward, ...]]:
        """The rewards of every group submitted since the last call, in the order of submission."""
        ...

    def close(self) -> None:
        """End every worker process."""
        ...
