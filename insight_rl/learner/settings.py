"""Settings of the learners, checked when they are constructed. Imports neither torch nor anything that starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from insight_rl.algorithm.loss import LossSettings
from insight_rl.child_process import check_deadline
from insight_rl.errors import check, is_number
from insight_rl.learner.schedule import Schedule
from insight_rl.types import DTYPES

Offload = Literal["none", "cpu"]
Attention = Literal["auto", "sdpa", "flash", "flex"]
Kernel = Literal["sdpa", "flash", "flex"]
"""What ``auto`` stands for, too: how attention is computed, and so how rows are laid out."""
HeadKernel = Literal["chunked", "liger"]
HeadDtype = Literal["auto", "float32"]

ALL_LINEAR = "all-linear"
"""Of ``learner.lora.target_modules``: every linear layer but the output head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """A low-rank adapter beside frozen weights: each matrix W acts as ``W + alpha / rank * B @ A`` (arXiv 2106.09685).

    The comments are in ``conf/learner/shared/settings.yaml``. Raises ``UsageError`` for values no run could work with.

    Example::

        LoraSettings(rank=8, alpha=16, target_modules=("q_proj", "v_proj"))
    """

    rank: int
    alpha: float
    target_modules: str | tuple[str, ...] = ALL_LINEAR
    dropout: float = 0.0

    def __post_init__(self) -> None:
        is_whole = isinstance(self.rank, int) and not isinstance(self.rank, bool)
        check(
            is_whole and self.rank >= 1, "learner.lora.rank", self.rank, "must be a whole number, at least 1, or null"
        )
        check(is_number(self.alpha) and self.alpha > 0, "learner.lora.alpha", self.alpha, "must be above 0")
        targets = self.target_modules
        check(
            targets == ALL_LINEAR
            or (isinstance(targets, tuple) and len(targets) > 0 and all(isinstance(name, str) for name in targets)),
            "learner.lora.target_modules",
            list(targets) if isinstance(targets, tuple) else targets,
            f"must be {ALL_LINEAR}, or a list of names of linear layers such as [q_proj, v_proj]",
        )
        check(
            is_number(self.dropout) and self.dropout == 0,
            "learner.lora.dropout",
            self.dropout,
            "must be 0: dropout makes another policy in every pass, and the ratio to the rollout's would be random",
        )

    @property
    def scale(self) -> float:
        """What multiplies ``B @ A``."""
        return self.alpha / self.rank

    @classmethod
    def from_config(cls, node: Mapping[str, Any] | None) -> LoraSettings | None:
        """``learner.lora`` as the config has it; ``None`` where it is null or has no rank."""
        node = node or {}
        names = [field.name for field in fields(cls)]
        for key in node:
            check(key in names, f"learner.lora.{key}", node[key], f"is no setting; there are {', '.join(names)}")
        rank, alpha, targets = node.get("rank"), node.get("alpha"), node.get("target_modules", ALL_LINEAR)
        if rank is None:
            check(alpha is None, "learner.lora.alpha", alpha, "does nothing without learner.lora.rank; give that too")
            return None
        return cls(
            rank=rank,
            alpha=2 * rank if alpha is None else alpha,
            target_modules=targets if isinstance(targets, str) else tuple(targets),
            dropout=node.get("dropout", 0.0),
        )


@dataclass(frozen=True, kw_only=True)
class LearnerSettings:
    """Optimizer, schedule and memory: what every learner takes from the config.

    The comments are in ``conf/learner/shared/settings.yaml``. Raises ``UsageError`` for values no run could work with.
    """

    lr: float = 1e-6
    weight_decay: float = 0.1
    betas: Sequence[float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup_steps: int = 0
    lr_schedule: Schedule = "constant"
    max_grad_norm: float | None = 1.0
    tokens_per_micro_batch: int = 16384
    gradient_checkpointing: bool = False
    share_prompts: bool = True
    attention: Attention = "auto"
    head: HeadKernel = "chunked"
    head_dtype: HeadDtype = "auto"
    num_ranks: int = 1
    lora: Mapping[str, Any] | None = None
    deadline_s: float = 7200.0
    """Longest time a rank may take over one answer; a single rank in the trainer's process has none."""

    def __post_init__(self) -> None:
        check(self.lr > 0 and math.isfinite(self.lr), "learner.lr", self.lr, "must be above 0")
        check(self.weight_decay >= 0, "learner.weight_decay", self.weight_decay, "must be at least 0")
        check(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            "learner.betas",
            self.betas,
            "must be two numbers within 0 and 1 (1 excluded)",
        )
        check(self.eps > 0, "learner.eps", self.eps, "must be above 0")
        check(self.warmup_steps >= 0, "learner.warmup_steps", self.warmup_steps, "must be at least 0")
        schedules = get_args(Schedule)
        check(
            self.lr_schedule in schedules, "learner.lr_schedule", self.lr_schedule, f"must be one of {list(schedules)}"
        )
        norm = self.max_grad_norm
        check(norm is None or norm > 0, "learner.max_grad_norm", norm, "must be above 0, or null for no clipping")
        check(
            self.tokens_per_micro_batch >= 1,
            "learner.tokens_per_micro_batch",
            self.tokens_per_micro_batch,
            "must be at least 1",
        )
        for key, kind in (("attention", Attention), ("head", HeadKernel), ("head_dtype", HeadDtype)):
            value = getattr(self, key)
            check(value in get_args(kind), f"learner.{key}", value, f"must be one of {', '.join(get_args(kind))}")
        check(self.num_ranks >= 1, "learner.num_ranks", self.num_ranks, "must be at least 1")
        check_deadline("learner.deadline_s", self.deadline_s)
        LoraSettings.from_config(self.lora)

    @property
    def adapter(self) -> LoraSettings | None:
        """What ``lora`` says; ``None``: the whole model is trained."""
        return LoraSettings.from_config(self.lora)

    def adamw(self) -> dict[str, Any]:
        """Keyword arguments of ``torch.optim.AdamW``."""
        betas = tuple(map(float, self.betas))  # torch refuses one int among floats
        return {"lr": self.lr, "betas": betas, "eps": self.eps, "weight_decay": self.weight_decay}


# These follow from our own keys; a second place to set them could only disagree.
_OWNED_DEEPSPEED_KEYS = {
    "train_batch_size": "the learner cuts its own micro-batches: learner.tokens_per_micro_batch",
    "train_micro_batch_size_per_gpu": "the learner cuts its own micro-batches: learner.tokens_per_micro_batch",
    "gradient_accumulation_steps": "the learner accumulates over all micro-batches of an update by itself",
    "gradient_clipping": "use learner.max_grad_norm",
    "optimizer": "use learner.lr, learner.weight_decay, learner.betas, learner.eps",
    "scheduler": "use learner.lr_schedule, learner.warmup_steps",
    "bf16": "use model.dtype",
    "fp16": "use model.dtype=bfloat16",
    "checkpoint": "the learner writes and reads its own checkpoints, without unpickling",
    "datastates_ckpt": "the learner writes and reads its own checkpoints, without unpickling",
}


@dataclass(frozen=True, kw_only=True)
class DeepSpeedSettings(LearnerSettings):
    """What DeepSpeed adds to the settings of every learner; the comments are in ``conf/learner/deepspeed.yaml``."""

    zero_stage: int = 2
    offload: Offload = "none"
    deepspeed: Mapping[str, Any] = field(default_factory=dict)
    """More of DeepSpeed's own configuration, under its own names."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.zero_stage in range(4), "learner.zero_stage", self.zero_stage, "must be 0, 1, 2 or 3")
        check(self.offload in get_args(Offload), "learner.offload", self.offload, "must be one of none, cpu")
        check(
            self.offload == "none" or self.zero_stage >= 1,
            "learner.offload",
            self.offload,
            "needs learner.zero_stage=1 or higher: stage 0 shards nothing that could be moved",
        )
        for key, remedy in _OWNED_DEEPSPEED_KEYS.items():
            check(key not in self.deepspeed, f"learner.deepspeed.{key}", self.deepspeed.get(key), remedy)
        check(
            "stage" not in self.deepspeed.get("zero_optimization", {}),
            "learner.deepspeed.zero_optimization.stage",
            self.deepspeed.get("zero_optimization"),
            "use learner.zero_stage",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StartSpec:
    """What a learner is started with: the model, what to minimise, and the sizes of a step.

    Example::

        StartSpec(model_path=Path("data/tiny_countdown"), dtype="float32", loss=algorithm, num_epochs=1,
                  temperature=1.0, max_completion_tokens=24, prompts_per_update=64, num_steps=100, seed=0)
    """

    model_path: Path
    """A Hugging Face model folder."""

    dtype: str
    """Precision of computing and of the weights that rollout engines and saved models get: one of ``DTYPES``."""

    loss: LossSettings

    num_epochs: int
    """Passes of a step over its groups."""

    temperature: float
    """Divides the logits, as in the rollout."""

    max_completion_tokens: int

    prompts_per_update: int
    """Groups of one optimizer update."""

    num_steps: int
    """Of the whole run: they shape the learning-rate schedule."""

    seed: int

    def __post_init__(self) -> None:
        check(self.dtype in DTYPES, "model.dtype", self.dtype, f"must be one of {', '.join(DTYPES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What cutting the batches needs to know about the loaded model."""

    hidden_size: int
    can_share_prompts: bool
    kernel: Kernel
    """Of the attention."""
    peak_flops: float
    """Floating-point operations a second of this rank: see :func:`~insight_rl.learner.flops.measure_peak`."""
