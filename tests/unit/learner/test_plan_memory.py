"""Bytes of a token on its way from the rollout worker over the trainer to a rank: ceilings on memory, none on time.

A token is 8 bytes, 4 of its id and 4 of its log-prob. As Python numbers it took 68, and laid out for a forward pass 57.
scripts/benchmark_host_path.py measures the same way with real processes.
"""

from __future__ import annotations

import pickle
import socket
import threading
import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from insight_rl.algorithm.loss import GRPO, LossSettings
from insight_rl.child_process import Channel
from insight_rl.learner.plan import BatchSettings, lay_out, plan_step
from insight_rl.rollout.vllm_worker import _sample
from insight_rl.types import Completion, Group, Prompt, Reward

NUM_PROMPTS, NUM_ROLLOUTS, LENGTH = 8, 8, 512
NUM_TOKENS = NUM_PROMPTS * NUM_ROLLOUTS * LENGTH
SETTINGS = BatchSettings(
    loss=LossSettings(loss=GRPO(), clip_low=0.2, clip_high=0.2),
    max_completion_tokens=LENGTH,
    prompts_per_update=4,
    num_ranks=2,
    tokens_per_micro_batch=2048,
    share_prompts=True,
    hidden_size=1024,
)


def through_a_channel(message: Any) -> tuple[Any, int]:
    """The message as it arrives at the other end, and the bytes that it took."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=Channel(ours).send, args=(message,))
        sender.start()
        size = int.from_bytes(theirs.recv(8, socket.MSG_WAITALL), "big")
        data = theirs.recv(size, socket.MSG_WAITALL)
        sender.join()
    assert len(data) == size
    return pickle.loads(data), size


def traced(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """Its result, the bytes a token that it keeps, and the most that it took."""
    tracemalloc.start()
    result = function()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return result, kept / NUM_TOKENS, peak / NUM_TOKENS


def vllm_outputs() -> list[Any]:
    """Completions as vLLM hands them out: lists of numbers."""
    rng = np.random.default_rng(0)
    outputs = []
    for _ in range(NUM_ROLLOUTS):
        ids = rng.integers(1000, 150_000, size=LENGTH).tolist()
        flat = SimpleNamespace(token_ids=ids, logprobs=rng.normal(-1, 0.1, LENGTH).tolist())
        outputs.append(SimpleNamespace(token_ids=ids, logprobs=flat, finish_reason="stop"))
    return outputs


def make_group(number: int, samples: tuple[Any, ...]) -> Group:
    return Group(
        prompt=Prompt(id=str(number), task="t", text="", token_ids=tuple(range(20)), answer=None),
        completions_G=tuple(
            Completion(token_ids=s.token_ids, logprobs=s.logprobs, text="", finish_reason="stop", policy_version=0)
            for s in samples
        ),
        rewards_G=(Reward(value=0.0, success=False),) * NUM_ROLLOUTS,
    )


def test_a_token_takes_about_eight_bytes_on_all_of_its_way() -> None:
    samples = tuple(_sample(output) for output in vllm_outputs())
    arrived, size = through_a_channel(samples)
    assert size / (NUM_ROLLOUTS * LENGTH) < 9
    np.testing.assert_array_equal(arrived[0].token_ids, samples[0].token_ids)

    answer = pickle.dumps(samples, 5)
    groups, kept, _ = traced(lambda: [make_group(number, pickle.loads(answer)) for number in range(NUM_PROMPTS)])
    assert kept < 13

    advantages = [np.resize([1.0, -1.0], NUM_ROLLOUTS) for _ in groups]
    plan, kept, peak = traced(lambda: plan_step(groups, advantages, SETTINGS))
    assert kept < 10 and peak < 12
    assert plan.num_tokens == NUM_TOKENS

    shares = [through_a_channel((rank, 1e-6)) for rank in plan.ranks]
    assert sum(size for _, size in shares) / NUM_TOKENS < 9


def test_a_rank_lays_out_one_micro_batch_at_a_time() -> None:
    samples = tuple(_sample(output) for output in vllm_outputs())
    groups = [make_group(number, samples) for number in range(NUM_PROMPTS)]
    rank = plan_step(groups, [np.ones(NUM_ROLLOUTS) for _ in groups], SETTINGS).ranks[0]
    assert sum(map(len, rank.updates)) >= 8

    def lay_out_all() -> int:
        sequences = rank.table.sequences()
        return sum(
            lay_out(batch, sequences, is_packed=False).targets_N.size for update in rank.updates for batch in update
        )

    num_tokens, _, peak = traced(lay_out_all)
    assert num_tokens == NUM_TOKENS // SETTINGS.num_ranks
    assert peak * NUM_TOKENS < 100 * SETTINGS.tokens_per_micro_batch + 1000 * NUM_PROMPTS * NUM_ROLLOUTS
