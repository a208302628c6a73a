"""Signals as requests to stop: in processes of their own, as pytest needs its handlers."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORK = """
import os, signal, sys, time
from pathlib import Path
from insight_rl.errors import Interrupted
from insight_rl.stop_signals import stop_on_signals

asked = []
try:
    with stop_on_signals() as stop:
        if "loading" not in sys.argv:
            grace_s = 0.5 if "grace" in sys.argv else None
            stop.finish_first(
                lambda: asked.append(True),
                lambda text: print(text, flush=True),
                grace_s=grace_s,
                may_give_up=lambda: "writes" not in sys.argv,
            )
        Path(sys.argv[1]).touch()
        end = time.monotonic() + 60
        while not asked and time.monotonic() < end:
            time.sleep(0.01)
        if "writes" in sys.argv:
            time.sleep(1.5)
        if "hangs" in sys.argv:
            try:
                time.sleep(60)
            except Interrupted:
                print(f"the grace is over: {stop.is_grace_over}", flush=True)
                if "hangs" in sys.argv[3:]:
                    time.sleep(60)
                raise
        print("the step is finished", flush=True)
        Path(sys.argv[1]).write_text("checkpoint")
        if stop.number is not None:
            raise Interrupted(stop.number)
except Interrupted as error:
    sys.exit(128 + error.number)
"""


def start(file: Path, *words: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*prefix, sys.executable, "-c", WORK, str(file), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    wait_for(file.exists)
    return process


def wait_for(is_so) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_first_signal_lets_the_step_finish_and_is_the_exit_code(number, code, tmp_path):
    process = start(tmp_path / "file")
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert output.startswith(f"{number.name}: finishing this step") and "the step is finished" in output
    assert (tmp_path / "file").read_text() == "checkpoint"


def test_the_second_signal_ends_it_at_once(tmp_path):
    process = start(tmp_path / "file", "hangs")
    process.send_signal(signal.SIGTERM)
    assert "once more" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=50)
    assert process.returncode == 130
    assert "finished" not in output


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_past_the_grace_time_a_step_that_goes_on_is_given_up(number, code, tmp_path):
    process = start(tmp_path / "file", "hangs", "grace")
    process.send_signal(number)
    output, _ = process.communicate(timeout=50)
    assert process.returncode == code
    assert "its checkpoint, for at most runtime.grace_s=0.5 s; once more to stop at once" in output
    assert "the grace is over: True" in output and "finished" not in output


@pytest.mark.parametrize("words", [(), ("writes",)])
def test_who_finishes_in_the_grace_time_or_writes_a_checkpoint_hears_no_more_of_it(words, tmp_path):
    process = start(tmp_path / "file", "grace", *words)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=50)
    assert process.returncode == 143
    assert "the step is finished" in output and "the grace is over" not in output


def test_a_second_signal_ends_what_hangs_after_the_grace_time(tmp_path):
    process = start(tmp_path / "file", "grace", "hangs")
    process.send_signal(signal.SIGTERM)
    while "the grace is over: True" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=50)
    assert process.returncode == 143


def test_ctrl_c_has_no_grace_time(tmp_path):
    process = start(tmp_path / "file", "hangs", "grace")
    process.send_signal(signal.SIGINT)
    assert "grace" not in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=50)
    assert process.returncode == 130


def test_while_nothing_is_to_be_saved_the_first_one_ends_it(tmp_path):
    process = start(tmp_path / "file", "loading")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=50)
    assert process.returncode == 143


def test_a_hangup_that_nohup_switched_off_stays_off(tmp_path):
    process = start(tmp_path / "file", prefix=("nohup",))
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "SIGHUP" not in output


def test_the_step_is_finished_although_the_terminal_is_gone(tmp_path):
    """Each line to a closed terminal is an error, and the first would be the notice about the signal."""
    file = tmp_path / "file"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", WORK, str(file)])
    wait_for(file.exists)
    os.close(terminal)
    wait_for(lambda: file.read_text() == "checkpoint")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 129


@pytest.mark.parametrize("is_for_all", [True, False])
def test_a_sweep_hands_a_signal_on_to_its_run_once(is_for_all, tmp_path):
    """To the sweep alone (``docker stop``) or to its whole group (Ctrl-C): the run has its one signal either way."""
    file = tmp_path / "file"
    code = (
        "import sys\n"
        "from insight_rl.stop_signals import run_to_its_end\n"
        "sys.exit(run_to_its_end([sys.executable, '-c', sys.argv[1], *sys.argv[2:]]))\n"
    )
    sweep = subprocess.Popen(
        [sys.executable, "-c", code, WORK, str(file)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(file.exists)
    (os.killpg if is_for_all else os.kill)(sweep.pid, signal.SIGINT)
    output, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 130
    assert "the step is finished" in output
