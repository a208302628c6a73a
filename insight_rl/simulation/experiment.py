"""Runs selectors on synthetic learners: the loop of ``trainer.py`` without a model, one run for every seed.

The loop and its curves; configuration, tables and pictures are in the modules beside this one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from insight_rl.errors import UsageError
from insight_rl.seeding import derive_seed
from insight_rl.simulation.oracle import mixed_chance, regret
from insight_rl.types import Counts, Outcome, Prompt

CURVES = ("mean_success", "informative_fraction", "regret", "visited_fraction", "hopeless_fraction", "num_groups")
"""What is recorded of every step: mean success *after* it, of the held-out prompts where there are some, else of the
pool; shares of the groups rolled out that were informative, lost against the oracle, or of hopeless prompts; share of
the pool visited so far; groups rolled out."""


class SimulatedLearner(Protocol):
    """A policy made of numbers, and the prompts it learns from. Positions are those in ``prompts``."""

    prompts: Sequence[Prompt]
    """The pool: what a selector may choose from, now or later."""
    hopeless: np.ndarray
    """bool [N]: prompts out of reach at the start."""
    late: np.ndarray
    """int64: positions of the prompts that cannot be chosen before step ``late_step`` (counted from 1)."""
    late_step: int

    def open(self, *, num_prompts: int | None, seed: int) -> None: ...

    def success_rates(self) -> np.ndarray:
        """phi of every prompt of the pool now, float64 [N]."""
        ...

    def mean_success(self) -> float:
        """What a simulation reports: the mean of phi over the held-out prompts, or over the pool without any."""
        ...

    def roll_out(self, indices: np.ndarray, num_rollouts: int) -> np.ndarray:
        """The verifier's successes among K rollouts of each of the distinct prompts at ``indices``."""
        ...

    def train(self, indices: np.ndarray, successes: np.ndarray, num_rollouts: int) -> None:
        """One step on the groups kept; called once a step, after all of its rollouts."""
        ...


class SimulatedSelector(Protocol):
    """The part of the Selector protocol that a simulation calls."""

    def open(self, pool: Sequence[Prompt], *, num_rollouts: int, seed: int) -> None: ...

    def select(self, num_prompts: int) -> Sequence[Prompt]: ...

    def observe(self, outcomes: Sequence[Outcome], /) -> None: ...


@runtime_checkable
class Withholds(Protocol):
    """A selector that can be told which prompts of its pool it may not choose yet."""

    def withhold(self, prompt_ids: Sequence[str]) -> None: ...

    def release(self, prompt_ids: Sequence[str]) -> None: ...


class SimulatedGate(Protocol):
    """A gate that judges by the counts alone: a simulation has no completions and no values."""

    max_rounds: int

    def admit(self, outcome: Outcome, /) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is simulated: N prompts (None: all that there are), T steps, M prompts a step, K rollouts a prompt."""

    num_prompts: int | None
    num_steps: int
    prompts_per_step: int
    rollouts_per_prompt: int


def run(
    selector: SimulatedSelector,
    gate: SimulatedGate,
    learner: SimulatedLearner,
    *,
    size: Size,
    seed: int,
    with_regret: bool = True,
) -> np.ndarray:
    """One simulated run: float64 of shape ``(len(CURVES), num_steps)``. ``learner`` is open and stands at step 0.

    Regret takes a pass over the whole pool at every step, more than all the rest of a large one; without it, it is NaN.
    """
    pool = learner.prompts
    positions = {prompt.id: position for position, prompt in enumerate(pool)}
    selector.open(pool, num_rollouts=size.rollouts_per_prompt, seed=derive_seed(seed, "selector"))
    late_ids = [pool[position].id for position in learner.late.tolist()]
    available = np.ones(len(pool), bool)
    if late_ids:
        withholding(selector).withhold(late_ids)
        available[learner.late] = False
    visited = np.zeros(len(pool), bool)
    curves = np.empty((len(CURVES), size.num_steps))
    lost = math.nan
    for step in range(size.num_steps):
        if late_ids and step + 1 == learner.late_step:
            withholding(selector).release(late_ids)
            available[:] = True
        chances = mixed_chance(learner.success_rates(), size.rollouts_per_prompt) if with_regret else None
        groups, kept = _roll_out(selector, gate, learner, positions, size)
        selector.observe(groups)
        learner.train(_positions(kept, positions), _successes(kept), size.rollouts_per_prompt)

        chosen, successes = _positions(groups, positions), _successes(groups)
        visited[chosen] = True
        if chances is not None:
            lost = regret(np.where(available, chances, 0.0), chosen)
        curves[:, step] = (
            learner.mean_success(),
            np.mean((successes > 0) & (successes < size.rollouts_per_prompt)),
            lost,
            visited.mean(),
            np.mean(learner.hopeless[chosen]),
            len(groups),
        )
    return curves


def _roll_out(
    selector: SimulatedSelector,
    gate: SimulatedGate,
    learner: SimulatedLearner,
    positions: Mapping[str, int],
    size: Size,
) -> tuple[list[Counts], list[Counts]]:
    """All groups of a step, and those of them that the gate admits."""
    groups: list[Counts] = []
    kept: list[Counts] = []
    for _ in range(gate.max_rounds):
        prompts = selector.select(size.prompts_per_step - len(kept))
        if not prompts:
            break
        indices = np.array([positions[prompt.id] for prompt in prompts], np.int64)
        counts = learner.roll_out(indices, size.rollouts_per_prompt).tolist()
        new = [
            Counts(prompt_id=prompt.id, num_judged=size.rollouts_per_prompt, num_successes=successes)
            for prompt, successes in zip(prompts, counts, strict=True)
        ]
        groups += new
        kept += [group for group in new if gate.admit(group)]
        if len(kept) == size.prompts_per_step:
            break
    return groups, kept


def withholding(selector: SimulatedSelector) -> Withholds:
    """The selector itself, if prompts can be withheld from it; raises ``UsageError`` if not."""
    if not isinstance(selector, Withholds):
        raise UsageError(
            f"synthetic_learner.late_share: {type(selector).__name__} has no withhold() and release(), so prompts "
            "cannot arrive late; set late_share=0, or take a selector derived from BeliefSelector"
        )
    return selector


def _positions(groups: Sequence[Counts], positions: Mapping[str, int]) -> np.ndarray:
    return np.array([positions[group.prompt_id] for group in groups], np.int64)


def _successes(groups: Sequence[Counts]) -> np.ndarray:
    return np.array([group.num_successes for group in groups], np.int64)
