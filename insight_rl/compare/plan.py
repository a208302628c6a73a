"""The plan of a comparison: ``conf/compare.yaml`` with one option of ``conf/compare``, typed and checked.

Everything that decides what the comparison can show is in it, so that it can be fixed before the first run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from insight_rl.config import compose_config
from insight_rl.errors import UsageError, check, is_number

KINDS = ("train", "simulate")
AXES = ("steps", "rollouts", "tokens", "seconds")
METRICS = ("area", "final")
FEW_SEEDS = 5
"""Below this number of seeds an interval says little, and a warning says so."""
MAX_SEEDS = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")


@dataclass(kw_only=True)
class SeedsPlan:
    first: int = MISSING
    number: int = MISSING

    def __post_init__(self) -> None:
        check(self.first >= 0, "seeds.first", self.first, "must be at least 0")
        check(1 <= self.number <= MAX_SEEDS, "seeds.number", self.number, f"must be from 1 to {MAX_SEEDS}")

    @property
    def all(self) -> range:
        return range(self.first, self.first + self.number)


@dataclass(kw_only=True)
class TuningPlan:
    key: str = MISSING
    values: list[Any] = MISSING
    seeds: list[int] = MISSING

    def __post_init__(self) -> None:
        check(bool(re.fullmatch(r"[\w.@/]+", self.key)), "tuning.key", self.key, "must be a key of the configuration")
        check(len(self.values) >= 2, "tuning.values", self.values, "must have at least 2 values to choose from")
        distinct = {str(value) for value in self.values}
        check(len(distinct) == len(self.values), "tuning.values", self.values, "names a value twice")
        check(len(self.seeds) >= 1, "tuning.seeds", self.seeds, "must have at least 1 seed")
        check(len(set(self.seeds)) == len(self.seeds), "tuning.seeds", self.seeds, "names a seed twice")
        check(min(self.seeds) >= 0, "tuning.seeds", self.seeds, "must be at least 0")


@dataclass(kw_only=True)
class PrimaryPlan:
    metric: str = MISSING
    axis: str = MISSING

    def __post_init__(self) -> None:
        check(self.metric in METRICS, "primary.metric", self.metric, f"must be one of {', '.join(METRICS)}")
        check(self.axis in AXES, "primary.axis", self.axis, f"must be one of {', '.join(AXES)}")


@dataclass(kw_only=True)
class BudgetPlan:
    axis: str = MISSING
    size: int = MISSING

    def __post_init__(self) -> None:
        check(self.axis in AXES, "budget.axis", self.axis, f"must be one of {', '.join(AXES)}")
        check(self.size >= 1, "budget.size", self.size, "must be at least 1")


@dataclass(kw_only=True)
class Plan:
    """See ``conf/compare.yaml`` for the meaning of each key."""

    setting: str = MISSING
    kind: str = MISSING
    base: list[str] = MISSING
    arms: dict[str, list[str] | None] = field(default_factory=dict)
    """None leaves out an arm that a shared file has."""
    baseline: str = MISSING
    seeds: SeedsPlan = MISSING
    tuning: Any = MISSING
    """A :class:`TuningPlan`, or None; given as a mapping."""
    primary: PrimaryPlan = MISSING
    budget: BudgetPlan = MISSING
    smallest_effect: float = MISSING
    exclusions: dict[str, str] = field(default_factory=dict)
    processes: int | None = MISSING
    keep_models: bool = MISSING
    output_dir: str | None = MISSING

    def __post_init__(self) -> None:
        self.tuning = _tuning(self.tuning)
        check(bool(_NAME.fullmatch(self.setting)), "setting", self.setting, "must be a word without spaces")
        check(self.kind in KINDS, "kind", self.kind, f"must be one of {', '.join(KINDS)}")
        self.arms = {name: overrides for name, overrides in self.arms.items() if overrides is not None}
        check(len(self.arms) >= 2, "arms", sorted(self.arms), "must name at least 2 arms; choose a plan: compare=smoke")
        for name, overrides in self.overrides.items():
            check(bool(_NAME.fullmatch(name)), "arms", name, "an arm's name must be a word without spaces")
            _check_overrides(f"arms.{name}", overrides)
        _check_overrides("base", self.base)
        check(self.baseline in self.arms, "baseline", self.baseline, f"must be one of {', '.join(self.arms)}")
        check(
            is_number(self.smallest_effect) and 0 < self.smallest_effect < 1,
            "smallest_effect",
            self.smallest_effect,
            "must lie between 0 and 1 of accuracy",
        )
        check(self.processes is None or self.processes >= 1, "processes", self.processes, "must be at least 1, or null")
        check(
            self.kind == "train" or self.budget.axis in ("steps", "rollouts"),
            "budget.axis",
            self.budget.axis,
            "is not measured in a simulation; take steps or rollouts",
        )
        check(
            self.kind == "train" or self.primary.axis != "tokens",
            "primary.axis",
            self.primary.axis,
            "is not measured in a simulation; take steps or rollouts",
        )
        if self.tuning is not None:
            both = sorted(set(self.tuning.seeds) & set(self.seeds.all))
            check(not both, "tuning.seeds", both, "are seeds of the comparison too; tune on others")
            touched = [name for name, arm in self.overrides.items() if any(_key(o) == self.tuning.key for o in arm)]
            check(not touched, f"arms.{(touched or [''])[0]}", self.tuning.key, "is tuned for every arm; leave it out")
        unknown = sorted(set(self.exclusions) - {run_name(arm, seed) for arm in self.arms for seed in self.seeds.all})
        check(not unknown, "exclusions", unknown, "are no runs of this plan; a run's name is ARM_seed<number>")

    @property
    def overrides(self) -> dict[str, list[str]]:
        """Of each arm that is run."""
        return {name: overrides for name, overrides in self.arms.items() if overrides is not None}

    def notices(self) -> list[str]:
        """What the user should know before the first run, a sentence each."""
        if self.seeds.number >= FEW_SEEDS:
            return []
        return [
            f"only {self.seeds.number} seed{'s' if self.seeds.number > 1 else ''}: with fewer than {FEW_SEEDS} the "
            "intervals are wide or cannot be trusted; take seeds.number=10 to decide anything"
        ]


OWN_KEYS = ("seed", "run_dir", "resume")
"""Keys of a run that the comparison sets."""


def run_name(arm: str, seed: int) -> str:
    """Also the name of its folder. Example: ``insight_seed3``."""
    return f"{arm}_seed{seed}"


def load_plan(overrides: Sequence[str], *, config_dir: Path | None = None) -> Plan:
    """Raises ``UsageError`` naming the key, the value and the remedy."""
    ConfigStore.instance().store(name="compare_schema", node=Plan)
    return parse_plan(compose_config(overrides, config_name="compare", config_dir=config_dir))


def parse_plan(tree: DictConfig) -> Plan:
    missing = sorted(OmegaConf.missing_keys(tree))
    if missing:
        raise UsageError(f"{missing[0]} has no value: give one, e.g. `{missing[0]}=...`")
    try:
        plan = OmegaConf.to_object(tree)
    except UsageError as error:
        # OmegaConf appends lines about its own node types.
        raise UsageError(str(error).splitlines()[0]) from None
    assert isinstance(plan, Plan)
    return plan


def _tuning(given: object) -> TuningPlan | None:
    """OmegaConf cannot put a mapping in the place of a typed null, so the type is checked here."""
    if given is None or isinstance(given, TuningPlan):
        return given
    keys = ("key", "values", "seeds")
    check(isinstance(given, dict) and sorted(given) == sorted(keys), "tuning", given, f"must be null or {keys}")
    assert isinstance(given, dict)
    lists = isinstance(given["values"], list) and isinstance(given["seeds"], list)
    whole = lists and all(type(seed) is int for seed in given["seeds"])
    check(whole, "tuning", given, "values must be a list, seeds a list of whole numbers")
    return TuningPlan(key=str(given["key"]), values=given["values"], seeds=given["seeds"])


def _check_overrides(key: str, overrides: Sequence[str]) -> None:
    for override in overrides:
        check("=" in override or override.startswith("~"), key, override, "must be overrides like selector=random")
        name = _key(override)
        check(name not in OWN_KEYS, key, override, "is set by the comparison; leave it out")


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].strip()
