"""The files of a run: what a record looks like, and that a damaged end never costs more than itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insight_rl.errors import UsageError
from insight_rl.monitor.records import drop_records_from, metrics_record, read_records, sample_records, to_lines
from insight_rl.types import Histogram, Table


def test_record_is_flat_sorted_and_plain():
    metrics = {
        "b/numpy": np.float32(0.5),
        "b/count": np.int64(3),
        "b/nan": float("nan"),
        "b/inf": float("-inf"),
        "a/histogram": Histogram(counts=(1, 2), edges=(0.0, 0.5, float("inf"))),
        "a/table": Table(columns=("text",), rows=(("x",),)),
    }
    record = metrics_record(metrics, step=7)
    assert list(record) == ["step", "a/histogram", "b/count", "b/inf", "b/nan", "b/numpy"]
    assert json.loads(to_lines([record])) == {
        "step": 7,
        "a/histogram": {"counts": [1, 2], "edges": [0.0, 0.5, None]},
        "b/count": 3,
        "b/inf": None,
        "b/nan": None,
        "b/numpy": 0.5,
    }


def test_table_rows_become_lines_of_their_own():
    table = Table(
        columns=("prompt", "reward", "success"), rows=(("3 7\u2028", np.float64(1.0), True), ("x", None, None))
    )
    lines = to_lines(sample_records({"rollout/samples": table, "a/x": 1.0}, step=2))
    assert [json.loads(line) for line in lines.rstrip("\n").split("\n")] == [
        {"step": 2, "table": "rollout/samples", "prompt": "3 7\u2028", "reward": 1.0, "success": True},
        {"step": 2, "table": "rollout/samples", "prompt": "x", "reward": None, "success": None},
    ]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_survive_exactly(value):
    record = metrics_record({"a/x": value}, step=0)
    assert json.loads(to_lines([record]))["a/x"] == value


@pytest.mark.parametrize("tail", ["", '{"step": 2, "a', '{"step": 2}'])
def test_a_line_without_its_newline_is_passed_over(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    path.write_text(to_lines([{"step": 0}, {"step": 1}]) + tail)
    assert [record["step"] for record in read_records(path)] == [0, 1]


@pytest.mark.parametrize("line", ["{broken", "[1]", '{"a/x": 1}', ""])
def test_a_damaged_line_in_the_middle_is_the_users_to_mend(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 0}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(UsageError, match=r"metrics\.jsonl line 2: not a record.*delete the line"):
        read_records(path)


def test_dropping_keeps_earlier_steps_byte_for_byte(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(to_lines({"step": step, "a/x": step / 3} for step in range(5)))
    whole = path.read_text()
    drop_records_from(path, step=5)
    assert path.read_text() == whole
    drop_records_from(path, step=3)
    assert path.read_text() == whole[: whole.index('{"step": 3')]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]
    drop_records_from(tmp_path / "absent.jsonl", step=0)
    assert not (tmp_path / "absent.jsonl").exists()


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_can_be_written_and_read_back(text):
    """Half of a surrogate pair too, which UTF-8 cannot hold: a run must not end over a notice."""
    line = to_lines([{"step": 1, "text": text}])
    assert json.loads(line.encode("utf-8")) == {"step": 1, "text": text}
