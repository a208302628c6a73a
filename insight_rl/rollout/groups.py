"""From prompts to scored groups, for training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from insight_rl.reward.base import Judge
from insight_rl.rollout.base import Finished, RolloutEngine
from insight_rl.types import Group, Prompt, Sampling


def roll_out(engine: RolloutEngine, judge: Judge, prompts: Sequence[Prompt], sampling: Sampling) -> Finished:
    """Generate, and hand each group to the judge as soon as it is complete."""
    finished: Finished = []
    for prompt, completions_G in engine.generate(prompts, sampling=sampling):
        judge.submit(prompt, completions_G)
        finished.append((prompt, completions_G))
    return finished


def collect_groups(judge: Judge, prompts: Sequence[Prompt], finished: Finished) -> list[Group]:
    """The scored groups in the order of ``prompts``: the order in which the engine finished does not matter."""
    groups = {
        prompt.id: Group(prompt=prompt, completions_G=completions_G, rewards_G=rewards_G)
        for (prompt, completions_G), rewards_G in zip(finished, judge.collect(), strict=True)
    }
    return [groups[prompt.id] for prompt in prompts]
