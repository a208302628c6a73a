"""``learner=deepspeed``: ZeRO-sharded training, as the config constructs it. Loads nothing until it is started."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from insight_rl.errors import check
from insight_rl.learner.multi_rank import MultiRankLearner
from insight_rl.learner.settings import LearnerSettings, Schedule

if TYPE_CHECKING:
    from insight_rl.learner.worker import RankWorker

Offload = Literal["none", "cpu"]

# These follow from our own keys; a second place to set them could only disagree.
_OWNED_KEYS = {
    "train_batch_size": "the learner cuts its own micro-batches: learner.tokens_per_micro_batch",
    "train_micro_batch_size_per_gpu": "the learner cuts its own micro-batches: learner.tokens_per_micro_batch",
    "gradient_accumulation_steps": "the learner accumulates over all micro-batches of an update by itself",
    "gradient_clipping": "use learner.max_grad_norm",
    "optimizer": "use learner.lr, learner.weight_decay, learner.betas, learner.eps",
    "scheduler": "use learner.lr_schedule, learner.warmup_steps",
    "bf16": "use model.dtype",
    "fp16": "use model.dtype=bfloat16",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroSettings:
    """What DeepSpeed adds to the shared settings."""

    stage: int
    offload: Offload
    config: Mapping[str, Any]
    """More of DeepSpeed's own configuration, under its own names."""

    def __post_init__(self) -> None:
        check(self.stage in range(4), "learner.zero_stage", self.stage, "must be 0, 1, 2 or 3")
        check(self.offload in get_args(Offload), "learner.offload", self.offload, "must be one of none, cpu")
        check(
            self.offload == "none" or self.stage >= 1,
            "learner.offload",
            self.offload,
            "needs learner.zero_stage=1 or higher: stage 0 shards nothing that could be moved",
        )
        for key, remedy in _OWNED_KEYS.items():
            check(key not in self.config, f"learner.deepspeed.{key}", self.config.get(key), remedy)
        check(
            "stage" not in self.config.get("zero_optimization", {}),
            "learner.deepspeed.zero_optimization.stage",
            self.config.get("zero_optimization"),
            "use learner.zero_stage",
        )


class DeepSpeedLearner(MultiRankLearner):
    """AdamW through DeepSpeed, ZeRO stages 0 to 3. Every rank, even a single one, is a process of its own.

    DeepSpeed changes process-wide state (``torch.distributed``, how transformers loads models), which the trainer and a
    rollout engine in its process are kept out of. See :class:`~insight_rl.learner.base.Learner`; the settings are
    explained in ``conf/learner/deepspeed.yaml``.
    """

    def __init__(
        self,
        *,
        lr: float = 1e-6,
        weight_decay: float = 0.1,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        warmup_steps: int = 0,
        lr_schedule: Schedule = "constant",
        max_grad_norm: float | None = 1.0,
        tokens_per_micro_batch: int = 16384,
        gradient_checkpointing: bool = False,
        share_prompts: bool = True,
        num_ranks: int = 1,
        deadline_s: float = 7200.0,
        zero_stage: int = 2,
        offload: Offload = "none",
        deepspeed: Mapping[str, Any] | None = None,
    ) -> None:
        settings = LearnerSettings(
            lr=lr,
            weight_decay=weight_decay,
            betas=tuple(betas),  # type: ignore[arg-type]  # two of them: checked there
            eps=eps,
            warmup_steps=warmup_steps,
            lr_schedule=lr_schedule,
            max_grad_norm=max_grad_norm,
            tokens_per_micro_batch=tokens_per_micro_batch,
            gradient_checkpointing=gradient_checkpointing,
            share_prompts=share_prompts,
            num_ranks=num_ranks,
            deadline_s=deadline_s,
        )
        zero = ZeroSettings(stage=zero_stage, offload=offload, config=dict(deepspeed or {}))
        super().__init__(settings, make_worker=functools.partial(_make_worker, settings, zero), in_process=False)
        self.zero = zero

    def _kind(self) -> dict[str, Any]:
        return super()._kind() | {"zero_stage": self.zero.stage}


def _make_worker(settings: LearnerSettings, zero: ZeroSettings) -> RankWorker:
    from insight_rl.learner.models import quiet_deepspeed

    quiet_deepspeed()
    from insight_rl.learner.deepspeed_engine import DeepSpeedEngine
    from insight_rl.learner.worker import RankWorker

    return RankWorker(DeepSpeedEngine(settings, zero))
