"""``reward=reasoning_gym``: the verifier that reasoning-gym brings with each of its generators, from 0 to 1.

The value is the library's score, the success is a score of 1. Only the scorers that
:mod:`insight_rl.reward.reasoning_gym_review` allows are called; Countdown is judged by our own parser.

The answer is searched as in :mod:`insight_rl.reward.countdown`: the last ``<answer>`` tags after the reasoning; without
tags style ``bare`` takes the whole text and style ``chat`` says ``no_answer``.

Library: https://github.com/open-thought/reasoning-gym
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from insight_rl.errors import UsageError, check
from insight_rl.reward.base import BaseReward
from insight_rl.reward.countdown import CountdownReward, extract_answer
from insight_rl.reward.reasoning_gym_review import COUNTDOWN, check_generator, check_installed
from insight_rl.types import PROMPT_STYLES, Completion, Prompt, Reward

MAX_LENGTH = 10_000
"""Characters of an answer, outer blanks not counted; a longer one is unparsable."""


class ReasoningGymReward(BaseReward):
    """The score of the generator's own scorer for the answer in a completion.

    ``Prompt.answer`` is ``{"generator": "chain_sum", "answer": "17"}``, or for Countdown ``{"generator": "countdown",
    "numbers": [3, 7, 1], "target": 24}``; another form raises ``UsageError``. ``format_value`` is the value of a
    well-formed wrong expression in Countdown.
    """

    worker_modules = ("reasoning_gym",)
    """It takes seconds to import."""

    def __init__(self, *, style: str, format_value: float) -> None:
        check(style in PROMPT_STYLES, "reward.style", style, f"use one of {', '.join(PROMPT_STYLES)}")
        check_installed("reward")
        self._style = style
        self._countdown = CountdownReward(style=style, format_value=format_value, allow_latex=False)

    def __call__(self, prompt: Prompt, completion: Completion) -> Reward:
        generator, right = _read(prompt.answer)
        if generator == COUNTDOWN:
            return self._countdown(prompt, completion)
        answer = extract_answer(completion.text, style=self._style, allow_latex=False)
        if answer is None or not (answer := answer.strip()):
            return Reward(value=0.0, success=False, status="no_answer")
        if len(answer) > MAX_LENGTH:
            return Reward(value=0.0, success=False, status="unparsable")
        score = float(_scorer(generator)(answer, {"answer": right}))
        if not 0 <= score <= 1:
            raise ValueError(f"the scorer of {generator} gave {score}, which is not from 0 to 1")
        success = score == 1
        return Reward(value=score, success=success, status="correct" if success else "wrong")

    def explain_unusable(self, answer: Any) -> str | None:
        try:
            generator, _ = _read(answer)
        except UsageError as error:
            return str(error)
        return self._countdown.explain_unusable(answer) if generator == COUNTDOWN else None


def _read(answer: Any) -> tuple[str, str]:
    """Generator and right answer (empty for Countdown) of a ``Prompt.answer``; ``UsageError`` for any other form."""
    if not isinstance(answer, Mapping) or "generator" not in answer:
        raise UsageError(f'answer {answer!r}: needs the form {{"generator": "chain_sum", "answer": "17"}}')
    generator = check_generator("answer.generator", answer["generator"])
    if generator == COUNTDOWN:
        return generator, ""
    right = answer.get("answer")
    if not isinstance(right, str) or right.strip() == "":
        raise UsageError(f"answer.answer={right!r}: must be the right answer as text")
    check(len(right) <= MAX_LENGTH, "answer.answer", f"{right[:20]}...", f"has more than {MAX_LENGTH} characters")
    return generator, right


@functools.cache
def _scorer(generator: str) -> Callable[[str, dict[str, Any]], float]:
    from reasoning_gym.factory import get_score_answer_fn

    return get_score_answer_fn(check_generator("generator", generator))
