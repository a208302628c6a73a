"""A rollout engine that stops following the learner's weights is noticed within a few steps."""

from __future__ import annotations

import pytest

from insight_rl.config import compose_config
from insight_rl.errors import RunStopped
from insight_rl.rollout.transformers import TransformersEngine
from insight_rl.run import train


@pytest.mark.parametrize(
    ("last_version", "message"),
    [
        (0, r"after the sync of step 1 rollout worker 0 of 1 does not sample from the learner's weights"),
        (1, r"rollout/logprob_gap_mean=.* exceeds trainer\.max_mean_logprob_gap=0\.001"),
    ],
    ids=["from-the-first-sync-on", "later"],
)
def test_weights_that_do_not_arrive_stop_the_run(tmp_path, monkeypatch, last_version, message) -> None:
    arrives = TransformersEngine.update_weights

    def update_weights(self, weights, *, version):
        return arrives(self, weights, version=version) if version <= last_version else {}

    monkeypatch.setattr(TransformersEngine, "update_weights", update_weights)
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
    with pytest.raises(RunStopped, match=message):
        train(tree)
