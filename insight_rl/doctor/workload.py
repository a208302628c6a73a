"""What of a run's configuration its memory and time follow from, as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from insight_rl.config import RunConfig
from insight_rl.doctor.shapes import ModelShape, ParameterCount, count_all, find_config, read_shape
from insight_rl.errors import UsageError, is_number
from insight_rl.rollout.vllm_worker import GPU_SHARE_COLOCATED, GPU_SHARE_SEPARATE

_LEARNERS: dict[str, Literal["accelerate", "deepspeed"]] = {
    "insight_rl.learner.accelerate.AccelerateLearner": "accelerate",
    "insight_rl.learner.deepspeed.DeepSpeedLearner": "deepspeed",
}
_ENGINES: dict[str, Literal["vllm", "transformers"]] = {
    "insight_rl.rollout.vllm.VllmEngine": "vllm",
    "insight_rl.rollout.transformers.TransformersEngine": "transformers",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """Of ``learner.lora``: its rank, and the matrices that it is on; ``None``: all of a layer's."""

    rank: int
    targets: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerPlan:
    """The learner's settings that memory and time follow from; the names are those of the configuration."""

    kind: Literal["accelerate", "deepspeed"]
    num_ranks: int
    zero_stage: int
    """0 with Accelerate, whose ranks hold equal copies."""
    offload: str
    gradient_checkpointing: bool
    tokens_per_micro_batch: int
    lora: Adapter | None
    can_adapt: bool
    """Whether the learner has a setting ``lora``."""
    head_dtype: str
    has_reference: bool
    scores_again: bool
    """Whether later updates of a step are preceded by a forward pass for the old policy's log-probs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPlan:
    """The rollout engine's settings that memory and time follow from."""

    kind: Literal["vllm", "transformers"]
    num_workers: int
    tensor_parallel_size: int
    is_separate: bool
    memory_share: float
    """vLLM's ``gpu_memory_utilization``."""
    sleeps: bool
    max_batch: int | None
    """Sequences at the same time: vLLM's ``max_num_seqs`` or the transformers engine's ``max_batch_size``."""
    max_batched_tokens: int | None
    has_graphs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A run in numbers. ``learner`` or ``rollout`` is ``None`` where it is a class of the user's own."""

    model_path: str
    shape: ModelShape
    parameters: ParameterCount
    dtype_bytes: int
    max_length: int
    max_completion_tokens: int
    mean_completion_tokens: int
    prompts_per_step: int
    rollouts_per_prompt: int
    prompts_per_update: int
    num_steps: int
    num_epochs: int
    evaluate_every: int
    samples_per_problem: int
    max_problems: int | None
    checkpoint_every: int
    checkpoints_kept: int
    weight_sync: str
    learner: LearnerPlan | None
    rollout: RolloutPlan | None

    @property
    def completions_per_step(self) -> int:
        return self.prompts_per_step * self.rollouts_per_prompt

    @property
    def updates_per_step(self) -> int:
        return self.prompts_per_step // self.prompts_per_update

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens of the largest forward and backward pass: a row longer than the budget stands alone."""
        assert self.learner is not None
        rows = self.prompts_per_update * self.rollouts_per_prompt
        longest = self.max_length - 1
        return max(longest, min(self.learner.tokens_per_micro_batch, rows * longest))

    @property
    def num_trained(self) -> int:
        """Parameters with a gradient."""
        lora = self.learner.lora if self.learner else None
        return self.parameters.total if lora is None else count_adapter(self.shape, lora)

    def with_learner(self, **changes: Any) -> Workload:
        assert self.learner is not None
        return replace(self, learner=replace(self.learner, **changes))

    def with_rollout(self, **changes: Any) -> Workload:
        assert self.rollout is not None
        return replace(self, rollout=replace(self.rollout, **changes))


def count_adapter(shape: ModelShape, lora: Adapter) -> int:
    """Parameters of a LoRA adapter on this model: rank x (inputs + outputs) of each matrix that it is on."""
    matrices = shape.layer_matrices()
    names = [name for name in matrices if lora.targets is None or name in lora.targets]
    return shape.num_layers * lora.rank * sum(sum(matrices[name]) for name in names)


def read_workload(config: RunConfig) -> Workload | None:
    """The run's numbers; ``None`` where the model's sizes cannot be known without a download.

    Raises ``UsageError`` for a setting that is no number where one is wanted, and for a broken ``config.json``.
    """
    model_config = find_config(config.model.path, revision=config.model.revision)
    shape = read_shape(model_config) if model_config is not None else None
    if shape is None:
        return None
    trainer = config.trainer
    mean = config.doctor.mean_completion_tokens or -(-trainer.max_completion_tokens // 2)
    algorithm = config.algorithm
    return Workload(
        model_path=config.model.path,
        shape=shape,
        parameters=count_all(shape, config.model.path),
        dtype_bytes=4 if config.model.dtype == "float32" else 2,
        max_length=config.model.max_length,
        max_completion_tokens=trainer.max_completion_tokens,
        mean_completion_tokens=min(mean, trainer.max_completion_tokens),
        prompts_per_step=trainer.prompts_per_step,
        rollouts_per_prompt=trainer.rollouts_per_prompt,
        prompts_per_update=trainer.prompts_per_update or trainer.prompts_per_step,
        num_steps=trainer.num_steps,
        num_epochs=int(_number(algorithm, "algorithm.num_epochs", 1)),
        evaluate_every=config.evaluation.every,
        samples_per_problem=config.evaluation.samples_per_problem,
        max_problems=config.evaluation.max_problems,
        checkpoint_every=config.checkpoint.every,
        checkpoints_kept=config.checkpoint.keep_last + 1,
        weight_sync=str(config.weight_sync_name or "auto"),
        learner=_learner_plan(config.learner, algorithm),
        rollout=_rollout_plan(config.rollout),
    )


def _learner_plan(node: Mapping[str, Any], algorithm: Mapping[str, Any]) -> LearnerPlan | None:
    kind = _LEARNERS.get(str(node.get("_target_")))
    if kind is None:
        return None
    return LearnerPlan(
        kind=kind,
        num_ranks=int(_number(node, "learner.num_ranks", 1)),
        zero_stage=int(_number(node, "learner.zero_stage", 2)) if kind == "deepspeed" else 0,
        offload=str(node.get("offload", "none")),
        gradient_checkpointing=bool(node.get("gradient_checkpointing", False)),
        tokens_per_micro_batch=int(_number(node, "learner.tokens_per_micro_batch", 16384)),
        lora=_adapter(node.get("lora")),
        can_adapt="lora" in node,
        head_dtype=str(node.get("head_dtype", "auto")),
        has_reference=_number(algorithm, "algorithm.kl_coef", 0) > 0,
        scores_again=algorithm.get("old_logprobs", "learner") == "learner",
    )


def _adapter(node: Any) -> Adapter | None:
    """Its settings are checked by the learner; here only sizes are read."""
    if not isinstance(node, Mapping) or node.get("rank") is None:
        return None
    targets = node.get("target_modules", "all-linear")
    return Adapter(
        rank=int(_number(node, "learner.lora.rank", 1)),
        targets=None if isinstance(targets, str) else tuple(map(str, targets)),
    )


def _rollout_plan(node: Mapping[str, Any]) -> RolloutPlan | None:
    kind = _ENGINES.get(str(node.get("_target_")))
    if kind is None:
        return None
    arguments = node.get("engine_args") or {}
    if not isinstance(arguments, Mapping):
        raise UsageError(f"rollout.engine_args={arguments!r}: must be a mapping of vLLM's settings")
    is_separate = str(node.get("placement", "colocated")) == "separate"
    share = GPU_SHARE_SEPARATE if is_separate else GPU_SHARE_COLOCATED
    max_batch = arguments.get("max_num_seqs") if kind == "vllm" else node.get("max_batch_size", 2048)
    batched = arguments.get("max_num_batched_tokens")
    tensor_parallel = _number(node, "rollout.tensor_parallel_size", 1)
    return RolloutPlan(
        kind=kind,
        num_workers=int(_number(node, "rollout.num_workers", 1)),
        tensor_parallel_size=int(_number(arguments, "rollout.engine_args.tensor_parallel_size", tensor_parallel)),
        is_separate=is_separate,
        memory_share=_number(arguments, "rollout.engine_args.gpu_memory_utilization", share),
        sleeps=bool(node.get("sleep", False)),
        max_batch=max_batch if isinstance(max_batch, int) else None,
        max_batched_tokens=batched if isinstance(batched, int) else None,
        has_graphs=not arguments.get("enforce_eager", False),
    )


def _number(node: Mapping[str, Any], key: str, otherwise: float) -> float:
    value = node.get(key.rpartition(".")[2], otherwise)
    value = otherwise if value is None else value
    if not is_number(value):
        raise UsageError(f"{key}={value!r}: must be a number")
    return float(value)
