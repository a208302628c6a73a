"""The seam of judging: a completion in, a :class:`~insight_rl.types.Reward` out. Knows nothing of training."""

from __future__ import annotations

from typing import Protocol

from insight_rl.types import Completion, Prompt, Reward


class RewardFn(Protocol):
    """Judges one completion. Its text is untrusted data: never evaluated, bounded in size, depth and time.

    Constructed by the config with keyword-only settings; must be picklable, since it may run in worker processes.
    """

    def __call__(self, prompt: Prompt, completion: Completion) -> Reward: ...
