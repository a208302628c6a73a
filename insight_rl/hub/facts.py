"""What a run folder says of its run, checked and bounded, for the model card. Computes; writes nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from insight_rl.errors import UsageError
from insight_rl.evaluation_log import EVALUATIONS_FILE
from insight_rl.hub.run_files import RunFiles
from insight_rl.monitor.records import METRICS_FILE, Record, read_records
from insight_rl.nested import value_at
from insight_rl.recorded_config import CONFIG_FILE, read_recorded_config
from insight_rl.run_command import Command, command_of
from insight_rl.seeding import derive_seed
from insight_rl.versions import VERSIONS_FILE, read_versions

HUB_NAME = re.compile(r"[\w][\w.-]{0,95}(/[\w][\w.-]{0,95})?", re.ASCII)
_Z = 1.959963984540054
"""Of a two-sided interval of 95 %."""
_NUM_RESAMPLES = 5000


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Held-out accuracy after ``step``. ``low`` to ``high``: Wilson's interval of 95 % over the problems."""

    step: int
    value: float
    low: float
    high: float
    num_problems: int
    samples: int


@dataclass(frozen=True, kw_only=True)
class Change:
    """Difference of two evaluations on the same problems; ``low`` to ``high``: paired bootstrap over the problems."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """``hub``: its name there, ``None`` for a local file, whose own name is ``file``."""

    split: str
    hub: str | None
    detail: str
    file: str | None


@dataclass(frozen=True, kw_only=True)
class Facts:
    name: str
    """Of the run: its folder's last part."""
    config: Mapping[str, Any]
    base_model: str | None
    """Its name on the hub; ``None`` for a local folder."""
    base_folder: str
    """Last part of ``model.path``."""
    base_revision: str | None
    data: tuple[DataSet, ...]
    num_steps: int
    num_rollouts: int | None
    num_tokens: int | None
    device_s: float | None
    before: Accuracy | None
    after: Accuracy | None
    change: Change | None
    versions: Mapping[str, str]
    """At the start of the run; empty where it recorded none."""
    num_version_changes: int
    command: Command
    is_lora: bool

    def option(self, group: str) -> str:
        """The option of a group of conf/, as recorded; empty where it has no name."""
        value = self.config.get(f"{group}_name")
        return value if isinstance(value, str) else ""


def read_facts(files: RunFiles, *, step: int | None) -> Facts:
    """The facts of a run, whose model of ``step`` (``None``: its last one) is sent.

    Raises ``UsageError`` for a folder that is none of a run, or a record that no run writes.
    """
    for name in (CONFIG_FILE, VERSIONS_FILE):
        files.file(name)
    config = read_recorded_config(files.root)
    records = _records(files, METRICS_FILE)
    if not records:
        raise UsageError(
            f"run_dir={str(files.root)!r}: no step is recorded in its {METRICS_FILE}; give a run that began"
        )
    num_steps = max(record["step"] for record in records) if step is None else step
    done = [record for record in records if record["step"] <= num_steps]
    evaluations = [record for record in _records(files, EVALUATIONS_FILE) if record["step"] <= num_steps]
    path, revision = value_at(config, "model.path"), value_at(config, "model.revision")
    path = path if isinstance(path, str) else ""
    is_hub_name = path.count("/") == 1 and HUB_NAME.fullmatch(path) is not None
    versions = read_versions(files.root)
    return Facts(
        name=files.root.name,
        config=config,
        base_model=path if is_hub_name else None,
        base_folder=path.rstrip("/").rpartition("/")[2],
        base_revision=revision if isinstance(revision, str) else None,
        data=tuple(_data_sets(config.get("task"))),
        num_steps=num_steps,
        num_rollouts=_whole(_last(done, "rollout/num_rollouts")),
        num_tokens=_whole(_last(done, "rollout/num_tokens")),
        device_s=_last(done, "time/device_s"),
        **_results(evaluations),
        versions=versions[0]["versions"] if versions else {},
        num_version_changes=max(0, len(versions) - 1),
        command=command_of(config),
        is_lora=value_at(config, "learner.lora.rank") is not None,
    )


def wilson(successes: float, number: int) -> tuple[float, float]:
    """Interval of 95 % of a share (Wilson 1927, J. Am. Statist. Assoc. 22, 209); ``successes`` may be a sum of shares.

    Over problems whose shares are means of several samples it is wider than need be, never narrower: no problem's
    share varies more than a single verdict of the same mean.
    """
    share, square = successes / number, _Z**2
    centre = (share + square / (2 * number)) / (1 + square / number)
    half = _Z / (1 + square / number) * math.sqrt(share * (1 - share) / number + square / (4 * number**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_change(before_P: np.ndarray, after_P: np.ndarray) -> Change:
    """Mean difference of the problems' shares, and the 2.5 and 97.5 percentiles of its bootstrap over problems."""
    differences_P = after_P - before_P
    number = len(differences_P)
    generator = np.random.default_rng(derive_seed(0, "interval of a model card"))
    # A million draws at a time, however many problems there are.
    rows = max(1, min(_NUM_RESAMPLES, 1_000_000 // number))
    draws = (generator.integers(0, number, (rows, number)) for _ in range(-(-_NUM_RESAMPLES // rows)))
    low, high = np.percentile(np.concatenate([differences_P[draw].mean(axis=1) for draw in draws]), [2.5, 97.5])
    return Change(value=float(differences_P.mean()), low=float(low), high=float(high))


def _results(evaluations: list[Record]) -> dict[str, Any]:
    """``before`` (step 0), ``after`` (the last one later than that) and, on the same problems, ``change``."""
    first = next((record for record in evaluations if record["step"] == 0), None)
    last = next((record for record in reversed(evaluations) if record["step"] > 0), None)
    before, after = (_accuracy(record) if record else None for record in (first, last))
    change = None
    if first and last and first["successes"].keys() == last["successes"].keys():
        shares = [_shares(record) for record in (first, last)]
        change = paired_change(*(np.array([share[key] for key in shares[0]]) for share in shares))
    return {"before": before, "after": after, "change": change}


def _accuracy(record: Record) -> Accuracy:
    shares = list(_shares(record).values())
    low, high = wilson(sum(shares), len(shares))
    return Accuracy(
        step=record["step"],
        value=sum(shares) / len(shares),
        low=low,
        high=high,
        num_problems=len(shares),
        samples=record["samples"],
    )


def _shares(record: Record) -> dict[str, float]:
    samples, successes = record.get("samples"), record.get("successes")
    if isinstance(samples, int) and samples > 0 and isinstance(successes, dict) and successes:
        shares = {key: n / samples for key, n in successes.items() if isinstance(n, int) and 0 <= n <= samples}
        if len(shares) == len(successes):
            return shares
    raise UsageError(f"{EVALUATIONS_FILE} step {record['step']}: is no record of an evaluation; restore the file")


def _records(files: RunFiles, name: str) -> list[Record]:
    file = files.file(name)
    return [] if file is None else read_records(file)


def _last(records: list[Record], key: str) -> float | None:
    values = (record.get(key) for record in reversed(records))
    return next((value for value in values if isinstance(value, (int, float))), None)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _data_sets(node: Any) -> Iterator[DataSet]:
    """Of a task and, in a mixture, of its parts: what its settings name."""
    if not isinstance(node, Mapping):
        return
    for split in ("train", "test"):
        path, hub = node.get(f"{split}_path"), node.get(f"{split}_hub")
        if isinstance(path, str) and path:
            yield DataSet(split=split, hub=None, detail="", file=path.rstrip("/").rpartition("/")[2])
        elif isinstance(hub, Mapping) and HUB_NAME.fullmatch(str(hub.get("name"))):
            keys = ("config", "split", "revision")
            detail = ", ".join(f"{key} {hub[key]}" for key in keys if isinstance(hub.get(key), str))
            yield DataSet(split=split, hub=str(hub["name"]), detail=detail, file=None)
    for value in node.values():
        yield from _data_sets(value)
