"""The overlapping loop with real parts: the bundled model, its learner and its engine."""

from __future__ import annotations

import json
import shutil

import numpy as np

from insight_rl.config import compose_config
from insight_rl.monitor.dictionary import is_of_the_machine
from insight_rl.run import RunOutput, train

SMALL = [
    "trainer.num_steps=4",
    "trainer.prompts_per_step=8",
    "trainer.rollouts_per_prompt=4",
    "trainer.max_completion_tokens=24",
    "trainer.sync_check_every=1",
    "selector=mopps",
    "learner.lr=1.0e-3",
    "evaluation.every=2",
    "evaluation.samples_per_problem=1",
    "evaluation.max_problems=8",
    "checkpoint.every=1",
    "checkpoint.keep_last=9",
    "monitor=jsonl",
]


def run(folder, *overrides):
    train(compose_config([*SMALL, *overrides, f"run_dir={folder}"]), RunOutput(keeps_model=False))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [{k: v for k, v in json.loads(line).items() if not is_of_the_machine(k)} for line in lines]
    decisions = {path.name: path.read_bytes() for path in (folder / "decisions").glob("step_*")}
    return records, (folder / "selections.jsonl").read_text(), decisions


def test_without_staleness_it_is_the_synchronous_run_and_with_it_a_killed_run_goes_on_as_the_whole_one(tmp_path):
    plain = run(tmp_path / "sync")
    records, *decided = run(tmp_path / "zero", "trainer=async", "trainer.max_staleness=0")
    without = [{k: v for k, v in record.items() if not k.startswith("async/")} for record in records]
    assert (without, *decided) == plain

    whole = run(tmp_path / "whole", "trainer=async", "trainer.max_staleness=1")
    assert [record.get("async/staleness_max") for record in whole[0]] == [None, 0, 1, 1, 1]
    assert np.mean([record["rollout/logprob_gap_mean"] for record in whole[0][2:]]) > 1e-4, "the policy has moved"
    assert whole != plain
    # As after kill -9 in the third step: the newest checkpoint is of the second, with the rollouts of the third in it,
    # and the records go further.
    shutil.copytree(tmp_path / "whole", tmp_path / "killed", symlinks=True)
    for name in ("step_000003", "step_000004"):
        shutil.rmtree(tmp_path / "killed" / "checkpoints" / name)
    assert run(tmp_path / "killed", "trainer=async", "trainer.max_staleness=1") == whole
