"""What every learner of ``conf/learner`` promises to the trainer."""

from __future__ import annotations

import importlib
import inspect
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from insight_rl.algorithm.algorithm import Algorithm
from insight_rl.algorithm.loss import GRPO
from insight_rl.errors import RunStopped, UsageError
from insight_rl.learner.settings import StartSpec
from insight_rl.types import Completion, Group, Metrics, Prompt, Reward

CONF = Path(__file__).parents[2] / "conf" / "learner"
NAMES = sorted(file.stem for file in CONF.glob("*.yaml"))
IN_PROCESS = ("accelerate",)
ALGORITHM = Algorithm(loss=GRPO(), advantage="group_std", clip_low=0.2, clip_high=0.2)
METRICS = {
    "learner/lr",
    "learner/loss",
    "learner/grad_norm",
    "learner/entropy",
    "learner/ratio_mean",
    "learner/clip_fraction_low",
    "learner/clip_fraction_high",
    "learner/kl_to_rollout",
    "learner/num_tokens",
    "learner/num_input_tokens",
    "learner/num_sequences",
    "learner/num_skipped_groups",
    "learner/num_updates",
    "rollout/logprob_gap_max",
    "rollout/logprob_gap_mean",
}

each_learner = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in IN_PROCESS else pytest.mark.slow) for name in NAMES]
)


def compose(name: str) -> dict:
    return dict(compose_config([f"learner={name}", "model=qwen3-0.6b"]).learner)


def make_learner(name: str, **changes):
    node = compose(name) | {"lr": 1e-3, "warmup_steps": 2} | changes
    module, _, cls = node.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), cls)(**node)


def started(name: str, model_path: Path, **changes):
    learner = make_learner(name, **changes)
    learner.start(
        StartSpec(
            model_path=model_path,
            dtype="float32",
            loss=ALGORITHM,
            temperature=1.0,
            max_completion_tokens=8,
            prompts_per_update=2,
            num_epochs=1,
            num_steps=10,
            seed=0,
        )
    )
    return learner


def make_groups(seed: int) -> list[Group]:
    """Three prompts, the last of them flat: two updates, the second with nothing to learn."""
    rng = np.random.default_rng(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.integers(5, 24, size=int(rng.integers(low, high))).tolist())

    groups = []
    for number in range(3):
        completions = [tokens(1, 9) for _ in range(4)]
        groups.append(
            Group(
                prompt=Prompt(id=f"{seed}/{number}", task="t", text="", token_ids=tokens(3, 7), answer=None),
                completions_G=tuple(
                    Completion(
                        token_ids=ids,
                        logprobs=(-3.0,) * len(ids),
                        text="",
                        finish_reason="stop",
                        policy_version=0,
                    )
                    for ids in completions
                ),
                rewards_G=tuple(Reward(value=float(j < number % 2 + 1), success=True) for j in range(4))
                if number < 2
                else (Reward(value=0.0, success=False),) * 4,
            )
        )
    return groups


def step(learner, seed: int) -> Metrics:
    groups = make_groups(seed)
    return learner.step(groups, ALGORITHM.advantages(groups))


def weights_of(learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.weights().named_tensors()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", NAMES)
def test_the_config_names_every_setting_with_its_default(name) -> None:
    node = compose(name)
    module, _, cls = node.pop("_target_").rpartition(".")
    signature = inspect.signature(getattr(importlib.import_module(module), cls)).parameters
    defaults = {key: list(p.default) if isinstance(p.default, tuple) else p.default for key, p in signature.items()}
    assert {key: value or None for key, value in node.items()} == {k: v or None for k, v in defaults.items()}


@each_learner
def test_steps_weights_models_and_resume(name, tied_model, tmp_path) -> None:
    """One learner throughout: starting one may take processes."""
    learner = started(name, tied_model)
    start = weights_of(learner)
    assert "lm_head.weight" not in start and "model.embed_tokens.weight" in start

    metrics = step(learner, 1)
    assert metrics.keys() == METRICS
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["learner/num_updates"] == 2
    assert metrics["learner/num_skipped_groups"] == 1
    assert metrics["learner/lr"] == 5e-4
    moved = weights_of(learner)
    assert all(not torch.equal(moved[key], start[key]) for key in start)
    assert step(learner, 2)["learner/lr"] == 1e-3
    assert learner.step([], [])["learner/num_updates"] == 0

    check_saved_model(learner, tied_model, tmp_path / "model")
    check_saved_weights(learner, tmp_path / "weights")

    learner.save_checkpoint(tmp_path / "checkpoint")
    gone_on = [step(learner, seed) for seed in (3, 4)]
    expected = weights_of(learner)
    learner.close()
    learner.close()
    with pytest.raises(RuntimeError, match="not started, or already closed"):
        step(learner, 5)

    resumed = started(name, tied_model)
    resumed.load_checkpoint(tmp_path / "checkpoint")
    assert [step(resumed, seed) for seed in (3, 4)] == gone_on
    assert_equal(weights_of(resumed), expected)

    state_file = tmp_path / "checkpoint" / "learner.json"
    state_file.write_text(json.dumps(json.loads(state_file.read_text()) | {"num_ranks": 7}))
    with pytest.raises(UsageError, match="num_ranks"):
        resumed.load_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(FileNotFoundError):
        resumed.load_checkpoint(tmp_path / "nowhere")
    resumed.close()


def check_saved_model(learner, source: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    learner.save_model(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert_equal(dict(model.named_parameters()), weights_of(learner))
    assert model.config.tie_word_embeddings
    assert model.dtype == torch.float32
    original = AutoModelForCausalLM.from_pretrained(source)
    assert model.generation_config.eos_token_id == original.generation_config.eos_token_id
    assert (
        AutoTokenizer.from_pretrained(folder)("12+3=")["input_ids"]
        == (AutoTokenizer.from_pretrained(source)("12+3=")["input_ids"])
    )


def check_saved_weights(learner, folder: Path) -> None:
    from safetensors.torch import load_file

    learner.weights().save(folder)
    saved = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert_equal(saved, weights_of(learner))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == saved.keys()


@each_learner
def test_a_gradient_that_is_not_finite_stops_the_run(name, tied_model) -> None:
    learner = started(name, tied_model)
    broken = [
        Group(
            prompt=group.prompt,
            completions_G=tuple(
                Completion(
                    token_ids=completion.token_ids,
                    logprobs=(math.nan,) * len(completion.logprobs),
                    text="",
                    finish_reason="stop",
                    policy_version=0,
                )
                for completion in group.completions_G
            ),
            rewards_G=group.rewards_G,
        )
        for group in make_groups(0)
    ]
    with pytest.raises(RunStopped, match=r"gradient norm is (nan|inf)"):
        learner.step(broken, ALGORITHM.advantages(broken))
    learner.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [("accelerate", {}), ("deepspeed", {"zero_stage": 1}), ("deepspeed", {"zero_stage": 3})],
    ids=str,
)
def test_two_ranks_resume_exactly(name, changes, untied_model, tmp_path) -> None:
    learner = started(name, untied_model, num_ranks=2, **changes)
    step(learner, 1)
    learner.save_checkpoint(tmp_path)
    gone_on = step(learner, 2)
    expected = weights_of(learner)
    learner.close()
    resumed = started(name, untied_model, num_ranks=2, **changes)
    resumed.load_checkpoint(tmp_path)
    assert step(resumed, 2) == gone_on
    assert_equal(weights_of(resumed), expected)
    resumed.close()
