"""The decision log: what a selector knew of every candidate of a step, what it chose, and what came of it.

The files are ``decisions/step_*.parquet``: one file for each step, one row for each candidate.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from insight_rl.errors import UsageError
from insight_rl.files import write_atomically
from insight_rl.selector.decision import Decision
from insight_rl.selector.indexed_pool import IndexedPool
from insight_rl.types import Outcome, Prompt

DECISIONS_FOLDER = "decisions"
_POOL_FILE = "pool.parquet"
_MAX_POOL_SIZE = 200_000
"""Largest pool whose ids are kept beside the decisions; beyond it a name that was never a candidate stays unknown."""
_MAX_TEXT_LENGTH = 300

SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("round", pa.int32()),
        ("prompt_id", pa.string()),
        ("alpha", pa.float64()),
        ("beta", pa.float64()),
        ("score", pa.float64()),
        ("propensity", pa.float64()),
        ("chosen", pa.bool_()),
        ("successes", pa.int32()),
        ("judged", pa.int32()),
    ]
)
"""Beliefs are those before the step's update. NaN: the rule has no score, or leaves nothing to chance. Null outcome:
not rolled out."""


@runtime_checkable
class RecordsDecisions(Protocol):
    """A selector that hands out its decisions, as :class:`~insight_rl.selector.belief_selector.BeliefSelector` does."""

    def take_decisions(self) -> list[Decision]: ...

    def prompt_ids(self, indices: np.ndarray) -> list[str]: ...

    def propensity(self, decision: Decision) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class StepDecisions:
    """The log of one step: arrays run along its candidates, in the order they were drawn."""

    step: np.ndarray
    round: np.ndarray
    """0 for the step's first selection; 1, 2, ... where a gate had prompts drawn again."""
    prompt_id: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    score: np.ndarray
    propensity: np.ndarray
    chosen: np.ndarray
    successes: np.ndarray
    """S of the chosen ones, -1 for the others."""
    judged: np.ndarray
    """K of the chosen ones, -1 for the others."""

    def __len__(self) -> int:
        return len(self.prompt_id)

    def rows(self, mask: np.ndarray) -> StepDecisions:
        """The candidates that ``mask`` (booleans or positions) picks."""
        return StepDecisions(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})


class DecisionLog:
    """Writes one file a step, whole or not at all: ``kill -9`` leaves no half of one. Files of a resumed run's later
    steps are dropped on opening.
    """

    def __init__(self, folder: Path, *, selector: RecordsDecisions, pool: Sequence[Prompt], first_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.writing"):
            path.unlink()
        for step, path in _files(folder).items():
            if step >= first_step:
                path.unlink()
        self._folder = folder
        self._selector = selector
        if not (folder / _POOL_FILE).exists() and not isinstance(pool, IndexedPool) and len(pool) <= _MAX_POOL_SIZE:
            texts = [prompt.text[:_MAX_TEXT_LENGTH] for prompt in pool]
            _write(pa.table({"prompt_id": [prompt.id for prompt in pool], "text": texts}), folder / _POOL_FILE)

    def log(self, step: int, outcomes: Sequence[Outcome], scores: Sequence[float]) -> None:
        """Record the decisions since the last call; ``outcomes`` are those of the prompts they chose."""
        counts = {each.prompt_id: (each.num_successes, each.num_judged) for each in outcomes}
        tables = [
            self._table(decision, counts, step=step, number=number)
            for number, decision in enumerate(self._selector.take_decisions())
        ]
        _write(pa.concat_tables([SCHEMA.empty_table(), *tables]), self._folder / f"step_{step:06d}.parquet")

    def _table(self, decision: Decision, counts: dict[str, tuple[int, int]], *, step: int, number: int) -> pa.Table:
        size = len(decision.candidates)
        ids = self._selector.prompt_ids(decision.candidates)
        chosen = np.zeros(size, bool)
        chosen[decision.chosen] = True
        successes, judged = np.zeros(size, np.int32), np.zeros(size, np.int32)
        without_outcome = np.ones(size, bool)
        for row in decision.chosen.tolist():
            if ids[row] in counts:
                successes[row], judged[row] = counts[ids[row]]
                without_outcome[row] = False
        columns = [
            np.full(size, step, np.int32),
            np.full(size, number, np.int32),
            ids,
            decision.alpha,
            decision.beta,
            decision.scores,
            self._selector.propensity(decision),
            chosen,
            pa.array(successes, mask=without_outcome),
            pa.array(judged, mask=without_outcome),
        ]
        return pa.Table.from_arrays([pa.array(column) for column in columns], schema=SCHEMA)


def logged_steps(run_dir: Path) -> list[int]:
    """The steps in the decision log of a run, ascending. Raises ``UsageError`` where the run has no log."""
    if not run_dir.is_dir():
        raise UsageError(f"run_dir={str(run_dir)!r}: there is no such folder; give the folder of a run")
    steps = sorted(_files(run_dir / DECISIONS_FOLDER))
    if not steps:
        raise UsageError(
            f"run_dir={str(run_dir)!r}: it has no decision log ({DECISIONS_FOLDER}/step_*.parquet); a run of "
            "`insight-rl train` writes it from its first step on, unless its selector runs elsewhere"
        )
    return steps


def read_decisions(run_dir: Path, step: int) -> StepDecisions:
    """The log of one step. Raises ``UsageError`` naming the steps there are."""
    steps = logged_steps(run_dir)
    if step not in steps:
        raise UsageError(f"step={step}: not in the decision log of {run_dir}, which has {_ranges(steps)}")
    return _as_decisions(_read(_files(run_dir / DECISIONS_FOLDER)[step]))


def read_history(run_dir: Path, *, prompt_id: str | None = None) -> StepDecisions:
    """The log of all steps together: where one prompt was a candidate, or all that was rolled out."""
    paths = [_files(run_dir / DECISIONS_FOLDER)[step] for step in logged_steps(run_dir)]
    wanted = pc.field("prompt_id") == prompt_id if prompt_id is not None else pc.field("judged").is_valid()
    return _as_decisions(pa.concat_tables([_read(path).filter(wanted) for path in paths]))


def decision_files(run_dir: Path) -> dict[int, Path]:
    """The files of the log by step, ascending; empty where a run has none."""
    return dict(sorted(_files(run_dir / DECISIONS_FOLDER).items()))


def read_whole(path: Path, *, max_rows: int) -> StepDecisions:
    """All candidates of one file, whoever wrote it. Raises ``UsageError`` if it is damaged, or has more rows."""
    return _as_decisions(_checked(path, max_rows))


def read_rolled_out(path: Path, *, max_rows: int) -> StepDecisions:
    """What was rolled out of one file. Raises as :func:`read_whole`."""
    return _as_decisions(_checked(path, max_rows).filter(pc.field("judged").is_valid()))


def _checked(path: Path, max_rows: int) -> pa.Table:
    try:
        file = pq.ParquetFile(path)
        if file.metadata.num_rows > max_rows:
            raise UsageError(f"{path}: has more than {max_rows} rows; leave it out")
        table = file.read(columns=SCHEMA.names).select(SCHEMA.names).cast(SCHEMA)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: cannot be read ({error}); restore it or delete it") from error
    if any(table.column(name).null_count for name in SCHEMA.names if name not in ("successes", "judged")):
        raise UsageError(f"{path}: lacks values; restore it or delete it")
    return table


def read_pool(run_dir: Path) -> dict[str, str]:
    """Id and beginning of the text of every prompt of the run's pool; empty where the pool was too large to keep."""
    path = run_dir / DECISIONS_FOLDER / _POOL_FILE
    if not path.is_file():
        return {}
    table = _read(path)
    return dict(zip(table.column("prompt_id").to_pylist(), table.column("text").to_pylist(), strict=True))


def _as_decisions(table: pa.Table) -> StepDecisions:
    return StepDecisions(**{name: _array(table.column(name)) for name in SCHEMA.names})


def _array(column: pa.ChunkedArray) -> np.ndarray:
    filled = column.fill_null(-1) if pa.types.is_integer(column.type) else column
    values: np.ndarray = filled.to_numpy()
    return values


def _read(path: Path) -> pa.Table:
    try:
        # Not by a dataset: that would read the name of a folder such as x=1 as a column.
        return pq.ParquetFile(path).read()
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path}: cannot be read ({error}); restore it or delete it") from error


def _write(table: pa.Table, path: Path) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())


def _files(folder: Path) -> dict[int, Path]:
    numbers = {path: path.stem.removeprefix("step_") for path in folder.glob("step_*.parquet")}
    # A file with another name is none of ours.
    return {int(number): path for path, number in numbers.items() if number.isascii() and number.isdigit()}


def _ranges(steps: Sequence[int]) -> str:
    """``[1, 2, 3, 7]`` as ``steps 1-3, 7``."""
    parts: list[list[int]] = []
    for step in steps:
        if parts and step == parts[-1][1] + 1:
            parts[-1][1] = step
        else:
            parts.append([step, step])
    return "steps " + ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
