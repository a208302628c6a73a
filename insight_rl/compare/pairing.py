"""Whether runs can be compared: the same start, pool, problems and settings, but for what the arms are to differ in.

Reads the run folders only, and ``arms.json``, which has the composed configuration of each arm from before the first
run. So what is checked is what the runs have recorded, not what somebody meant to run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from insight_rl.compare.simulations import read_curve
from insight_rl.compare.tables import FinishedRun
from insight_rl.config import NAMED_GROUPS
from insight_rl.errors import UsageError
from insight_rl.files import write_atomically
from insight_rl.nested import flatten
from insight_rl.recorded_config import read_recorded_config
from insight_rl.run_identity import RunIdentity, read_identity

ARMS_FILE = "arms.json"
FREE = (
    "seed",
    "run_dir",
    "run_group",
    "arm",
    "resume",
    "monitor",
    "checkpoint",
    "rollout_log",
    "judge",
    "doctor",
    "evaluation.every",
)
"""Keys, and mappings of keys, in which runs may differ: they change what is seen of a run, or when, and not the run."""
_NOTHING = object()


def write_arms(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """``configs``: of each arm, its composed configuration by dotted key."""
    write_atomically(folder / ARMS_FILE, json.dumps(configs, indent=1, default=str))


def read_arms(folder: Path) -> dict[str, dict[str, Any]]:
    file = folder / ARMS_FILE
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be read ({error}); restore it, or run the comparison again") from error
    if not isinstance(found, dict) or not all(isinstance(arm, dict) for arm in found.values()):
        raise UsageError(f"{file}: does not hold the configurations of the arms; restore it")
    return found


def check_pairs(runs: Sequence[FinishedRun], arms: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ``UsageError`` naming the first key in which two runs differ that should not, its values and the folders.

    The initial weights, the pool and the held-out problems must be the same everywhere; the sampling of evaluations
    within each seed; a setting wherever the plan gives it the same value, so always within an arm.
    """
    if not runs:
        return
    identities = [read_identity(run.run_dir) for run in runs]
    configs = [flatten(read_recorded_config(run.run_dir)) for run in runs]
    first_of_arm: dict[str, int] = {}
    first_of_seed: dict[int, int] = {}
    for index, run in enumerate(runs):
        one = first_of_arm.setdefault(run.arm, index)
        _compare(runs, identities, 0, index, ("model", "pool", "problems"))
        _compare(runs, identities, first_of_seed.setdefault(run.seed, index), index, ("evaluation",))
        _compare_settings(runs, configs, one, index, set())
        mine, others = arms.get(run.arm, {}), arms.get(runs[0].arm, {})
        own = {key for key in mine.keys() | others.keys() if mine.get(key, _NOTHING) != others.get(key, _NOTHING)}
        _compare_settings(runs, configs, 0, index, own)


def check_simulated_pairs(runs: Sequence[FinishedRun]) -> None:
    """Simulated runs of a seed must begin with the same mean success: they have met the same pool."""
    first_of_seed: dict[int, FinishedRun] = {}
    for run in runs:
        first = first_of_seed.setdefault(run.seed, run)
        one, other = (read_curve(each.run_dir)[0]["accuracy"] for each in (first, run))
        if one != other:
            _refuse("accuracy before the first step", one, other, first, run)


def check_identities(identities: Mapping[str, RunIdentity]) -> None:
    """The same before the first run, for one seed of each arm."""
    (first, reference), *others = identities.items()
    for arm, identity in others:
        for key in ("model", "pool", "problems", "evaluation"):
            one, other = getattr(reference, key), getattr(identity, key)
            if one != other:
                raise UsageError(
                    f"arms.{arm}: its {_WORDS[key]} differs from that of arm {first} ({_short(other)} instead of "
                    f"{_short(one)}), so the two cannot be compared; leave out the override that changes it"
                )


_WORDS = {
    "model": "initial model",
    "pool": "pool of training prompts",
    "problems": "set of held-out problems",
    "evaluation": "sampling of evaluations",
}


def _compare(
    runs: Sequence[FinishedRun], identities: Sequence[RunIdentity], one: int, other: int, keys: Sequence[str]
) -> None:
    for key in keys:
        a, b = asdict(identities[one])[key], asdict(identities[other])[key]
        if a != b:
            _refuse(_WORDS[key], a, b, runs[one], runs[other])


def _compare_settings(
    runs: Sequence[FinishedRun], configs: Sequence[Mapping[str, Any]], one: int, other: int, own: set[str]
) -> None:
    a, b = configs[one], configs[other]
    for key in sorted(a.keys() | b.keys()):
        if key in own or key in _NAMES or any(key == free or key.startswith(f"{free}.") for free in FREE):
            continue
        if a.get(key) != b.get(key):
            _refuse(key, a.get(key), b.get(key), runs[one], runs[other])


_NAMES = {f"{group}_name" for group in NAMED_GROUPS}


def _refuse(key: str, one: object, other: object, first: FinishedRun, second: FinishedRun) -> None:
    raise UsageError(
        f"{key}: {_short(one)} in {first.run_dir}, but {_short(other)} in {second.run_dir}: these runs do not "
        "match, so no report is made; delete the folder of the wrong one and run the comparison again"
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
