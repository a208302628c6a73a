"""The successes of every problem on disk, and the evaluation that runs from one start share."""

import json

import pytest

from insight_rl.evaluation import Evaluation
from insight_rl.evaluation_log import EvaluationLog, start_file

FIRST = Evaluation(metrics={"eval/accuracy": 1 / 3, "eval/mean_tokens": 7.1}, samples=3, successes={"a": 1})
LATER = Evaluation(metrics={"eval/accuracy": 1.0}, samples=3, successes={"a": 3})


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_line_an_evaluation_and_no_step_twice(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    log = EvaluationLog(path, first_step=0)
    log.log(0, FIRST)
    log.log(5, LATER)
    assert log.known(0) is None
    assert lines(path) == [
        {"step": 0, "samples": 3, "successes": {"a": 1}},
        {"step": 5, "samples": 3, "successes": {"a": 3}},
    ]
    # Resumed from the checkpoint of step 3: step 5 is done again.
    EvaluationLog(path, first_step=4).log(5, FIRST)
    assert [line["successes"] for line in lines(path)] == [{"a": 1}, {"a": 1}]


def test_the_start_is_measured_once(tmp_path):
    start = start_file(tmp_path / "starts", {"model": "m", "seed": 3})
    one = EvaluationLog(tmp_path / "one.jsonl", first_step=0, start=start)
    assert one.known(0) is None
    one.log(0, FIRST)
    other = EvaluationLog(tmp_path / "other.jsonl", first_step=0, start=start)
    assert other.known(0) == FIRST
    # Only the weights before training are the same in both.
    assert other.known(5) is None
    other.log(5, LATER)
    assert other.known(0) == FIRST


@pytest.mark.parametrize("change", [{"model": "n"}, {"seed": 4}, {"extra": 1}])
def test_another_start_is_another_file(change, tmp_path):
    identity = {"model": "m", "seed": 3}
    assert start_file(tmp_path, identity) != start_file(tmp_path, identity | change)
    assert start_file(tmp_path, identity) == start_file(tmp_path, {"seed": 3, "model": "m"})
