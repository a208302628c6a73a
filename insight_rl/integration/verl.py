"""Prompt selection inside verl: two of its own plug-ins, named on its command line.

    data.custom_cls.path=pkg://insight_rl.integration.verl
    data.custom_cls.name=SelectedPrompts
    data.dataloader_num_workers=0
    trainer.v1.sampler.custom_sampler.path=pkg://insight_rl.integration.verl
    trainer.v1.sampler.custom_sampler.name=ObservingReplayBuffer

verl's trainer asks its data loader for a batch when it is about to generate, and the loader asks the data set: so the
data set chooses the prompts, and the rows that verl's sampler proposes are dropped. Its replay buffer hands finished
groups to the trainer: so the replay buffer reports their verdicts. The selector's state is the state of the data set,
which verl's data loader keeps in ``data.pt`` of each checkpoint.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import transfer_queue
from omegaconf import DictConfig, OmegaConf
from tensordict import NonTensorData
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils.dataset.rl_dataset import RLHFDataset

from insight_rl.errors import UsageError, check
from insight_rl.integration.selection import Selection, dataset_columns, make_pool, prompt_id
from insight_rl.seeding import derive_seed

ROW_FIELD = "insight_rl_row"
"""Field of a training prompt that holds its row in the data set; verl hands it on to each of its trajectories."""

_SETTINGS = ("selector", "selector_settings", "success_key")


class SelectionMixin:
    """Mix into verl's ``RLHFDataset`` or a class derived from it: ``class Mine(SelectionMixin, TheirDataset): ...``

    Of ``data.insight_rl`` it reads ``selector`` (an option of conf/selector; insight), ``selector_settings`` over it,
    and ``success_key``, the entry of the reward function's answer that is 1 for a success (acc, else the reward).
    """

    def __init__(self, data_files: Any, tokenizer: Any, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        """Raises ``UsageError`` for settings or data that no selection could work with, before verl loads a model."""
        self.selection: Selection | None = None
        self.has_history = False
        """Whether the selector knows the verdicts of the run's earlier steps, where there are any."""
        self.success_key = "acc"
        is_training = data_files == config.train_files
        if is_training:
            _check_settings(config)
        super().__init__(data_files, tokenizer, config, *args, **kwargs)  # type: ignore[call-arg]
        if is_training:
            self._open(config)

    def _open(self, config: DictConfig) -> None:
        dataset: Any = self
        settings: Any = OmegaConf.to_container(config.get("insight_rl") or OmegaConf.create(), resolve=True)
        rows = dataset.dataframe
        columns = dataset_columns(rows, prompt=dataset.prompt_key)
        if "task" not in columns and "data_source" in rows.column_names:
            columns["task"] = rows["data_source"]
        media = {dataset.image_key, dataset.video_key, dataset.audio_key} & set(rows.column_names)
        if "id" not in columns and media:  # the same question about another picture is another prompt
            columns["id"] = [f"{prompt_id(each)}-{row}" for row, each in enumerate(columns["prompt"])]
        self.success_key = settings.get("success_key", self.success_key)
        self.selection = Selection(
            make_pool(columns),
            num_rollouts=_elsewhere(config, "actor_rollout_ref.rollout.n"),
            seed=derive_seed(config.get("seed") or 0, "selector"),
            selector=settings.get("selector", "insight"),
            selector_settings=settings.get("selector_settings"),
            framework="verl",
        )
        check(
            config.train_batch_size <= len(self.selection),
            "data.train_batch_size",
            config.train_batch_size,
            f"asks for more prompts a step than the {len(self.selection)} different ones of the data set",
        )

    # What verl's data loader calls

    def __getitems__(self, proposed: Sequence[int]) -> list[dict[str, Any]]:
        """As many rows as its sampler proposes: those of the selector in training, the proposed ones in validation."""
        dataset: Any = self
        if self.selection is None:
            return [dataset[row] for row in proposed]
        return [{**dataset[row], ROW_FIELD: row} for row in self.selection.select(len(proposed))]

    def state_dict(self) -> dict[str, Any]:
        return {} if self.selection is None else self.selection.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.selection is not None:
            self.selection.load_state_dict(state)
            self.has_history = True


class SelectedPrompts(SelectionMixin, RLHFDataset):  # type: ignore[misc]
    """verl's data set, with the training prompts chosen by a selector."""


class ObservationMixin:
    """Mix into a replay buffer of verl: tells the data set how the rollouts of every prompt came out."""

    def __init__(self, *args: Any, refill_fn: Any, **kwargs: Any) -> None:
        super().__init__(*args, refill_fn=refill_fn, **kwargs)  # type: ignore[call-arg]
        self._trainer = refill_fn.__self__

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """verl's batch, whose verdicts the selector has learnt from; its metrics are among those that come back."""
        if partition_id != "train":
            return super().sample(global_steps, partition_id, batch_size)  # type: ignore[misc]
        dataset, selection = self._selection(global_steps)
        batch, metrics = super().sample(global_steps, partition_id, batch_size)  # type: ignore[misc]
        verdicts = _verdicts(batch.keys, dataset.success_key)
        # Prompts without any trajectory have failed as a whole: a synchronous step leaves nothing to wait for.
        selection.observe(dict.fromkeys(selection.outstanding, ()) | verdicts)
        dataset.has_history = True
        return batch, {**metrics, **selection.metrics()}

    def _selection(self, global_steps: int) -> tuple[SelectionMixin, Selection]:
        dataset = self._trainer.train_dataset
        selection = dataset.selection if isinstance(dataset, SelectionMixin) else None
        if selection is None:
            raise UsageError(
                "data.custom_cls: the replay buffer has no selector to report to; set data.custom_cls.path="
                "pkg://insight_rl.integration.verl and data.custom_cls.name=SelectedPrompts"
            )
        if global_steps > 1 and not dataset.has_history:
            raise UsageError(
                f"trainer.resume_mode={self._trainer.config.trainer.resume_mode!r}: the checkpoint before step "
                f"{global_steps} holds no selector state (data.pt); it was written without selection or is incomplete: "
                "resume from another, or train from the start in another trainer.default_local_dir"
            )
        return dataset, selection


class ObservingReplayBuffer(ObservationMixin, ReplayBuffer):  # type: ignore[misc]
    """verl's replay buffer of ``trainer.v1.trainer_mode=sync``."""


def _elsewhere(config: DictConfig, key: str) -> Any:
    """A setting outside of ``data``, which is all that verl gives to a data set; ``None`` where there is none."""
    return OmegaConf.select(config, f"..{key}")


def _check_settings(config: DictConfig) -> None:
    unknown = set(config.get("insight_rl") or {}) - set(_SETTINGS)
    check(not unknown, "data.insight_rl", sorted(unknown), f"knows only {', '.join(_SETTINGS)}")
    check(
        config.train_files != config.val_files,
        "data.val_files",
        str(config.val_files),
        "the same as data.train_files, so the prompts to select from cannot be told from those to validate on; "
        "validate on others, or on a copy of the file",
    )
    check(
        config.dataloader_num_workers == 0,
        "data.dataloader_num_workers",
        config.dataloader_num_workers,
        "processes that fetch ahead would select before the newest verdicts are known; set it to 0",
    )
    use_v1, mode = _elsewhere(config, "trainer.use_v1"), _elsewhere(config, "trainer.v1.trainer_mode")
    check(bool(use_v1), "trainer.use_v1", use_v1, "selection works in verl's V1 trainer only; set it to True")
    check(mode == "sync", "trainer.v1.trainer_mode", mode, "selection works in the mode sync only")
    sampler = _elsewhere(config, "trainer.v1.sampler.custom_sampler.name")
    check(
        bool(sampler),
        "trainer.v1.sampler.custom_sampler.name",
        sampler,
        "the selector would not hear of any verdict; set it to ObservingReplayBuffer, and "
        "trainer.v1.sampler.custom_sampler.path to pkg://insight_rl.integration.verl",
    )
    for key in ("algorithm.filter_groups.enable", "trainer.v1.sampler.sync_refill_failed_groups"):
        value = _elsewhere(config, key)
        check(
            not value,
            key,
            value,
            "verl leaves this to its own replay buffer, which selection replaces; set it to False",
        )
    model = _elsewhere(config, "reward.reward_model") or {}
    check(
        not model.get("enable") or bool(model.get("enable_resource_pool")),
        "reward.reward_model.enable_resource_pool",
        model.get("enable_resource_pool"),
        "verdicts have to be there when the rollouts end; set it to True, or use a rule-based reward",
    )


def _verdicts(keys: Sequence[str], success_key: str) -> dict[int, Sequence[bool | None]]:
    """The verdicts of these trajectories by the row of their prompt; ``uid_session_index`` are verl's keys.

    Of a rollout with several trajectories the last one holds the outcome.
    """
    last: dict[tuple[str, str], tuple[int, int]] = {}
    for position, key in enumerate(keys):
        uid, session, index = key.rsplit("_", 2)
        last[uid, session] = max(last.get((uid, session), (-1, -1)), (int(index), position))
    names = ["rm_scores", "extra_fields", ROW_FIELD]
    fields = transfer_queue.kv_batch_get(
        keys=[keys[position] for _, position in last.values()],
        partition_id="train",
        select_fields=names,
    )
    verdicts: dict[int, list[bool | None]] = defaultdict(list)
    for scores, extra, row in zip(*(map(_plain, fields[name]) for name in names), strict=True):
        answer = extra.get("reward_extra_info") or {}
        verdicts[int(row)].append(verdict_of(answer.get(success_key, float(scores.sum()))))
    return dict(verdicts)


def _plain(value: Any) -> Any:
    return value.data if isinstance(value, NonTensorData) else value


def verdict_of(value: Any) -> bool | None:
    """Success is a value of 1 or more, true included; ``None`` and NaN are not judged."""
    if value is None:
        return None
    number = float(value)
    return None if math.isnan(number) else number >= 1.0
