"""Writes each step's metrics as TensorBoard event files: no account, no network.

    tensorboard --logdir runs

Library: https://www.tensorflow.org/tensorboard , written through torch.utils.tensorboard; the imports are deferred, so
that the package need not be there.
"""

from __future__ import annotations

import importlib.util
import math
import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from insight_rl.errors import UsageError
from insight_rl.monitor.dashboard import ARM, OTHER_AXES, SECTIONS, arm_of, over_other_axes, tags_of
from insight_rl.monitor.records import finite_or_none, sample_records, to_lines
from insight_rl.monitor.summary import Summary
from insight_rl.types import Histogram, Metrics, Table

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import FileWriter

FOLDER = "tensorboard"
_FILES = "events.out.tfevents.*"


class TensorBoardMonitor:
    """Event files in ``run_dir/tensorboard``; each step is one record, so that a step is there whole or not at all.

    A record is on its way to the disk before :meth:`log` returns. A resumed run repeats the steps after its checkpoint
    with the same outcome: those that are there already are not written twice. Evaluations are there three times, over
    steps, rollouts and tokens (``eval_by_tokens/accuracy``). TensorBoard's *custom scalars* page shows the sections of
    :data:`~insight_rl.monitor.dashboard.SECTIONS`.
    """

    def __init__(self) -> None:
        # torch's writer needs the package, and says so only when it is imported.
        if importlib.util.find_spec("tensorboard") is None:
            raise UsageError(
                "monitor=tensorboard: the package tensorboard is not installed; install it with "
                "`pip install 'insight-rl[tensorboard]'`"
            )
        self._writer: FileWriter | None = None
        self._written: set[tuple[str, int]] = set()

    def open(self, run_dir: Path, *, config: Mapping[str, Any], num_steps: int, first_step: int) -> None:
        from torch.utils.tensorboard.summary import custom_scalars, text
        from torch.utils.tensorboard.writer import FileWriter

        folder = run_dir.resolve() / FOLDER
        earlier = sorted(folder.glob(_FILES))
        if first_step == 0:
            # A run that died before its first checkpoint starts anew.
            for file in earlier:
                file.unlink()
            earlier = []
        self._written = {mark for file in earlier for mark in _marks(file)}
        self._writer = FileWriter(folder)
        if not earlier:
            named = {**config, ARM: arm_of(config), "tags": tags_of(config)}
            about = yaml.safe_dump(named, allow_unicode=True, sort_keys=False)
            self._writer.add_summary(text("config", _as_code(about)), 0)
            self._writer.add_summary(custom_scalars(layout()), 0)
            self._writer.flush()

    def log(self, metrics: Metrics, *, step: int) -> None:
        assert self._writer is not None, "open() comes first"
        for word, renamed in over_other_axes(metrics).items():
            position = metrics.get(OTHER_AXES[word], 0)
            assert isinstance(position, (int, float))
            self._add(renamed, step=int(position), mark=word)
        self._add(metrics, step=step, mark="step")
        self._writer.flush()

    def notice(self, text: str) -> None:
        """Notices are in the terminal and in notices.jsonl."""

    def close(self, summary: Summary | None = None) -> None:
        if self._writer is not None:
            folder = self._writer.get_logdir()
            self._writer.close()
            self._writer = None
            print(f"TensorBoard: look at it with `tensorboard --logdir {shlex.quote(folder)}`")

    def _add(self, metrics: Mapping[str, Any], *, step: int, mark: str) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary as Record

        if (mark, step) in self._written:
            return
        record = Record()
        for key in sorted(metrics):
            _put(record, key, metrics[key], step)
        record.value.add(tag=f"{_MARK}{mark}", simple_value=step)
        assert self._writer is not None
        self._writer.add_summary(record, step)
        self._written.add((mark, step))


_MARK = "position/"
"""Closes every record: which axis its step is a position on."""


def _marks(file: Path) -> list[tuple[str, int]]:
    """The positions of every whole record of an event file; what a crash has cut off at its end is not there."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    events = LegacyEventFileLoader(str(file)).Load()
    tags = [(value.tag, event.step) for event in events for value in event.summary.value]
    return [(tag.removeprefix(_MARK), step) for tag, step in tags if tag.startswith(_MARK)]


def _put(record: Any, key: str, value: Any, step: int) -> None:
    from torch.utils.tensorboard import summary

    if isinstance(value, Table):
        rows = to_lines(sample_records({key: value}, step=step))
        record.MergeFrom(summary.text(key, _as_code(rows)))
    elif isinstance(value, Histogram):
        record.MergeFrom(_histogram(key, value))
    else:
        number = finite_or_none(value)
        record.value.add(tag=key, simple_value=math.nan if number is None else number)


def _histogram(key: str, value: Histogram) -> Any:
    from torch.utils.tensorboard.summary import histogram_raw

    edges, counts = value.edges, value.counts
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    total = sum(count * middle for count, middle in zip(counts, middles, strict=True))
    squares = sum(count * middle**2 for count, middle in zip(counts, middles, strict=True))
    # Buckets are given by their upper limits; the first, empty one ends where the histogram begins.
    return histogram_raw(key, edges[0], edges[-1], sum(counts), total, squares, list(edges), [0, *counts])


def _as_code(text: str) -> str:
    """Text as a Markdown code block: nothing in it is read as Markdown or HTML."""
    return "".join(f"    {line}\n" for line in text.replace("\r", "\n").replace("\0", "\\0").split("\n"))


def layout() -> dict[str, dict[str, Sequence[Any]]]:
    """The sections as torch's ``custom_scalars`` takes them: title -> chart -> ``["Multiline", patterns of keys]``."""
    return {
        section.title: {
            chart.title: ["Multiline", [f"^{key}$" for key in chart.logged_keys]]
            for chart in section.charts
            if chart.kind != "histogram"
        }
        for section in SECTIONS
    }
