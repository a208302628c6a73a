"""Countdown problems: making solvable ones, and reading and checking files of them.

The puzzle: use every number exactly once and reach the target.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from insight_rl.errors import UsageError
from insight_rl.task.rows import json_reason

ProblemKey = tuple[tuple[int, ...], int]
"""Sorted numbers and target: equal for problems that differ only in the order of their numbers."""

MAX_NUMBERS = 10
MAX_MAGNITUDE = 10**6


@dataclass(frozen=True, slots=True)
class CountdownProblem:
    """Reach ``target`` by + - * / with each of ``numbers`` exactly once, e.g. ``CountdownProblem((3, 7, 1), 24)``."""

    numbers: tuple[int, ...]
    target: int

    @property
    def key(self) -> ProblemKey:
        return tuple(sorted(self.numbers)), self.target


@dataclass(frozen=True, slots=True)
class _Term:
    """A partial solution: its value (a positive integer), its text and how tightly the text binds (3 is a number)."""

    value: int
    text: str
    binding: int


_BINDING = {"+": 1, "-": 1, "*": 2, "/": 2}


def _combine(left: _Term, op: str, right: _Term, value: int) -> _Term:
    """``left op right`` with no more parentheses than it needs."""
    binding = _BINDING[op]
    left_text = f"({left.text})" if left.binding < binding else left.text
    needs_parentheses = right.binding < binding or (right.binding == binding and op in "-/")
    right_text = f"({right.text})" if needs_parentheses else right.text
    return _Term(value, f"{left_text}{op}{right_text}", binding)


def _random_step(left: _Term, right: _Term, rng: random.Random) -> _Term:
    """Join two terms by a random operation that keeps the value a positive integer; sum and product always do."""
    choices = [("+", left, right, left.value + right.value), ("*", left, right, left.value * right.value)]
    for a, b in ((left, right), (right, left)):
        if a.value > b.value:
            choices.append(("-", a, b, a.value - b.value))
        if b.value > 1 and a.value % b.value == 0:
            choices.append(("/", a, b, a.value // b.value))
    op, a, b, value = rng.choice(choices)
    return _combine(a, op, b, value)


def random_problem(
    rng: random.Random, *, num_numbers: int, min_number: int, max_number: int, max_target: int
) -> tuple[CountdownProblem, str]:
    """A solvable problem and one solution, e.g. ``(CountdownProblem((3, 7, 1), 24), "3*(7+1)")``.

    Numbers are uniform on [min_number, max_number]; a random expression over them is drawn again, numbers included,
    until its value lies in [1, max_target]. Intermediate values are positive integers.
    """
    while True:
        numbers = tuple(rng.randint(min_number, max_number) for _ in range(num_numbers))
        terms = [_Term(number, str(number), 3) for number in numbers]
        while len(terms) > 1:
            left = terms.pop(rng.randrange(len(terms)))
            right = terms.pop(rng.randrange(len(terms)))
            terms.append(_random_step(left, right, rng))
        if terms[0].value <= max_target:
            return CountdownProblem(numbers, terms[0].value), terms[0].text


def distinct_problems(
    rng: random.Random,
    *,
    num_numbers: Sequence[int],
    num_problems: int,
    min_number: int,
    max_number: int,
    max_target: int,
    exclude: Collection[ProblemKey] = (),
) -> list[CountdownProblem]:
    """``num_problems`` problems with different keys, none in ``exclude``, cycling through ``num_numbers``.

    Raises ``UsageError`` where the ranges do not hold so many: after 1,000 draws in a row that brought nothing new.
    """
    seen = set(exclude)
    problems: list[CountdownProblem] = []
    num_misses = 0
    while len(problems) < num_problems:
        problem, _ = random_problem(
            rng,
            num_numbers=num_numbers[len(problems) % len(num_numbers)],
            min_number=min_number,
            max_number=max_number,
            max_target=max_target,
        )
        if problem.key in seen:
            num_misses += 1
            if num_misses == 1000:
                raise UsageError(
                    f"only {len(problems)} of {num_problems} different Countdown problems found with "
                    f"{list(num_numbers)} numbers in {min_number}..{max_number} and targets up to {max_target}: "
                    "ask for fewer problems or widen the ranges"
                )
            continue
        num_misses = 0
        seen.add(problem.key)
        problems.append(problem)
    return problems


def _problem_of_row(row: object) -> CountdownProblem:
    """The problem of a parsed row; ``ValueError`` says what is wrong with it. Keys it does not know are ignored."""
    if not isinstance(row, dict):
        raise ValueError(f'{row!r} is no object; write {{"numbers": [3, 7, 1], "target": 24}}')
    for key in ("numbers", "target"):
        if key not in row:
            raise ValueError(f'key "{key}" is missing; write {{"numbers": [3, 7, 1], "target": 24}}')
    numbers, target = row["numbers"], row["target"]
    if not isinstance(numbers, list) or not 1 <= len(numbers) <= MAX_NUMBERS:
        raise ValueError(f"numbers={numbers!r}; use a list of 1 to {MAX_NUMBERS} integers")
    for number in numbers:
        if type(number) is not int or not 0 <= number <= MAX_MAGNITUDE:
            raise ValueError(f"numbers={numbers!r}: {number!r} is not an integer from 0 to {MAX_MAGNITUDE}")
    if type(target) is not int or abs(target) > MAX_MAGNITUDE:
        raise ValueError(f"target={target!r}; use an integer from -{MAX_MAGNITUDE} to {MAX_MAGNITUDE}")
    return CountdownProblem(tuple(numbers), target)


def _numbered_lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, counted from 1."""
    try:
        with path.open(encoding="utf-8") as file:
            for row_number, line in enumerate(file, start=1):
                if line.strip():
                    yield row_number, line
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}; name a readable JSONL file of Countdown problems") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: not UTF-8 text ({error.reason}); name a JSONL file") from error


def read_problems(path: Path, *, key: str) -> list[CountdownProblem]:
    """The problems of a JSONL file, rows ``{"numbers": [3, 7, 1], "target": 24}`` in their order.

    ``key`` is the setting that named the file. Raises ``UsageError`` with key, file, row and remedy for a file or row
    that cannot be used.
    """
    name = f"{key}={path}"
    problems = []
    for row_number, line in _numbered_lines(path, name):
        try:
            problems.append(_problem_of_row(json.loads(line)))
        except json.JSONDecodeError as error:
            reason = f"not JSON ({json_reason(error)}); write one object a line"
            raise UsageError(f"{name} row {row_number}: {reason}") from error
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{name} row {row_number}: {error}") from error
    if not problems:
        raise UsageError(f"{name}: holds no problem; give it at least one row")
    return problems
