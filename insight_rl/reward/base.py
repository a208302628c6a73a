"""The seam of judging: a completion in, a :class:`~insight_rl.types.Reward` out. Knows nothing of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from insight_rl.types import Completion, Prompt, Reward


class RewardFn(Protocol):
    """Judges one completion. Its text is untrusted data: never evaluated, bounded in size, depth and time.

    Constructed by the config with keyword-only settings; must be picklable, since it may run in worker processes.
    """

    def __call__(self, prompt: Prompt, completion: Completion) -> Reward: ...


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
