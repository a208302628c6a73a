"""Stored arrays are fetched where they are used and nowhere else: planning a step needs their lengths alone."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import numpy as np

from insight_rl.algorithm.loss import GRPO, LossSettings
from insight_rl.learner.plan import BatchSettings, plan_step
from insight_rl.stored_arrays import JoinedArrays, StoredArray, fetch_all, fetch_joined
from insight_rl.types import Completion, Group, Prompt, Reward

STORE = {}
FETCHES = []


@dataclass(frozen=True)
class Stored(StoredArray):
    key: str
    size: int = 0

    @classmethod
    def fetch(cls, arrays):
        FETCHES.append([array.key for array in arrays])
        return [STORE[array.key] for array in arrays]


def store(key, values, dtype):
    STORE[key] = np.array(values, dtype=dtype)
    return Stored(key, len(values))


def test_numpy_takes_it_for_the_array_itself():
    array = store("a", [3, 1, 2], np.int32)
    assert len(array) == array.size == 3
    assert np.asarray(array).tolist() == [3, 1, 2] and np.array_equal(array, [3, 1, 2])
    assert (np.asarray(array) - 1).tolist() == [2, 0, 1]


def test_what_is_used_together_is_fetched_together():
    FETCHES.clear()
    here = np.array([9])
    found = fetch_all([store("a", [1], np.int32), here, store("b", [2, 3], np.int32)])
    assert [array.tolist() for array in found] == [[1], [9], [2, 3]] and found[1] is here
    joined = fetch_joined(JoinedArrays((Stored("a", 1), here, Stored("b", 2))), here, JoinedArrays((Stored("b", 2),)))
    assert [array.tolist() for array in joined] == [[1, 9, 2, 3], [9], [2, 3]]
    assert FETCHES == [["a", "b"], ["a", "b", "b"]]


def groups(make):
    """Three prompts with two completions each; the first of a group is right."""
    found = []
    for number in range(3):
        completions = []
        for j in range(2):
            tokens = list(range(number + 1, number + 4 + j))
            completions.append(
                Completion(
                    token_ids=make(f"{number}/{j}/ids", tokens, np.int32),
                    logprobs=make(f"{number}/{j}/logprobs", [-0.1 * token for token in tokens], np.float32),
                    text="",
                    finish_reason="stop",
                    policy_version=0,
                )
            )
        prompt = Prompt(id=f"prompt/{number}", task="", text="", token_ids=(7, 8, number), answer=None)
        rewards = tuple(Reward(value=float(j == 0), success=j == 0) for j in range(2))
        found.append(Group(prompt=prompt, completions_G=tuple(completions), rewards_G=rewards))
    return found


def test_a_step_of_stored_tokens_is_planned_without_them_and_each_rank_fetches_its_own():
    settings = BatchSettings(
        loss=LossSettings(loss=GRPO(), clip_low=0.2, clip_high=0.2),
        max_completion_tokens=8,
        prompts_per_update=3,
        num_ranks=2,
        tokens_per_micro_batch=64,
        share_prompts=False,
        hidden_size=64,
    )
    advantages = [np.array([1.0, -1.0])] * 3
    wanted = plan_step(groups(lambda key, values, dtype: np.array(values, dtype)), advantages, settings)
    stored = groups(store)
    FETCHES.clear()
    plan = plan_step(stored, advantages, settings)
    assert FETCHES == [], "the trainer needs lengths alone"
    fetched = []
    for rank, wanted_rank in zip(plan.ranks, wanted.ranks, strict=True):
        rank = pickle.loads(pickle.dumps(rank))
        assert rank.updates == wanted_rank.updates
        for one, other in zip(rank.table.sequences(), wanted_rank.table.sequences(), strict=True):
            for name in ("prompt_ids", "completion_ids", "rollout_logprobs"):
                assert np.array_equal(getattr(one, name), getattr(other, name))
                assert getattr(one, name).dtype == getattr(other, name).dtype
            assert (one.advantage, one.weight) == (other.advantage, other.weight)
        fetched.append(set(FETCHES[-1]))
    assert len(FETCHES) == 2, "one request for all of a rank's tokens"
    assert fetched[0] and fetched[1] and not fetched[0] & fetched[1], "a rank fetches no other's"
    assert fetched[0] | fetched[1] == {
        f"{n}/{j}/{kind}" for n in range(3) for j in range(2) for kind in ("ids", "logprobs")
    }
