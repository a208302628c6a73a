"""The two tables of a run's selections, and files that are no decision log."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from insight_rl.errors import UsageError
from insight_rl.hub import records
from insight_rl.hub.records import write_records
from insight_rl.hub.run_files import RunFiles


def test_decisions_are_the_log_and_beliefs_its_last_word_on_each_prompt(make_run, tmp_path):
    run = make_run()
    assert write_records(RunFiles(run), tmp_path / "out") == (4, 3)
    logged = pa.concat_tables([pq.read_table(path) for path in sorted((run / "decisions").glob("*.parquet"))])
    assert pq.read_table(tmp_path / "out" / "decisions.parquet").equals(logged)
    beliefs = {row["prompt_id"]: row for row in pq.read_table(tmp_path / "out" / "beliefs.parquet").to_pylist()}
    expected = {"last_step": 2, "times_chosen": 2, "successes": 6, "judged": 16, "alpha": 2.0, "beta": 1.0}
    assert beliefs["a"] == {"prompt_id": "a"} | expected
    assert beliefs["b1"]["times_chosen"] == beliefs["b1"]["judged"] == 0


@pytest.mark.parametrize("case", ["none", "no parquet", "other columns", "other types", "many rows"])
def test_what_is_no_decision_log_is_named(case, make_run, tmp_path, monkeypatch):
    run = make_run()
    file = run / "decisions" / "step_000001.parquet"
    table = pq.read_table(file)
    if case == "none":
        for path in (run / "decisions").iterdir():
            path.unlink()
    elif case == "no parquet":
        file.write_bytes(b"PAR1" + b"\0" * 40)
    elif case == "other columns":
        pq.write_table(table.drop(["alpha"]), file)
    elif case == "other types":
        pq.write_table(table.set_column(3, "alpha", pa.array(["x"] * len(table))), file)
    else:
        monkeypatch.setattr(records, "_MAX_ROWS_OF_A_STEP", 1)
    message = {"none": "has no decision log", "many rows": "names 2 rows, "}.get(case, "is no decision log")
    with pytest.raises(UsageError, match=message):
        write_records(RunFiles(run), tmp_path / "out")
