"""Which loop a run takes (``trainer=sync|async``), and what checkpoints hold of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from insight_rl.checkpoint import Part, StatePart, part_folder
from insight_rl.config import AsyncTrainerConfig, RunConfig, TrainerConfig
from insight_rl.errors import UsageError, check
from insight_rl.state_codec import load_state
from insight_rl.types import Prompt

if TYPE_CHECKING:
    from insight_rl.trainer import Progress, Trainer

ROLLOUTS_PART = "rollouts"
"""Of a checkpoint: the rollouts on their way to the learner."""


def check_overlap(config: RunConfig) -> None:
    """Raise ``UsageError`` where rollouts are to overlap with learning and the rest of the settings forbids it."""
    if not isinstance(config.trainer, AsyncTrainerConfig) or config.trainer.max_staleness == 0:
        return
    check(
        not config.rollout.get("sleep"),
        "rollout.sleep",
        config.rollout.get("sleep"),
        "lets rollout and learner take turns, and trainer=async has both work at once; take rollout.sleep=false or "
        "trainer=sync",
    )
    importance = config.algorithm.get("importance")
    check(
        importance != "none" or config.algorithm.get("old_logprobs") == "rollout",
        "algorithm.importance",
        importance,
        "leaves rollouts of older weights uncorrected, which trainer=async makes; take token_truncate, or "
        "algorithm.old_logprobs=rollout beside it",
    )


def trainer_type(config: TrainerConfig) -> Callable[..., Trainer]:
    """Takes the arguments of :class:`~insight_rl.trainer.Trainer`."""
    if isinstance(config, AsyncTrainerConfig):
        from insight_rl.trainer_async import AsyncTrainer

        return partial(AsyncTrainer, max_staleness=config.max_staleness, weight_update=config.weight_update)
    from insight_rl.trainer import Trainer

    return Trainer


def load_progress(checkpoint: Path | None) -> Progress:
    """The counters of the run, from zero without a checkpoint."""
    from insight_rl.trainer import Progress

    return Progress(**load_state(part_folder(checkpoint, "trainer"))) if checkpoint else Progress()


def rollouts_parts(trainer: Trainer) -> dict[str, Part]:
    """What a checkpoint of ``trainer`` holds beside the parts of every run."""
    from insight_rl.trainer_async import AsyncTrainer

    if not isinstance(trainer, AsyncTrainer):
        return {}
    return {ROLLOUTS_PART: StatePart(trainer.state_dict())}


def load_rollouts(config: TrainerConfig, checkpoint: Path | None) -> dict[str, Any]:
    """The rollouts that a checkpoint holds, for :func:`restore_rollouts`; without any where there are none."""
    if checkpoint is None or not isinstance(config, AsyncTrainerConfig):
        return {"ready": {}, "flight": None}
    return load_state(part_folder(checkpoint, ROLLOUTS_PART))


def restore_rollouts(trainer: Trainer, rollouts: dict[str, Any], pool: Sequence[Prompt]) -> None:
    """Raises ``UsageError`` for rollouts of prompts that are not in ``pool``."""
    from insight_rl.trainer_async import AsyncTrainer

    if not isinstance(trainer, AsyncTrainer):
        return
    try:
        trainer.load_state_dict(rollouts, pool)
    except ValueError as error:
        raise UsageError(f"task: {error}; resume with the task that the run was started with") from error
