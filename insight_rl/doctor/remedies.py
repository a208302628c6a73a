"""Settings that make a run fit, found by trying: each is counted like the run itself, and named as an override."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from insight_rl.doctor.cards import Card
from insight_rl.doctor.memory import Verdict, count_kv_cache, count_situations, verdict
from insight_rl.doctor.workload import Adapter, Workload

MOST = 4
"""Settings changed together at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One setting: the override to copy, what it costs in a word, and how it changes the numbers."""

    override: str
    cost: str
    apply: Callable[[Workload], Workload]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """Changes that make the run fit together, and none of which can be left out."""

    overrides: tuple[str, ...]
    costs: tuple[str, ...]
    outcome: Verdict


def find_remedies(work: Workload, card: Card, *, num_gpus: int, most: int = 3) -> list[Remedy]:
    """The fewest changes that help, the cheapest first; empty if none of those known here does."""
    changes = list(_changes(work, num_gpus))
    found: list[tuple[Change, ...]] = []
    for size in range(1, MOST + 1):
        for combination in itertools.combinations(changes, size):
            keys = [change.override.split("=")[0] for change in combination]
            is_minimal = not any(set(smaller) <= set(combination) for smaller in found)
            if len(set(keys)) == size and is_minimal and _outcome(work, card, combination) == "fits":
                found.append(combination)
                if len(found) == most:
                    break
        if found:
            break
    return [
        Remedy(
            overrides=tuple(change.override for change in combination),
            costs=tuple(change.cost for change in combination if change.cost),
            outcome=_outcome(work, card, combination),
        )
        for combination in found
    ]


def _outcome(work: Workload, card: Card, combination: tuple[Change, ...]) -> Verdict:
    changed = work
    for change in combination:
        changed = change.apply(changed)
    rollout = changed.rollout
    if rollout is not None and rollout.kind == "vllm" and count_kv_cache(changed, rollout, card).num_sequences < 1:
        return "does not fit"
    return verdict(count_situations(changed, card), card)


def _changes(work: Workload, num_gpus: int) -> Iterator[Change]:
    """Cheapest first."""
    learner, rollout = work.learner, work.rollout
    if learner is not None:
        if not learner.gradient_checkpointing:
            yield Change(
                override="learner.gradient_checkpointing=true",
                cost="a third more computing in the learner",
                apply=lambda w: w.with_learner(gradient_checkpointing=True),
            )
        if learner.tokens_per_micro_batch > work.max_length:
            budget = work.max_length
            yield Change(
                override=f"learner.tokens_per_micro_batch={budget}",
                cost="",
                apply=lambda w: w.with_learner(tokens_per_micro_batch=budget),
            )
        if learner.kind == "accelerate":
            yield Change(
                override="learner=deepspeed",
                cost="",
                apply=lambda w: w.with_learner(kind="deepspeed", zero_stage=2),
            )
        if learner.num_ranks < num_gpus and (rollout is None or not rollout.is_separate):
            yield Change(
                override=f"learner.num_ranks={num_gpus}",
                cost="",
                apply=lambda w: w.with_learner(num_ranks=num_gpus),
            )
    if rollout is not None and rollout.kind == "vllm" and not rollout.is_separate and not rollout.sleeps:
        yield Change(
            override="rollout.sleep=true",
            cost="copying weights to main memory and back, every step",
            apply=lambda w: w.with_rollout(sleeps=True),
        )
    yield from _dearer_changes(work)


def _dearer_changes(work: Workload) -> Iterator[Change]:
    learner, rollout = work.learner, work.rollout
    if learner is not None:
        is_sharded = learner.kind == "deepspeed" and learner.num_ranks > 1 and learner.zero_stage < 3
        if is_sharded and learner.lora is None:
            yield Change(
                override="learner.zero_stage=3",
                cost="weights are gathered in every pass",
                apply=lambda w: w.with_learner(zero_stage=3),
            )
        if learner.offload == "none":
            prefix = "" if learner.kind == "deepspeed" else "learner=deepspeed "
            yield Change(
                override=f"{prefix}learner.offload=cpu",
                cost=f"{16 * work.num_trained / 1e9:.0f} GB of main memory, and slower updates",
                apply=lambda w: w.with_learner(
                    kind="deepspeed", offload="cpu", zero_stage=w.learner.zero_stage or 2 if w.learner else 2
                ),
            )
        if learner.lora is None and learner.can_adapt:
            yield Change(
                override="learner.lora.rank=32",
                cost="an adapter instead of all weights (about ten times the learning rate)",
                apply=lambda w: w.with_learner(lora=Adapter(rank=32, targets=None)),
            )
    if rollout is not None and rollout.kind == "vllm":
        for share in (0.3, 0.2):
            if share < rollout.memory_share and not rollout.is_separate:
                yield Change(
                    override=f"++rollout.engine_args.gpu_memory_utilization={share}",
                    cost="fewer sequences at the same time",
                    apply=lambda w, share=share: w.with_rollout(memory_share=share),  # type: ignore[misc]
                )
    if work.max_length > 2048:
        shorter = work.max_length // 2
        yield Change(
            override=f"model.max_length={shorter} trainer.max_completion_tokens={work.max_completion_tokens // 2}",
            cost="shorter answers",
            apply=lambda w: replace(w, max_length=shorter, max_completion_tokens=w.max_completion_tokens // 2),
        )
