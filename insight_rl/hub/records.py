"""The decision log and the beliefs of a run as two tables, for a data set on the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from insight_rl.errors import UsageError
from insight_rl.hub.run_files import RunFiles
from insight_rl.selector.decision_log import DECISIONS_FOLDER, SCHEMA

DECISIONS_FILE, BELIEFS_FILE = "decisions.parquet", "beliefs.parquet"
_MAX_BYTES = 32 * 2**30
_MAX_FILES = 1_000_000
_MAX_ROWS_OF_A_STEP = 10_000_000
_MAX_UNPACKED_OF_A_STEP = 4 * 2**30
_BATCH = 65_536
_STEP_FILE = re.compile(r"step_(\d{1,12})\.parquet")


def write_records(files: RunFiles, folder: Path) -> tuple[int, int]:
    """Write ``decisions.parquet`` and ``beliefs.parquet``; returns their numbers of rows.

    Every file is read with the log's own columns and types. Raises ``UsageError`` where there is no log, or one that no
    run writes.
    """
    names = files.folder(DECISIONS_FOLDER, max_bytes=_MAX_BYTES, max_files=_MAX_FILES)
    numbers = {int(found[1]): path for name, path in names.items() if (found := _STEP_FILE.fullmatch(name))}
    steps = [numbers[number] for number in sorted(numbers)]
    if not steps:
        raise UsageError(
            f"records=true: the run in {files.root} has no decision log ({DECISIONS_FOLDER}/); its selector ran "
            "elsewhere, or has no beliefs to show; leave records out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    beliefs = _Beliefs()
    num_decisions = 0
    with pq.ParquetWriter(folder / DECISIONS_FILE, SCHEMA, compression="zstd") as writer:
        for path in steps:
            table = _read(path)
            writer.write_table(table)
            beliefs.add(table)
            num_decisions += len(table)
    table = beliefs.table()
    pq.write_table(table, folder / BELIEFS_FILE, compression="zstd")
    return num_decisions, len(table)


def _read(path: Path) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            # Said in the file's own footer, before anything is unpacked.
            unpacked = sum(file.metadata.row_group(n).total_byte_size for n in range(file.metadata.num_row_groups))
            if file.metadata.num_rows > _MAX_ROWS_OF_A_STEP or unpacked > _MAX_UNPACKED_OF_A_STEP:
                raise UsageError(f"{path}: names {file.metadata.num_rows} rows, {unpacked} bytes; no step has as many")
            return file.read(columns=SCHEMA.names).select(SCHEMA.names).cast(SCHEMA)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise UsageError(f"{path}: is no decision log ({error}); restore it or delete it") from error


class _Beliefs:
    """By prompt: its last belief in the log, and its verdicts over the run."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Any]] = {}

    def add(self, table: pa.Table) -> None:
        for row in (row for batch in table.to_batches(_BATCH) for row in batch.to_pylist()):
            known = self._rows.setdefault(row["prompt_id"], {"times_chosen": 0, "successes": 0, "judged": 0})
            known |= {"last_step": row["step"], "alpha": row["alpha"], "beta": row["beta"]}
            known["times_chosen"] += bool(row["chosen"])
            known["successes"] += row["successes"] or 0
            known["judged"] += row["judged"] or 0

    def table(self) -> pa.Table:
        ids = sorted(self._rows, key=str)
        columns: dict[str, Any] = {"prompt_id": pa.array(ids, pa.string())}
        for name in ("last_step", "times_chosen", "successes", "judged"):
            columns[name] = pa.array([self._rows[each][name] for each in ids], pa.int64())
        for name in ("alpha", "beta"):
            columns[name] = pa.array(np.array([self._rows[each][name] for each in ids], dtype=np.float64))
        return pa.table(columns)
