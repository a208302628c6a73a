"""``learner=accelerate``: the default learner, as the config constructs it. Loads nothing until it is started."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from insight_rl.learner.multi_rank import MultiRankLearner
from insight_rl.learner.settings import LearnerSettings, Schedule

if TYPE_CHECKING:
    from insight_rl.learner.worker import RankWorker


class AccelerateLearner(MultiRankLearner):
    """Data-parallel AdamW through Hugging Face Accelerate: a single rank in this process, several in their own.

    See :class:`~insight_rl.learner.base.Learner`; the settings are explained in ``conf/learner/accelerate.yaml``.
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
        super().__init__(settings, make_worker=functools.partial(_make_worker, settings), in_process=True)


def _make_worker(settings: LearnerSettings) -> RankWorker:
    from insight_rl.learner.accelerate_engine import AccelerateEngine
    from insight_rl.learner.worker import RankWorker

    return RankWorker(AccelerateEngine(settings))
