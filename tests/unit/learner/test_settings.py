from __future__ import annotations

import dataclasses
import pickle
import sys

import pytest
import torch

from insight_rl.algorithm.loss import GRPO, LossSettings
from insight_rl.config import compose_config, parse_config
from insight_rl.errors import UsageError
from insight_rl.learner.accelerate import AccelerateLearner
from insight_rl.learner.deepspeed import DeepSpeedLearner
from insight_rl.learner.settings import LoraSettings, StartSpec


@pytest.mark.parametrize("learner", [AccelerateLearner, DeepSpeedLearner])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", 0.0),
        ("lr", float("inf")),
        ("weight_decay", -0.1),
        ("betas", (0.9, 1.0)),
        ("betas", (0.9,)),
        ("eps", 0.0),
        ("warmup_steps", -1),
        ("lr_schedule", "step"),
        ("max_grad_norm", 0.0),
        ("tokens_per_micro_batch", 0),
        ("num_ranks", 0),
        ("attention", "eager"),
        ("head", "whole"),
        ("head_dtype", "float16"),
        ("attention", "flex"),
        ("head", "liger"),
    ],
)
def test_settings_that_no_run_could_use_name_their_key(learner, key, value) -> None:
    with pytest.raises(UsageError, match=f"^learner.{key}="):
        learner(**{key: value})


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("learner.zero_stage", {"zero_stage": 4}),
        ("learner.offload", {"offload": "nvme"}),
        ("learner.offload", {"offload": "cpu", "zero_stage": 0}),
        ("learner.deepspeed.train_batch_size", {"deepspeed": {"train_batch_size": 8}}),
        ("learner.deepspeed.checkpoint", {"deepspeed": {"checkpoint": {"load_universal": True}}}),
        ("learner.deepspeed.bf16", {"deepspeed": {"bf16": {"enabled": True}}}),
        ("learner.deepspeed.zero_optimization.stage", {"deepspeed": {"zero_optimization": {"stage": 1}}}),
    ],
)
def test_deepspeed_settings_that_contradict_name_their_key(key, settings) -> None:
    with pytest.raises(UsageError, match=f"^{key}="):
        DeepSpeedLearner(**settings)


@pytest.mark.parametrize(
    ("key", "lora"),
    [
        ("rank", {"rank": 0}),
        ("rank", {"rank": True}),
        ("rank", {"rank": "8"}),
        ("alpha", {"rank": 8, "alpha": 0}),
        ("alpha", {"rank": 8, "alpha": float("nan")}),
        ("alpha", {"alpha": 16}),
        ("target_modules", {"rank": 8, "target_modules": "q_proj"}),
        ("target_modules", {"rank": 8, "target_modules": []}),
        ("target_modules", {"rank": 8, "target_modules": [1]}),
        ("dropout", {"rank": 8, "dropout": 0.1}),
        ("rnak", {"rnak": 8}),
    ],
)
def test_settings_of_an_adapter_that_no_run_could_use_name_their_key(key, lora) -> None:
    with pytest.raises(UsageError, match=rf"^learner\.lora\.{key}="):
        AccelerateLearner(lora=lora)


def test_an_adapter_is_what_the_config_says_and_none_where_it_has_no_rank() -> None:
    assert AccelerateLearner(lora={"rank": 8}).adapter == LoraSettings(rank=8, alpha=16)
    targets = {"rank": 4, "alpha": 2, "target_modules": ["q_proj"], "dropout": 0}
    adapter = DeepSpeedLearner(lora=targets).adapter
    assert adapter == LoraSettings(rank=4, alpha=2, target_modules=("q_proj",)) and adapter.scale == 0.5
    for lora in (None, {}, {"rank": None, "alpha": None, "target_modules": "all-linear"}):
        assert AccelerateLearner(lora=lora).adapter is None


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_one_list_of_precisions_serves_config_and_learner(dtype, tmp_path) -> None:
    with pytest.raises(UsageError, match=rf"^model\.dtype='{dtype}': must be one of float32, bfloat16$"):
        parse_config(compose_config([f"model.dtype={dtype}"]))
    with pytest.raises(UsageError, match=rf"^model\.dtype='{dtype}': must be one of float32, bfloat16$"):
        StartSpec(
            model_path=tmp_path,
            dtype=dtype,
            loss=LossSettings(loss=GRPO(), clip_low=0.2, clip_high=0.2),
            num_epochs=1,
            temperature=1.0,
            max_completion_tokens=8,
            prompts_per_update=1,
            num_steps=1,
            seed=0,
        )


@pytest.mark.parametrize("learner", [AccelerateLearner(lr=1e-3, num_ranks=2), DeepSpeedLearner(zero_stage=3)])
def test_the_settings_alone_are_what_travels_to_the_ranks(learner) -> None:
    settings = pickle.loads(pickle.dumps(learner.settings))
    assert type(settings) is learner.settings_type
    assert all(getattr(learner, field.name) == getattr(settings, field.name) for field in dataclasses.fields(settings))


def test_constructing_a_learner_imports_nothing_heavy() -> None:
    import subprocess

    code = (
        "import sys, insight_rl.learner.accelerate as a, insight_rl.learner.deepspeed as d;"
        "a.AccelerateLearner(); d.DeepSpeedLearner();"
        "assert not {'torch', 'transformers', 'deepspeed', 'accelerate'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_betas_may_be_whole_numbers():
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([weight], **AccelerateLearner(betas=(0, 0.999)).adamw())
    assert optimizer.defaults["betas"] == (0.0, 0.999)
