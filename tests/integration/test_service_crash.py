"""The crash script, smaller: kill -9 in the middle of observes loses nothing acknowledged and counts nothing twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_kill_in_the_middle_of_observes():
    script = ROOT / "scripts" / "check_service_crash.py"
    command = [sys.executable, str(script), "--trials", "2", "--observes", "800", "--clients", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["passed"] == result["trials"] == 2
    assert all(80 <= each["acknowledged"] <= each["on_disk_at_kill"] < 800 for each in result["each"])
