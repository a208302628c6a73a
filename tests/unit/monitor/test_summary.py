"""The closing figures follow from the records alone."""

from __future__ import annotations

import pytest

from insight_rl.errors import UsageError
from insight_rl.monitor.records import to_lines
from insight_rl.monitor.summary import PHASES, summarise

RECORDS = [
    {"step": 0, "eval/accuracy": 0.25, "time/evaluate_s": 2.0},
    {
        "step": 1,
        "rollout/num_rollouts": 8,
        "rollout/num_tokens": 80,
        "selector/informative_fraction": 0.5,
        "time/select_s": 0.5,
        "time/rollout_s": 3.0,
        "time/learn_s": 2.0,
        "time/sync_s": 0.25,
        "time/step_s": 6.0,
    },
    {
        "step": 2,
        "rollout/num_rollouts": 16,
        "rollout/num_tokens": 170,
        "selector/informative_fraction": 1.0,
        "eval/accuracy": 0.75,
        "time/rollout_s": 1.0,
        "time/step_s": 1.0,
        "time/evaluate_s": 2.5,
        "time/checkpoint_s": 0.125,
    },
    {"step": 3, "rollout/num_rollouts": 24, "rollout/num_tokens": 250, "eval/accuracy": 0.5, "learner/loss": None},
]


def test_summary_of_a_run(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(to_lines(RECORDS))
    (tmp_path / "model").mkdir()
    summary = summarise(tmp_path)
    assert (summary.accuracy_before, summary.accuracy_after) == (0.25, 0.5)
    assert (summary.accuracy_best, summary.best_step) == (0.75, 2)
    assert (summary.num_steps, summary.num_rollouts, summary.num_tokens) == (3, 24, 250)
    assert summary.informative_fraction == 0.75
    assert summary.model_dir == tmp_path / "model"
    assert tuple(summary.seconds) == PHASES
    assert summary.seconds == {
        "select": 0.5,
        "rollout": 4.0,
        "reward": 0.0,
        "learn": 2.0,
        "sync": 0.25,
        "evaluate": 4.5,
        "checkpoint": 0.125,
        "other": 0.25,
    }


def test_run_without_evaluation_or_steps(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(to_lines([{"step": 0, "eval/accuracy": 0.25}]))
    only_before = summarise(tmp_path)
    assert (only_before.accuracy_before, only_before.accuracy_after, only_before.num_steps) == (0.25, None, 0)
    (tmp_path / "metrics.jsonl").write_text(to_lines([{"step": 1, "reward/mean": 1.0}]))
    never = summarise(tmp_path)
    assert (never.accuracy_before, never.accuracy_after, never.accuracy_best, never.best_step) == (None,) * 4
    assert (never.model_dir, never.informative_fraction) == (None, None)


def test_the_earlier_of_two_equally_good_steps_is_the_best(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(to_lines({"step": s, "eval/accuracy": 0.5} for s in range(3)))
    assert summarise(tmp_path).best_step == 0


@pytest.mark.parametrize("content", [None, "", '{"step": 0, "torn'])
def test_folder_without_records_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(UsageError, match=r"metrics\.jsonl: no step is recorded"):
        summarise(tmp_path)
