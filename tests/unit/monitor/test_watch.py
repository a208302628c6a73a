"""Runs that do not learn say so, once and with the cause; a run that learns says nothing."""

import pytest

from insight_rl.monitor.jsonl import JsonlMonitor
from insight_rl.monitor.watch import (
    Watch,
    accuracy_collapsed,
    small_micro_batches,
    too_many_ranks,
    unusual_learning_rate,
)

HEALTHY = {
    "selector/informative_fraction": 0.6,
    "reward/accuracy": 0.4,
    "reward/status_unparsable": 0.05,
    "rollout/truncated_fraction": 0.01,
    "gate/num_groups": 64,
}


def notices_of(steps, evaluations=(), num_problems=512):
    """What a run of these metrics is told, in order."""
    told = []
    watch = Watch(told.append, num_problems=num_problems)
    for number, metrics in enumerate(steps, start=1):
        watch.log(HEALTHY | metrics, step=number)
    for number, accuracy in enumerate(evaluations):
        watch.log({"eval/accuracy": accuracy}, step=number)
    return told


def uninformative(**metrics):
    return {"selector/informative_fraction": 0.0, **{f"reward/{key}": value for key, value in metrics.items()}}


def test_a_healthy_run_is_told_nothing():
    assert notices_of([{}] * 50, [0.31, 0.33, 0.30, 0.38]) == []


@pytest.mark.parametrize(
    ("metrics", "cause"),
    [
        (uninformative(accuracy=0.0, status_wrong=1.0, status_unparsable=0.0), "every rollout is wrong"),
        (uninformative(accuracy=1.0, status_correct=1.0), "every rollout is right"),
        (uninformative(accuracy=0.0, status_no_answer=0.7, status_unparsable=0.2), "no answer that it can read"),
        (uninformative(accuracy=0.4), "all right or all wrong"),
    ],
)
def test_steps_without_a_mixed_group_are_told_once_with_their_cause(metrics, cause):
    (notice,) = notices_of([metrics] * 20)
    assert cause in notice


@pytest.mark.parametrize(
    ("steps", "num_groups"),
    [([0.0, 0.0, 0.01, 0.0, 0.0], 64), ([0.0] * 2, 64), ([0.0] * 12, 8)],
    ids=["one mixed group between", "two steps", "few groups"],
)
def test_too_little_to_tell(steps, num_groups):
    metrics = [{"selector/informative_fraction": share, "gate/num_groups": num_groups} for share in steps]
    assert notices_of(metrics) == []


def test_small_steps_are_told_when_they_have_added_up():
    assert notices_of([uninformative(accuracy=0.0) | {"gate/num_groups": 8}] * 13) != []


def test_truncation_of_nearly_everything():
    (notice,) = notices_of([{"rollout/truncated_fraction": 0.97}] * 9)
    assert "97% of the completions" in notice and "trainer.max_completion_tokens" in notice
    assert notices_of([{"rollout/truncated_fraction": 0.5}] * 9) == []


def test_accuracy_that_collapses():
    (notice,) = notices_of([], [0.31, 0.45, 0.44, 0.17, 0.1])
    assert "0.450 (step 1) to 0.170 (step 3)" in notice and "learner.lr" in notice


@pytest.mark.parametrize(
    ("accuracies", "num_problems"),
    [([0.45, 0.30], 512), ([0.02, 0.005], 512), ([0.4, 0.1], 8)],
    ids=["less than by half", "within noise of small figures", "few problems"],
)
def test_accuracy_that_only_varies(accuracies, num_problems):
    records = [{"step": step, "eval/accuracy": accuracy} for step, accuracy in enumerate(accuracies)]
    assert accuracy_collapsed(records, num_problems=num_problems) is None


def test_a_resumed_run_is_not_told_again(tmp_path):
    told = []
    monitor = JsonlMonitor()
    monitor.open(tmp_path, config={}, num_steps=9, first_step=0)
    for step in range(1, 5):
        monitor.log(HEALTHY | uninformative(accuracy=0.0), step=step)
    monitor.close()
    for first_step, expected in ((5, []), (3, ["told"])):
        watch = Watch(told.append, num_problems=512)
        watch.open(tmp_path, config={}, num_steps=9, first_step=first_step)
        for step in range(first_step, 9):
            watch.log(HEALTHY | uninformative(accuracy=0.0), step=step)
        assert len(told) == len(expected)


@pytest.mark.parametrize(
    ("lr", "num_parameters", "outcome"),
    [
        (1e-6, 856_064, "hardly move"),
        (1e-4, 856_064, None),
        (3e-5, 856_064, None),
        (1.0, 856_064, "collapse"),
        (1e-6, 135e6, None),
        (1e-6, 4e9, None),
        (1e-5, 4e9, None),
        (1e-4, 4e9, "collapse"),
        (1e-6, 7e9, None),
    ],
)
def test_a_learning_rate_far_from_what_its_model_takes(lr, num_parameters, outcome):
    notice = unusual_learning_rate(lr, num_parameters=int(num_parameters))
    assert notice is None if outcome is None else f"learner.lr={lr:g}" in notice and outcome in notice


@pytest.mark.parametrize(("lr", "outcome"), [(1e-5, None), (1e-4, None), (1e-3, "collapse")])
def test_an_adapter_takes_a_larger_rate(lr, outcome):
    notice = unusual_learning_rate(lr, num_parameters=4_000_000_000, has_adapter=True)
    assert notice is None if outcome is None else outcome in notice and "an adapter of a model" in notice


def test_micro_batches_in_which_rows_stand_alone():
    assert "tokens_per_micro_batch=10" in small_micro_batches(10, row_tokens=36)
    assert small_micro_batches(16384, row_tokens=36) is None
    assert small_micro_batches(2048, row_tokens=4096) is None, "long rows fill a pass by themselves"


@pytest.mark.parametrize(("num_ranks", "num_cores", "told"), [(4, 2, "2 cores"), (2, 2, None), (2, 1, "1 core,")])
def test_more_ranks_than_the_machine_has_cores_for(num_ranks, num_cores, told):
    notice = too_many_ranks(num_ranks, num_cores=num_cores)
    assert notice is None if told is None else told in notice
