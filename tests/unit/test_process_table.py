"""Against processes that run."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from insight_rl.process_table import family_of, shared_memory_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

GENERATIONS = """
import subprocess, sys
code = "print(0, flush=True); input()"
child = subprocess.Popen([sys.executable, "-S", "-c", code], stdin=sys.stdin, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


def test_a_family_has_every_generation():
    with subprocess.Popen(
        [sys.executable, "-S", "-c", GENERATIONS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        grandchild = int(process.stdout.readline())
        assert family_of(process.pid) == [process.pid, grandchild]
        assert {process.pid, grandchild} < set(family_of(os.getpid()))
        process.communicate("\n")
    assert family_of(process.pid) == []


def test_shared_memory_that_is_there_is_named():
    buffer = shared_memory.SharedMemory(create=True, size=100, name=f"insight_rl test [0-1] {os.getpid()}")
    try:
        assert Path("/dev/shm", buffer.name) in shared_memory_of(os.getpid())
    finally:
        buffer.unlink()
        assert Path("/dev/shm", buffer.name) not in shared_memory_of(os.getpid())
        buffer.close()
    assert shared_memory_of(2**22 + 1) == set()
