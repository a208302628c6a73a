"""What the doctor sees of this machine."""

from collections import namedtuple

import pytest

from insight_rl.config import compose_config, parse_config
from insight_rl.doctor import machine
from insight_rl.doctor.machine import look_around, requirements
from insight_rl.doctor.workload import read_workload

Usage = namedtuple("Usage", "total used free")
RUN = ["rollout=vllm", "learner=deepspeed", "model=qwen3-4b"]


def findings(*overrides):
    config = parse_config(compose_config(list(overrides)))
    return {each.text.split()[0].rstrip(":"): each for each in look_around(config, read_workload(config), has_gpu=True)}


def test_versions_are_those_that_are_asked_for(monkeypatch):
    assert requirements()["torch"].startswith(">=")
    monkeypatch.setattr(machine, "_version", {"torch": "2.13.0+cpu", "transformers": "4.1", "deepspeed": "0.19.8"}.get)
    found = findings(*RUN)
    assert found["torch"].is_good and found["deepspeed"].is_good
    assert not found["transformers"].is_good and "needs" in found["transformers"].text
    assert found["vllm"].text == "vllm: not installed, and rollout=vllm needs it"


def test_room_for_checkpoints(monkeypatch):
    for free, is_good in ((300, True), (100, False)):
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda _, free=free: Usage(0, 0, free * 2**30))
        disk = findings(*RUN)["disk"]
        assert disk.is_good == is_good
        assert "3 checkpoints of 45.0 GiB" in disk.text and "187 GiB" in disk.text


def test_a_missing_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not findings(*RUN)["no-such-compiler"].is_good
    assert "no-such-compiler" not in findings("experiment=quickstart")


@pytest.mark.parametrize(("sync", "is_good"), [("auto", True), ("shared_memory", False)])
def test_shared_memory(sync, is_good, monkeypatch):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Usage(0, 0, 2**30))
    assert findings(*RUN, f"weight_sync={sync}")["/dev/shm"].is_good == is_good
