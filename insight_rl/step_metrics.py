"""The metrics of a step that are computed from its groups. docs/metrics.md explains each key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from insight_rl.types import Group, Histogram, Metrics, Table

NUM_SAMPLES = 4


def reward_metrics(groups: Sequence[Group]) -> Metrics:
    """``reward/*`` over every rollout of the step."""
    rewards = [reward for group in groups for reward in group.rewards_G]
    judged = [reward for reward in rewards if reward.is_judged]
    metrics: Metrics = {"reward/unjudged_fraction": 1 - len(judged) / max(1, len(rewards))}
    if judged:
        values = np.array([reward.value for reward in judged])
        metrics["reward/mean"] = float(values.mean())
        metrics["reward/std"] = float(values.std())
        metrics["reward/accuracy"] = float(np.mean([reward.success for reward in judged]))
    for status, count in sorted(Counter(reward.status for reward in rewards if reward.status).items()):
        metrics[f"reward/status_{status}"] = count / len(rewards)
    parts: dict[str, list[float]] = {}
    for reward in judged:
        for name, value in reward.parts.items():
            parts.setdefault(name, []).append(value)
    return metrics | {f"reward/part_{name}": float(np.mean(values)) for name, values in sorted(parts.items())}


def rollout_metrics(groups: Sequence[Group]) -> Metrics:
    """``rollout/*``: lengths, truncation and :data:`NUM_SAMPLES` sample completions, evenly spread over the groups."""
    completions = [completion for group in groups for completion in group.completions_G]
    if not completions:
        return {}
    lengths = np.array([len(completion.token_ids) for completion in completions])
    picked = {round(i * (len(groups) - 1) / max(1, NUM_SAMPLES - 1)) for i in range(NUM_SAMPLES)}
    rows = tuple(
        (group.prompt.id, group.prompt.text, completion.text, reward.value, reward.status)
        for group in (groups[index] for index in sorted(picked))
        for completion, reward in zip(group.completions_G[:1], group.rewards_G[:1], strict=True)
    )
    return {
        "rollout/mean_tokens": float(lengths.mean()),
        "rollout/max_tokens": int(lengths.max()),
        "rollout/truncated_fraction": float(np.mean([completion.is_truncated for completion in completions])),
        "rollout/samples": Table(columns=("prompt_id", "prompt", "completion", "reward", "status"), rows=rows),
    }


def gate_metrics(groups: Sequence[Group], kept: Sequence[Group], num_rounds: int) -> Metrics:
    """``gate/*``: how much was rolled out, and how much of it the gate admitted."""
    return {
        "gate/num_rounds": num_rounds,
        "gate/num_groups": len(groups),
        "gate/num_kept": len(kept),
        "gate/admitted_fraction": len(kept) / max(1, len(groups)),
        "gate/num_tokens": sum(len(completion.token_ids) for group in groups for completion in group.completions_G),
    }


def staleness_metrics(groups: Sequence[Group], *, version: int, max_staleness: int) -> Metrics:
    """``async/staleness_*``: versions of the policy that each completion is behind ``version``, the learner's.

    Where the weights changed while it was sampled, the oldest counts. Raises ``RuntimeError`` for more than
    ``max_staleness``: the capacity rule was broken.
    """
    ages = np.array([version - each.policy_version for group in groups for each in group.completions_G], np.int64)
    if not ages.size:
        return {}
    if ages.max() > max_staleness or ages.min() < 0:
        raise RuntimeError(f"rollouts are {ages.min()} to {ages.max()} versions old, and 0 to {max_staleness} may be")
    counts = np.bincount(ages, minlength=max_staleness + 1)
    return {
        "async/staleness_mean": float(ages.mean()),
        "async/staleness_max": int(ages.max()),
        "async/staleness_histogram": Histogram(
            counts=tuple(counts.tolist()), edges=tuple(age - 0.5 for age in range(max_staleness + 2))
        ),
    }
