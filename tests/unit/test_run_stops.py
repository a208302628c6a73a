from __future__ import annotations

import math

import pytest
import torch

from insight_rl.errors import RunStopped
from insight_rl.learner.plan import BatchSettings, plan_step
from insight_rl.learner.step_sums import StepSums, to_metrics
from insight_rl.learner.worker import add_gap
from insight_rl.run_stops import MEAN_LOGPROB_GAP_LIMITS, stop_if_logprobs_diverge
from insight_rl.types import DTYPES, Metrics


def metrics_of(gap_N: torch.Tensor) -> Metrics:
    """What a step reports whose log-probs differ by ``gap_N``, through the sums of two ranks."""
    others = dict.fromkeys(("num_tokens", "loss", "entropy", "ratio", "clipped_low", "clipped_high"), 1.0)
    sums_R = []
    for half in gap_N.chunk(2):
        sums = StepSums(sums=dict(others), grad_norms=[1.0])
        add_gap(sums, torch.full_like(half, -1.0), half - 1.0, [len(half)])
        sums_R.append(sums)
    settings = BatchSettings(
        loss=None,
        max_completion_tokens=1,
        prompts_per_update=1,
        num_ranks=2,
        tokens_per_micro_batch=1,
        share_prompts=False,
        hidden_size=1,
    )
    return to_metrics(plan_step([], [], settings), sums_R, 1e-6)


def test_every_precision_has_its_limit() -> None:
    assert MEAN_LOGPROB_GAP_LIMITS.keys() == set(DTYPES)


@pytest.mark.parametrize(("dtype", "rounding", "outlier"), [("float32", 1e-5, 5.0), ("bfloat16", 0.05, 12.0)])
def test_one_outlier_among_a_million_tokens_does_not_stop(dtype, rounding, outlier) -> None:
    gap_N = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0)) * rounding
    gap_N[123_456] = outlier
    metrics = metrics_of(gap_N)
    assert metrics["rollout/logprob_gap_max"] == pytest.approx(outlier, rel=1e-6)
    stop_if_logprobs_diverge(metrics, max_mean_gap=MEAN_LOGPROB_GAP_LIMITS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_other_weights_stop_the_run(dtype) -> None:
    """Another policy's log-probs differ everywhere, by tenths of a nat and more."""
    metrics = metrics_of(torch.randn(1000, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(RunStopped, match=r"rollout/logprob_gap_mean=0\.8.* exceeds trainer\.max_mean_logprob_gap="):
        stop_if_logprobs_diverge(metrics, max_mean_gap=MEAN_LOGPROB_GAP_LIMITS[dtype])


def test_a_gap_that_is_not_a_number_stops_the_run() -> None:
    metrics = metrics_of(torch.tensor([0.0, math.nan, 0.0, 0.0]))
    with pytest.raises(RunStopped, match="logprob_gap_mean=nan"):
        stop_if_logprobs_diverge(metrics, max_mean_gap=1.0)


def test_a_step_that_measured_nothing_goes_on() -> None:
    stop_if_logprobs_diverge({"learner/num_updates": 0}, max_mean_gap=1e-9)
