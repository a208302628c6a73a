"""Files that must not outlive a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from insight_rl.leftovers import remove_now

CODE = """
import os, signal, sys, time
from insight_rl.leftovers import remove_at_the_end
for pattern in sys.argv[1:]:
    remove_at_the_end(pattern)
    remove_at_the_end(pattern)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("ending", ["by itself", "killed", "killed with its group"])
def test_they_are_removed_however_the_process_ends(ending, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, f"{tmp_path}/one-*", f"{tmp_path}/two"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout.readline() == b"ready\n"
    (tmp_path / "one-folder").mkdir()
    (tmp_path / "one-folder" / "file").touch()
    (tmp_path / "two").touch()
    (tmp_path / "other").touch()
    if ending == "killed":
        process.send_signal(signal.SIGKILL)
    elif ending == "killed with its group":
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_they_can_be_removed_at_once(tmp_path):
    (tmp_path / "one").touch()
    (tmp_path / "two").mkdir()
    remove_now(f"{tmp_path}/*")
    assert list(tmp_path.iterdir()) == []
