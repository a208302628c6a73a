"""What moving tokens costs: 2,048 completions of 4,096 tokens from a rollout worker over the trainer to two ranks.

    python scripts/benchmark_host_path.py                                    # the figures of docs/results.md
    python scripts/benchmark_host_path.py --prompts 32 --tokens 512          # a quick look

Processes, channels, plans and layouts are those of a run; there is no model. The worker makes its samples from lists of
numbers, as vLLM hands them out. Decoding the text is left out. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from insight_rl.algorithm.loss import GRPO, LossSettings
from insight_rl.child_process import Channel, Child, import_path
from insight_rl.learner.plan import BatchSettings, RankPlan, lay_out, plan_step
from insight_rl.learner.processes import RankProcesses
from insight_rl.rollout.vllm_worker import Sample, _sample
from insight_rl.types import Completion, Group, Prompt, Reward

NUM_ROLLOUTS = 8
NUM_RANKS = 2
VOCABULARY = 151_936
DEADLINE_S = 600.0


def peak_bytes() -> int:
    """The largest resident memory that this process has had. Linux only."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def serve_samples(fd: int) -> None:
    """The rollout worker: answers ``(prompts, tokens)`` with that many groups of samples, one message a group."""
    channel = Channel.from_fd(fd)
    num_prompts, num_tokens = channel.receive()
    rng = np.random.default_rng(0)
    outputs = []
    for _ in range(NUM_ROLLOUTS):
        ids = rng.integers(VOCABULARY, size=num_tokens).tolist()
        logprobs = rng.normal(-1, 0.3, num_tokens).astype(np.float32).tolist()
        flat = SimpleNamespace(token_ids=ids, logprobs=logprobs)
        outputs.append(SimpleNamespace(token_ids=ids, logprobs=flat, finish_reason="stop"))
    channel.send(peak_bytes())
    for _ in range(num_prompts):
        channel.send(tuple(_sample(output) for output in outputs))
    channel.send(peak_bytes())
    with suppress(EOFError):  # until the trainer closes the channel
        channel.receive()


class Rank:
    """Stands for a learner's rank: lays out what it is given, one micro-batch after the other."""

    def begin(self) -> int:
        return peak_bytes()

    def step(self, plan: RankPlan) -> tuple[float, int, int]:
        """Seconds of laying out, tokens in all, and the peak of memory."""
        began = time.perf_counter()
        sequences = plan.table.sequences()
        num_tokens = sum(
            lay_out(batch, sequences, is_packed=False).targets_N.size for update in plan.updates for batch in update
        )
        return time.perf_counter() - began, num_tokens, peak_bytes()

    def close(self) -> None:
        pass


def receive_groups(worker: Child, num_prompts: int) -> list[Group]:
    reward = Reward(value=0.0, success=False)
    groups = []
    for number in range(num_prompts):
        samples: tuple[Sample, ...] = worker.receive(doing="generate")
        completions = tuple(
            Completion(
                token_ids=sample.token_ids, logprobs=sample.logprobs, text="", finish_reason="stop", policy_version=0
            )
            for sample in samples
        )
        prompt = Prompt(id=str(number), task="t", text="", token_ids=tuple(range(200)), answer=None)
        groups.append(Group(prompt=prompt, completions_G=completions, rewards_G=(reward,) * NUM_ROLLOUTS))
    return groups


def measure(num_prompts: int, num_tokens: int) -> dict[str, Any]:
    settings = BatchSettings(
        loss=LossSettings(loss=GRPO(), clip_low=0.2, clip_high=0.2),
        max_completion_tokens=num_tokens,
        prompts_per_update=max(1, num_prompts // 4),
        num_ranks=NUM_RANKS,
        tokens_per_micro_batch=16384,
        share_prompts=True,
        hidden_size=1024,
    )
    env = {**os.environ, "PYTHONPATH": import_path()}
    target = "benchmark_host_path:serve_samples"
    worker = Child("the worker", target, key="deadline_s", deadline_s=DEADLINE_S, env=env, log=False)
    ranks = RankProcesses(Rank, NUM_RANKS, deadline_s=DEADLINE_S)
    rank_starts = ranks.call("begin", [()] * NUM_RANKS)
    worker.send((num_prompts, num_tokens), doing="generate")
    worker_start = worker.receive(doing="generate")
    trainer_start = peak_bytes()
    clock, processor = [time.perf_counter()], time.process_time()
    groups = receive_groups(worker, num_prompts)
    clock.append(time.perf_counter())
    worker_peak = worker.receive(doing="generate")
    advantages = [np.resize([1.0, -1.0], NUM_ROLLOUTS) for _ in groups]
    clock.append(time.perf_counter())
    plan = plan_step(groups, advantages, settings)
    clock.append(time.perf_counter())
    results = ranks.call("step", [(rank,) for rank in plan.ranks])
    clock.append(time.perf_counter())
    processor = time.process_time() - processor
    trainer_peak = peak_bytes()
    assert sum(result[1] for result in results) == plan.num_tokens == num_prompts * NUM_ROLLOUTS * num_tokens
    worker.end()
    ranks.close()
    mib = 1 << 20
    return {
        "tokens": plan.num_tokens,
        "worker_to_trainer_s": clock[1] - clock[0],
        "plan_s": clock[3] - clock[2],
        "trainer_to_ranks_s": clock[4] - clock[3],
        # Of the three parts, in processor time: what other work on the machine distorts least.
        "trainer_processor_s": processor,
        "of_it_laying_out_s": max(result[0] for result in results),
        "worker_mib": (worker_peak - worker_start) / mib,
        "trainer_mib": (trainer_peak - trainer_start) / mib,
        "rank_mib": max(result[2] - start for result, start in zip(results, rank_starts, strict=True)) / mib,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=256, help="of eight completions each")
    parser.add_argument("--tokens", type=int, default=4096, help="of a completion")
    arguments = parser.parse_args()
    figures = measure(arguments.prompts, arguments.tokens)
    print(f"{figures['tokens']:,} tokens; memory is the rise of each process's peak\n")
    for name, value in figures.items():
        words = name.split("_")
        if words[-1] in ("s", "mib"):
            print(f"{' '.join(words[:-1]):20}{value:10.3f} {words[-1]}")
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    # By its own name, under which the other processes import it too.
    import benchmark_host_path

    benchmark_host_path.main()
