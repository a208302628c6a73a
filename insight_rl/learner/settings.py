"""Settings that every learner has, checked when they are constructed. Knows nothing of torch or processes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from insight_rl.algorithm.loss_settings import PolicyLoss
from insight_rl.child_process import check_deadline
from insight_rl.errors import check

Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSettings:
    """What the config says about optimizer and memory. Raises ``UsageError`` for values no run could work with."""

    lr: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    warmup_steps: int
    lr_schedule: Schedule
    max_grad_norm: float | None
    tokens_per_micro_batch: int
    gradient_checkpointing: bool
    share_prompts: bool
    num_ranks: int
    deadline_s: float

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
        check(self.num_ranks >= 1, "learner.num_ranks", self.num_ranks, "must be at least 1")
        check_deadline("learner.deadline_s", self.deadline_s)

    def lr_at(self, step: int, num_steps: int) -> float:
        """Learning rate of the trainer's ``step`` (from 1) of ``num_steps``: linear warm-up, then the schedule."""
        if step <= self.warmup_steps:
            return self.lr * step / self.warmup_steps
        if self.lr_schedule == "constant":
            return self.lr
        progress = min(1.0, (step - 1 - self.warmup_steps) / max(1, num_steps - self.warmup_steps))
        if self.lr_schedule == "linear":
            return self.lr * (1 - progress)
        return self.lr * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, slots=True, kw_only=True)
class StartSpec:
    """What a rank needs to load the model: the arguments of :meth:`~insight_rl.learner.base.Learner.start`."""

    model_path: Path
    dtype: str
    loss: PolicyLoss
    num_epochs: int
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What cutting the batches needs to know about the loaded model."""

    hidden_size: int
    vocab_size: int
    can_share_prompts: bool
