"""Back ends by the side of each other: recomputation is counted, gradients are those of float64, AdamW is fused.

Checkpointing changes no number, so only a count can tell that it happens. All back ends take turns in the same two
processes, which start once.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from insight_rl.learner.lora import add_adapter
from insight_rl.learner.settings import LoraSettings

IDS = [[3, 9, 14, 7, 21, 6, 12, 5], [8, 2, 19, 11, 4, 16, 23, 10]]
"""A prompt of one token with a completion of seven, for each rank."""
LORA = {"rank": 2, "alpha": 16.0}

# Not in the tests' process: DeepSpeed changes torch.distributed for good.
SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
import torch
from insight_rl.algorithm.loss import GRPO, LossSettings
from insight_rl.learner.accelerate_engine import AccelerateEngine
from insight_rl.learner.batch import Row, TrainSequence, make_micro_batch
from insight_rl.learner.deepspeed_engine import DeepSpeedEngine
from insight_rl.learner.settings import DeepSpeedSettings, LearnerSettings, StartSpec
from insight_rl.learner.worker import RankWorker

model_path, cases, ids = Path(sys.argv[1]), json.loads(sys.argv[2]), np.array(json.loads(sys.argv[3]))
loss = LossSettings(loss=GRPO(), clip_low=0.2, clip_high=0.2)
sequence = TrainSequence(
    prompt_ids=ids[:1], completion_ids=ids[1:], rollout_logprobs=np.zeros(7), advantage=1.0, weight=1.0
)
for settings, dtype in cases:
    is_deepspeed = "zero_stage" in settings
    kinds = (DeepSpeedEngine, DeepSpeedSettings) if is_deepspeed else (AccelerateEngine, LearnerSettings)
    engine = kinds[0](kinds[1](**settings))
    worker = RankWorker(engine)
    facts = worker.start(
        StartSpec(model_path=model_path, dtype=dtype, loss=loss, temperature=1.0, max_completion_tokens=8,
                  prompts_per_update=1, num_epochs=1, num_steps=1, seed=0)
    )
    counts = [0] * len(engine.model.model.layers)
    for index, layer in enumerate(engine.model.model.layers):
        def count(*_, index=index):
            counts[index] += 1
        layer.self_attn.register_forward_pre_hook(count)
    batch = make_micro_batch([Row(sequences=(sequence,))], is_packed=facts.kernel != "sdpa")
    with engine.accumulating(is_last=True):
        logprobs_N, _ = engine.scorer(**worker._copy(batch).inputs)
        engine.backward(-logprobs_N.sum())
    norm = engine.update(1e-3)
    optimizer = engine._engine.optimizer if is_deepspeed else engine._optimizer
    print(json.dumps({
        "counts": counts,
        "logprobs": logprobs_N.tolist(),
        "norm": norm,
        "is_fused": all(group["fused"] for group in optimizer.param_groups),
        "dtypes": sorted({str(tensor.dtype) for _, tensor in engine.named_tensors()}),
    }))
"""


def cases() -> list[tuple[dict, str]]:
    found: list[tuple[dict, str]] = []
    for checkpointing in (True, False):
        common = {"gradient_checkpointing": checkpointing, "max_grad_norm": None}
        attention = "flash" if checkpointing else "sdpa"
        for dtype in ("float32", "bfloat16"):
            found.append((common | {"attention": attention}, dtype))
            found += [(common | {"attention": attention, "zero_stage": stage}, dtype) for stage in range(4)]
    found.append(
        ({"gradient_checkpointing": True, "max_grad_norm": None, "zero_stage": 3, "offload": "cpu"}, "bfloat16")
    )
    # Weights that stay as they are need no float32 under any stage; what is trained does, or DeepSpeed's copy of it.
    adapter = {"gradient_checkpointing": True, "max_grad_norm": None, "lora": LORA}
    found += [(adapter | stage, "bfloat16") for stage in ({}, *({"zero_stage": stage} for stage in range(4)))]
    # Accelerate first: it makes the process group in its own way, DeepSpeed takes what is there.
    return sorted(found, key=lambda case: "zero_stage" in case[0])


def run_ranks(model_path, folder: Path) -> list[list[dict]]:
    """What each rank prints, case by case."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(len(IDS))}
    env |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    ranks = []
    for rank, ids in enumerate(IDS):
        # Into a file: a pipe that nobody reads would stop one rank while the other is waited for.
        with (folder / f"{rank}.log").open("w") as log:
            ranks.append(
                subprocess.Popen(
                    [sys.executable, "-c", SCRIPT, str(model_path), json.dumps(cases()), json.dumps(ids)],
                    env=env
                    | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        codes = [rank.wait(timeout=300) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    logs = [(folder / f"{rank}.log").read_text() for rank in range(len(IDS))]
    for code, log_text in zip(codes, logs, strict=True):
        assert code == 0, log_text[-3000:]
    return [[json.loads(line) for line in text.splitlines() if line.startswith('{"counts"')] for text in logs]


def plain(model_path, *, lora: dict | None = None) -> tuple[list[torch.Tensor], float]:
    """Log-probs of each rank and the norm of the gradient over all of them, in float64."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float64)
    if lora is not None:
        add_adapter(model, LoraSettings(**lora), seed=0, dtype=torch.float64)
    logprobs = []
    for ids in torch.tensor(IDS):
        scores = model(ids[None]).logits[0, :-1].double().log_softmax(-1)
        logprobs.append(scores.gather(1, ids[1:, None])[:, 0])
    torch.stack(logprobs).sum().neg().backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    return [one.detach() for one in logprobs], norm.item()


@pytest.mark.slow
def test_layers_run_again_in_the_backward_pass_where_they_should_and_change_no_gradient(untied_model, tmp_path):
    logprobs, norm_of_all = plain(untied_model)
    _, norm_of_adapter = plain(untied_model, lora=LORA)
    for rank, results in enumerate(run_ranks(untied_model, tmp_path)):
        assert len(results) == len(cases())
        for (settings, dtype), found in zip(cases(), results, strict=True):
            case = f"{settings}, {dtype}"
            assert found["counts"] == [2 if settings["gradient_checkpointing"] else 1] * 2, case
            gap = (torch.tensor(found["logprobs"]) - logprobs[rank]).abs().mean().item()
            is_full = dtype == "float32"
            norm = norm_of_adapter if "lora" in settings else norm_of_all
            assert gap < (1e-5 if is_full else 0.05), case
            assert found["norm"] == pytest.approx(norm, rel=1e-5 if is_full else 0.05), case
            assert found["is_fused"], case
            assert found["dtypes"] == [f"torch.{dtype}"], case
