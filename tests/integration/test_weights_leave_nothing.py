"""A trainer that is killed while weights are on their way leaves no copy of the model in memory or on disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import sys
from pathlib import Path

from insight_rl.algorithm.algorithm import Algorithm
from insight_rl.algorithm.loss import GRPO
from insight_rl.learner.accelerate import AccelerateLearner
from insight_rl.learner.settings import StartSpec

if __name__ == "__main__":
    learner = AccelerateLearner(num_ranks=2)
    learner.start(
        StartSpec(
            model_path=Path(sys.argv[1]), dtype="float32", num_epochs=1, temperature=1.0, max_completion_tokens=8,
            loss=Algorithm(loss=GRPO(), advantage="centered", clip_low=0.2, clip_high=0.2),
            prompts_per_update=1, num_steps=1, seed=0,
        )
    )
    for name, tensor in learner.weights().named_tensors():
        print(name, flush=True)
        sys.stdin.read()
"""
SHARED_MEMORY = Path("/dev/shm")


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no /dev/shm")
def test_kill_9_amid_a_transfer_leaves_nothing(tied_model, tmp_path) -> None:
    script, temporary = tmp_path / "trainer.py", tmp_path / "temporary"
    script.write_text(SCRIPT)
    temporary.mkdir()
    before = set(SHARED_MEMORY.iterdir())
    trainer = subprocess.Popen(
        [sys.executable, str(script), str(tied_model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    assert trainer.stdout is not None and trainer.stdin is not None
    assert trainer.stdout.readline().strip() == "model.embed_tokens.weight"
    trainer.send_signal(signal.SIGKILL)
    trainer.wait(timeout=60)
    assert not [path for path in set(SHARED_MEMORY.iterdir()) - before if "insight" in path.name]
    # The ranks may take a moment to notice; what they have open may not have a name even then.
    deadline = time.monotonic() + 60
    while (left := list(temporary.rglob("*insight_rl_weights*"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
