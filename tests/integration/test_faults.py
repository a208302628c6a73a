"""Nothing hangs silently and nothing is left behind: every process of a run stopped, killed and signalled.

Some of the faults of ``scripts/check_faults.py``, which makes all of them and prints a table. A stopped rank, rollout
worker and judge worker are in ``test_chaos.py``.
"""

from __future__ import annotations

import importlib.util
import sys

import pytest

from insight_rl.paths import conf_dir

pytestmark = pytest.mark.slow

CHEAP = ["learner=accelerate", "learner.num_ranks=2", "rollout=transformers"]


@pytest.fixture(scope="module")
def faults():
    path = conf_dir().parent / "scripts" / "check_faults.py"
    spec = importlib.util.spec_from_file_location("check_faults", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_faults"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make(faults, tmp_path):
    def make(name, overrides):
        outcome = faults.make_fault(name, tmp_path, overrides)
        assert outcome.processes_left == []
        assert outcome.files_left == []
        assert "Traceback" not in outcome.last_line
        return outcome

    return make


def test_a_second_signal_ends_the_run_although_a_rank_hangs(make):
    """And long before the rank's deadline, which would end it with code 1."""
    assert make("sigterm-twice-beside-a-stopped-rank", CHEAP).ended == "code 143"


def test_a_stopped_vllm_is_replaced_with_stacks_and_a_signal_to_every_process_is_a_request_to_stop(make):
    """The learner is DeepSpeed with two ranks, here and below."""
    outcome = make("rollout-stopped+sigterm-to-the-group", ["rollout.deadline_s=10"])
    assert outcome.ended == "code 143"
    assert outcome.has_stacks and outcome.has_checkpoint


def test_nothing_is_left_of_a_killed_trainer_with_vllm_and_deepspeed(make):
    outcome = make("trainer-killed", [])
    assert outcome.ended == "code -9"
    assert not outcome.has_stacks and not outcome.has_checkpoint
