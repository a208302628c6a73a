"""Reads finished or running runs from their folders and says in what their configurations differ. Draws nothing."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from insight_rl.errors import UsageError
from insight_rl.monitor.records import METRICS_FILE, Record, read_records
from insight_rl.nested import flatten
from insight_rl.paths import conf_dir
from insight_rl.recorded_config import CONFIG_FILE, read_recorded_config

MINOR = ("trainer.num_steps", "evaluation", "judge", "rollout", "learner.num_ranks")
"""Settings that make two runs different and name neither: such runs are told apart by the names of their folders."""
NO_DIFFERENCE = ("seed", "run_dir", "run_group", "arm", "resume", "monitor", "checkpoint", "rollout_log")
"""Settings that do not make two runs different experiments."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as read from its folder: ``records`` by step, ``config`` as resolved (empty where none was kept)."""

    run_dir: Path
    records: tuple[Record, ...]
    config: Mapping[str, Any]

    @property
    def seed(self) -> int | None:
        return self.config.get("seed")

    def series(self, key: str, *, against: str = "step") -> tuple[np.ndarray, np.ndarray]:
        """``(x, y)``, float64: ``key`` where it was logged against the latest value of ``against`` (0 before any)."""
        xs: list[float] = []
        ys: list[float] = []
        x = 0.0
        for record in self.records:
            x = record.get(against) or x
            if record.get(key) is not None:
                xs.append(x)
                ys.append(record[key])
        return np.asarray(xs, dtype=np.float64), np.asarray(ys, dtype=np.float64)

    def option(self, group: str) -> str:
        """Name of the option that the run took from the group, see :func:`option_name`."""
        return option_name(group, self.config)


def load_runs(run_dirs: Sequence[Path]) -> list[Run]:
    """The runs in the given folders; a folder of runs (a sweep) stands for all of its runs.

    Raises ``UsageError`` for a folder that is not there or has no metrics.
    """
    return [_load_run(folder) for given in run_dirs for folder in _run_folders(given)]


def find_runs(given: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Of several paths, the folders of runs (or of several runs), and what else there was among them.

    A pattern such as ``runs/*`` also finds pictures and other folders. Raises ``UsageError`` for a path that is not
    there, and where none of them is a run.
    """
    found, others = [], []
    for path in given:
        is_run = (path.is_dir() and any(path.glob(f"*/{METRICS_FILE}"))) or (path / METRICS_FILE).is_file()
        if is_run or not path.exists() or len(given) == 1:
            _run_folders(path)  # says what is wrong with it
            found.append(path)
        else:
            others.append(path)
    if not found:
        raise UsageError(f"{given[0]} and {len(given) - 1} more: none has a {METRICS_FILE}; give the run_dir of a run")
    return found, others


def _run_folders(given: Path) -> list[Path]:
    if not given.is_dir():
        raise UsageError(f"{given}: there is no such folder; give the run_dir of one or more runs")
    if (given / METRICS_FILE).is_file():
        return [given]
    inside = sorted(path.parent for path in given.glob(f"*/{METRICS_FILE}"))
    if not inside:
        raise UsageError(f"{given}: neither it nor a folder in it has a {METRICS_FILE}; give the run_dir of a run")
    return inside


def _load_run(folder: Path) -> Run:
    records = read_records(folder / METRICS_FILE)
    if not records:
        raise UsageError(f"{folder / METRICS_FILE}: holds no step yet; wait for the run's first step, or leave it out")
    return Run(run_dir=folder, records=tuple(records), config=read_config(folder))


def read_config(run_dir: Path) -> dict[str, Any]:
    """What the run recorded, see :func:`read_recorded_config`; empty for another trainer's run, drawn beside ours."""
    return read_recorded_config(run_dir) if (run_dir / CONFIG_FILE).is_file() else {}


def group_runs(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ in their seed only, under a label that says in what they differ from the others.

    Equal runs of equal seed are kept apart by their folder: averaging a run with itself would show a certainty that is
    not there.
    """
    labels = _labels(runs)
    for label in set(labels):
        alike = [index for index, other in enumerate(labels) if other == label]
        if len({_minor_settings(runs[index]) for index in alike}) > 1:
            for index in alike:
                labels[index] = f"{label} ({runs[index].run_dir.name})" if label else runs[index].run_dir.name
    repeats = Counter((label, run.seed) for label, run in zip(labels, runs, strict=True))
    groups: dict[str, list[Run]] = {}
    for label, run in zip(labels, runs, strict=True):
        if repeats[label, run.seed] > 1:
            label = f"{label} ({run.run_dir.name})" if label else run.run_dir.name
        groups.setdefault(label, []).append(run)
    return groups


def _labels(runs: Sequence[Run]) -> list[str]:
    """What is special about each run: options (``insight + mixed_outcomes``), then settings (``mu=0.5``)."""
    flats = [flatten(run.config) for run in runs]
    areas = [area for area in dict.fromkeys(a for run in runs for a in run.config) if area not in NO_DIFFERENCE]
    areas = [area for area in areas if not area.endswith("_name")]
    # The selector comes first in a label.
    areas.sort(key=lambda area: area != "selector")
    parts: list[list[str]] = [[] for _ in runs]
    settings: list[list[str]] = [[] for _ in runs]
    for area in areas:
        options = [option_name(area, run.config) for run in runs]
        if len(set(options)) > 1:
            for part, option in zip(parts, options, strict=True):
                if area == "selector" or not part or option != _default_options().get(area):
                    part.append(option)
        for option in dict.fromkeys(options):
            members = [index for index, other in enumerate(options) if other == option]
            for key in _differing_keys([flats[index] for index in members], area):
                for index in members:
                    settings[index].append(f"{key.rpartition('.')[2]}={_short(flats[index].get(key))}")
    return [", ".join(filter(None, [" + ".join(p), *s])) for p, s in zip(parts, settings, strict=True)]


def option_name(group: str, config: Mapping[str, Any]) -> str:
    """The name of the option that a run's ``config`` records for ``group``, e.g. ``insight`` for ``selector``.

    The name of its class where none is recorded; empty where there is no class either.
    """
    node = config.get(group)
    target = node.get("_target_", "") if isinstance(node, Mapping) else ""
    return str(config.get(f"{group}_name") or target.rpartition(".")[2])


@functools.cache
def _default_options() -> dict[str, Any]:
    train = yaml.safe_load((conf_dir() / "train.yaml").read_text(encoding="utf-8"))
    return {group: option for entry in train["defaults"] if isinstance(entry, dict) for group, option in entry.items()}


def _is_minor(key: str) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in MINOR)


def _minor_settings(run: Run) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, repr(value)) for key, value in flatten(run.config).items() if _is_minor(key)))


def _differing_keys(flats: Sequence[Mapping[str, Any]], area: str) -> list[str]:
    keys = dict.fromkeys(key for flat in flats for key in flat if key.split(".")[0] == area and not _is_minor(key))
    return [key for key in keys if len({repr(flat.get(key)) for flat in flats}) > 1]


def _short(value: Any) -> str:
    """Paths by their last part, everything else as it is written in the configuration."""
    return value.rstrip("/").rpartition("/")[2] if isinstance(value, str) else str(value)
