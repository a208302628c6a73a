"""The rollout log: ``rollouts/step_000010.jsonl.gz``, whole groups of every tenth step with their completions.

One line a group, and a last one with the log-prob gaps of the completions, which are known once the learner has had the
step. For people to read, with `insight-rl report`; a run that goes on needs none of it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from insight_rl.files import write_atomically
from insight_rl.monitor.records import finite_or_none, to_lines
from insight_rl.types import Group, Metrics

ROLLOUTS_FOLDER = "rollouts"
_GOLDEN = (5**0.5 - 1) / 2
_GAPS = '{"gaps": '
"""How the line begins that is no group's."""


class RolloutLog:
    """Writes one file for the first step and every ``every``-th, whole or not at all; 0: none.

    It is told of a step twice: of its groups, as a log of selections, and then of its end, as a monitor. A run that
    goes back or goes on writes the same files again: those of later steps are dropped on opening.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: int,
        max_mb: float,
        first_step: int,
        gaps: Callable[[], Mapping[str, np.ndarray]] | None,
    ) -> None:
        """``max_mb``: largest content of a file, in MiB before it is compressed.

        ``gaps``: see :meth:`~insight_rl.learner.base.MeasuresCompletions.completion_gaps`; None: a learner without.
        """
        self._folder = folder
        self._every = every
        self._max_bytes = int(max_mb * 2**20)
        self._gaps = gaps
        if every:
            folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.writing"):
            path.unlink()
        for step, path in rollout_files(folder).items():
            if step >= first_step:
                path.unlink()

    def log(self, step: int, groups: Sequence[Group], scores: Sequence[float]) -> None:
        """Write the groups of a step; ``scores`` are in other logs."""
        if self.is_due(step):
            lines = [to_lines([group_record(group, step=step)]) for group in groups]
            kept = spread([len(line.encode()) for line in lines], self._max_bytes)
            write_atomically(self._path(step), _compressed("".join(lines[number] for number in kept)))

    def end_step(self, step: int) -> None:
        """Add what the learner measured of the step's completions."""
        if not self.is_due(step) or self._gaps is None or not self._path(step).exists():
            return
        gaps = {key: [_rounded(gap) for gap in gaps_G.tolist()] for key, gaps_G in self._gaps().items()}
        content = self._path(step).read_bytes()
        lines = gzip.decompress(content).decode().splitlines(keepends=True)
        # A run that goes on from rollouts that were made before it was stopped may have come here already.
        groups = [line for line in lines if not line.startswith(_GAPS)]
        if len(groups) < len(lines):
            content = _compressed("".join(groups))
        write_atomically(self._path(step), content + _compressed(to_lines([{"gaps": gaps}])))

    def is_due(self, step: int) -> bool:
        return self._every > 0 and (step == 1 or step % self._every == 0)

    def _path(self, step: int) -> Path:
        return self._folder / f"step_{step:06d}.jsonl.gz"


class RolloutLogEnd:
    """Tells the log when a step is over. See :class:`~insight_rl.monitor.base.Monitor`."""

    def __init__(self, log: RolloutLog) -> None:
        self._log = log

    def open(self, run_dir: Path, *, config: Mapping[str, Any], num_steps: int, first_step: int) -> None:
        """The log has been opened with the other logs of selections."""

    def log(self, metrics: Metrics, *, step: int) -> None:
        self._log.end_step(step)

    def notice(self, text: str) -> None:
        """Not for the log."""

    def close(self, summary: object = None) -> None:
        """Every step is on the disk already."""


def group_record(group: Group, *, step: int) -> dict[str, Any]:
    """``{"step": 10, "prompt_id": ..., "prompt": ..., "completions": [{"text": ..., "success": true, ...}]}``"""
    return {
        "step": step,
        "prompt_id": group.prompt.id,
        "task": group.prompt.task,
        "prompt": group.prompt.text,
        "answer": json.dumps(group.prompt.answer, ensure_ascii=False, default=str),
        "completions": [
            {
                "text": completion.text,
                "tokens": len(completion.token_ids),
                "finish": completion.finish_reason,
                "version": completion.policy_version,
                "success": reward.success,
                "value": finite_or_none(reward.value),
                "status": reward.status,
                **({"parts": {key: _rounded(value) for key, value in reward.parts.items()}} if reward.parts else {}),
                **({"reason": reward.reason} if reward.reason else {}),
            }
            for completion, reward in zip(group.completions_G, group.rewards_G, strict=True)
        ],
    }


def spread(sizes: Sequence[int], room: int) -> list[int]:
    """Which items to take, ascending: all of them, or such that fit in the room, from everywhere in the sequence."""
    if sum(sizes) <= room:
        return list(range(len(sizes)))
    taken = []
    # Multiples of the golden ratio fill an interval evenly, however many there are.
    for number in sorted(range(len(sizes)), key=lambda number: number * _GOLDEN % 1):
        if sizes[number] <= room:
            taken.append(number)
            room -= sizes[number]
    return sorted(taken)


def rollout_files(folder: Path) -> dict[int, Path]:
    """The files of the log by step, ascending; what has another name is none of it."""
    found = {}
    for path in folder.glob("step_*.jsonl.gz"):
        number = path.name.removeprefix("step_").removesuffix(".jsonl.gz")
        if number.isascii() and number.isdigit():
            found[int(number)] = path
    return dict(sorted(found.items()))


def _rounded(value: float) -> float | int | None:
    number = finite_or_none(value)
    return None if number is None else float(f"{number:.4g}")


def _compressed(text: str) -> bytes:
    # Without the time of day: the same steps make the same files. Files of gzip may follow each other in one.
    return gzip.compress(text.encode(), compresslevel=3, mtime=0)
