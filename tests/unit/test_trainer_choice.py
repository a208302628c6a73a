from __future__ import annotations

import pytest

from insight_rl.config import compose_config, parse_config
from insight_rl.errors import UsageError
from insight_rl.trainer import Trainer
from insight_rl.trainer_async import AsyncTrainer
from insight_rl.trainer_choice import check_overlap, load_progress, load_rollouts, trainer_type


def config_of(*overrides):
    return parse_config(compose_config(list(overrides)))


def test_the_option_chooses_the_loop_and_both_know_the_same_settings():
    plain, overlapping = config_of("trainer.num_steps=7"), config_of("trainer=async", "trainer.num_steps=7")
    assert trainer_type(plain.trainer) is Trainer
    assert trainer_type(overlapping.trainer).func is AsyncTrainer
    assert vars(plain.trainer).items() < vars(overlapping.trainer).items()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.max_staleness=2"], r"trainer=sync has no setting max_staleness"),
        (["trainer=async", "trainer.max_staleness=-1"], r"trainer\.max_staleness=-1: must be at least 0"),
        (["trainer=async", "trainer.weight_update=drop"], r"trainer\.weight_update='drop': must be one of keep, wait"),
        (["trainer=async", "rollout=vllm", "rollout.sleep=true"], r"rollout\.sleep=True: .*trainer=sync"),
        (["trainer=async", "algorithm.importance=none"], r"algorithm\.importance='none': .*token_truncate"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(overrides, message):
    with pytest.raises(UsageError, match=message) as error:
        check_overlap(config_of(*overrides))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm.importance=none"],
        ["trainer=async", "trainer.max_staleness=0", "algorithm.importance=none", "rollout=vllm", "rollout.sleep=true"],
        ["trainer=async", "algorithm.importance=none", "algorithm.old_logprobs=rollout"],
    ],
)
def test_what_does_is_not(overrides):
    check_overlap(config_of(*overrides))


def test_a_run_without_a_checkpoint_begins_with_nothing():
    for overrides in ([], ["trainer=async"]):
        assert load_rollouts(config_of(*overrides).trainer, None) == {"ready": {}, "flight": None}
    assert load_progress(None).step == 0
