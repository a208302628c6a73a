"""Runs selectors on synthetic learners: the loop of ``trainer.py`` without a model, one run for every seed.

Owns the loop and its curves. Knows nothing of configuration, tables or pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from insight_rl.gate.base import Gate
from insight_rl.seeding import derive_seed
from insight_rl.simulation.learner import KINDS, SyntheticLearner
from insight_rl.simulation.oracle import mixed_chance, regret
from insight_rl.types import Completion, Group, Prompt, Reward

CURVES = ("mean_success", "informative_fraction", "regret", "visited_fraction", "hopeless_fraction", "num_groups")
"""What is recorded of every step: mean of phi over the pool *after* it; shares of the groups rolled out that were
informative, lost against the oracle, or of hopeless prompts; share of the pool visited so far; groups rolled out."""

_COMPLETION = Completion(token_ids=(0,), logprobs=(0.0,), text="", finish_reason="stop", policy_version=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedGroup(Group):
    """A group that need not count its rewards: they were made from the count. It saves most of a simulation's time."""

    successes: int

    @property
    def num_judged(self) -> int:
        return len(self.rewards_G)

    @property
    def num_successes(self) -> int:
        return self.successes


class SimulatedSelector(Protocol):
    """The part of the Selector seam that a simulation calls."""

    def open(self, pool: Sequence[Prompt], *, num_rollouts: int, seed: int) -> None: ...

    def select(self, num_prompts: int) -> Sequence[Prompt]: ...

    def observe(self, groups: Sequence[Group]) -> None: ...


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


def make_group(prompt: Prompt, successes: int, num_rollouts: int) -> CountedGroup:
    """A group of K = ``num_rollouts`` judged rollouts, S = ``successes`` of them right."""
    return CountedGroup(
        prompt=prompt,
        completions_G=(_COMPLETION,) * num_rollouts,
        rewards_G=_rewards(successes, num_rollouts),
        successes=successes,
    )


@lru_cache(maxsize=4096)
def _rewards(successes: int, num_rollouts: int) -> tuple[Reward, ...]:
    right, wrong = Reward(value=1.0, success=True), Reward(value=0.0, success=False)
    return (right,) * successes + (wrong,) * (num_rollouts - successes)


def run(
    selector: SimulatedSelector, gate: Gate, learner: SyntheticLearner, *, pool: Sequence[Prompt], size: Size, seed: int
) -> np.ndarray:
    """One simulated run: float64 of shape ``(len(CURVES), num_steps)``. ``learner`` is open and stands at step 0."""
    selector.open(pool, num_rollouts=size.rollouts_per_prompt, seed=derive_seed(seed, "selector"))
    visited = np.zeros(len(pool), bool)
    curves = np.empty((len(CURVES), size.num_steps))
    chances = mixed_chance(learner.success_rates(), size.rollouts_per_prompt)
    for step in range(size.num_steps):
        groups: list[CountedGroup] = []
        kept: list[CountedGroup] = []
        for _ in range(gate.max_rounds):
            prompts = selector.select(size.prompts_per_step - len(kept))
            if not prompts:
                break
            counts = learner.roll_out(_indices(prompts), size.rollouts_per_prompt).tolist()
            new = [
                make_group(prompt, successes, size.rollouts_per_prompt)
                for prompt, successes in zip(prompts, counts, strict=True)
            ]
            groups += new
            kept += [group for group in new if gate.admit(group)]
            if len(kept) == size.prompts_per_step:
                break
        selector.observe(groups)
        learner.train(_indices([group.prompt for group in kept]), _successes(kept), size.rollouts_per_prompt)

        chosen, successes = _indices([group.prompt for group in groups]), _successes(groups)
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


def _indices(prompts: Sequence[Prompt]) -> np.ndarray:
    return np.array([int(prompt.id) for prompt in prompts], np.int64)


def _successes(groups: Sequence[CountedGroup]) -> np.ndarray:
    return np.array([group.successes for group in groups], np.int64)
