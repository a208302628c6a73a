"""What every command does before its own module is loaded."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from insight_rl.cli.main import COMMANDS, main
from insight_rl.errors import Interrupted, RunStopped, UsageError

PROBE = """
import subprocess, sys

def main(arguments):
    assert "torch" not in sys.modules, "OpenMP has read its settings by then"
    child = "import os; print(os.environ.get('OMP_WAIT_POLICY'))"
    return subprocess.run([sys.executable, "-c", child], check=True).returncode
"""
START = "from insight_rl.cli.main import COMMANDS, main; COMMANDS['probe'] = ('probe', ''); main(['probe'])"


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_every_process_of_a_command_wait_instead_of_spinning(before, after, tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if before is None else {"OMP_WAIT_POLICY": before}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
    result = subprocess.run([sys.executable, "-c", START], env=environment, capture_output=True, text=True)
    assert result.stdout.split() == [after], result.stderr


def during_an_import():
    error = ModuleNotFoundError("Could not import module")
    error.__cause__ = RuntimeError("Error calling __set_name__")
    error.__cause__.__context__ = Interrupted(signal.SIGTERM)
    return error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (during_an_import(), 143, "interrupted by SIGTERM"),
        (Interrupted(signal.SIGTERM), 143, "interrupted by SIGTERM"),
        (Interrupted(signal.SIGHUP), 129, "interrupted by SIGHUP"),
        (KeyboardInterrupt(), 130, "interrupted by SIGINT"),
        (RunStopped("a rank died"), 1, "stopped: a rank died"),
        (UsageError("lr=0: must be above 0"), 2, "lr=0: must be above 0"),
    ],
)
def test_an_end_is_one_line_and_a_code(error, code, line, monkeypatch, capsys):
    def fail(arguments):
        raise error

    monkeypatch.setitem(sys.modules, "failing", SimpleNamespace(main=fail))
    monkeypatch.setitem(COMMANDS, "fail", ("failing", ""))
    assert main(["fail"]) == code
    assert capsys.readouterr().err == f"insight-rl fail: {line}\n"
