"""What the integrations of other frameworks share: the pool, verdicts, the selector and its state in a checkpoint.

    selection = Selection(make_pool({"prompt": prompts}), num_rollouts=8, seed=1, selector="insight")
    rows = selection.select(64)                 # rows of the data set to roll out 8 times each
    selection.observe({row: [True, False, None, ...] for row in rows})
    selection.save(checkpoint_folder)           # and .load(checkpoint_folder) after an interruption

Nothing of any framework is imported here, nor torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from insight_rl.build import build_part
from insight_rl.config import compose_config
from insight_rl.errors import UsageError, check
from insight_rl.files import write_atomically
from insight_rl.selector.base import Selector, check_needs_counts_only
from insight_rl.state_codec import decode_state, encode_state
from insight_rl.types import Counts, Prompt

SELECTOR_FOLDER = "insight_rl_selector"
"""Inside the folder of a checkpoint of the framework."""

_STATE_FILE = "state.npz"

_NUMBERS = ("int8", "int16", "int32", "int64", "float32", "float64")

Verdict = Callable[[Sequence[float]], "bool | None"]
"""From the values of all reward functions for one completion (NaN: not scored) to success, failure or not judged."""


def first_reward_is_full(rewards: Sequence[float]) -> bool | None:
    """Success is a first reward of 1 or more: parts for format, brevity, ... are no tenth of a success."""
    return None if math.isnan(rewards[0]) else rewards[0] >= 1.0


def count_verdicts(prompt_id: str, verdicts: Iterable[bool | None]) -> Counts:
    """How many of one prompt's rollouts were judged, and how many of those successes; ``None`` is not judged.

    Raises ``UsageError`` for anything else than a verdict, such as a reward of 0.1: it is neither.
    """
    given = list(verdicts)
    for each in given:
        if each is not None and not isinstance(each, (bool, np.bool_)):
            raise UsageError(f"verdict={each!r} of prompt {prompt_id}: must be True, False, or None for not judged")
    judged = [bool(each) for each in given if each is not None]
    return Counts(prompt_id=prompt_id, num_judged=len(judged), num_successes=sum(judged))


def make_selector(name: str, settings: Mapping[str, Any]) -> Selector:
    """The selector of conf/selector with these settings. Raises ``UsageError`` naming the one it does not take."""
    node: Any = OmegaConf.to_container(compose_config([f"selector={name}"]).selector, resolve=True)
    selector: Selector = build_part("selector", {**node, **settings})
    return selector


def prompt_id(prompt: Any) -> str:
    """A hash of a prompt, text or chat messages: the same on every machine."""
    text = json.dumps(prompt, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class RowPool:
    """The distinct prompts of a data set, and the row of each."""

    prompts: Sequence[Prompt]
    rows: Sequence[int]


def make_pool(columns: Mapping[str, Sequence[Any]]) -> RowPool:
    """The pool of a data set of which ``columns`` holds ``prompt`` (text or chat messages), one value a row.

    Prompts are known by ``id`` where it is given, else by a hash; of equal ones the first row is kept. ``task`` names
    what tasks they belong to. Every further column holds numbers, which reach selectors that ask for them.
    """
    prompts = columns["prompt"]
    ids = columns["id"] if "id" in columns else [prompt_id(prompt) for prompt in prompts]
    tasks = columns["task"] if "task" in columns else [""] * len(prompts)
    rows: dict[str, int] = {}
    for row, each in enumerate(ids):
        rows.setdefault(str(each), row)
    numbers = {name: values for name, values in columns.items() if name not in ("prompt", "id", "task")}
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
    return RowPool(pool, list(rows.values()))


def dataset_columns(dataset: Any, *, prompt: str = "prompt") -> dict[str, Sequence[Any]]:
    """``prompt``, ``id``, ``task`` and the columns of numbers of a ``datasets.Dataset``, for :func:`make_pool`.

    ``prompt`` names the column of the prompts. Raises ``UsageError`` for a data set that lacks it or cannot be indexed.
    """
    from datasets import Dataset

    if not isinstance(dataset, Dataset) or prompt not in dataset.column_names:
        raise UsageError(
            f"train_dataset: selection needs a datasets.Dataset that can be indexed, with a column {prompt!r}"
        )
    columns = {
        name: dataset[name]
        for name, feature in dataset.features.items()
        if name in ("id", "task") or getattr(feature, "dtype", "") in _NUMBERS
    }
    return {**columns, "prompt": dataset[prompt]}


class Selection:
    """A selector over the rows of a data set, for frameworks that own their loop."""

    def __init__(
        self,
        pool: RowPool,
        *,
        num_rollouts: int,
        seed: int,
        selector: str | Selector = "insight",
        selector_settings: Mapping[str, Any] | None = None,
        framework: str = "this framework",
    ) -> None:
        """``num_rollouts`` (K) of every prompt; ``selector`` is an option of conf/selector, with ``selector_settings``
        over it, or a selector not yet opened. Raises ``UsageError`` for one that needs more than counts of verdicts.
        """
        self.selector = make_selector(selector, selector_settings or {}) if isinstance(selector, str) else selector
        check_needs_counts_only(self.selector, framework)
        self.pool = pool
        self._id_of = {row: prompt.id for prompt, row in zip(pool.prompts, pool.rows, strict=True)}
        self._row_of = {prompt.id: row for prompt, row in zip(pool.prompts, pool.rows, strict=True)}
        self._outstanding: dict[int, None] = {}
        self.selector.open(pool.prompts, num_rollouts=num_rollouts, seed=seed)

    def __len__(self) -> int:
        """Number of distinct prompts."""
        return len(self.pool.prompts)

    def id_of(self, row: int) -> str:
        """The id of the prompt in a row that :meth:`select` gave."""
        return self._id_of[row]

    @property
    def outstanding(self) -> list[int]:
        """Rows selected and not yet observed, in the order of their selection: they are not selected again.

        After :meth:`load` those of the checkpoint. Rows whose rollouts were lost are observed with no verdicts.
        """
        return list(self._outstanding)

    def select(self, num_prompts: int) -> list[int]:
        """The ``num_prompts`` rows to roll out next, best first.

        Raises ``UsageError`` if fewer are left that are not waiting for their outcome.
        """
        num_left = len(self) - len(self._outstanding)
        check(
            num_prompts <= num_left,
            "num_prompts",
            num_prompts,
            f"asks for more prompts than there are: of {len(self)} different ones {len(self._outstanding)} are being "
            "rolled out; take a smaller batch or a larger data set",
        )
        rows = [self._row_of[prompt.id] for prompt in self.selector.select(num_prompts)]
        self._outstanding.update(dict.fromkeys(rows))
        return rows

    def observe(
        self, verdicts: Mapping[int, Sequence[bool | None]], *, late: Mapping[int, Sequence[bool | None]] | None = None
    ) -> None:
        """Learn from the verdicts of each row's rollouts: all of a step in one call; ``None`` is never a failure.

        ``late`` has those of rows that were observed with no verdicts before, because they seemed lost. Raises
        ``ValueError`` for any other row that is not outstanding: its verdicts would count twice, or for nothing.
        """
        for row in verdicts:
            if row not in self._outstanding:
                raise ValueError(f"row {row} was not selected, or its verdicts were observed before")
        everything = {**verdicts, **(late or {})}
        self.selector.observe([count_verdicts(self._id_of[row], given) for row, given in everything.items()])
        for row in verdicts:
            del self._outstanding[row]

    def metrics(self) -> dict[str, float]:
        """What the selector knows about itself and its pool, keyed ``selector/name``: finite numbers only."""
        return {
            name: float(value)
            for name, value in self.selector.metrics().items()
            if isinstance(value, (int, float)) and math.isfinite(value)
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that later decisions depend on, as JSON-able values and NumPy arrays."""
        return {"selector": self.selector.state_dict(), "outstanding": self.outstanding}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`. Raises ``ValueError`` if it is that of another data set."""
        self.selector.load_state_dict(state["selector"])
        self._outstanding = dict.fromkeys(state["outstanding"])

    def save(self, checkpoint: str | Path) -> None:
        """Write :meth:`state_dict` into the folder of a checkpoint, whole or not at all."""
        write_state(checkpoint, self.state_dict())

    def load(self, checkpoint: str | Path, *, key: str = "checkpoint") -> None:
        """Go on from what :meth:`save` wrote.

        Raises ``UsageError`` that names ``key``, the framework's setting of the checkpoint, if there is no such state,
        and ``ValueError`` if it is that of another data set.
        """
        self.load_state_dict(read_state(checkpoint, key=key))


def write_state(checkpoint: str | Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` into the folder of a checkpoint, whole or not at all."""
    folder = Path(checkpoint, SELECTOR_FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / _STATE_FILE, encode_state(state))


def read_state(checkpoint: str | Path, *, key: str) -> dict[str, Any]:
    """What :func:`write_state` wrote. Raises ``UsageError`` that names ``key`` if the folder holds no such state."""
    file = Path(checkpoint, SELECTOR_FOLDER, _STATE_FILE)
    if not file.is_file():
        raise UsageError(
            f"{key}={str(checkpoint)!r}: it holds no selector state ({SELECTOR_FOLDER}); it was "
            "written without selection or is incomplete: resume from another, or train without resuming"
        )
    return decode_state(file.read_bytes())
