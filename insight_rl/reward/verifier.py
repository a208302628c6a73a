"""What rewards share that compare the answer in a response with a gold answer: settings, checks, shaping."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from insight_rl.errors import UsageError, check
from insight_rl.reward.base import BaseReward
from insight_rl.reward.extract import final_text
from insight_rl.reward.shaping import Shaping, Verdict, shape
from insight_rl.types import Completion, Prompt, Reward

Gold = TypeVar("Gold")


class Verifier(BaseReward, ABC, Generic[Gold]):
    """1 for a right answer, 0 otherwise, plus shaping. A subclass says what a gold is and what a text answers."""

    def __init__(self, *, max_response_chars: int, shaping: Sequence[Shaping]) -> None:
        check(max_response_chars >= 100, "reward.max_response_chars", max_response_chars, "must be at least 100")
        self._max_response_chars = max_response_chars
        self._shaping = tuple(shaping)

    @abstractmethod
    def read_gold(self, answer: Any) -> Gold:
        """What ``Prompt.answer`` says. Raises ``UsageError`` if it cannot be used."""

    @abstractmethod
    def judge_text(self, text: str, gold: Gold) -> Verdict:
        """The verdict on the part of a response that may answer (see :func:`~insight_rl.reward.extract.final_text`)."""

    def judge(self, response: str, answer: Any, *, prompt: str = "") -> Verdict:
        """The verdict on a response; ``prompt`` is used to recognise where the response only repeats it."""
        try:
            gold = self.read_gold(answer)
        except UsageError as error:
            return Verdict(success=None, status="error", reason=str(error))
        return self.judge_text(final_text(response, prompt=prompt, max_chars=self._max_response_chars), gold)

    def __call__(self, prompt: Prompt, completion: Completion) -> Reward:
        verdict = self.judge(completion.text, prompt.answer, prompt=prompt.text)
        return shape(verdict.as_reward(), prompt, completion, self._shaping)

    def explain_unusable(self, answer: Any) -> str | None:
        try:
            self.read_gold(answer)
        except UsageError as error:
            return str(error)
        return None
