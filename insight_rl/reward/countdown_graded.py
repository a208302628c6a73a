"""Countdown with partial credit: a grade in [0, 1] for how near an expression comes to the target.

    right                                      1
    every number exactly once, not the target  partial_value max(0, 1 - |value - target| / max_distance)
    anything else                              0

``success`` is the same verdict as that of ``reward=countdown``, and so is all that is read
(:mod:`insight_rl.reward.countdown`). With `selector.evidence=value` the grades are what the beliefs count.
"""

from __future__ import annotations

from fractions import Fraction

from insight_rl.errors import check, is_number
from insight_rl.reward.base import BaseReward
from insight_rl.reward.countdown import CountdownReward, evaluate_answer, read_problem
from insight_rl.types import Completion, Prompt, Reward


class GradedCountdownReward(BaseReward):
    """Grades for near misses. Example: with the defaults, ``7*3`` for the target 24 is worth 0.5 (1 - 3/10) = 0.35."""

    bounded = True

    def __init__(self, *, style: str, partial_value: float, max_distance: float, allow_latex: bool) -> None:
        check(
            is_number(partial_value) and 0 <= partial_value < 1,
            "reward.partial_value",
            partial_value,
            "use a number from 0 to below 1, so that a wrong answer never pays as much as a right one",
        )
        check(
            is_number(max_distance) and max_distance > 0,
            "reward.max_distance",
            max_distance,
            "use a number above 0: the distance to the target from which on nothing is paid",
        )
        self._exact = CountdownReward(style=style, format_value=0.0, allow_latex=allow_latex)
        self._partial_value, self._max_distance = float(partial_value), max_distance

    def __call__(self, prompt: Prompt, completion: Completion) -> Reward:
        reward = self._exact(prompt, completion)
        if reward.status != "wrong":
            return reward
        numbers, target = read_problem(prompt.answer)
        evaluated = evaluate_answer(completion.text, style=self._exact.style, allow_latex=self._exact.allow_latex)
        assert not isinstance(evaluated, str)  # only what was evaluated is wrong
        value, used = evaluated
        if value is None or sorted(used) != sorted(numbers):
            return reward
        # Compared as exact numbers first: a huge fraction would not fit in a float.
        distance = abs(Fraction(value) - target)
        if distance >= self._max_distance:
            return reward
        grade = self._partial_value * (1.0 - float(distance) / self._max_distance)
        return Reward(value=grade, success=False, status="wrong", parts={"partial": grade})

    def explain_unusable(self, answer: object) -> str | None:
        return self._exact.explain_unusable(answer)
