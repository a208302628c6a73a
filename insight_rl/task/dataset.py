"""Tasks whose problems come from data sets: files, or names on the hub.

Here are wording, ids, filters and the separation of training and held-out problems. What the fields of a row mean is
said by the row format (:class:`~insight_rl.task.problem.RowFormat`).
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from insight_rl.errors import UsageError, check
from insight_rl.task.base import Messages, PromptEncoder
from insight_rl.task.overlap import normalised
from insight_rl.task.problem import NoAnswer, Problem, RowFormat, check_unicode
from insight_rl.task.rows import HubName, Row, RowSource, hub_name
from insight_rl.types import PROMPT_STYLES, Prompt

logger = logging.getLogger(__name__)

_MAX_CONFLICTS_SHOWN = 5


class DatasetTask:
    """Problems of a training set and of a held-out set, either of which may be missing.

    ``train_path`` and ``test_path`` (JSONL, Parquet, CSV, or a folder that the ``datasets`` library can load) go before
    ``train_hub`` and ``test_hub``, mappings of ``name``, ``config`` and ``split``. ``only`` keeps the rows whose field
    has one of the given values, ``metadata`` names fields that prompts carry along. Training problems that are test
    problems are dropped.
    """

    def __init__(
        self,
        *,
        name: str,
        style: str,
        rows: RowFormat,
        train_path: str | None = None,
        train_hub: Mapping[str, Any] | None = None,
        test_path: str | None = None,
        test_hub: Mapping[str, Any] | None = None,
        max_train: int | None = None,
        max_test: int | None = None,
        streaming: bool = False,
        only: Mapping[str, Sequence[Any]] | None = None,
        metadata: Sequence[str] = (),
        instruction: str | None = None,
        system_prompt: str | None = None,
    ) -> None:
        is_name = isinstance(name, str) and name != "" and "/" not in name
        check(is_name, "task.name", name, "use a word without a slash: prompt ids begin with it")
        check(style in PROMPT_STYLES, "task.style", style, f"use one of {', '.join(PROMPT_STYLES)}")
        check(hasattr(rows, "problem"), "task.rows", rows, "name a row format, e.g. insight_rl.task.math.MathRows")
        check(system_prompt is None or style == "chat", "task.system_prompt", system_prompt, "needs task.style=chat")
        for key, limit in (("max_train", max_train), ("max_test", max_test)):
            check(limit is None or limit >= 1, f"task.{key}", limit, "must be at least 1, or null for all")
        for field, values in (only or {}).items():
            is_list = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
            check(is_list, f"task.only.{field}", values, "give a list of the values to keep")
        self.name = name
        self.style = style
        self.rows = rows
        self.train = _source("task.train", train_path, train_hub, streaming)
        self.test = _source("task.test", test_path, test_hub, streaming)
        self.max_train = max_train
        self.max_test = max_test
        self.only = {field: list(values) for field, values in (only or {}).items()}
        self.metadata = tuple(metadata)
        self.instruction = rows.instruction if instruction is None else instruction
        self.system_prompt = system_prompt

    def train_prompts(self, encoder: PromptEncoder) -> list[Prompt]:
        return [self._prompt(problem, encoder) for problem in self.train_problems()]

    def test_prompts(self, encoder: PromptEncoder) -> list[Prompt]:
        """Repeated problems are kept, with ids ``<id>#2`` and so on: their number is part of a benchmark."""
        prompts = [self._prompt(problem, encoder) for problem in self.test_problems()]
        seen: Counter[str] = Counter()
        for index, prompt in enumerate(prompts):
            seen[prompt.id] += 1
            if seen[prompt.id] > 1:
                prompts[index] = dataclasses.replace(prompt, id=f"{prompt.id}#{seen[prompt.id]}")
        return prompts

    def train_problems(self) -> list[Problem]:
        """Without those that are test problems too. Raises ``UsageError`` for a task without a training set."""
        if self.train is None:
            raise UsageError(
                f"task.train_path=None: task {self.name} has no training problems; name a file with "
                "task.train_path=..., or take a task that has (deepscaler, math, gsm8k, webinstruct, mmlu)"
            )
        held_out = {normalised(problem.content) for problem in self.test_problems()}
        return self._problems(self.train, limit=self.max_train, held_out=held_out)

    def test_problems(self) -> list[Problem]:
        return [] if self.test is None else self._problems(self.test, limit=self.max_test)

    def _problems(self, source: RowSource, *, limit: int | None, held_out: Collection[str] = ()) -> list[Problem]:
        problems: list[Problem] = []
        numbers: list[int] = []
        unanswered: list[int] = []
        num_held_out = 0
        columns = (*self.rows.fields, *self.only, *self.metadata)
        for number, row in source.numbered_rows(columns):
            if len(problems) == limit:
                break
            if not self._is_wanted(source, number, row):
                continue
            try:
                problem = self.rows.problem(row)
                check_unicode(problem)
            except NoAnswer:
                unanswered.append(number)
                continue
            except ValueError as error:
                raise UsageError(f"{source} row {number}: {error}; mend the row, or set task.rows.*") from error
            if held_out and normalised(problem.content) in held_out:
                num_held_out += 1
                continue
            carried = {field: row[field] for field in self.metadata if row.get(field) is not None}
            problems.append(dataclasses.replace(problem, metadata={**problem.metadata, **carried}))
            numbers.append(number)
        if unanswered:
            first = ", ".join(map(str, unanswered[:5]))
            found = source, len(unanswered), first, ", ..." if len(unanswered) > 5 else ""
            logger.warning("%s: skipped %d rows without a question or an answer (row %s%s)", *found)
        if num_held_out:
            logger.warning("%s: dropped %d problems that are held out for testing", source, num_held_out)
        _warn_of_conflicts(source, numbers, problems)
        if not problems:
            reason = "every problem is also a test problem" if num_held_out else "holds no problem"
            raise UsageError(f"{source}: {reason}; check the file and task.only")
        return problems

    def _is_wanted(self, source: RowSource, number: int, row: Row) -> bool:
        for field, values in self.only.items():
            if field not in row:
                raise UsageError(
                    f"task.only.{field}={values}: {source} row {number} has no such field, only {list(row)}"
                )
        return all(row[field] in values for field, values in self.only.items())

    def _prompt(self, problem: Problem, encoder: PromptEncoder) -> Prompt:
        text, token_ids = encoder.encode(self.wording(problem))
        return Prompt(
            id=problem.id_within(self.name),
            task=self.name,
            text=text,
            token_ids=token_ids,
            answer=problem.answer,
            metadata=problem.metadata,
        )

    def wording(self, problem: Problem) -> str | Messages:
        """What the model is given: a chat, or plain text to go on with."""
        content = f"{problem.text}\n\n{self.instruction}" if self.instruction else problem.text
        if self.style == "bare":
            return f"{content}\n\nSolution:\n"
        system = [] if self.system_prompt is None else [{"role": "system", "content": self.system_prompt}]
        return [*system, {"role": "user", "content": content}]


def _warn_of_conflicts(source: RowSource, numbers: Sequence[int], problems: Sequence[Problem]) -> None:
    """Say which rows ask the same with different answers; training leaves their question out (insight_rl.build)."""
    first_of: dict[str, int] = {}
    pairs = [(first_of.setdefault(problem.id_within(""), index), index) for index, problem in enumerate(problems)]
    conflicts = [(first, index) for first, index in pairs if problems[first].answer != problems[index].answer]
    for first, index in conflicts[:_MAX_CONFLICTS_SHOWN]:
        logger.warning(
            "%s rows %d and %d ask the same question and give different answers: %.40r and %.40r",
            *(source, numbers[first], numbers[index], problems[first].answer, problems[index].answer),
        )
    if len(conflicts) > _MAX_CONFLICTS_SHOWN:
        logger.warning("%s: %d more rows conflict with another", source, len(conflicts) - _MAX_CONFLICTS_SHOWN)


def _source(setting: str, path: str | None, hub: Mapping[str, Any] | None, streaming: bool) -> RowSource | None:
    is_path = path is None or (isinstance(path, str) and path != "")
    check(is_path, f"{setting}_path", path, "use a path, or null for the hub's data set")
    name: HubName | None = hub_name(f"{setting}_hub", hub)
    if path is None and name is None:
        return None
    return RowSource(setting=setting, path=Path(path).expanduser() if path else None, hub=name, streaming=streaming)
