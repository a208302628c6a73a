"""A rollout engine that stops following the learner's weights is noticed within a few steps."""

from __future__ import annotations

import pytest

from insight_rl.config import compose_config
from insight_rl.errors import RunStopped
from insight_rl.rollout.transformers import TransformersEngine
from insight_rl.run import train


def test_weights_that_do_not_arrive_stop_the_run(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(TransformersEngine, "update_weights", lambda self, weights, *, version: {})
    tree = compose_config(
        [
            f"run_dir={tmp_path / 'run'}",
            "experiment=quickstart",
            "monitor=jsonl",
            "evaluation.every=0",
            "trainer.num_steps=4",
            "trainer.prompts_per_step=16",
        ]
    )
    with pytest.raises(RunStopped, match=r"rollout/logprob_gap_mean=.* exceeds trainer\.max_mean_logprob_gap=0\.001"):
        train(tree)
