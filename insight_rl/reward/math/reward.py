"""``reward=math``: whether a response answers a mathematical question correctly.

The text after the reasoning is searched for an answer by the stages of :mod:`~insight_rl.reward.math.extract`; the
answer is compared with the gold by value (:mod:`~insight_rl.reward.math.compare`) and, where that cannot tell, by
math-verify. Comparing by value is bounded in time and decides nearly all answers; algebra is not, so run this reward in
a :class:`~insight_rl.reward.judge_processes.JudgeProcesses`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from insight_rl.errors import check
from insight_rl.reward.math.errors import AlgebraError
from insight_rl.reward.math.extract import Extraction, Stages, extract
from insight_rl.reward.math.judge import is_same_text, judge_answer
from insight_rl.reward.shaping import Shaping, Verdict
from insight_rl.reward.verifier import Verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldAnswer:
    """The acceptable answers of a problem.

    Example::

        GoldAnswer(texts=("\\\\frac{1}{2}", "0.5"), tolerance=0.0)
    """

    texts: tuple[str, ...]
    tolerance: float = 0.0
    """Largest relative difference from a numeric gold, where the data set states one."""


def read_gold(answer: Any, *, tolerance: float = 0.0) -> GoldAnswer:
    """The forms a data set may give: text, a number, a list of acceptable ones, or
    ``{"gold": <any of these>, "tolerance": 0.01}``.

    Raises ``UsageError`` for anything else.
    """
    if isinstance(answer, Mapping):
        check("gold" in answer, "answer", dict(answer), 'must have the key "gold"')
        given = answer.get("tolerance", tolerance)
        is_number = isinstance(given, (int, float)) and not isinstance(given, bool)
        check(is_number and 0 <= given < 1, "answer.tolerance", given, "must be a number from 0 to below 1")
        return GoldAnswer(texts=_texts(answer["gold"]), tolerance=float(given))
    return GoldAnswer(texts=_texts(answer), tolerance=tolerance)


def _texts(gold: Any) -> tuple[str, ...]:
    options = list(gold) if isinstance(gold, (list, tuple)) else [gold]
    for option in options:
        is_text = isinstance(option, (str, int, float)) and not isinstance(option, bool)
        check(is_text, "answer", gold, "must be text, a number or a list of these")
        is_number = str(option).strip().lower() != "nan" and (isinstance(option, str) or math.isfinite(option))
        check(is_number, "answer", gold, "is no number: mend the row that it comes from")
    check(len(options) > 0, "answer", gold, "must name at least one acceptable answer")
    return tuple(str(option) for option in options)


class MathReward(Verifier[GoldAnswer]):
    """1 for an answer equal to one of the golds, 0 otherwise. See the module and ``docs/rewards.md`` for the rules."""

    worker_modules = ("insight_rl.reward.math.algebra",)
    """What a worker imports before its clock starts."""

    def __init__(
        self,
        *,
        boxed: bool = True,
        announced: bool = True,
        last_expression: bool = True,
        tolerance: float = 0.0,
        max_response_chars: int = 100_000,
        shaping: Sequence[Shaping] = (),
    ) -> None:
        super().__init__(max_response_chars=max_response_chars, shaping=shaping)
        check(boxed or announced or last_expression, "reward.boxed", boxed, "switch on at least one stage")
        check(0 <= tolerance < 1, "reward.tolerance", tolerance, "must be from 0 to below 1")
        self._stages = Stages(boxed=boxed, announced=announced, last_expression=last_expression)
        self._tolerance = tolerance

    def read_gold(self, answer: Any) -> GoldAnswer:
        return read_gold(answer, tolerance=self._tolerance)

    def judge_text(self, text: str, gold: GoldAnswer) -> Verdict:
        if self._stages.last_expression and any(is_same_text(option, text) for option in gold.texts):
            return Verdict(success=True, status="correct", answer=text.strip(), stage="last_expression")
        found = extract(text, self._stages)
        if found is None:
            return Verdict(success=False, status="no_answer")
        if any(is_same_text(option, found.whole) for option in gold.texts):
            return Verdict(success=True, status="correct", answer=found.whole, stage=found.stage)
        verdict = self._compare(gold, found)
        if verdict.status == "unparsable" and found.stage == "boxed":
            # A sentence in a box.
            inner = extract(found.answer, self._stages._replace(boxed=False))
            return verdict if inner is None else self._compare(gold, inner)
        return verdict

    @staticmethod
    def _compare(gold: GoldAnswer, found: Extraction) -> Verdict:
        """The best verdict over the golds."""
        is_read = False
        failure = ""
        for option in gold.texts:
            try:
                verdict = judge_answer(option, found.answer, gold.tolerance)
            except AlgebraError as error:
                failure = str(error)
                continue
            if verdict:
                return Verdict(success=True, status="correct", answer=found.answer, stage=found.stage)
            is_read |= verdict is False
        if failure:
            return Verdict(success=None, status="error", answer=found.answer, stage=found.stage, reason=failure)
        status = "wrong" if is_read else "unparsable"
        return Verdict(success=False, status=status, answer=found.answer, stage=found.stage)
