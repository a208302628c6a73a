"""``reward=reasoning_gym``: verdicts on answers to the problems of reasoning-gym.

:mod:`insight_rl.reward.reasoning_gym_review` says who judges a generator's answers: the library's scorer, whose score
from 0 to 1 is the value and whose 1 is a success, or a rule of ours, whose value is 1 or 0. Countdown goes to
:mod:`insight_rl.reward.countdown`.

The answer is searched as in :mod:`insight_rl.reward.countdown`: the last ``<answer>`` tags after the reasoning; without
tags style ``bare`` takes the whole text and style ``chat`` says ``no_answer``. An answer with digits of other scripts
than ASCII is unparsable where the right one is ASCII: Python's numbers would read them.

Library: https://github.com/open-thought/reasoning-gym
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from insight_rl.errors import UsageError, check
from insight_rl.reward.base import BaseReward
from insight_rl.reward.countdown import CountdownReward, extract_answer
from insight_rl.reward.reasoning_gym_answers import MAX_LENGTH, RULES
from insight_rl.reward.reasoning_gym_puzzles import FIELDS as PUZZLE_FIELDS
from insight_rl.reward.reasoning_gym_puzzles import RULES as PUZZLE_RULES
from insight_rl.reward.reasoning_gym_review import COUNTDOWN, check_generator, check_installed
from insight_rl.types import PROMPT_STYLES, Completion, Prompt, Reward


class ReasoningGymReward(BaseReward):
    """The verdict on the answer in a completion, by the generator's scorer or by a rule of ours.

    ``Prompt.answer`` is ``{"generator": "chain_sum", "answer": "17"}``; for puzzles with several right answers also
    ``"puzzle"``, those fields of the metadata that the rule needs; for Countdown it is ``{"generator": "countdown",
    "numbers": [3, 7, 1], "target": 24}``. Another form raises ``UsageError``. ``format_value`` is the value of a
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
        if len(answer) > MAX_LENGTH or _has_foreign_digits(answer, right):
            return Reward(value=0.0, success=False, status="unparsable")
        score = _score(generator, answer, right, prompt.answer)
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
    fields, puzzle = PUZZLE_FIELDS.get(generator, ()), answer.get("puzzle", {})
    is_whole = isinstance(puzzle, Mapping) and set(puzzle) == set(fields)
    check(is_whole, "answer.puzzle", puzzle, f"{generator} needs exactly {', '.join(fields) or 'none'}")
    return generator, right


def _score(generator: str, answer: str, right: str, whole: Mapping[str, Any]) -> float:
    if generator in RULES:
        return float(RULES[generator](answer, right))
    if generator in PUZZLE_RULES:
        return float(PUZZLE_RULES[generator](answer, right, whole["puzzle"]))
    return float(_scorer(generator)(answer, {"answer": right}))


def _has_foreign_digits(answer: str, right: str) -> bool:
    return not answer.isascii() and right.isascii() and any(c.isdigit() and not c.isascii() for c in answer)


@functools.cache
def _scorer(generator: str) -> Callable[[str, dict[str, Any]], float]:
    from reasoning_gym.factory import get_score_answer_fn

    return get_score_answer_fn(check_generator("generator", generator))
