"""The quickstart's policy improves, for every seed, and a run that does is told nothing."""

import json

import pytest

from insight_rl.config import compose_config
from insight_rl.run import train

NUM_STEPS = 8
LR = 3e-4
"""Three times the quickstart's, so that these few steps show what takes it two dozen."""
MIN_GAIN = 0.015
"""Of held-out accuracy, mean over the seeds: less than half of what these steps brought (0.023 and 0.049)."""


@pytest.mark.slow
def test_the_quickstart_learns_with_every_seed(tmp_path):
    gains = []
    for seed in (0, 1):
        run_dir = tmp_path / str(seed)
        settings = [
            f"trainer.num_steps={NUM_STEPS}",
            f"learner.lr={LR}",
            f"evaluation.every={NUM_STEPS}",
            f"seed={seed}",
            f"run_dir={run_dir}",
        ]
        summary = train(compose_config(["experiment=quickstart", *settings]))
        gains.append(summary.accuracy_after - summary.accuracy_before)
        notices = [json.loads(line)["text"] for line in (run_dir / "notices.jsonl").open()]
        assert len(notices) == 2, "how a step is cut, and in what order the selector goes; no doubt about the run"
    assert min(gains) > 0, gains
    assert sum(gains) / len(gains) > MIN_GAIN, gains
