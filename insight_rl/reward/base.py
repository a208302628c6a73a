"""The interfaces of judging: :class:`RewardFn` judges one completion, :class:`Judge` applies it to groups of them.

A reward of your own derives from :class:`BaseReward`; docs/rewards.md has a complete example.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from insight_rl.errors import UsageError, check
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
    concurrency: int = 1
    """How many completions a worker process may judge at once, in threads: more than 1 for a reward that waits."""
    deadline_s: float | None = None
    """Seconds that one verdict may take by the reward's own count; ``judge.deadline_s`` must not be less."""

    def explain_unusable(self, answer: Any) -> str | None:
        return None

    def check_start(self) -> None:
        """Look once, before a model loads, at what it depends on, e.g. a server. Raises ``UsageError``."""


def check_start(reward: RewardFn, *, judge_deadline_s: float) -> None:
    """Have ``reward`` look at what it depends on, if it depends on anything, before a model loads.

    Raises ``UsageError`` for what the user can mend, and for a ``judge.deadline_s`` in which it cannot judge.
    """
    needed_s = longest_s([reward])
    if needed_s is not None:
        remedy = (
            f"the reward may take {needed_s:g} s for one verdict; set judge.deadline_s={needed_s:g}, or lower its own"
        )
        check(judge_deadline_s >= needed_s, "judge.deadline_s", judge_deadline_s, remedy)
    look = getattr(reward, "check_start", None)
    if look is not None:
        look()


def longest_s(rewards: Iterable[RewardFn]) -> float | None:
    """The longest ``deadline_s`` among ``rewards``; ``None`` if none of them has one."""
    seconds = [getattr(reward, "deadline_s", None) for reward in rewards]
    return max((each for each in seconds if each is not None), default=None)


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
