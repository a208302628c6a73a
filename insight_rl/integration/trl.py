"""Prompt selection inside TRL: its ``GRPOTrainer`` with one more argument.

    from insight_rl.integration.trl import GRPOTrainer

    trainer = GRPOTrainer(model=..., reward_funcs=..., args=..., train_dataset=..., selector="insight")
    trainer.train()

Only the choice of prompts differs from TRL. The prompts that TRL's sampler proposes are replaced when completions are
generated, not in the sampler: the data loader fetches a batch ahead, before the outcomes of the present one are known.

With several processes each has a selector of its own; fed with the gathered rewards, all of them decide alike.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from omegaconf import OmegaConf
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer as TrlGRPOTrainer

from insight_rl.build import build_part
from insight_rl.config import compose_config
from insight_rl.errors import UsageError, check
from insight_rl.seeding import derive_seed
from insight_rl.selector.base import Selector, check_needs_counts_only
from insight_rl.state_codec import load_state, save_state
from insight_rl.types import Counts, Prompt

SELECTOR_FOLDER = "insight_rl_selector"
"""Inside each of TRL's checkpoint folders."""

_NUMBERS = ("int8", "int16", "int32", "int64", "float32", "float64")

Verdict = Callable[[Sequence[float]], "bool | None"]
"""From the values of all reward functions for one completion (NaN: not scored) to success, failure or not judged."""


def first_reward_is_full(rewards: Sequence[float]) -> bool | None:
    """Success is a first reward of 1 or more: parts for format, brevity, ... are no tenth of a success."""
    return None if math.isnan(rewards[0]) else rewards[0] >= 1.0


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
        self._pool, self._rows = make_pool(trainer.train_dataset)
        num_prompts = trainer.args.generation_batch_size // trainer.num_generations
        check(
            num_prompts <= len(self._pool),
            "generation_batch_size",
            trainer.args.generation_batch_size,
            f"asks for {num_prompts} prompts a step, but the data set has {len(self._pool)} different ones",
        )
        self.selector: Selector = chosen
        self.verdict = verdict
        self.selected_ids: list[str] = []
        """Prompts of the latest generation, in order."""
        self._row_of = {prompt.id: row for prompt, row in zip(self._pool, self._rows, strict=True)}
        self._rewards_per_func: torch.Tensor | None = None
        seed = derive_seed(trainer.args.seed, "selector")
        self.selector.open(self._pool, num_rollouts=trainer.num_generations, seed=seed)

    # What TRL calls

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        trainer: Any = self
        if not trainer.model.training:
            return super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        prompts = self._select(len(inputs) * trainer.accelerator.num_processes)
        mine = slice(
            trainer.accelerator.process_index * len(inputs), (trainer.accelerator.process_index + 1) * len(inputs)
        )
        repeated = [prompt for prompt in prompts for _ in range(trainer.num_generations)]
        rows = {prompt.id: trainer.train_dataset[self._row_of[prompt.id]] for prompt in repeated[mine]}
        generated = super()._generate_and_score_completions(  # type: ignore[misc]
            [dict(rows[prompt.id]) for prompt in repeated[mine]]
        )
        self._observe(prompts)
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
            folder = Path(trainer._get_output_dir(trial=trial), checkpoint, SELECTOR_FOLDER)
            folder.mkdir(parents=True, exist_ok=True)
            save_state(folder, self.selector.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is None:
            return
        folder = Path(checkpoint, SELECTOR_FOLDER)
        if not folder.is_dir():
            raise UsageError(
                f"resume_from_checkpoint={checkpoint!r}: it holds no selector state ({SELECTOR_FOLDER}); it was "
                "written without selection or is incomplete: resume from another, or train without resuming"
            )
        self.selector.load_state_dict(load_state(folder))

    # What selection adds

    def _select(self, num_completions: int) -> Sequence[Prompt]:
        trainer: Any = self
        prompts = self.selector.select(num_completions // trainer.num_generations)
        self.selected_ids = [prompt.id for prompt in prompts]
        return prompts

    def _observe(self, prompts: Sequence[Prompt]) -> None:
        """Every prompt's outcomes, from the rewards of all processes in the order of the completions."""
        trainer: Any = self
        assert self._rewards_per_func is not None
        rewards = self._rewards_per_func.tolist()
        size = trainer.num_generations
        assert len(rewards) == len(prompts) * size, "TRL scored other completions than were asked for"
        self.selector.observe(
            [self._outcome(prompt, rewards[size * i : size * (i + 1)]) for i, prompt in enumerate(prompts)]
        )
        for name, value in self.selector.metrics().items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                trainer._metrics["train"][name].append(float(value))

    def _outcome(self, prompt: Prompt, rewards_G: Sequence[Sequence[float]]) -> Counts:
        verdicts = [self.verdict(values) for values in rewards_G]
        return Counts(
            prompt_id=prompt.id,
            num_judged=sum(verdict is not None for verdict in verdicts),
            num_successes=sum(verdict is True for verdict in verdicts),
        )


class GRPOTrainer(SelectionMixin, TrlGRPOTrainer):  # type: ignore[misc]
    """TRL's trainer, with prompts chosen by ``selector``."""


def make_selector(name: str, settings: Mapping[str, Any]) -> Selector:
    """The selector of conf/selector with these settings. Raises ``UsageError`` naming the one it does not take."""
    node: Any = OmegaConf.to_container(compose_config([f"selector={name}"]).selector, resolve=True)
    selector: Selector = build_part("selector", {**node, **settings})
    return selector


def make_pool(dataset: Any) -> tuple[list[Prompt], list[int]]:
    """The distinct prompts of a data set, with its columns of numbers as metadata; and the row of each."""
    if not isinstance(dataset, Dataset) or "prompt" not in dataset.column_names:
        raise UsageError(
            "train_dataset: selection needs a datasets.Dataset that can be indexed, with a column 'prompt'"
        )
    prompts = dataset["prompt"]
    ids = dataset["id"] if "id" in dataset.column_names else [prompt_id(prompt) for prompt in prompts]
    tasks = dataset["task"] if "task" in dataset.column_names else [""] * len(dataset)
    rows: dict[str, int] = {}
    for row, each in enumerate(ids):
        rows.setdefault(str(each), row)
    numbers = {
        name: dataset[name] for name, feature in dataset.features.items() if getattr(feature, "dtype", "") in _NUMBERS
    }
    pool = [
        Prompt(
            id=name,
            task=str(tasks[row]),
            text=str(prompts[row]),
            token_ids=(),
            answer=None,
            metadata={field: values[row] for field, values in numbers.items()},
        )
        for name, row in rows.items()
    ]
    return pool, list(rows.values())


def prompt_id(prompt: Any) -> str:
    """A hash of a prompt, text or chat messages: the same on every machine."""
    text = json.dumps(prompt, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
