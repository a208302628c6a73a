"""Prompt selection inside slime: a data source that selects, and the hook that tells it what came out.

    python train.py ... \\
        --data-source-path insight_rl.integration.slime.prompt_source \\
        --rollout-all-samples-process-path insight_rl.integration.slime.observe_samples

slime's own data source reads the data, makes the groups and keeps its buffer; only which rows come next is decided
here.
Read at commit 624b824a898ab0ec1fcb4d373004c7f3852bf515 of THUDM/slime (0.3.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from insight_rl.errors import UsageError, check
from insight_rl.integration.prompt_queue import PromptQueue
from insight_rl.integration.selection import Selection, make_pool, prompt_id
from insight_rl.integration.settings import IntegrationSettings, judge, read_settings
from insight_rl.seeding import derive_seed

SETTINGS_KEY = "insight_rl"
"""Of the file that slime's --custom-config-path names: a mapping with settings, all optional."""

_open_source: Any = None
"""The data source of this process: slime makes one, in its RolloutManager, where the hooks are called too."""


def prompt_source(args: Any) -> Any:
    """For --data-source-path: slime's data source with its buffer, except that new groups are of selected prompts.

    ``args.insight_rl`` holds :class:`~insight_rl.integration.settings.IntegrationSettings`. Raises ``UsageError`` for
    settings or data that no selection could work with.
    """
    global _open_source
    try:
        from slime.rollout.data_source import RolloutDataSource, RolloutDataSourceWithBuffer
    except ImportError as error:
        raise UsageError(f"--data-source-path: needs slime, which cannot be imported here ({error})") from error

    class Rows(SelectedRows, RolloutDataSource):  # type: ignore[misc]
        """slime's source without a buffer."""

    class PromptSource(SelectedGroups, RolloutDataSourceWithBuffer, Rows):  # type: ignore[misc]
        """The buffer comes first, as in slime; it then asks the class after it, which is ``Rows``, for the rest."""

    _open_source = PromptSource(args)
    return _open_source


class SelectedRows:
    """Mixed into slime's ``RolloutDataSource``: its next rows are those that the queue gives."""

    def get_samples(self, num_samples: int) -> Any:
        source: Any = self
        rows = source.prompt_queue.draw(num_samples)
        whole = source.dataset
        source.dataset, source.sample_offset = _Rows([whole[row] for row in rows]), 0
        try:
            groups = super().get_samples(num_samples)  # type: ignore[misc]
        finally:
            source.dataset, source.sample_offset = whole, 0
        source.row_of_group.update({group[0].group_index: row for group, row in zip(groups, rows, strict=True)})
        return groups


class SelectedGroups:
    """Mixed into slime's ``RolloutDataSourceWithBuffer``: verdicts, lost groups, the selector in checkpoints."""

    def __init__(self, args: Any) -> None:
        super().__init__(args)  # type: ignore[call-arg]
        settings = read_settings(getattr(args, SETTINGS_KEY, None), key=SETTINGS_KEY)
        self.verdict = settings.verdict
        self.row_of_group: dict[int, int] = {}
        """Of groups under way: slime's group_index to the row of the data."""
        self.prompt_queue = _make_queue(self, args, settings)
        self.rollout_has_ended = False

    def get_samples(self, num_samples: int) -> Any:
        self.give_up_lost()
        return super().get_samples(num_samples)  # type: ignore[misc]

    def save(self, rollout_id: Any) -> None:
        super().save(rollout_id)  # type: ignore[misc]
        self.give_up_lost()
        source: Any = self
        self.prompt_queue.save(_folder(source.args.save, rollout_id))

    def load(self, rollout_id: Any = None) -> None:
        super().load(rollout_id)  # type: ignore[misc]
        source: Any = self
        if source.args.load is not None and rollout_id is not None and rollout_id >= 0:
            self.prompt_queue.load(_folder(source.args.load, rollout_id), key="--load")

    def give_up_lost(self) -> None:
        """After a rollout: what neither finished nor came back into the buffer was thrown away by slime."""
        if not self.rollout_has_ended:
            return
        self.rollout_has_ended = False
        source: Any = self
        kept = {_first(group).group_index for group in source.buffer}
        self.row_of_group = {index: row for index, row in self.row_of_group.items() if index in kept}
        rows = set(self.row_of_group.values())
        self.prompt_queue.give_up([row for row in self.prompt_queue.under_way if row not in rows])

    def observe(self, groups: Iterable[Sequence[Any]]) -> None:
        """Groups as slime has them: of each prompt the samples, or lists of the samples that one rollout became."""
        groups = list(groups)
        if groups and all(_first(group).group_index is None for group in groups):
            raise UsageError(
                "--custom-generate-function-path: its samples have no group_index, so that nothing could be learnt of "
                "them; let them be copies of the sample that it was given"
            )
        for group in groups:
            row = self.row_of_group.pop(_first(group).group_index, None)
            if row is not None:
                self.prompt_queue.finish(row, [self.judge(each) for each in group])

    def judge(self, rollout: Any) -> bool | None:
        """Success, failure, or ``None``; where a rollout became several samples the last has its outcome."""
        sample = rollout[-1] if isinstance(rollout, list) else rollout
        if sample.reward is None or sample.status.value in ("aborted", "failed"):
            return None
        source: Any = self
        return judge(self.verdict, [float(sample.get_reward_value(source.args))])


def observe_samples(args: Any, all_samples: Sequence[Sequence[Any]], data_source: Any) -> None:
    """For --rollout-all-samples-process-path: slime calls it at the end of each rollout with every finished group.

    Those that a filter dropped are among them. What is neither here nor put back by slime is lost.
    """
    source = _source("--rollout-all-samples-process-path")
    source.observe(all_samples)
    source.rollout_has_ended = True


def observe_logged(
    rollout_id: int, args: Any, samples: Sequence[Any], rollout_extra_metrics: Any, rollout_time: float
) -> bool:
    """For --custom-rollout-log-function-path: adds the selector's metrics to those that slime logs; returns False.

    Needed where the rollout function does not call the other hook (fully async): what is trained on is observed here,
    unless it was before, and groups under way stay so.
    """
    groups: dict[int, dict[Any, list[Any]]] = {}
    for sample in samples:
        rollout = sample.index if sample.rollout_id is None else sample.rollout_id
        groups.setdefault(sample.group_index, {}).setdefault(rollout, []).append(sample)
    source = _source("--custom-rollout-log-function-path")
    source.observe([list(rollouts.values()) for rollouts in groups.values()])
    if isinstance(rollout_extra_metrics, dict):
        rollout_extra_metrics.update(source.prompt_queue.metrics())
    return False


class _Rows:
    """The part of slime's Dataset that its data source reads when it takes the next rows."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)


def _source(option: str) -> Any:
    if _open_source is None:
        raise UsageError(f"{option}: needs --data-source-path insight_rl.integration.slime.prompt_source")
    return _open_source


def _first(group: Sequence[Any]) -> Any:
    return group[0][0] if isinstance(group[0], list) else group[0]


def _folder(base: str, rollout_id: int) -> Path:
    """Beside the file of slime's own data source."""
    return Path(base, "rollout", f"insight_rl_{rollout_id}")


def _make_queue(source: Any, args: Any, settings: IntegrationSettings) -> PromptQueue:
    if source.dataset is None:
        raise UsageError("--prompt-data: selection needs the prompts, and slime was told to make them elsewhere")
    samples = [source.dataset[row] for row in range(len(source.dataset))]
    selection = Selection(
        make_pool(_columns(samples)),
        num_rollouts=args.n_samples_per_prompt,
        seed=derive_seed(args.rollout_seed, "selector"),
        selector=settings.selector,
        selector_settings=settings.selector_settings,
        framework="slime",
    )
    size = args.over_sampling_batch_size or args.rollout_batch_size
    check(
        size <= len(selection),
        "--over-sampling-batch-size",
        size,
        f"asks for more prompts at a time than the data has different ones, {len(selection)}",
    )
    return PromptQueue(selection, prompts_per_selection=None, patience=settings.patience or 16 * size)


def _columns(samples: Sequence[Any]) -> dict[str, list[Any]]:
    """Of slime's samples: ``id``, ``task`` and every number that all of them have in their metadata."""
    metadata = [sample.metadata or {} for sample in samples]
    for row, (sample, each) in enumerate(zip(samples, metadata, strict=True)):
        if sample.multimodal_inputs is not None and "id" not in each:
            raise UsageError(
                f"row {row}: has images and no 'id' in its metadata; equal texts could not be told apart: add one"
            )
    numbers = {
        name
        for name, value in metadata[0].items()
        if name not in ("id", "task", "prompt") and all(_is_number(each.get(name)) for each in metadata)
    }
    return {
        "prompt": [sample.prompt for sample in samples],
        "id": [
            each.get("id", None) or prompt_id(sample.prompt) for sample, each in zip(samples, metadata, strict=True)
        ],
        "task": [each.get("task") or each.get("source_name") or "" for each in metadata],
        **{name: [each[name] for each in metadata] for name in sorted(numbers)},
    }


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
