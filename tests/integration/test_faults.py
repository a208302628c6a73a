"""Nothing hangs silently and nothing is left behind: every process of a run stopped, killed and signalled.

Some of the faults of ``scripts/check_faults.py``, which makes all of them and prints a table. A stopped rank, rollout
worker and judge worker are in ``test_chaos.py``.
"""

from __future__ import annotations

import importlib

import pytest

from insight_rl.paths import conf_dir

pytestmark = pytest.mark.slow

CHEAP = ["learner=accelerate", "learner.num_ranks=2", "rollout=transformers"]


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.syspath_prepend(conf_dir().parent / "scripts")
    return importlib.import_module("check_faults")


@pytest.fixture
def make(faults, tmp_path):
    def make(name, overrides):
        outcome = faults.make_fault(name, tmp_path, overrides)
        assert outcome.left == []
        assert "Traceback" not in outcome.last_line
        return outcome

    return make


def test_a_second_signal_ends_the_run_although_a_rank_hangs(make):
    """And long before the rank's deadline, which would end it with code 1."""
    assert make("sigterm-twice-beside-a-stopped-rank", CHEAP).ended == "code 143"


def test_a_signal_to_every_process_is_a_request_to_stop(make):
    outcome = make("sigterm-to-the-group", CHEAP)
    assert (outcome.ended, outcome.has_checkpoint) == ("code 143", True)


def test_a_stopped_vllm_is_replaced_and_nothing_is_left_of_a_killed_trainer(make):
    """With DeepSpeed on two ranks. The stacks are of the engine that did not answer."""
    outcome = make("rollout-stopped+trainer-killed", ["rollout.deadline_s=10"])
    assert outcome.ended == "code -9"
    assert outcome.has_stacks and not outcome.has_checkpoint
