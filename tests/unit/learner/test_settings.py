from __future__ import annotations

import sys

import pytest

from insight_rl.errors import UsageError
from insight_rl.learner.accelerate import AccelerateLearner
from insight_rl.learner.deepspeed import DeepSpeedLearner


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
        ("learner.deepspeed.bf16", {"deepspeed": {"bf16": {"enabled": True}}}),
        ("learner.deepspeed.zero_optimization.stage", {"deepspeed": {"zero_optimization": {"stage": 1}}}),
    ],
)
def test_deepspeed_settings_that_contradict_name_their_key(key, settings) -> None:
    with pytest.raises(UsageError, match=f"^{key}="):
        DeepSpeedLearner(**settings)


def test_a_precision_the_learner_cannot_train_in_is_refused_before_anything_loads(tmp_path) -> None:
    from insight_rl.algorithm.algorithm import Algorithm

    learner = AccelerateLearner()
    with pytest.raises(UsageError, match=r"^model\.dtype='float16'"):
        learner.start(
            model_path=tmp_path,
            dtype="float16",
            loss=Algorithm(variant="grpo", advantage="centered", clip_low=0.2, clip_high=0.2).loss,
            temperature=1.0,
            max_completion_tokens=8,
            prompts_per_update=1,
            num_epochs=1,
            num_steps=1,
            seed=0,
        )


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.8535533905932737, 0.5, 0.14644660940672627]),
    ],
)
def test_learning_rate_warms_up_and_then_follows_its_schedule(schedule, expected) -> None:
    learner = AccelerateLearner(lr=1.0, warmup_steps=2, lr_schedule=schedule)
    assert [learner.settings.lr_at(step, 6) for step in range(1, 7)] == pytest.approx(expected)


def test_constructing_a_learner_imports_nothing_heavy() -> None:
    import subprocess

    code = (
        "import sys, insight_rl.learner.accelerate as a, insight_rl.learner.deepspeed as d;"
        "a.AccelerateLearner(); d.DeepSpeedLearner();"
        "assert not {'torch', 'transformers', 'deepspeed', 'accelerate'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
