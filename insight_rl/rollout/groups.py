"""From prompts to scored groups: the path that training and evaluation share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from insight_rl.reward.base import Judge
from insight_rl.rollout.base import RolloutEngine
from insight_rl.types import Completion, Group, Prompt, Sampling

Finished = list[tuple[Prompt, tuple[Completion, ...]]]
"""Prompts with their completions, in the order in which the engine finished them."""


def roll_out(engine: RolloutEngine, judge: Judge, prompts: Sequence[Prompt], sampling: Sampling) -> Finished:
    """Generate, and hand each group to the judge as soon as it is complete."""
    finished: Finished = []
    for prompt, completions_G in engine.generate(prompts, sampling=sampling):
        judge.submit(prompt, completions_G)
        finished.append((prompt, completions_G))
    return finished


def collect_groups(judge: Judge, prompts: Sequence[Prompt], finished: Finished) -> list[Group]:
    """The scored groups in the order of ``prompts``: what finished first is not learnt from first."""
    groups = {
        prompt.id: Group(prompt=prompt, completions_G=completions_G, rewards_G=rewards_G)
        for (prompt, completions_G), rewards_G in zip(finished, judge.collect(), strict=True)
    }
    return [groups[prompt.id] for prompt in prompts]


def to_records(groups: Iterable[Group]) -> Iterator[dict[str, Any]]:
    """One JSON-able record a completion: what was asked, what came back, and the verdict."""
    for group in groups:
        for completion, reward in zip(group.completions_G, group.rewards_G, strict=True):
            yield {
                "prompt_id": group.prompt.id,
                "prompt": group.prompt.text,
                "answer": group.prompt.answer,
                "completion": completion.text,
                "num_tokens": len(completion.token_ids),
                "finish_reason": completion.finish_reason,
                "value": reward.value,
                "success": reward.success,
                "status": reward.status,
            }
