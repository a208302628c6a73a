"""Runs selectors on synthetic learners: the loop of ``trainer.py`` without a model, one run for every seed.

The loop and its curves; configuration, tables and pictures are in the modules beside this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from insight_rl.seeding import derive_seed
from insight_rl.simulation.oracle import mixed_chance, regret
from insight_rl.simulation.synthetic_learner import KINDS, SyntheticLearner
from insight_rl.types import Counts, Outcome, Prompt

CURVES = ("mean_success", "informative_fraction", "regret", "visited_fraction", "hopeless_fraction", "num_groups")
"""What is recorded of every step: mean of phi over the pool *after* it; shares of the groups rolled out that were
informative, lost against the oracle, or of hopeless prompts; share of the pool visited so far; groups rolled out."""


class SimulatedSelector(Protocol):
    """The part of the Selector protocol that a simulation calls."""

    def open(self, pool: Sequence[Prompt], *, num_rollouts: int, seed: int) -> None: ...

    def select(self, num_prompts: int) -> Sequence[Prompt]: ...

    def observe(self, outcomes: Sequence[Outcome], /) -> None: ...


class SimulatedGate(Protocol):
    """A gate that judges by the counts alone: a simulation has no completions and no values."""

    max_rounds: int

    def admit(self, outcome: Outcome, /) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is simulated: N prompts, T steps, M prompts a step, K rollouts a prompt."""

    num_prompts: int
    num_steps: int
    prompts_per_step: int
    rollouts_per_prompt: int


def make_pool(num_prompts: int) -> list[Prompt]:
    """Prompts without content; the position in the pool is the id."""
    return [
        Prompt(id=str(index), task="synthetic", text="", token_ids=(0,), answer=None) for index in range(num_prompts)
    ]


def run(
    selector: SimulatedSelector,
    gate: SimulatedGate,
    learner: SyntheticLearner,
    *,
    pool: Sequence[Prompt],
    size: Size,
    seed: int,
) -> np.ndarray:
    """One simulated run: float64 of shape ``(len(CURVES), num_steps)``. ``learner`` is open and stands at step 0."""
    selector.open(pool, num_rollouts=size.rollouts_per_prompt, seed=derive_seed(seed, "selector"))
    visited = np.zeros(len(pool), bool)
    curves = np.empty((len(CURVES), size.num_steps))
    chances = mixed_chance(learner.success_rates(), size.rollouts_per_prompt)
    for step in range(size.num_steps):
        groups: list[Counts] = []
        kept: list[Counts] = []
        for _ in range(gate.max_rounds):
            prompts = selector.select(size.prompts_per_step - len(kept))
            if not prompts:
                break
            counts = learner.roll_out(
                np.array([int(prompt.id) for prompt in prompts], np.int64), size.rollouts_per_prompt
            ).tolist()
            new = [
                Counts(prompt_id=prompt.id, num_judged=size.rollouts_per_prompt, num_successes=successes)
                for prompt, successes in zip(prompts, counts, strict=True)
            ]
            groups += new
            kept += [group for group in new if gate.admit(group)]
            if len(kept) == size.prompts_per_step:
                break
        selector.observe(groups)
        learner.train(_positions(kept), _successes(kept), size.rollouts_per_prompt)

        chosen, successes = _positions(groups), _successes(groups)
        visited[chosen] = True
        lost = regret(chances, chosen)
        rates = learner.success_rates()
        chances = mixed_chance(rates, size.rollouts_per_prompt)
        curves[:, step] = (
            rates.mean(),
            np.mean((successes > 0) & (successes < size.rollouts_per_prompt)),
            lost,
            visited.mean(),
            np.mean(learner.kinds[chosen] == KINDS.index("hopeless")),
            len(groups),
        )
    return curves


def _positions(groups: Sequence[Counts]) -> np.ndarray:
    return np.array([int(group.prompt_id) for group in groups], np.int64)


def _successes(groups: Sequence[Counts]) -> np.ndarray:
    return np.array([group.num_successes for group in groups], np.int64)
