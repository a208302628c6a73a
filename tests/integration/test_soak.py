"""What ``scripts/soak.py`` takes for growth; a soak itself is no test."""

from __future__ import annotations

import importlib
import os

import pytest

from insight_rl.paths import conf_dir


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(conf_dir().parent / "scripts")
    return importlib.import_module("soak")


def looks(soak, memory_of, num_files_of=lambda step: 30):
    return [soak.Look(step, memory_of(step), num_files_of(step)) for step in range(1000)]


def test_growth_is_that_from_the_given_step_on(soak):
    memory, files = soak.judge(looks(soak, lambda step: 102_400 + 1000 * min(step, 99)), 100)
    assert memory[0] == memory[1] == memory[2] > 100 and files == [30, 30, 30]
    memory, _ = soak.judge(looks(soak, lambda step: 102_400 + 10 * step), 100)
    assert memory[2] / memory[0] - 1 == pytest.approx(0.079, abs=0.002)
    assert memory[1] == pytest.approx((memory[0] + memory[2]) / 2, abs=0.1)
    _, files = soak.judge(looks(soak, lambda step: 102_400, lambda step: 30 + step // 500), 100)
    assert (files[0], files[2]) == (30, 31)


def test_single_looks_far_off_are_no_growth_and_too_few_are_no_verdict(soak):
    memory, _ = soak.judge(looks(soak, lambda step: 900_000 if step in (150, 990) else 102_400), 100)
    assert memory == [100, 100, 100]
    assert soak.judge(looks(soak, lambda step: 102_400), 997) is None


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("/bin/python3.11 -P -m insight_rl.child_main 7 11 insight_rl.learner.processes:serve", "learner rank"),
        ("/bin/python -u /lib/ray/dashboard/agent.py --node-ip-address=127.0.0.1", "agent.py"),
        ("/lib/ray/core/src/ray/gcs/gcs_server --log_dir=/tmp/ray", "gcs_server"),
        ("ray::RankActor.call", "ray::RankActor"),
        ("", "?"),
    ],
)
def test_what_a_process_is_called(soak, command, name, monkeypatch):
    monkeypatch.setattr(soak, "command_of", lambda pid: command)
    assert soak.name_of(2**22 + 1) == name


def test_a_process_is_looked_at_and_one_that_is_gone_is_not(soak):
    look = soak.look_at(os.getpid(), 7)
    assert look.step == 7 and look.memory_kib > 1000 and look.num_files > 2
    assert soak.look_at(2**22 + 1, 7) is None
