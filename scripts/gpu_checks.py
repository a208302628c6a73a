"""The checks of ``scripts/check_gpu.py``: what each does, in a process of its own, and the figures that it reports.

Nothing is downloaded. The models have random weights; the large one has the shapes of Qwen3-0.6B. What a learner
computes is compared with a plain forward and backward pass of transformers on the CPU in float64.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from insight_rl.paths import conf_dir
from insight_rl.reward.base import BaseReward
from insight_rl.types import Completion, Group, Metrics, Prompt, Reward

LARGE = "Qwen/Qwen3-0.6B"
SMALL_ON_GPU = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
SMALL_ON_CPU = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
TEMPERATURE = 1.0
GROUP_SIZE = 4
# AdamW with both betas 0 and an eps that dwarfs every gradient is gradient descent: the change is the gradient.
EPS = 1e8
RATE = 4.0
GRADIENT_DESCENT = {"lr": RATE * EPS, "eps": EPS, "betas": (0.0, 0.0), "weight_decay": 0.0, "max_grad_norm": None}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a check runs. ``folder`` is shared by all of them: models are made there once."""

    device: str
    """``cuda`` or ``cpu``; on a CPU everything is small."""
    folder: Path

    @property
    def has_gpu(self) -> bool:
        return self.device == "cuda"


@dataclass
class Figures:
    """What a check has measured, by name; a figure above its limit fails the check, after all have been recorded."""

    values: dict[str, float] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float, *, at_most: float | None = None) -> None:
        self.values[name] = float(value)
        if at_most is not None:
            self.limits[name] = at_most

    def complaints(self) -> list[str]:
        return [
            f"{name} = {self.values[name]:.3g}, above {limit:g}"
            for name, limit in self.limits.items()
            if not self.values[name] <= limit  # NaN fails
        ]


@dataclass(frozen=True, kw_only=True)
class Check:
    name: str
    run: Callable[[Check, Place, Figures], None]
    overrides: tuple[str, ...] = ()
    """Of the configuration, e.g. ``learner=deepspeed``."""
    needs: tuple[str, ...] = ()
    """``gpu``, ``2 gpus``, or modules that have to be installed."""
    dtypes: tuple[str, ...] = ("float32", "bfloat16")

    def lacking(self, place: Place) -> str | None:
        """Why it cannot be run here; ``None`` if it can."""
        import torch

        for need in self.needs:
            if need in ("gpu", "2 gpus"):
                if torch.cuda.device_count() < int(need[0] if need[0].isdigit() else 1) or not place.has_gpu:
                    return "needs a GPU" if need == "gpu" else "needs 2 GPUs"
            elif importlib.util.find_spec(need) is None:
                return f"{need} is not installed"
        return None


# -- models


def make_model(place: Place, *, is_large: bool, dtype: str) -> Path:
    """The folder of a model with random weights and the bundled tokenizer, made once."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    folder = place.folder / f"{'large' if is_large else 'small'}-{dtype}"
    if (folder / "config.json").exists():
        return folder
    tokenizer = conf_dir().parent / "data" / "tiny_countdown"
    for file in (*tokenizer.glob("token*"), *tokenizer.glob("special*")):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    if is_large:
        from insight_rl.doctor.shapes import find_config

        keys = dict(find_config(LARGE) or {})
        keys.pop("model_type", None)
        keys.pop("architectures", None)
    else:
        keys = {**(SMALL_ON_GPU if place.has_gpu else SMALL_ON_CPU), "initializer_range": 0.1}
        keys["tie_word_embeddings"] = True
    torch.manual_seed(0)
    config = Qwen3Config(**keys, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    with torch.device(place.device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    return folder


def compose(check: Check, *overrides: str, config_dir: Path | None = None) -> Any:
    from insight_rl.config import compose_config

    return compose_config([*check.overrides, *overrides], config_dir=config_dir)


def make_learner(check: Check, **changes: Any) -> Any:
    from omegaconf import OmegaConf

    from insight_rl.build import build_part

    node = OmegaConf.to_container(compose(check).learner)
    return build_part("learner", {**node, **changes})  # type: ignore[dict-item]


def start_spec(model: Path, dtype: str, max_completion_tokens: int) -> Any:
    from insight_rl.learner.settings import StartSpec

    return StartSpec(
        model_path=model,
        dtype=dtype,
        loss=algorithm(),
        num_epochs=1,
        temperature=TEMPERATURE,
        max_completion_tokens=max_completion_tokens,
        prompts_per_update=GROUP_SIZE,
        num_steps=100,
        seed=0,
    )


def algorithm() -> Any:
    from insight_rl.algorithm.algorithm import Algorithm
    from insight_rl.algorithm.loss import GRPO

    return Algorithm(loss=GRPO(), advantage="group_std", clip_low=0.2, clip_high=0.2)


def make_groups(vocab_size: int, *, longest_prompt: int, longest: int, num_prompts: int = GROUP_SIZE) -> list[Group]:
    """Groups of random tokens, the first completion as long as can be; half of the rewards are 1. Log-probs are 0."""
    random = np.random.default_rng(0)
    groups = []
    for number in range(num_prompts):
        prompt = random.integers(5, vocab_size, size=int(random.integers(longest_prompt // 2, longest_prompt + 1)))
        sizes = [longest, *random.integers(2, longest + 1, size=GROUP_SIZE - 1).tolist()]
        completions = [random.integers(5, vocab_size, size=size) for size in sizes]
        groups.append(
            Group(
                prompt=Prompt(id=str(number), task="t", text="", token_ids=tuple(prompt.tolist()), answer=None),
                completions_G=tuple(completion_of(ids.tolist(), [0.0] * len(ids)) for ids in completions),
                rewards_G=tuple(Reward(value=float(j % 2), success=bool(j % 2)) for j in range(GROUP_SIZE)),
            )
        )
    return groups


def completion_of(ids: Sequence[int], logprobs: Sequence[float]) -> Completion:
    return Completion(
        token_ids=np.array(ids), logprobs=np.array(logprobs), text="", finish_reason="length", policy_version=0
    )


def with_logprobs(groups: list[Group], logprobs: Iterator[Any]) -> list[Group]:
    """The groups as if a rollout engine had sampled their tokens with these log-probs."""
    import dataclasses

    return [
        dataclasses.replace(
            group,
            completions_G=tuple(
                completion_of(np.asarray(each.token_ids).tolist(), next(logprobs).tolist())
                for each in group.completions_G
            ),
        )
        for group in groups
    ]


# -- the reference


def reference_model(folder: Path, weights: dict[str, Any] | None = None) -> Any:
    """In float64 on the CPU, with the folder's weights or with ``weights``."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    if weights is not None:
        missing, unexpected = model.load_state_dict(weights, strict=False)
        assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    return model


def reference_logprobs(model: Any, groups: list[Group]) -> Iterator[Any]:
    """Of every completion, one plain forward pass each."""
    import torch

    for group in groups:
        for completion in group.completions_G:
            start = len(group.prompt.token_ids)
            ids = torch.tensor([[*group.prompt.token_ids, *np.asarray(completion.token_ids).tolist()]])
            logits = model(ids).logits[0, start - 1 : -1] / TEMPERATURE
            yield logits.log_softmax(-1).gather(-1, ids[0, start:, None]).squeeze(-1)


def reference_gradient(model: Any, groups: list[Group], advantages: list[np.ndarray]) -> dict[str, Any]:
    """Of GRPO's first update, where every ratio is 1: the mean over completions of -A times their mean log-prob."""
    count = sum(len(group.completions_G) for group in groups)
    scale = iter(np.concatenate(advantages).tolist())
    for group in groups:
        for logprobs in reference_logprobs(model, [group]):
            (-next(scale) * logprobs.mean() / count).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


# -- the checks


def check_numerics(check: Check, place: Place, figures: Figures) -> None:
    """Log-probs and gradient of one update against float64 on the CPU; then the weights after two updates.

    ``gap_mean`` and ``gap_max``: |log-prob - that of the reference| in nats. ``gradient_error``: relative norm of the
    difference, in float32. ``norm_error``: of the gradient's norm alone, in bfloat16, where weights are too coarse to
    read a gradient off them. ``after_updates``: as ``gap_mean``, for the weights that the learner hands out by then.
    """
    longest_prompt, longest = (100, 200) if place.has_gpu else (6, 10)
    models = {dtype: make_model(place, is_large=False, dtype=dtype) for dtype in check.dtypes}
    learner = make_learner(check, **GRADIENT_DESCENT)
    try:
        for dtype, model in models.items():
            vocab_size = json.loads((model / "config.json").read_text())["vocab_size"]
            groups = make_groups(vocab_size, longest_prompt=longest_prompt, longest=longest)
            learner.start(start_spec(model, dtype, longest))
            _compare(check, learner, model, dtype, groups, figures)
    finally:
        learner.close()


def _compare(check: Check, learner: Any, model: Path, dtype: str, groups: list[Group], figures: Figures) -> None:
    is_full = dtype == "float32"
    limit = 1e-4 if is_full else 0.05
    reference = reference_model(model)
    groups = with_logprobs(groups, (each.detach() for each in reference_logprobs(reference, groups)))
    advantages = algorithm().advantages(groups)
    before = weights_of(learner)
    metrics = learner.step(groups, advantages)
    after = weights_of(learner)
    figures.add(f"{dtype}/gap_mean", number(metrics, "rollout/logprob_gap_mean"), at_most=limit)
    figures.add(f"{dtype}/gap_max", number(metrics, "rollout/logprob_gap_max"))
    if "adapter" not in check.name:  # its gradient is that of the adapter, which the reference has not
        expected = reference_gradient(reference, groups, advantages)
        assert before.keys() == expected.keys(), before.keys() ^ expected.keys()
        norm = math.sqrt(sum(float(each.square().sum()) for each in expected.values()))
        found = number(metrics, "learner/grad_norm")
        figures.add(f"{dtype}/norm_error", abs(found - norm) / norm, at_most=1e-3 if is_full else 0.1)
        if is_full:
            change = {name: (before[name].double() - after[name].double()) / RATE for name in before}
            error = math.sqrt(sum(float((change[name] - expected[name]).square().sum()) for name in change))
            figures.add(f"{dtype}/gradient_error", error / norm, at_most=1e-3)
    moved = learner.step(groups, advantages)
    assert number(moved, "rollout/logprob_gap_mean") > 0.01, "the updates have not moved the policy"
    reference = reference_model(model, weights_of(learner))
    groups = with_logprobs(groups, (each.detach() for each in reference_logprobs(reference, groups)))
    metrics = learner.step(groups, advantages)
    figures.add(f"{dtype}/after_updates", number(metrics, "rollout/logprob_gap_mean"), at_most=limit)


def weights_of(learner: Any) -> dict[str, Any]:
    return {name: tensor.detach().cpu().clone() for name, tensor in learner.weights().named_tensors()}


def number(metrics: Metrics, name: str) -> float:
    value = metrics[name]
    assert isinstance(value, (int, float)), name
    return float(value)


def check_load(check: Check, place: Place, figures: Figures) -> None:
    """Memory and speed of a training step on long rows: the second of two, beside what ``insight-rl doctor`` expects.

    16 completions of up to 4,096 tokens, Qwen3-0.6B in bfloat16; a small model on a CPU.
    """
    dtype = "bfloat16" if place.has_gpu else "float32"
    model = make_model(place, is_large=place.has_gpu, dtype=dtype)
    longest_prompt, longest = (256, 4096) if place.has_gpu else (6, 10)
    vocab_size = json.loads((model / "config.json").read_text())["vocab_size"]
    groups = make_groups(vocab_size, longest_prompt=longest_prompt, longest=longest)
    advantages = algorithm().advantages(groups)
    learner = make_learner(check)
    try:
        learner.start(start_spec(model, dtype, longest))
        for _ in range(2):
            metrics = learner.step(groups, advantages)
    finally:
        learner.close()
    for name in ("learner/tokens_per_s", "learner/mfu"):
        if name in metrics:
            figures.add(name, number(metrics, name))
    if not place.has_gpu:
        return
    figures.add("measured_gib", number(metrics, "memory/learner_rank_0_gpu_allocated_gib"))
    figures.add("reserved_gib", number(metrics, "memory/learner_rank_0_gpu_reserved_gib"))
    figures.add("doctor_gib", estimated_gib(check, model, dtype, max_length=longest_prompt + longest, longest=longest))


def estimated_gib(check: Check, model: Path, dtype: str, *, max_length: int, longest: int) -> float:
    """What doctor computes for the learner's fullest phase, allowances for contexts and fragments left out."""
    from dataclasses import replace

    from insight_rl.config import parse_config
    from insight_rl.doctor.cards import cards_here
    from insight_rl.doctor.memory import count_situations
    from insight_rl.doctor.workload import read_workload

    sizes = [f"trainer.prompts_per_step={GROUP_SIZE}", f"trainer.rollouts_per_prompt={GROUP_SIZE}"]
    sizes += [f"model.max_length={max_length}", f"trainer.max_completion_tokens={longest}"]
    work = read_workload(parse_config(compose(check, f"model.path={model}", f"model.dtype={dtype}", *sizes)))
    assert work is not None
    situations = count_situations(replace(work, rollout=None), cards_here()[0])
    return max(each.computed for each in situations) / 2**30


class Coin(BaseReward):
    """A verdict that depends on the tokens alone, so that a model of random weights has groups to learn from."""

    bounded = True

    def __call__(self, prompt: Prompt, completion: Completion) -> Reward:
        success = int(np.asarray(completion.token_ids).sum()) % 2 == 0
        return Reward(value=float(success), success=success, status="correct" if success else "wrong")


def check_run(check: Check, place: Place, figures: Figures) -> None:
    """Three steps of training with every part real: the gap of the log-probs after each sync, seconds, memory."""
    from insight_rl.allowed_code import allowed
    from insight_rl.run import train

    dtype = "bfloat16" if place.has_gpu else "float32"
    model = make_model(place, is_large=place.has_gpu, dtype=dtype)
    allowed.allow(folders=[Path(__file__).parent])
    run_dir = place.folder / check.name.replace(" ", "-")
    coin = place.folder / "conf" / "reward" / "coin.yaml"
    coin.parent.mkdir(parents=True, exist_ok=True)
    coin.write_text("_target_: gpu_checks.Coin\n")
    small = [
        f"model={'qwen3-0.6b' if place.has_gpu else 'tiny'}",
        f"model.path={model}",
        f"model.dtype={dtype}",
        "model.prompt_style=bare",
        f"model.max_length={1024 if place.has_gpu else 64}",
        "reward=coin",
        "trainer.num_steps=3",
        f"trainer.prompts_per_step={16 if place.has_gpu else 4}",
        f"trainer.rollouts_per_prompt={8 if place.has_gpu else 4}",
        f"trainer.max_completion_tokens={512 if place.has_gpu else 8}",
        "trainer.max_mean_logprob_gap=1000",
        "learner.lr=1e-4",
        "evaluation.every=0",
        "checkpoint.every=1000",
        "monitor=jsonl",
        f"run_dir={run_dir}",
    ]
    train(compose(check, *small, config_dir=coin.parents[1]))
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["step"] > 0]
    assert len(steps) == 3, [line["step"] for line in lines]
    limit = 0.05 if place.has_gpu else 1e-4
    for step in steps:
        figures.add(f"gap_mean/{step['step']}", step["rollout/logprob_gap_mean"], at_most=limit)
    last = steps[-1]
    for name in sorted(last):
        is_told = name.startswith(("time/", "memory/", "sync/")) or name.endswith(("tokens_per_s", "/mfu", "gap_max"))
        if is_told and isinstance(last[name], (int, float)):
            figures.add(name, last[name])


MEMORY_SHARE = "+rollout.engine_args.gpu_memory_utilization"
AGAIN = "learner.gradient_checkpointing=true"
ADAPTER = "learner.lora.rank=8"


def _learner(name: str, *changes: str, needs: tuple[str, ...] = (), dtypes: tuple[str, ...] | None = None) -> Check:
    """``name`` begins with ``accelerate`` or ``zero-<stage>``; on a CPU DeepSpeed's plain stages are enough."""
    kind, *variant = name.split()
    if kind == "accelerate":
        overrides: tuple[str, ...] = ("learner=accelerate", *changes)
    else:
        overrides = ("learner=deepspeed", f"learner.zero_stage={kind.removeprefix('zero-')}", *changes)
        needs = ("deepspeed", *(("gpu",) if variant else ()), *needs)
    return Check(
        name=name, run=check_numerics, overrides=overrides, needs=needs, dtypes=dtypes or ("float32", "bfloat16")
    )


def _load(name: str, *changes: str, needs: tuple[str, ...] = ()) -> Check:
    if name.startswith("load zero"):
        overrides = ("learner=deepspeed", f"learner.zero_stage={name.split()[1].removeprefix('zero-')}", *changes)
        return Check(name=name, run=check_load, overrides=overrides, needs=("deepspeed", "gpu", *needs))
    return Check(name=name, run=check_load, overrides=("learner=accelerate", *changes), needs=needs)


def _vllm(name: str, *changes: str, needs: tuple[str, ...] = ("gpu",)) -> Check:
    overrides = ("rollout=vllm", "learner=deepspeed", AGAIN, *changes)
    return Check(name=name, run=check_run, overrides=overrides, needs=("vllm", "deepspeed", *needs))


CHECKS = {
    check.name: check
    for check in (
        _learner("accelerate"),
        _learner("accelerate checkpointing", AGAIN),
        *(_learner(f"zero-{stage}") for stage in range(4)),
        _learner("zero-2 checkpointing", AGAIN),
        _learner("zero-3 checkpointing", AGAIN),
        _learner("accelerate sdpa", "learner.attention=sdpa", needs=("gpu",)),
        _learner("accelerate flash", "learner.attention=flash", dtypes=("bfloat16",)),
        _learner("accelerate flex", "learner.attention=flex", needs=("gpu",)),
        _vllm("run shared_memory", "weight_sync=shared_memory", needs=()),
        _vllm("run ipc", "weight_sync=ipc"),
        # Together more than the card has, were both awake.
        _vllm("run ipc sleep", "weight_sync=ipc", "rollout.sleep=true", f"{MEMORY_SHARE}=0.85"),
        _vllm("run adapter", "weight_sync=adapter", ADAPTER, needs=("gpu", "peft")),
        _load("load accelerate", AGAIN),
        _load("load zero-2"),
        _load("load zero-2 checkpointing", AGAIN),
        _load("load zero-2 offload", AGAIN, "learner.offload=cpu"),
        _load("load zero-2 adapter", AGAIN, ADAPTER),
        _load("load zero-3 checkpointing", AGAIN),
        _load("load accelerate liger", AGAIN, "learner.head=liger", needs=("gpu", "liger_kernel")),
        _learner("zero-2 offload", "learner.offload=cpu"),
        _learner("zero-3 offload", "learner.offload=cpu"),
        _learner("accelerate adapter", ADAPTER, needs=("peft",)),
        _learner("zero-2 adapter", ADAPTER, needs=("peft",)),
        _learner("zero-3 adapter", ADAPTER, needs=("peft",)),
        _learner("accelerate liger", "learner.head=liger", needs=("gpu", "liger_kernel")),
        _learner("accelerate float32 head", "learner.head_dtype=float32", dtypes=("bfloat16",)),
        _learner("accelerate unshared prompts", "learner.share_prompts=false"),
        _learner("zero-0 checkpointing", AGAIN),
        _learner("zero-1 checkpointing", AGAIN),
        Check(name="run transformers", run=check_run, overrides=("rollout=transformers",)),
        Check(
            name="run nccl",
            run=check_run,
            overrides=("rollout=vllm", "rollout.placement=separate", "weight_sync=nccl"),
            needs=("vllm", "2 gpus"),
        ),
    )
}
"""In order of what matters most; where the time is short, the last are not run."""
