"""From a verdict to what the policy is trained on. Adds to a reward's ``value``; never touches ``success``.

A part of the shaping sees the reward as the parts before it left it and returns what it adds; every contribution is
kept under the part's name in ``Reward.parts``. A completion without a verdict is not shaped: it is not trained on.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from insight_rl.errors import check
from insight_rl.reward.base import RewardFn, check_reward, check_start, longest_s
from insight_rl.types import Completion, Prompt, Reward


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a verifier says about a response, and why.

    Example::

        Verdict(success=False, status="wrong", answer="17", stage="boxed")
    """

    success: bool | None
    status: str
    """correct | wrong | unparsable | no_answer | timeout | error."""
    answer: str = ""
    """What was taken for the answer."""
    stage: str = ""
    """How it was found."""
    reason: str = ""
    """Why there is no verdict."""

    def as_reward(self) -> Reward:
        """1 for a success, 0 otherwise."""
        value = float(self.success is True)
        return Reward(value=value, success=self.success, status=self.status, reason=self.reason)


class Shaping(Protocol):
    """One part. Constructed by the config with keyword-only settings; must be picklable."""

    name: str

    def __call__(self, prompt: Prompt, completion: Completion, reward: Reward) -> float:
        """What it adds to ``reward.value``."""
        ...


def shape(reward: Reward, prompt: Prompt, completion: Completion, parts: Sequence[Shaping]) -> Reward:
    """``reward`` with the contribution of every part, the verdict's own kept as ``verdict``."""
    if not reward.is_judged or not parts:
        return reward
    reward = dataclasses.replace(reward, parts={"verdict": reward.value})
    for part in parts:
        contribution = part(prompt, completion, reward)
        kept = {**reward.parts, part.name: reward.parts.get(part.name, 0.0) + contribution}
        reward = dataclasses.replace(reward, value=reward.value + contribution, parts=kept)
    return reward


class ShapedReward:
    """Any reward function with shaping on top, for those that take no ``shaping`` themselves."""

    def __init__(self, *, reward: RewardFn, shaping: Sequence[Shaping]) -> None:
        check_reward("reward.reward", reward)
        self._reward = reward
        self._shaping = tuple(shaping)
        self.bounded = reward.bounded
        self.worker_modules = reward.worker_modules
        self.concurrency = getattr(reward, "concurrency", 1)
        self.deadline_s = longest_s([reward])

    def __call__(self, prompt: Prompt, completion: Completion) -> Reward:
        return shape(self._reward(prompt, completion), prompt, completion, self._shaping)

    def check_start(self) -> None:
        check_start(self._reward, judge_deadline_s=math.inf)

    def explain_unusable(self, answer: Any) -> str | None:
        return self._reward.explain_unusable(answer)


class FormatBonus:
    """``weight`` for a response in which ``pattern`` occurs, e.g. a box, or reasoning that was closed."""

    name: ClassVar[str] = "format"

    def __init__(self, *, pattern: str = r"\\boxed\{[^{}]", weight: float = 0.1) -> None:
        try:
            self._pattern = re.compile(pattern)
        except re.error as error:
            check(False, "reward.shaping.pattern", pattern, f"is no regular expression: {error}")
        self._weight = weight

    def __call__(self, prompt: Prompt, completion: Completion, reward: Reward) -> float:
        return self._weight if self._pattern.search(completion.text) else 0.0


class OverlongPenalty:
    """DAPO's soft punishment of long completions (arXiv 2503.14476, equation 13), times ``weight``.

    0 up to ``max_tokens - buffer_tokens``, falling linearly to -1 at ``max_tokens``, -1 beyond.
    """

    name: ClassVar[str] = "overlong"

    def __init__(self, *, max_tokens: int, buffer_tokens: int, weight: float = 1.0) -> None:
        check(max_tokens >= 1, "reward.shaping.max_tokens", max_tokens, "must be at least 1")
        check(
            1 <= buffer_tokens <= max_tokens,
            "reward.shaping.buffer_tokens",
            buffer_tokens,
            f"must be from 1 to max_tokens={max_tokens}",
        )
        self._free_tokens = max_tokens - buffer_tokens
        self._buffer_tokens = buffer_tokens
        self._weight = weight

    def __call__(self, prompt: Prompt, completion: Completion, reward: Reward) -> float:
        excess = len(completion.token_ids) - self._free_tokens
        return -self._weight * min(max(excess / self._buffer_tokens, 0.0), 1.0)


class TruncationMask:
    """A truncated completion is worth ``value``, whatever the parts before this one gave it; so it comes last.

    Its ``success`` stands: the verifier's verdict feeds the belief. To leave truncated completions out of the loss
    altogether, set ``algorithm.mask_truncated``.
    """

    name: ClassVar[str] = "truncation"

    def __init__(self, *, value: float = 0.0) -> None:
        self._value = value

    def __call__(self, prompt: Prompt, completion: Completion, reward: Reward) -> float:
        return self._value - reward.value if completion.is_truncated else 0.0
