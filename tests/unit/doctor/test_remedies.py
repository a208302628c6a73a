"""What the doctor advises is tried: composed as a command, it fits."""

import pytest

from insight_rl.doctor.cards import CARDS
from insight_rl.doctor.memory import count_kv_cache, count_situations, fullest, verdict
from insight_rl.doctor.remedies import find_remedies

SICK = [
    (1, "h100-80gb", ["model=qwen3-4b"]),
    (8, "h100-80gb", ["model=qwen3-4b"]),
    (1, "a100-40gb", ["model=qwen3-4b", "learner=accelerate"]),
    (1, "l4-24gb", ["model=qwen3-1.7b", "model.max_length=8192", "trainer.max_completion_tokens=4096"]),
]
BASE = ("rollout=vllm", "learner=deepspeed", "trainer.max_completion_tokens=1024")


@pytest.mark.parametrize(("num_gpus", "card", "overrides"), SICK)
def test_each_remedy_fits_as_a_command(num_gpus, card, overrides, workload):
    command = (*BASE, *overrides)
    work = workload(*command)
    assert verdict(count_situations(work, CARDS[card]), CARDS[card]) != "fits"
    remedies = find_remedies(work, CARDS[card], num_gpus=num_gpus)
    assert remedies
    for remedy in remedies:
        changes = [word for override in remedy.overrides for word in override.split()]
        better = workload(*command, *changes)
        assert verdict(count_situations(better, CARDS[card]), CARDS[card]) == "fits", changes
        assert count_kv_cache(better, better.rollout, CARDS[card]).num_sequences >= 1


def test_what_nothing_helps_gets_no_advice(workload):
    work = workload(*BASE, "model=r1-distill-qwen-7b")
    assert find_remedies(work, CARDS["l4-24gb"], num_gpus=1) == []


def test_more_ranks_are_advised_only_where_there_are_gpus(workload, h100):
    for num_gpus in (1, 8):
        remedies = find_remedies(workload(*BASE, "model=qwen3-4b"), h100, num_gpus=num_gpus)
        advised = any("learner.num_ranks=8" in remedy.overrides for remedy in remedies)
        assert advised == (num_gpus == 8)


def test_checkpointing_and_sleep_only_ever_help(workload, h100):
    for model in ("qwen3-0.6b", "qwen3-4b", "r1-distill-qwen-7b"):
        work = workload(*BASE, f"model={model}")
        before = fullest(count_situations(work, h100)).total
        for better in (work.with_learner(gradient_checkpointing=True), work.with_rollout(sleeps=True)):
            assert fullest(count_situations(better, h100)).total <= before


def test_nothing_in_a_remedy_can_be_left_out(workload, h100):
    work = workload(*BASE, "model=r1-distill-qwen-7b")
    (first, *_) = find_remedies(work, h100, num_gpus=8)
    assert len(first.overrides) == 2
    for left_out in first.overrides:
        still = workload(*BASE, "model=r1-distill-qwen-7b", *(each for each in first.overrides if each != left_out))
        assert verdict(count_situations(still, h100), h100) != "fits", f"{left_out} is not needed"
