"""Groups of different sizes through a whole run: engine, judge, advantages, learner, beliefs and logs."""

from __future__ import annotations

import json

import pytest

from insight_rl.config import compose_config
from insight_rl.run import train
from insight_rl.selector.decision_log import read_history


@pytest.mark.parametrize("advantage", ["group_std", "mapp"])
def test_a_run_with_a_rollout_budget(advantage, tmp_path):
    """Two steps; in the second, prompts seen before compete with new ones, so that their numbers differ."""
    settings = [
        "selector=mapp",
        "selector.greedy=true",
        "selector.candidate_ratio=1000",
        "selector.rollout_budget=knapsack",
        f"algorithm.advantage={advantage}",
        "trainer.num_steps=2",
        "trainer.prompts_per_step=8",
        "trainer.rollouts_per_prompt=8",
        "trainer.max_completion_tokens=24",
        "evaluation.every=0",
        "monitor=jsonl",
    ]
    train(compose_config([*settings, f"run_dir={tmp_path / 'run'}"]))
    history = read_history(tmp_path / "run")
    first, second = (history.judged[history.step == step] for step in (1, 2))
    assert first.tolist() == [8] * 8
    assert second.sum() == 64
    assert len(set(second.tolist())) > 1
    assert second.min() >= 2
    assert (history.successes <= history.judged).all()
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["rollout/num_rollouts"] == 2 * 64
    assert last["rollout/logprob_gap_max"] < 1e-4
