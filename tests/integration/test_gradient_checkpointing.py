"""Gradient checkpointing recomputes under every learner: counted, since the gradients are the same without it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from insight_rl.paths import data_dir

# In a process of its own: DeepSpeed changes torch.distributed for good.
COUNT = """
import json, os, sys, torch
from pathlib import Path
from insight_rl.algorithm.loss import GRPO, LossSettings
from insight_rl.learner.settings import DeepSpeedSettings, LearnerSettings, StartSpec

learner, model_path = json.loads(sys.argv[1]), Path(sys.argv[2])
if "zero_stage" in learner:
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    from insight_rl.learner.deepspeed_engine import DeepSpeedEngine
    engine = DeepSpeedEngine(DeepSpeedSettings(**learner))
else:
    from insight_rl.learner.accelerate_engine import AccelerateEngine
    engine = AccelerateEngine(LearnerSettings(**learner))
loss = LossSettings(loss=GRPO(), clip_low=0.2, clip_high=0.2)
engine.start(StartSpec(model_path=model_path, dtype="float32", loss=loss, temperature=1.0, max_completion_tokens=4,
                       prompts_per_update=1, num_epochs=1, num_steps=1, seed=0))
counts = dict.fromkeys(range(len(engine.model.model.layers)), 0)
for index, layer in enumerate(engine.model.model.layers):
    layer.self_attn.register_forward_pre_hook(lambda *_, index=index: counts.update({index: counts[index] + 1}))
ids = torch.arange(1, 9)[None]
with engine.accumulating(is_last=True):
    logprobs_N, _ = engine.scorer(input_ids=ids, segments=None, positions=None, sources_N=torch.arange(7),
                                  targets_N=ids[0, 1:])
    engine.backward(-logprobs_N.sum())
print(json.dumps(list(counts.values())))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("learner", "gradient_checkpointing"),
    [
        *(pytest.param({"zero_stage": stage}, True, id=f"zero-{stage}") for stage in range(4)),
        pytest.param({}, True, id="accelerate"),
        pytest.param({}, False, id="accelerate-without"),
    ],
)
def test_every_layer_runs_again_in_the_backward_pass(learner, gradient_checkpointing):
    settings = json.dumps(learner | {"gradient_checkpointing": gradient_checkpointing})
    command = [sys.executable, "-c", COUNT, settings, str(data_dir() / "tiny_countdown")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    counts = json.loads(result.stdout.splitlines()[-1])
    assert counts == [2 if gradient_checkpointing else 1] * 4
