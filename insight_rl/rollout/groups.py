"""From prompts to scored groups, for training and evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from insight_rl.reward.base import Judge
from insight_rl.rollout.base import Finished, RolloutEngine
from insight_rl.seeding import derive_seed
from insight_rl.types import Group, Prompt, Sampling


def roll_out(
    engine: RolloutEngine,
    judge: Judge,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    rollouts_P: Sequence[int] | None = None,
) -> Finished:
    """Generate, and hand each group to the judge as soon as it is complete.

    ``rollouts_P`` has the number of rollouts of each prompt where they differ; ``None``: ``sampling.num_rollouts``.
    """
    finished: Finished = []
    for some, own_sampling in _by_rollouts(prompts, sampling, rollouts_P):
        for prompt, completions_G in engine.generate(some, sampling=own_sampling):
            judge.submit(prompt, completions_G)
            finished.append((prompt, completions_G))
    return finished


def _by_rollouts(
    prompts: Sequence[Prompt], sampling: Sampling, rollouts_P: Sequence[int] | None
) -> list[tuple[Sequence[Prompt], Sampling]]:
    """One call of the engine for each number of rollouts, largest first. Calls of another number have other seeds."""
    if rollouts_P is None or set(rollouts_P) <= {sampling.num_rollouts}:
        return [(prompts, sampling)]
    calls: list[tuple[Sequence[Prompt], Sampling]] = []
    for number in sorted(set(rollouts_P), reverse=True):
        some = [prompt for prompt, own in zip(prompts, rollouts_P, strict=True) if own == number]
        seed = derive_seed(sampling.seed, "rollouts", number)
        calls.append((some, dataclasses.replace(sampling, num_rollouts=number, seed=seed)))
    return calls


def collect_groups(judge: Judge, prompts: Sequence[Prompt], finished: Finished) -> list[Group]:
    """The scored groups in the order of ``prompts``: the order in which the engine finished does not matter."""
    groups = {
        prompt.id: Group(prompt=prompt, completions_G=completions_G, rewards_G=rewards_G)
        for (prompt, completions_G), rewards_G in zip(finished, judge.collect(), strict=True)
    }
    return [groups[prompt.id] for prompt in prompts]
