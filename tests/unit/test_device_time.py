"""Device seconds: processor seconds of all processes of a run, or wall seconds times GPUs."""

import subprocess
import sys
import time

import pytest

from insight_rl import device_time
from insight_rl.device_time import device_clock, processor_seconds


def test_gpus_are_paid_for_by_the_wall_clock(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", lambda: 10.0)
    assert device_clock(4)() == 40.0


def test_a_cpu_is_paid_for_where_it_computes(monkeypatch):
    clock = device_clock(0)
    start = clock()
    time.sleep(0.2)
    assert clock() - start < 0.15
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert clock() - start >= 0.05


def test_children_count(monkeypatch):
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ntime.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    # Other tests of this process may have left engines running.
    monkeypatch.setattr(device_time, "process_groups", lambda: {"trainer": []})
    alone = processor_seconds()
    monkeypatch.setattr(device_time, "process_groups", lambda: {"trainer": [], "rank": [child.pid, 2**22 + 1]})
    both = processor_seconds()
    child.kill()
    child.wait()
    child.stdout.close()
    # Starting Python counts too; a process that is gone counts nothing.
    assert both - alone == pytest.approx(0.35, abs=0.3)
    assert both - alone >= 0.25
