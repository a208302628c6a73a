"""A run whose ranks are lost goes back to its newest checkpoint, and ends as if nothing had happened.

The only rank is in this process here, so it is the learner's method that says the ranks are lost. Real ranks die in
test_faults.py and test_chaos.py.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from insight_rl.config import compose_config
from insight_rl.errors import RanksLost, RunStopped
from insight_rl.learner.accelerate import AccelerateLearner
from insight_rl.monitor.dictionary import is_of_the_machine
from insight_rl.run import train

SMALL = [
    "trainer.num_steps=7",
    "trainer.prompts_per_step=8",
    "trainer.rollouts_per_prompt=4",
    "trainer.max_completion_tokens=16",
    "evaluation.every=3",
    "evaluation.samples_per_problem=1",
    "evaluation.max_problems=8",
    "checkpoint.every=3",
    "monitor=jsonl",
]


def run(folder, *overrides):
    return train(compose_config([*SMALL, f"run_dir={folder}", *overrides]))


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def records_of(folder):
    metrics = [
        {key: value for key, value in record.items() if not is_of_the_machine(key)}
        for record in read_lines(folder / "metrics.jsonl")
    ]
    decisions = {path.name: path.read_bytes() for path in (folder / "decisions").glob("step_*.parquet")}
    others = [(folder / name).read_text() for name in ("selections.jsonl", "evaluations.jsonl", "samples.jsonl")]
    return metrics, decisions, others


@pytest.fixture
def lose_ranks(monkeypatch):
    """``lose_ranks(method, calls)``: the calls of these numbers do their work and then say that the ranks are lost."""

    def lose(method, calls):
        original, number = getattr(AccelerateLearner, method), 0

        def call(self, *arguments):
            nonlocal number
            number += 1
            result = original(self, *arguments)
            if number in calls:
                raise RanksLost(f"learner rank 1 died in {method} (killed by SIGKILL)", "the same; and its log")
            return result

        monkeypatch.setattr(AccelerateLearner, method, call)

    return lose


def test_lost_before_the_first_checkpoint_and_after_it_and_while_one_is_written(lose_ranks, tmp_path):
    run(tmp_path / "whole")
    # In step 2, before any checkpoint; in step 5, as steps 1 and 2 are done again; in the checkpoint of step 6.
    lose_ranks("step", {2, 7})
    lose_ranks("save_checkpoint", {2})
    run(tmp_path / "lossy", "runtime.max_restarts=3")
    assert records_of(tmp_path / "lossy") == records_of(tmp_path / "whole")
    whole, lossy = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "lossy"))
    assert whole.keys() == lossy.keys() and all(np.array_equal(whole[key], lossy[key]) for key in whole)
    told = [record for record in read_lines(tmp_path / "lossy" / "notices.jsonl") if "started again" in record["text"]]
    assert [record["text"].partition(":")[0] for record in told] == ["after step 1", "after step 4", "after step 6"]
    restarts = [record["runtime/num_restarts"] for record in read_lines(tmp_path / "lossy" / "metrics.jsonl")]
    assert restarts == [1, 1, 1, 1, 3, 3, 3, 3]


def test_one_loss_more_than_allowed_ends_the_run(lose_ranks, tmp_path):
    lose_ranks("step", {4, 5})
    with pytest.raises(RunStopped, match=r"raise runtime\.max_restarts=1; the last loss: the same"):
        run(tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "step_000003").is_dir()
