"""Processes side by side: what each does is replaced by something short, and they are forked from the test."""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import replace

import pytest

from insight_rl.compare import runner
from insight_rl.compare.jobs import Job, OwnCode
from insight_rl.compare.plan import BudgetPlan
from insight_rl.compare.runner import Slots, find_slots, run_jobs
from insight_rl.errors import Interrupted

JOB = Job(
    name="",
    arm="a",
    seed=0,
    overrides=(),
    budget=BudgetPlan(axis="steps", size=1),
    run_dir=None,
    starts=None,
    own_code=OwnCode(),
)
TWO = Slots(gpus=("0", "1"))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """``run(work, names)``: each job's process calls ``work(job, gpu)``; what ended, by name."""
    monkeypatch.setattr(runner, "fork_server", lambda first: multiprocessing.get_context("fork"))

    def run(work, names, slots=TWO):
        told = []
        monkeypatch.setattr(runner, "run_job", work)
        jobs = [replace(JOB, name=name, run_dir=tmp_path / name) for name in names]
        for job in jobs:
            job.run_dir.mkdir(exist_ok=True)
        ended = run_jobs(jobs, slots, told.append, lambda text: None)
        assert told == ended
        return {end.job.name: end.reason for end in ended}

    return run


def finish(job, gpu=None):
    (job.run_dir / "outcome.json").write_text(json.dumps({"state": "finished", "reason": "", "gpu": gpu}))


def test_a_failure_stops_no_other_run_and_is_told(run, tmp_path):
    def work(job, gpu):
        if job.name == "refused":
            reason = "learner.lr=0: must be above 0"
            (job.run_dir / "outcome.json").write_text(json.dumps({"state": "failed", "reason": reason}))
        elif job.name == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif job.name == "silent":
            os._exit(3)
        else:
            finish(job)

    ended = run(work, ["refused", "killed", "silent", "one", "two"])
    assert ended == {
        "refused": "learner.lr=0: must be above 0",
        "killed": "its process ended early (killed by SIGKILL)",
        "silent": "its process ended early (exit code 3)",
        "one": "",
        "two": "",
    }
    # Only what has not finished is run again.
    assert run(lambda job, gpu: finish(job), ["refused", "killed", "silent", "one", "two"]).keys() == {
        "refused",
        "killed",
        "silent",
    }


def test_each_slot_has_its_gpu_and_never_two_runs(run, tmp_path):
    def work(job, gpu):
        lock = tmp_path / f"gpu{gpu}"
        lock.touch(exist_ok=False)
        time.sleep(0.05)
        lock.unlink()
        finish(job, gpu)

    names = [str(number) for number in range(5)]
    assert set(run(work, names).values()) == {""}
    gpus = {json.loads((tmp_path / name / "outcome.json").read_text())["gpu"] for name in names}
    assert gpus == {"0", "1"}


def test_a_stop_signal_reaches_each_run_once_and_starts_no_other(run, tmp_path):
    def work(job, gpu):
        def on_signal(number, frame):
            with (job.run_dir / "told").open("a") as file:
                file.write("x")
            time.sleep(1.2)  # as long as a step: longer than the runner takes to look again
            sys.exit(143)

        signal.signal(signal.SIGTERM, on_signal)
        (job.run_dir / "began").touch()
        time.sleep(60)

    def stop():
        while len(list(tmp_path.glob("*/began"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Interrupted) as stopped:
        run(work, ["one", "two", "three"])
    thread.join()
    assert stopped.value.number == signal.SIGTERM
    assert [(tmp_path / name / "told").read_text() for name in ("one", "two")] == ["x", "x"]
    assert not (tmp_path / "three" / "began").exists()


def test_slots(monkeypatch):
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-5")
    assert find_slots(None, use_gpus=True).gpus == ("2", "GPU-5")
    assert find_slots(3, use_gpus=True).gpus == ("2", "GPU-5", "2")
    assert find_slots(None, use_gpus=False).gpus == (None,) * cores
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_slots(3, use_gpus=True).gpus == (None,) * 3
