"""A problem in a form independent of any data set's field names, and how rows are turned into it."""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from insight_rl.errors import check
from insight_rl.task.rows import Row


class NoAnswer(ValueError):
    """A row without a question or without an answer: real data sets have a few, and they are skipped with a count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is asked and what is right.

    Example::

        Problem(question="What is 2 + 3?", answer="5")
        Problem(question="2 + 3 is", choices=("4", "5"),
                answer={"letter": "B", "num_choices": 2, "choices": ["4", "5"]}, metadata={"subject": "sums"})
    """

    question: str
    answer: Any
    """In the form that the reward reads."""
    choices: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """Question and options in one text, the order of the options left out."""
        return "\n".join([self.question, *sorted(self.choices)])

    @property
    def text(self) -> str:
        """The question with its lettered options."""
        if not self.choices:
            return self.question
        options = (f"{letter}. {choice}" for letter, choice in zip(string.ascii_uppercase, self.choices, strict=False))
        return "\n".join([self.question, "", *options])

    def id_within(self, task: str) -> str:
        """A hash of the content, e.g. ``"gsm8k/0f3a5be1c2d49788"``: stable across runs, machines and file orders."""
        return f"{task}/{hashlib.blake2b(self.content.encode(), digest_size=8).hexdigest()}"


class RowFormat(Protocol):
    """From a data set's rows to problems. Constructed by the config with keyword-only settings."""

    instruction: str
    """What the model is asked to do with the question."""

    @property
    def fields(self) -> Sequence[str]:
        """Every field that it may read."""
        ...

    def problem(self, row: Row) -> Problem:
        """Raises :class:`NoAnswer` for a row to skip, ``ValueError`` with the reason for one that cannot be read."""
        ...


def check_unicode(problem: Problem) -> None:
    """Raise ``ValueError`` for text that no file can hold, such as half of a surrogate pair from a JSON escape."""
    for text in (problem.question, *problem.choices, json.dumps(problem.answer, ensure_ascii=False, default=str)):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{text[:60]!r} is not Unicode text ({error.reason})") from None


def first_value(row: Row, names: Sequence[str]) -> Any:
    """The first of the fields ``names`` that is there and not null; ``None`` if all that are there are null.

    Raises ``ValueError`` where the row has none of them: then the names are wrong.
    """
    present = [name for name in names if name in row]
    if not present:
        raise ValueError(f"it has none of the fields {', '.join(names)}, only {', '.join(map(str, row))}")
    return next((row[name] for name in present if row[name] is not None), None)


def required_text(row: Row, names: Sequence[str]) -> str:
    value = first_value(row, names)
    if value is None or str(value).strip() == "":
        raise NoAnswer(f"{names[0]} is empty")
    if not isinstance(value, str):
        raise ValueError(f"{names[0]}={str(value)[:60]!r} is no text")
    return value.strip()


def field_names(key: str, value: Sequence[str], *, may_be_empty: bool = False) -> tuple[str, ...]:
    """The checked form of a setting that lists field names."""
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    check(
        is_list and all(isinstance(name, str) and name for name in value) and (may_be_empty or len(value) > 0),
        key,
        value,
        "give a list of field names; the first that a row has is taken",
    )
    return tuple(value)
