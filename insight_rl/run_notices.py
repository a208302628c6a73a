"""What a run says of itself and of its settings, before any model loads and when it goes on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from insight_rl.config import RunConfig
from insight_rl.monitor.watch import small_micro_batches, too_many_ranks, unusual_learning_rate
from insight_rl.selector.base import Selector, TellsItsOrder
from insight_rl.types import Prompt

if TYPE_CHECKING:
    from insight_rl.trainer import Trainer


def describe(config: RunConfig, selector: Selector, *, pool_size: int) -> list[str]:
    """The run in plain English, before any model loads."""
    trainer = config.trainer
    per_update = trainer.prompts_per_update or trainer.prompts_per_step
    updates = trainer.prompts_per_step // per_update
    completions = trainer.prompts_per_step * trainer.rollouts_per_prompt
    lines = [
        f"each of {trainer.num_steps} steps: {trainer.prompts_per_step} of {pool_size} prompts x "
        f"{trainer.rollouts_per_prompt} rollouts = {completions} completions of at most "
        f"{trainer.max_completion_tokens} tokens; {updates} update{'s' if updates > 1 else ''} of {per_update} prompts"
    ]
    if isinstance(selector, TellsItsOrder) and selector.visits_unseen_first():
        last = -(-pool_size // trainer.prompts_per_step)
        lines.append(
            "this selector prefers prompts it has never seen and comes back to others once it has been through the "
            f"{pool_size} of the pool (about step {last} at {trainer.prompts_per_step} a step): expect the "
            "informative fraction to rise then"
        )
    return lines


def doubts(config: RunConfig, pool: Sequence[Prompt], *, num_parameters: int) -> list[str]:
    """One sentence for each setting that is allowed but looks like a mistake."""
    import torch

    settings: dict[str, Any] = config.learner
    row_tokens = int(median(len(prompt.token_ids) for prompt in pool)) + config.trainer.max_completion_tokens
    found = []
    # A learner of the user's own need not have these.
    if "lr" in settings:
        has_adapter = (settings.get("lora") or {}).get("rank") is not None
        found.append(unusual_learning_rate(settings["lr"], num_parameters=num_parameters, has_adapter=has_adapter))
    if "tokens_per_micro_batch" in settings:
        found.append(small_micro_batches(settings["tokens_per_micro_batch"], row_tokens=row_tokens))
    # On GPUs each rank has one of its own (insight_rl.placement).
    if "num_ranks" in settings and not torch.cuda.is_available():
        found.append(too_many_ranks(settings["num_ranks"], num_cores=len(os.sched_getaffinity(0))))
    return [text for text in found if text is not None]


def tell_resumption(trainer: Trainer, checkpoint: Path) -> str:
    step, num_steps = trainer.progress.step, trainer.settings.num_steps
    if not trainer.is_over():
        return f"going on after step {step}, from {checkpoint}"
    if step < num_steps:
        return (
            f"this run has already used up its budget in {step} steps; raise trainer.max_rollouts, max_tokens or "
            "max_device_s to go on, or take another run_dir"
        )
    return f"this run has already done its {num_steps} steps; raise trainer.num_steps to go on, or take another run_dir"
