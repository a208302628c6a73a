"""Problems with options to choose from: how their rows are read, and what the model is asked."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from typing import Any

from insight_rl.errors import check
from insight_rl.seeding import derive_seed
from insight_rl.task.problem import NoAnswer, Problem, field_names, first_value, required_text
from insight_rl.task.rows import Row

LETTERS = string.ascii_uppercase


class MultipleChoiceRows:
    """A question, its options and the right one.

    Either ``choices`` is a list and ``answer`` its index, a letter, or the text of an option; or ``correct`` and
    ``incorrect`` are fields of one option each (GPQA), put into an order that depends on ``shuffle_seed`` and the
    question alone.
    """

    instruction = (
        "Think it through step by step. Then write the letter of the correct option, and nothing else, "
        "inside \\boxed{}."
    )

    def __init__(
        self,
        *,
        question: Sequence[str] = ("question",),
        choices: Sequence[str] = ("choices", "options"),
        answer: Sequence[str] = ("answer",),
        correct: Sequence[str] = (),
        incorrect: Sequence[str] = (),
        shuffle_seed: int = 0,
    ) -> None:
        self._question = field_names("task.rows.question", question)
        self._choices = field_names("task.rows.choices", choices)
        self._answer = field_names("task.rows.answer", answer)
        self._correct = field_names("task.rows.correct", correct, may_be_empty=True)
        self._incorrect = field_names("task.rows.incorrect", incorrect, may_be_empty=True)
        check(
            bool(self._correct) == bool(self._incorrect),
            "task.rows.incorrect",
            list(incorrect),
            "name the fields of the wrong options together with task.rows.correct, or neither",
        )
        check(shuffle_seed >= 0, "task.rows.shuffle_seed", shuffle_seed, "must be at least 0")
        self._shuffle_seed = shuffle_seed

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self._question, *self._choices, *self._answer, *self._correct, *self._incorrect)

    def problem(self, row: Row) -> Problem:
        question = required_text(row, self._question)
        if any(name in row for name in self._choices):
            choices = _texts(first_value(row, self._choices))
            index = _index(first_value(row, self._answer), choices)
        elif self._correct:
            choices, index = self._shuffled(row, question)
        else:
            raise ValueError(f"it has none of the fields {', '.join(self._choices)}, only {', '.join(map(str, row))}")
        answer = {"letter": LETTERS[index], "num_choices": len(choices), "choices": list(choices)}
        # The chance level, for selectors with a prior for guessing.
        return Problem(question=question, choices=choices, answer=answer, metadata={"num_choices": len(choices)})

    def _shuffled(self, row: Row, question: str) -> tuple[tuple[str, ...], int]:
        correct = required_text(row, self._correct)
        choices = [correct, *(required_text(row, (name,)) for name in self._incorrect)]
        order = list(range(len(choices)))
        random.Random(derive_seed(self._shuffle_seed, "choices", question)).shuffle(order)
        return tuple(choices[place] for place in order), order.index(0)


def _texts(value: Any) -> tuple[str, ...]:
    if value is None:
        raise NoAnswer("it has no options")
    if not isinstance(value, (list, tuple)) or not 2 <= len(value) <= len(LETTERS):
        raise ValueError(f"choices={str(value)[:60]!r} is no list of 2 to {len(LETTERS)} options")
    return tuple(str(choice).strip() for choice in value)


def _index(answer: Any, choices: Sequence[str]) -> int:
    if answer is None or answer == "":
        raise NoAnswer("the answer is empty")
    letters = LETTERS[: len(choices)]
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    text = str(answer).strip()
    if len(text) == 1 and text in letters:
        return letters.index(text)
    if text in choices and isinstance(answer, str):
        return choices.index(text)
    raise ValueError(
        f"answer={str(answer)[:60]!r} is no index from 0 to {len(choices) - 1}, no letter of {letters} and no option"
    )
