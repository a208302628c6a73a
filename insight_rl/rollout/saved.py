"""Rollouts in a checkpoint: as JSON-able values and NumPy arrays, and back. Nothing of it is ever executed.

A prompt is saved by its id alone; who reads it has the pool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from insight_rl.rollout.base import Finished
from insight_rl.stored_arrays import fetch_all
from insight_rl.types import Completion, Group, Prompt, Reward


def save_completions(finished: Sequence[tuple[Prompt, Sequence[Completion]]]) -> dict[str, Any]:
    """Prompts with their completions, in order; tokens and log-probs of all of them as two arrays."""
    completions = [completion for _, completions_G in finished for completion in completions_G]
    arrays = fetch_all([each.token_ids for each in completions] + [each.logprobs for each in completions])
    return {
        "prompt_ids": [prompt.id for prompt, _ in finished],
        "num_rollouts": [len(completions_G) for _, completions_G in finished],
        "lengths": [len(completion.token_ids) for completion in completions],
        "token_ids": np.concatenate([np.zeros(0, np.int32), *arrays[: len(completions)]]),
        "logprobs": np.concatenate([np.zeros(0, np.float32), *arrays[len(completions) :]]),
        "texts": [completion.text for completion in completions],
        "finish_reasons": [completion.finish_reason for completion in completions],
        "policy_versions": [completion.policy_version for completion in completions],
    }


def load_completions(state: Mapping[str, Any], prompts: Mapping[str, Prompt]) -> Finished:
    """What :func:`save_completions` was given. Raises ``ValueError`` for a prompt that is not among ``prompts``."""
    starts = np.cumsum([0, *state["lengths"]])
    columns = zip(
        *(starts[:-1].tolist(), state["lengths"], state["texts"], state["finish_reasons"], state["policy_versions"]),
        strict=True,
    )
    completions = iter(
        Completion(
            token_ids=state["token_ids"][start : start + length],
            logprobs=state["logprobs"][start : start + length],
            text=text,
            finish_reason=finish_reason,
            policy_version=int(version),
        )
        for start, length, text, finish_reason, version in columns
    )
    return [
        (find_prompt(prompt_id, prompts), tuple(next(completions) for _ in range(number)))
        for prompt_id, number in zip(state["prompt_ids"], state["num_rollouts"], strict=True)
    ]


def save_groups(groups: Sequence[Group]) -> dict[str, Any]:
    """Groups with their rewards, in order."""
    rewards = [
        [reward.value, reward.success, reward.status, dict(reward.parts), reward.reason]
        for group in groups
        for reward in group.rewards_G
    ]
    return {**save_completions([(group.prompt, group.completions_G) for group in groups]), "rewards": rewards}


def load_groups(state: Mapping[str, Any], prompts: Mapping[str, Prompt]) -> list[Group]:
    """What :func:`save_groups` was given; raises as :func:`load_completions`."""
    rewards = iter(
        Reward(value=value, success=success, status=status, parts=parts, reason=reason)
        for value, success, status, parts, reason in state["rewards"]
    )
    return [
        Group(prompt=prompt, completions_G=completions_G, rewards_G=tuple(next(rewards) for _ in completions_G))
        for prompt, completions_G in load_completions(state, prompts)
    ]


def find_prompt(prompt_id: str, prompts: Mapping[str, Prompt]) -> Prompt:
    """Raises ``ValueError`` for an id that the pool does not have."""
    if prompt_id not in prompts:
        raise ValueError(f"the saved rollouts are of prompt {prompt_id!r}, which is not in this pool")
    return prompts[prompt_id]
