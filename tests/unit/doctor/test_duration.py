"""The roofline, against arithmetic by hand and against what must hold."""

import pytest

from insight_rl.doctor.cards import CARDS
from insight_rl.doctor.duration import HOST_BYTES_S, LEARNING, estimate_time, generation_seconds, learning_seconds

BASE = ("rollout=vllm", "learner=deepspeed", "model=qwen3-0.6b", "trainer.max_completion_tokens=1024")


def test_learning_is_operations_over_the_peak(workload, h100):
    work = workload(*BASE, "doctor.mean_completion_tokens=512", "trainer.prompts_per_update=null")
    head = 151936 * 1024
    row = 256 + 512
    # 6 operations a weight and token, attention 6 x 2048 wide in 28 layers for half the row twice; a head that computes
    # its logits twice on the 512 tokens it sees.
    operations = row * (6 * (596_049_920 - head) + 3 * 2 * 28 * 2048 * row) + 512 * 4 * 2 * head
    seconds = 512 * operations / (LEARNING * 989e12)
    assert learning_seconds(work, work.learner, h100) == pytest.approx(seconds, rel=0.02)


def test_more_gpus_and_faster_cards_take_less_time(workload, h100):
    one = workload(*BASE)
    eight = one.with_learner(num_ranks=8).with_rollout(num_workers=8)
    for card in (h100, CARDS["a100-80gb"]):
        assert estimate_time(eight, card).step < estimate_time(one, card).step
    assert estimate_time(one, h100).step < estimate_time(one, CARDS["a100-80gb"]).step


def test_nothing_is_faster_than_the_longest_completion(workload, h100):
    work = workload(*BASE)
    weights = 2 * work.parameters.total / (h100.bandwidth_gbs * 1e9)
    assert generation_seconds(work, work.rollout, h100, completions=1) > 1024 * weights


def test_offload_and_recomputing_cost_time(workload, h100):
    work = workload(*BASE)
    plain = learning_seconds(work, work.learner, h100)
    again = work.with_learner(gradient_checkpointing=True)
    moved = work.with_learner(offload="cpu")
    assert 1.1 * plain < learning_seconds(again, again.learner, h100) < 4 / 3 * plain
    assert learning_seconds(moved, moved.learner, h100) > plain + 20 * work.parameters.total / HOST_BYTES_S


def test_evaluations_count(workload, h100):
    time = estimate_time(workload(*BASE, "trainer.num_steps=100", "evaluation.every=10"), h100)
    assert time.num_evaluations == 11
    assert time.run == pytest.approx(100 * time.step + 11 * time.evaluation)
    assert estimate_time(workload(*BASE, "evaluation.every=0"), h100).num_evaluations == 0
