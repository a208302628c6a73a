"""The configuration of a simulation: ``conf/simulate.yaml``, and one composition of it for every selector compared."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from insight_rl.build import build_part
from insight_rl.config import compose_config
from insight_rl.errors import UsageError, check
from insight_rl.selector.base import check_needs_counts_only
from insight_rl.simulation.experiment import Size


@dataclass(kw_only=True)
class SimulationConfig:
    selectors: list[str] = field(default_factory=list)
    seed: int = MISSING
    num_seeds: int = MISSING
    num_prompts: int | None = MISSING
    num_steps: int = MISSING
    prompts_per_step: int = MISSING
    rollouts_per_prompt: int = MISSING
    replay: str | None = MISSING
    replay_share: float = MISSING
    num_processes: int | None = MISSING
    output_dir: str | None = MISSING
    record_every: int = MISSING
    oracle: bool = MISSING
    path: str | None = MISSING
    pool: Any = None
    synthetic_learner: Any = MISSING
    selector: Any = MISSING
    gate: Any = MISSING

    def __post_init__(self) -> None:
        check(self.seed >= 0, "seed", self.seed, "must be at least 0")
        check(self.num_seeds >= 2, "num_seeds", self.num_seeds, "must be at least 2: one run says nothing about chance")
        check(self.num_prompts is None or self.num_prompts >= 1, "num_prompts", self.num_prompts, "must be at least 1")
        check(self.num_steps >= 1, "num_steps", self.num_steps, "must be at least 1")
        most = self.num_prompts or self.prompts_per_step
        check(
            1 <= self.prompts_per_step <= most,
            "prompts_per_step",
            self.prompts_per_step,
            f"must be at least 1 and at most num_prompts={self.num_prompts}",
        )
        check(self.record_every >= 1, "record_every", self.record_every, "must be at least 1 step")
        check(self.rollouts_per_prompt >= 2, "rollouts_per_prompt", self.rollouts_per_prompt, "must be at least 2")
        check(0 < self.replay_share < 1, "replay_share", self.replay_share, "must lie between 0 and 1")
        check(self.num_processes is None or self.num_processes >= 1, "num_processes", self.num_processes, "must be > 0")
        check(len(self.selectors) >= 1, "selectors", self.selectors, "must name at least one option of conf/selector")
        twice = {name for name in self.selectors if self.selectors.count(name) > 1}
        check(not twice, "selectors", ",".join(sorted(twice)), "is named twice")

    @property
    def size(self) -> Size:
        return Size(
            num_prompts=self.num_prompts,
            num_steps=self.num_steps,
            prompts_per_step=self.prompts_per_step,
            rollouts_per_prompt=self.rollouts_per_prompt,
        )

    @property
    def processes(self) -> int:
        return self.num_processes or len(os.sched_getaffinity(0))


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One selector under comparison, as ``_target_`` nodes that a worker process can build it from."""

    label: str
    selector: dict[str, Any]
    gate: dict[str, Any]


def load(overrides: Sequence[str], *, config_dir: Path | None = None) -> tuple[SimulationConfig, list[Variant]]:
    """The settings and the selectors that ``overrides`` of ``conf/simulate.yaml`` ask for.

    Raises ``UsageError`` naming the key, the value and the remedy.
    """
    overrides = [_as_list(override) for override in overrides]
    config = compose_simulation(overrides, config_dir)
    build_part("synthetic_learner", config.synthetic_learner)
    variants = []
    for label in config.selectors:
        name, *settings = label.split(":")
        own = [f"selector={name}", *overrides, *(f"selector.{setting}" for setting in settings)]
        composed = compose_simulation(own, config_dir)
        for key in ("selector", "gate"):
            part = build_part(key, getattr(composed, key))  # finds mistakes here rather than in a worker process
            check_needs_counts_only(part, "a simulation")
        variants.append(Variant(label=label, selector=composed.selector, gate=composed.gate))
    return config, variants


def compose_simulation(overrides: Sequence[str], config_dir: Path | None = None) -> SimulationConfig:
    """``conf/simulate.yaml`` with these overrides, checked. Raises ``UsageError``."""
    ConfigStore.instance().store(name="simulate_schema", node=SimulationConfig)
    tree = compose_config(overrides, config_name="simulate", config_dir=config_dir)
    try:
        config = OmegaConf.to_object(tree)
    except UsageError as error:
        # OmegaConf appends lines about its own node types.
        raise UsageError(str(error).splitlines()[0]) from None
    assert isinstance(config, SimulationConfig)
    check(
        config.path is None or config.pool is not None,
        "path",
        config.path,
        "is read by pool=pass_rates only; add it, or leave path out",
    )
    check(
        config.pool is None or "pool" in config.synthetic_learner,
        "pool",
        "pass_rates",
        "needs the learner that starts at pass rates; leave out synthetic_learner=..., or take pool=synthetic",
    )
    return config


def _as_list(override: str) -> str:
    """``selectors=a,b:c=1`` as the list it means; Hydra would take it for a sweep."""
    match = re.fullmatch(r"selectors=([^\[].*)", override)
    if match is None:
        return override
    quoted = [f'"{name.strip()}"' for name in match[1].split(",") if name.strip()]
    return f"selectors=[{','.join(quoted)}]"
