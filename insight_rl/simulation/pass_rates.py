"""A pool of real problems with the success rate that some model had on each: what a simulation starts from.

Any Parquet, JSONL or CSV file with text, answer and pass rate. It is data: rows are read one by one, checked, and never
executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from insight_rl.errors import UsageError, check, is_number
from insight_rl.simulation.relatives import Floats, text_vectors
from insight_rl.task.problem import Problem, field_names, first_value, required_text
from insight_rl.task.rows import Row, RowSource
from insight_rl.types import Prompt

_MAX_TEXT = 200_000
"""Characters of one text; more is no problem to solve but a broken row."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PassRates:
    """The problems of a file, without repeated texts.

    Example: two problems of 128 attempts each, ``PassRates(prompts=[...], rates=np.array([0.25, 1.0]),
    attempts=np.array([128.0, 128.0]), vectors=...)``.
    """

    prompts: tuple[Prompt, ...]
    rates: Floats
    """float64 [N]: share of the attempts that were right."""
    attempts: Floats
    """float64 [N]: attempts behind each rate."""
    vectors: Floats
    """float64 [N, D]: where each text lies, for finding relatives (:mod:`insight_rl.simulation.relatives`)."""


class PassRateFile:
    """Where the problems are and what the columns are called. Of several names the first that a row has is taken."""

    def __init__(
        self,
        *,
        path: str | None,
        text: Sequence[str] = ("question", "problem", "text"),
        answer: Sequence[str] = ("answer",),
        pass_rate: Sequence[str] = ("pass_rate",),
        attempts: float | str = 128,
        task: str = "pass_rates",
        max_rows: int = 1_000_000,
    ) -> None:
        """``attempts`` is their number, the same for all rows, or the name of the column that holds it."""
        check(
            isinstance(path, str) and path != "",
            "path",
            path,
            "pool=pass_rates needs a file of problems with text, answer and pass_rate: path=FILE",
        )
        self._path = Path(str(path)).expanduser()
        check(self._path.is_file(), "path", str(path), "is no file; name one of .parquet, .jsonl, .json or .csv")
        self._text = field_names("pool.text", text)
        self._answer = field_names("pool.answer", answer)
        self._pass_rate = field_names("pool.pass_rate", pass_rate)
        is_count = is_number(attempts) and not isinstance(attempts, str) and attempts >= 1
        check(
            is_count or (isinstance(attempts, str) and attempts != ""),
            "pool.attempts",
            attempts,
            "must be a number of at least 1 (attempts of every problem), or the name of the column that holds it",
        )
        self._attempts = attempts
        is_word = isinstance(task, str) and task != "" and "/" not in task
        check(is_word, "pool.task", task, "use a word without a slash: prompt ids begin with it")
        self._task = task
        check(isinstance(max_rows, int) and max_rows >= 2, "pool.max_rows", max_rows, "must be at least 2")
        self._max_rows = max_rows

    def read(self) -> PassRates:
        """The file's problems; read once a process as long as the file does not change. Raises ``UsageError``."""
        status = self._path.stat()
        settings = (self._text, self._answer, self._pass_rate, self._attempts, self._task, self._max_rows)
        return _read_once(str(self._path.resolve()), status.st_mtime_ns, status.st_size, settings)

    def read_rows(self) -> PassRates:
        """As :meth:`read`, without looking into what was read before."""
        columns = [*self._text, *self._answer, *self._pass_rate]
        columns += [self._attempts] if isinstance(self._attempts, str) else []
        source = RowSource(setting="pool", path=self._path, hub=None, path_key="path")
        prompts: dict[str, Prompt] = {}
        rates, attempts = [], []
        for number, row in source.numbered_rows(columns):
            check(number <= self._max_rows, "pool.max_rows", self._max_rows, f"{source} has more rows; raise it")
            try:
                problem = Problem(question=required_text(row, self._text), answer=self._answer_of(row))
                if problem.question in prompts:
                    continue
                rate, tried = self._rate_of(row), self._attempts_of(row)
            except ValueError as error:
                raise UsageError(f"{source} row {number}: {error}") from error
            prompts[problem.question] = self._prompt(problem)
            rates.append(rate)
            attempts.append(tried)
        check(len(prompts) >= 2, "path", str(self._path), "holds fewer than two different problems")
        vectors = text_vectors(tuple(prompts))
        return PassRates(
            prompts=tuple(prompts.values()), rates=np.array(rates), attempts=np.array(attempts), vectors=vectors
        )

    def _prompt(self, problem: Problem) -> Prompt:
        identity = problem.id_within(self._task)
        return Prompt(id=identity, task=self._task, text=problem.question, token_ids=(0,), answer=problem.answer)

    def _answer_of(self, row: Row) -> str:
        value = first_value(row, self._answer)
        if value is None:
            raise ValueError(f"{self._answer[0]} is missing; mend or leave out the row")
        return str(value)[:_MAX_TEXT]

    def _rate_of(self, row: Row) -> float:
        value = first_value(row, self._pass_rate)
        rate = _as_number(value)
        if rate is None or not 0 <= rate <= 1:
            raise ValueError(
                f"{self._pass_rate[0]}={str(value)[:60]!r} is no number in [0, 1]; mend the row, divide a percentage "
                "by 100, or name the column with pool.pass_rate=[...]"
            )
        return rate

    def _attempts_of(self, row: Row) -> float:
        if not isinstance(self._attempts, str):
            return float(self._attempts)
        value = first_value(row, [self._attempts])
        tried = _as_number(value)
        if tried is None or tried < 1:
            raise ValueError(
                f"{self._attempts}={str(value)[:60]!r} is no number of at least 1; mend the row, or set "
                "pool.attempts to the attempts of every problem"
            )
        return tried


def _as_number(value: Any) -> float | None:
    """A finite number, also one written as text (CSV has nothing else); None for anything else."""
    if isinstance(value, str):
        try:
            value = float(value[:40])
        except ValueError:
            return None
    return float(value) if is_number(value) else None


@lru_cache(maxsize=2)
def _read_once(path: str, modified: int, size: int, settings: tuple[Any, ...]) -> PassRates:
    names = ("text", "answer", "pass_rate", "attempts", "task", "max_rows")
    return PassRateFile(path=path, **dict(zip(names, settings, strict=True))).read_rows()
