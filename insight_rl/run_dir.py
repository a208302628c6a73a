"""The folder of one run: who may write to it, what it records, and whether a run can go on in it.

config.yaml  versions.json  metrics.jsonl  selections.jsonl  decisions/  rollouts/  checkpoints/  logs/  model/
curves.png
"""

from __future__ import annotations

import os
import typing
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from insight_rl.config import FREE_ON_RESUME, NAMED_GROUPS, REMOVED_KEYS, RunConfig
from insight_rl.errors import UsageError
from insight_rl.files import lock_folder, write_atomically
from insight_rl.monitor.records import drop_records_from, finite_or_none, to_lines
from insight_rl.nested import flatten
from insight_rl.recorded_config import CONFIG_FILE, read_recorded_config
from insight_rl.rollout_log import RolloutLog
from insight_rl.selector.base import Selector
from insight_rl.selector.decision_log import DECISIONS_FOLDER, DecisionLog, RecordsDecisions
from insight_rl.types import Group, Prompt
from insight_rl.versions import record_versions

_NO_CHANGE = ("run_dir", "resume", *(f"{group}_name" for group in NAMED_GROUPS))
"""Keys that need no record of what they were before."""


class RunDir:
    """An open run folder, locked against a second process until :meth:`close`."""

    def __init__(self, path: Path) -> None:
        """Create and lock the folder. Raises ``UsageError`` if it cannot be written or another run is in it."""
        self.path = path
        self._lock = lock_folder(
            path,
            key="run_dir",
            occupied="another run is writing to it now; wait for it or take another folder",
            remedy="choose another folder with run_dir=...",
        )

    def check_same_run(self, tree: DictConfig, *, resume: str) -> None:
        """Raise ``UsageError`` naming the first setting in which ``tree`` differs from the run in this folder."""
        before, now = self._recorded(), flatten(_plain(tree))
        if not before:
            return
        if resume == "never":
            raise UsageError(
                f"run_dir={str(self.path)!r}: it already holds a run and resume=never; take another run_dir, or "
                "resume=auto to go on with that run"
            )
        for key in REMOVED_KEYS.keys() & before.keys():
            raise UsageError(
                f"{key}={before[key]!r}: the run in {self.path} was started by an earlier version with this key, which "
                f"{REMOVED_KEYS[key]}; take another run_dir"
            )
        for key in _different(before, now):
            if any(key == free or key.startswith(f"{free}.") for free in FREE_ON_RESUME):
                continue
            name = f"{key.partition('.')[0]}_name"
            if before.get(name) and before[name] != now.get(name):
                given, kept = (f"{name.removesuffix('_name')}={names[name]}" for names in (now, before))
            else:
                given = f"{key}={now.get(key)!r}"
                kept = f"{key}={before[key]!r}" if key in before else f"no setting {key}"
            raise UsageError(
                f"{given}: the run in {self.path} was started with {kept}; keep that to resume it, or take another "
                "run_dir"
            )

    def record(self, tree: DictConfig, *, step: int) -> list[str]:
        """Write ``config.yaml``, the settings of the steps after ``step``, and the versions in ``versions.json``.

        Where settings differ from those before, these stay as ``config_<step>.yaml``; returns a sentence that says so,
        and one for versions that differ.
        """
        before, now = self._recorded(), flatten(_plain(tree))
        changes = [key for key in _different(before, now) if before and not key.startswith(_NO_CHANGE)]
        notices = []
        if changes:
            earlier = self.path / f"config_{step:06d}.yaml"
            # Of two changes at one step, the first ended the settings that the steps before had.
            if not earlier.exists():
                write_atomically(earlier, (self.path / CONFIG_FILE).read_text(encoding="utf-8"))
            words = ", ".join(f"{key}={now.get(key)!r} (was {before.get(key)!r})" for key in changes)
            notices.append(f"settings changed after step {step}: {words}; the earlier ones are in {earlier.name}")
        write_atomically(self.path / CONFIG_FILE, OmegaConf.to_yaml(tree, resolve=True))
        return [*notices, *record_versions(self.path, step=step)]

    def _recorded(self) -> dict[str, Any]:
        """The flattened configuration of the run that is here, empty where there is none."""
        return flatten(read_recorded_config(self.path)) if (self.path / CONFIG_FILE).exists() else {}

    def close(self) -> None:
        self._lock.close()


class SelectionLog:
    """``selections.jsonl``: one line a step with the ids and scores of the prompts rolled out, in order."""

    def __init__(self, path: Path, *, first_step: int) -> None:
        """Drops the records of ``first_step`` and later, which a killed run left behind."""
        self._path = path
        self._open(first_step)

    def _open(self, first_step: int) -> None:
        drop_records_from(self._path, step=first_step)
        self._file = self._path.open("a", encoding="utf-8")
        self._next_step = first_step

    def log(self, step: int, groups: Sequence[Group], scores: Sequence[float]) -> None:
        if step < self._next_step:  # the run has gone back to a checkpoint
            self._file.close()
            self._open(step)
        self._next_step = step + 1
        ids = [group.prompt.id for group in groups]
        record = {"step": step, "prompt_ids": ids, "scores": [finite_or_none(score) for score in scores]}
        self._file.write(to_lines([record]))
        self._file.flush()

    def close(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()


class SelectionLogs:
    """Several logs of the same decisions, written in order."""

    def __init__(self, own: SelectionLog, *others: DecisionLog | RolloutLog) -> None:
        self._own, self._others = own, others

    def log(self, step: int, groups: Sequence[Group], scores: Sequence[float]) -> None:
        for log in (self._own, *self._others):
            log.log(step, groups, scores)

    def close(self) -> None:
        self._own.close()


def open_selection_logs(
    run_dir: Path,
    selector: Selector | None,
    pool: Sequence[Prompt],
    *,
    first_step: int,
    beside: Sequence[RolloutLog] = (),
) -> SelectionLogs:
    """``selections.jsonl``, the decisions of ``selector`` where it has them to show, and the logs ``beside``."""
    others: list[DecisionLog | RolloutLog] = []
    if isinstance(selector, RecordsDecisions):
        others.append(DecisionLog(run_dir / DECISIONS_FOLDER, selector=selector, pool=pool, first_step=first_step))
    return SelectionLogs(SelectionLog(run_dir / "selections.jsonl", first_step=first_step), *others, *beside)


def choose_run_dir(config: RunConfig) -> Path:
    """``run_dir``, or ``runs/<time>_<task>_<selector>_seed<seed>`` where there is none, by the options' names."""
    if config.run_dir is not None:
        return Path(config.run_dir).expanduser().resolve()
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs", f"{stamp}_{config.task_name}_{config.selector_name}_seed{config.seed}").resolve()


def _plain(tree: DictConfig) -> dict[str, Any]:
    return typing.cast("dict[str, Any]", OmegaConf.to_container(tree, resolve=True))


def _different(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
