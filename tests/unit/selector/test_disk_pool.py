from __future__ import annotations

import pytest

from insight_rl.errors import UsageError
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.selector.disk_pool import DiskPool, write_pool
from insight_rl.selector.pool import IndexedPool
from insight_rl.types import Completion, Group, Prompt, Reward


def prompts(size):
    return [
        Prompt(id=f"toy/{i}", task="toy", text=f"é{i}", token_ids=(i, 1), answer={"n": i}, metadata={"level": i % 3})
        for i in range(size)
    ]


def test_what_was_written_is_what_is_read(tmp_path):
    assert write_pool(iter(prompts(300)), tmp_path) == 300
    pool = DiskPool(tmp_path)
    assert isinstance(pool, IndexedPool)
    assert list(pool) == prompts(300)
    assert pool[-1] == prompts(300)[-1]
    assert [pool.index_of(f"toy/{i}") for i in (0, 299, 17)] == [0, 299, 17]
    with pytest.raises(KeyError):
        pool.index_of("toy/300")
    with pytest.raises(IndexError):
        pool[300]


def test_duplicates_and_missing_pools_are_named(tmp_path):
    with pytest.raises(UsageError, match="toy/4"):
        write_pool([*prompts(9), prompts(5)[4]], tmp_path / "twice")
    with pytest.raises(UsageError, match=r"pool\.json"):
        DiskPool(tmp_path / "twice")


def test_a_selector_decides_alike_over_disk_and_memory(tmp_path):
    write_pool(prompts(300), tmp_path)
    picks = []
    for pool in (DiskPool(tmp_path), prompts(300)):
        selector = BeliefSelector(score=lambda alpha, beta: alpha / (alpha + beta), candidate_ratio=4)
        selector.open(pool, num_rollouts=2, seed=5)
        picks.append([])
        for _ in range(5):
            chosen = selector.select(8)
            picks[-1].append([prompt.id for prompt in chosen])
            selector.observe([group(prompt) for prompt in chosen])
        picks[-1].append(selector.belief("toy/17"))
        with pytest.raises(ValueError, match="not in this pool"):
            selector.belief("toy/300")
    assert picks[0] == picks[1]


def group(prompt):
    completion = Completion(token_ids=(1,), logprobs=(0.0,), text="", finish_reason="stop", policy_version=0)
    success = prompt.token_ids[0] % 2 == 0
    return Group(
        prompt=prompt, completions_G=(completion,) * 2, rewards_G=(Reward(value=float(success), success=success),) * 2
    )
