"""Peak memory of the trainer and its children, by what they are made to allocate."""

from __future__ import annotations

import os
import sys

import pytest

from insight_rl.child_process import Child
from insight_rl.memory import peak_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
MIB = 1 / 1024


def hold(file_descriptor: int) -> None:
    """A child with 100 MiB, and a child of its own with as many."""
    is_parent = os.fork() != 0
    block = bytearray(100 << 20)
    block[::4096] = b"\1" * len(block[::4096])
    if is_parent:
        os.write(file_descriptor, b"\0\0\0\0\0\0\0\4\x80\4N.")  # a pickled None
    os.read(file_descriptor, 1)


def test_a_peak_is_that_of_the_step_and_not_of_the_run():
    peak_memory()
    before = peak_memory()["memory/trainer_gib"]
    block = bytearray(300 << 20)
    block[::4096] = b"\1" * len(block[::4096])
    del block
    assert peak_memory()["memory/trainer_gib"] - before > 250 * MIB
    assert peak_memory()["memory/trainer_gib"] - before < 250 * MIB


def test_a_child_counts_with_its_own_children_under_its_own_name():
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = Child("the vLLM process", "tests.unit.test_memory:hold", key="k", deadline_s=60, env=env, log=False)
    try:
        child.receive(doing="start")
        child.answered()
        assert peak_memory()["memory/vllm_process_gib"] > 200 * MIB
    finally:
        child.end(grace_s=0)
    assert "memory/vllm_process_gib" not in peak_memory()
