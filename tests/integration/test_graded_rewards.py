"""A run whose beliefs count grades."""

from __future__ import annotations

import json

import numpy as np
import pytest

from insight_rl.config import compose_config
from insight_rl.run import train
from insight_rl.selector.decision_log import read_decisions


def test_a_run_with_graded_rewards(tmp_path):
    settings = [
        "reward=countdown_graded",
        "selector=weight_only",
        "selector.evidence=value",
        "selector.candidate_ratio=null",
        "trainer.num_steps=2",
        "trainer.prompts_per_step=8",
        "trainer.rollouts_per_prompt=4",
        "trainer.max_completion_tokens=24",
        "evaluation.every=0",
        "monitor=jsonl",
    ]
    train(compose_config([*settings, f"run_dir={tmp_path}"]))
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[1])
    assert first["reward/mean"] > first["reward/accuracy"]  # part of the value is partial credit
    before, after = (read_decisions(tmp_path, step) for step in (1, 2))
    graded = dict(zip(after.prompt_id.tolist(), after.alpha.tolist(), strict=True))
    gained = np.array([graded[prompt_id] - 1.0 for prompt_id in before.prompt_id[before.chosen].tolist()])
    assert gained.sum() / (8 * 4) == pytest.approx(first["reward/mean"])
    assert (gained % 1.0 > 0).any()
