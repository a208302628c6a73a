"""Problems with a free answer: how their rows are read, and what the model is asked to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from insight_rl.errors import check
from insight_rl.reward.extract import boxed
from insight_rl.task.problem import NoAnswer, Problem, field_names, first_value, required_text
from insight_rl.task.rows import Row


class MathRows:
    """A question and its gold answer.

    ``answer`` fields hold text, a number, or a list of acceptable ones. After ``answer_marker`` (GSM8K's ``####``) only
    the rest counts. A row without any of them is answered by the last box of its ``solution`` (MATH). ``context`` goes
    before the question; ``unit`` and ``absolute_error`` are OlympiadBench's: what the answer is measured in, and how
    far a numeric one may be off.
    """

    instruction = (
        "Think it through step by step. Then write the final answer, and nothing but the answer, inside \\boxed{}."
    )

    def __init__(
        self,
        *,
        question: Sequence[str] = ("problem", "question"),
        answer: Sequence[str] = ("answer",),
        answer_marker: str | None = None,
        solution: Sequence[str] = (),
        context: Sequence[str] = (),
        unit: Sequence[str] = (),
        absolute_error: Sequence[str] = (),
    ) -> None:
        check(
            answer_marker is None or answer_marker != "", "task.rows.answer_marker", answer_marker, "use text or null"
        )
        self._question = field_names("task.rows.question", question)
        self._answer = field_names("task.rows.answer", answer)
        self._marker = answer_marker
        self._solution = field_names("task.rows.solution", solution, may_be_empty=True)
        self._context = field_names("task.rows.context", context, may_be_empty=True)
        self._unit = field_names("task.rows.unit", unit, may_be_empty=True)
        self._absolute_error = field_names("task.rows.absolute_error", absolute_error, may_be_empty=True)

    @property
    def fields(self) -> tuple[str, ...]:
        return (
            *self._question,
            *self._answer,
            *self._solution,
            *self._context,
            *self._unit,
            *self._absolute_error,
        )

    def problem(self, row: Row) -> Problem:
        question = required_text(row, self._question)
        context, unit = (_optional_text(row, names) for names in (self._context, self._unit))
        parts = [context, question, f"Give the answer in the unit {unit}." if unit else ""]
        answer = self._gold(row)
        error = _optional_text(row, self._absolute_error)
        if error:
            answer = _with_tolerance(answer, error)
        return Problem(question="\n\n".join(part for part in parts if part), answer=answer)

    def _gold(self, row: Row) -> Any:
        if self._solution and not any(name in row for name in self._answer):
            boxes = boxed(required_text(row, self._solution))
            if not boxes:
                raise NoAnswer("its solution has no box")
            return boxes[-1].content
        value = first_value(row, self._answer)
        golds = [_gold_text(gold, self._marker) for gold in value] if isinstance(value, list) else None
        if golds == [] or value is None:
            raise NoAnswer(f"{self._answer[0]} is empty")
        if golds is None:
            return _gold_text(value, self._marker)
        return golds[0] if len(golds) == 1 else golds


def _gold_text(value: Any, marker: str | None) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"answer={str(value)[:60]!r} is no text, number or list of these")
    text = str(value).strip()
    if text.lower() == "nan" or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"answer={text} is no number")
    if marker is not None and marker in text:
        text = text.rpartition(marker)[2].strip()
    if text == "":
        raise NoAnswer("the answer is empty")
    return text


def _optional_text(row: Row, names: Sequence[str]) -> str:
    value = next((row[name] for name in names if row.get(name) is not None), "")
    return str(value).strip()


def _with_tolerance(answer: Any, error: str) -> Any:
    """The reward takes tolerances relative to the gold. A gold that is no number, or near zero, is left exact."""
    try:
        gold, allowed = float(str(answer).strip("$ ")), float(error)
    except ValueError:
        return answer
    if not (math.isfinite(gold) and 0 < allowed < abs(gold)):
        return answer
    return {"gold": answer, "tolerance": allowed / abs(gold)}
