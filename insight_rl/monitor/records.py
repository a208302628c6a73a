"""The format of ``metrics.jsonl`` and ``samples.jsonl``: metrics to lines and back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from insight_rl.errors import UsageError
from insight_rl.files import write_atomically
from insight_rl.types import Histogram, Metrics, Table

METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"

Record = dict[str, Any]
"""One line: ``{"step": 3, "reward/mean": 0.41, "selector/belief_histogram": {"counts": [...], "edges": [...]}}``"""


def finite_or_none(value: Any) -> int | float | None:
    """A plain number (NumPy's scalars included), or None for NaN and infinities, which JSON does not have."""
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None


def metrics_record(metrics: Metrics, *, step: int) -> Record:
    """The line of a step: its numbers and histograms under their names, sorted; tables are left out.

    ``{"step": 1, "b/x": nan, "a/h": Histogram(...)}`` becomes ``{"step": 1, "a/h": {"counts": ...}, "b/x": None}``.
    """
    record: Record = {"step": step}
    for key in sorted(metrics):
        value = metrics[key]
        if isinstance(value, Histogram):
            record[key] = {"counts": list(value.counts), "edges": [finite_or_none(edge) for edge in value.edges]}
        elif not isinstance(value, Table):
            record[key] = finite_or_none(value)
    return record


def sample_records(metrics: Metrics, *, step: int) -> Iterator[Record]:
    """One line per row of each table: ``{"step": 3, "table": "rollout/samples", "prompt": ..., "completion": ...}``."""
    for key in sorted(metrics):
        table = metrics[key]
        if isinstance(table, Table):
            assert not {"step", "table"} & set(table.columns), f"{key}: 'step' and 'table' are the line's own fields"
            for row in table.rows:
                yield {"step": step, "table": key, **dict(zip(table.columns, map(_cell, row), strict=True))}


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool)):
        return value
    return finite_or_none(value)


def to_lines(records: Iterable[Mapping[str, Any]]) -> str:
    lines = "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)
    # UTF-8 cannot hold half a surrogate pair (from a file name that is not UTF-8, say); its escape is valid JSON.
    return lines.encode("utf-8", "backslashreplace").decode("utf-8")


def read_records(path: Path) -> list[Record]:
    """Every whole line of a file; a last line that a crash has cut off is skipped.

    Raises ``UsageError`` for a damaged line in the middle: the writer never leaves one, so the file was edited.
    """
    records: list[Record] = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        # What follows the last newline was cut off while it was written, even where it happens to parse.
        if number == len(lines):
            break
        try:
            record = json.loads(line)
            records.append({**record, "step": int(record["step"])})
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UsageError(
                f"{path} line {number}: not a record of a step ({error}); delete the line or move the file away"
            ) from error
    return records


def drop_records_from(path: Path, *, step: int) -> None:
    """Rewrite the file, atomically, without a torn last line and without the records of ``step`` and later."""
    if not path.exists():
        return
    kept = to_lines(record for record in read_records(path) if record["step"] < step).encode()
    if kept == path.read_bytes():
        return
    write_atomically(path, kept)
