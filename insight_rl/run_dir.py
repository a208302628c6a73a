"""The folder of one run: who may write to it, what it records, and whether a run can go on in it.

config.yaml  metrics.jsonl  selections.jsonl  decisions/  checkpoints/  model/  curves.png
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from insight_rl.config import RunConfig
from insight_rl.errors import UsageError
from insight_rl.files import lock_folder, write_atomically
from insight_rl.monitor.records import drop_records_from, finite_or_none, to_lines
from insight_rl.selector.decision_log import DecisionLog
from insight_rl.types import Group

_FREE_KEYS = (
    "run_dir",
    "resume",
    "trainer.num_steps",
    "trainer.max_",
    "checkpoint.",
    "evaluation.",
    "monitor.",
    "judge.",
    "learner.deadline_s",
    "rollout.deadline_s",
    "weight_sync.",
)
"""Settings that may differ when a run is resumed: they change how far it goes or what is seen of it, not what it is."""


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

    def begin(self, tree: DictConfig, *, resume: str) -> None:
        """Record the resolved configuration. Raises ``UsageError`` if the folder holds a run that this is not."""
        if resume == "never" and (self.path / "config.yaml").exists():
            raise UsageError(
                f"run_dir={str(self.path)!r}: it already holds a run and resume=never; take another run_dir, or "
                "resume=auto to go on with that run"
            )
        self._check_same_run(tree)
        write_atomically(self.path / "config.yaml", OmegaConf.to_yaml(tree, resolve=True))

    def _check_same_run(self, tree: DictConfig) -> None:
        """Raise ``UsageError`` naming the first setting in which ``tree`` differs from the run in this folder."""
        file = self.path / "config.yaml"
        if not file.exists():
            return
        try:
            before = _flatten(OmegaConf.to_container(OmegaConf.load(file)))
        except (OSError, OmegaConfBaseException) as error:
            raise UsageError(f"{file}: cannot be read ({error}); restore it or take another run_dir") from error
        now = _flatten(OmegaConf.to_container(tree, resolve=True))
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key) and not key.startswith(_FREE_KEYS):
                raise UsageError(
                    f"{key}={now.get(key)!r}: the run in {self.path} was started with {before.get(key)!r}; keep that "
                    "to resume it, or take another run_dir"
                )

    def close(self) -> None:
        self._lock.close()


class SelectionLog:
    """``selections.jsonl``: one line a step with the ids and scores of the prompts rolled out, in order."""

    def __init__(self, path: Path, *, first_step: int) -> None:
        """Drops the records of ``first_step`` and later, which a killed run left behind."""
        drop_records_from(path, step=first_step)
        self._file = path.open("a", encoding="utf-8")

    def log(self, step: int, groups: Sequence[Group], scores: Sequence[float]) -> None:
        ids = [group.prompt.id for group in groups]
        record = {"step": step, "prompt_ids": ids, "scores": [finite_or_none(score) for score in scores]}
        self._file.write(to_lines([record]))
        self._file.flush()

    def close(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()


class SelectionLogs:
    """Several logs of the same decisions, written in order."""

    def __init__(self, *logs: SelectionLog | DecisionLog) -> None:
        self._logs = logs

    def log(self, step: int, groups: Sequence[Group], scores: Sequence[float]) -> None:
        for log in self._logs:
            log.log(step, groups, scores)


def choose_run_dir(config: RunConfig) -> Path:
    """``run_dir``, or ``runs/<time>_<task>_<selector>_seed<seed>`` where there is none, by the options' names."""
    if config.run_dir is not None:
        return Path(config.run_dir).expanduser().resolve()
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs", f"{stamp}_{config.task_name}_{config.selector_name}_seed{config.seed}").resolve()


def _flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict) or not node:
        return {prefix.rstrip("."): node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flatten(value, f"{prefix}{key}.")
    return flat
