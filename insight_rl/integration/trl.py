"""Prompt selection inside TRL: its ``GRPOTrainer`` with one more argument.

    from insight_rl.integration.trl import GRPOTrainer

    trainer = GRPOTrainer(model=..., reward_funcs=..., args=..., train_dataset=..., selector="insight")
    trainer.train()

Only the choice of prompts differs from TRL. The prompts that TRL's sampler proposes are replaced when completions are
generated, not in the sampler: the data loader fetches a batch ahead, before the outcomes of the present one are known.

With several processes each has a selector of its own; fed with the gathered rewards, all of them decide alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer as TrlGRPOTrainer

from insight_rl.errors import check
from insight_rl.integration.selection import (
    Selection,
    Verdict,
    dataset_columns,
    first_reward_is_full,
    make_pool,
    make_selector,
)
from insight_rl.seeding import derive_seed
from insight_rl.selector.base import Selector, check_needs_counts_only


class SelectionMixin:
    """Mix into ``GRPOTrainer`` or a class derived from it: ``class Mine(SelectionMixin, TheirTrainer): ...``"""

    def __init__(
        self,
        *args: Any,
        selector: str | Selector = "insight",
        selector_settings: Mapping[str, Any] | None = None,
        verdict: Verdict = first_reward_is_full,
        **kwargs: Any,
    ) -> None:
        """``selector`` is an option of conf/selector, with ``selector_settings`` over it, or a selector not yet opened.

        Prompts are known by the column ``id`` of the data set where there is one, else by a hash of the prompt; of
        equal ones the first is kept. Raises ``UsageError`` for settings or data that no selection could work with.
        """
        chosen = make_selector(selector, selector_settings or {}) if isinstance(selector, str) else selector
        check_needs_counts_only(chosen, "TRL")
        super().__init__(*args, **kwargs)
        trainer: Any = self
        pool = make_pool(dataset_columns(trainer.train_dataset))
        num_prompts = trainer.args.generation_batch_size // trainer.num_generations
        check(
            num_prompts <= len(pool.rows),
            "generation_batch_size",
            trainer.args.generation_batch_size,
            f"asks for {num_prompts} prompts a step, but the data set has {len(pool.rows)} different ones",
        )
        self.selection = Selection(
            pool,
            num_rollouts=trainer.num_generations,
            seed=derive_seed(trainer.args.seed, "selector"),
            selector=chosen,
            framework="TRL",
        )
        self.verdict = verdict
        self.selected_ids: list[str] = []
        """Prompts of the latest generation, in order."""
        self._rewards_per_func: torch.Tensor | None = None

    @property
    def selector(self) -> Selector:
        return self.selection.selector

    # What TRL calls

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        trainer: Any = self
        if not trainer.model.training:
            return super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        rows = self.selection.select(len(inputs) * trainer.accelerator.num_processes // trainer.num_generations)
        self.selected_ids = [self.selection.id_of(row) for row in rows]
        mine = slice(
            trainer.accelerator.process_index * len(inputs), (trainer.accelerator.process_index + 1) * len(inputs)
        )
        repeated = [row for row in rows for _ in range(trainer.num_generations)][mine]
        content = {row: trainer.train_dataset[row] for row in set(repeated)}
        generated = super()._generate_and_score_completions(  # type: ignore[misc]
            [dict(content[row]) for row in repeated]
        )
        self._observe(rows)
        return generated

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        rewards: torch.Tensor = super()._calculate_rewards(*args, **kwargs)  # type: ignore[misc]
        self._rewards_per_func = rewards
        return rewards

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        trainer: Any = self
        if trainer.args.should_save:
            checkpoint = f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}"
            self.selection.save(Path(trainer._get_output_dir(trial=trial), checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is not None:
            self.selection.load(checkpoint, key="resume_from_checkpoint")

    # What selection adds

    def _observe(self, rows: Sequence[int]) -> None:
        """Every prompt's outcomes, from the rewards of all processes in the order of the completions."""
        trainer: Any = self
        assert self._rewards_per_func is not None
        verdicts = [self.verdict(values) for values in self._rewards_per_func.tolist()]
        size = trainer.num_generations
        assert len(verdicts) == len(rows) * size, "TRL scored other completions than were asked for"
        self.selection.observe({row: verdicts[size * i : size * (i + 1)] for i, row in enumerate(rows)})
        for name, value in self.selection.metrics().items():
            trainer._metrics["train"][name].append(value)


class GRPOTrainer(SelectionMixin, TrlGRPOTrainer):  # type: ignore[misc]
    """TRL's trainer, with prompts chosen by ``selector``."""
