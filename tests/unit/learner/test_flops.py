"""The count of a step's flops against PyTorch's own counter, and the measurement of the peak."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from insight_rl.algorithm.loss import GRPO, LossSettings
from insight_rl.learner.attention import sharing_mask
from insight_rl.learner.batch import Row, TrainSequence, make_micro_batch
from insight_rl.learner.flops import ModelShape, Work, measure_peak
from insight_rl.learner.logprobs import TokenScorer
from insight_rl.learner.plan import BatchSettings, plan_step
from insight_rl.learner.settings import LearnerSettings
from insight_rl.learner.step_sums import StepSums, to_metrics

BATCH_SETTINGS = BatchSettings(
    loss=LossSettings(loss=GRPO(), clip_low=0.2, clip_high=0.2),
    max_completion_tokens=8,
    prompts_per_update=2,
    num_ranks=2,
    tokens_per_micro_batch=64,
    share_prompts=True,
    hidden_size=64,
)


def make_row(rng, prompt_length, completion_lengths):
    prompt_ids = rng.integers(5, 24, size=prompt_length)
    return Row(
        sequences=tuple(
            TrainSequence(
                prompt_ids=prompt_ids,
                completion_ids=rng.integers(5, 24, size=length),
                rollout_logprobs=np.zeros(length),
                advantage=1.0,
                weight=1.0,
            )
            for length in completion_lengths
        )
    )


def counted(model, batch, *, with_backward):
    """Flops of matrices and of attention as PyTorch counts them: attention over whole squares of pairs."""
    scorer = TokenScorer(model, temperature=1.0, settings=LearnerSettings())
    inputs = {
        "input_ids": torch.from_numpy(batch.input_ids),
        "segments": None if batch.segments is None else torch.from_numpy(batch.segments),
        "positions": None if batch.positions is None else torch.from_numpy(batch.positions),
        "sources_N": torch.from_numpy(batch.sources_N),
        "targets_N": torch.from_numpy(batch.targets_N),
    }
    with FlopCounterMode(display=False) as counter:
        logprobs, _ = scorer(**inputs)
        if with_backward:
            logprobs.sum().backward()
    by_operation = counter.get_flop_counts()["Global"]
    of_attention = sum(count for operation, count in by_operation.items() if "bmm" in str(operation))
    return counter.get_total_flops() - of_attention, of_attention


@pytest.fixture(params=["tied_model", "untied_model"])
def model(request):
    path = request.getfixturevalue(request.param)
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")


@pytest.mark.parametrize("with_backward", [False, True])
@pytest.mark.parametrize("completion_lengths", [[5], [5, 3, 1, 8]])
def test_flops_are_those_of_pytorchs_counter(model, completion_lengths, with_backward):
    batch = make_micro_batch([make_row(np.random.default_rng(0), 7, completion_lengths)])
    of_matrices, of_attention = counted(model, batch, with_backward=with_backward)
    shape = ModelShape.of(model)
    count = shape.training if with_backward else shape.forward
    length = batch.input_ids.shape[1]
    square = Work(num_inputs=batch.work.num_inputs, num_pairs=length**2, num_targets=batch.work.num_targets)
    without_pairs = Work(num_inputs=batch.work.num_inputs, num_targets=batch.work.num_targets)
    assert count(without_pairs) == of_matrices
    # Eager attention multiplies the pairs that the mask hides as well.
    assert count(square) - count(without_pairs) == of_attention
    assert count(batch.work) < count(square)


def test_frozen_weights_need_no_gradient(model):
    batch = make_micro_batch([make_row(np.random.default_rng(0), 7, [5])])
    everything = ModelShape.of(model).training(batch.work)
    for layer in model.base_model.layers:
        layer.mlp.requires_grad_(False)
    of_matrices, _ = counted(model, batch, with_backward=True)
    shape = ModelShape.of(model)
    assert shape.training(batch.work) < everything
    assert shape.training(Work(num_inputs=11, num_targets=5)) == of_matrices


def test_pairs_are_those_that_the_mask_of_shared_rows_shows():
    rng = np.random.default_rng(1)
    for _ in range(20):
        row = make_row(rng, int(rng.integers(1, 9)), rng.integers(1, 9, size=int(rng.integers(2, 5))).tolist())
        batch = make_micro_batch([row])
        assert batch.work.num_pairs == int(sharing_mask(torch.from_numpy(batch.segments)).sum())
        assert batch.work.num_inputs == batch.input_ids.size
        assert batch.work.num_targets == batch.targets_N.size


def test_padding_and_stand_ins_are_no_work():
    rng = np.random.default_rng(2)
    rows = [make_row(rng, 4, [8]), make_row(rng, 2, [3])]
    assert make_micro_batch(rows).work == rows[0].work + rows[1].work
    assert make_micro_batch(rows).work.num_inputs == (4 + 7) + (2 + 2)
    assert make_micro_batch(rows, is_measured=False).work == Work()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_measured_peak_is_a_speed(dtype):
    peak = measure_peak(torch.device("cpu"), dtype, budget_s=0.01)
    assert 1e8 < peak < 1e14


def test_gpu_memory_is_reported_rank_by_rank():
    plan = plan_step([], [], BATCH_SETTINGS)
    ranks = [StepSums(gpu_bytes={"allocated": 2**30, "reserved": 3 * 2**30}), StepSums(gpu_bytes={"allocated": 2**29})]
    metrics = to_metrics(plan, ranks, 1e-6)
    assert metrics["memory/learner_rank_0_gpu_allocated_gib"] == 1.0
    assert metrics["memory/learner_rank_0_gpu_reserved_gib"] == 3.0
    assert metrics["memory/learner_rank_1_gpu_allocated_gib"] == 0.5
