"""However a run is cut short, resuming it leaves the files that an uninterrupted run leaves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insight_rl.errors import UsageError
from insight_rl.monitor.jsonl import JsonlMonitor
from insight_rl.monitor.records import read_records
from insight_rl.types import Histogram, Metrics, Table

NUM_STEPS = 6
FILES = ("metrics.jsonl", "samples.jsonl")


def metrics_of(step: int) -> Metrics:
    metrics: Metrics = {
        "reward/mean": step / 7,
        "learner/loss": float("nan"),
        "selector/belief_histogram": Histogram(counts=(step, 1), edges=(0.0, 0.5, 1.0)),
    }
    if step % 2:
        metrics["rollout/samples"] = Table(columns=("text",), rows=((f"3*{step}",), ("é\n",)))
    return metrics


def log_steps(run_dir: Path, *, first_step: int, last_step: int) -> None:
    monitor = JsonlMonitor()
    monitor.open(run_dir, config={}, num_steps=NUM_STEPS, first_step=first_step)
    for step in range(first_step, last_step + 1):
        monitor.log(metrics_of(step), step=step)
    monitor.close()


def contents(run_dir: Path) -> list[bytes]:
    return [(run_dir / name).read_bytes() for name in FILES]


def test_one_object_a_step_from_step_0_on(tmp_path):
    log_steps(tmp_path, first_step=0, last_step=NUM_STEPS)
    records = read_records(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(NUM_STEPS + 1))
    assert records[3] == {
        "step": 3,
        "reward/mean": 3 / 7,
        "learner/loss": None,
        "selector/belief_histogram": {"counts": [3, 1], "edges": [0.0, 0.5, 1.0]},
    }
    assert [record["step"] for record in read_records(tmp_path / "samples.jsonl")] == [1, 1, 3, 3, 5, 5]


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_any_cut_of_the_files_is_mended_by_resuming(data):
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder, "whole"), Path(folder, "cut")
        for run_dir in (whole, cut):
            run_dir.mkdir()
            log_steps(run_dir, first_step=0, last_step=NUM_STEPS)
        resumed_from = data.draw(st.integers(0, NUM_STEPS + 1), label="first step after the resume")
        for name in FILES:
            lines = (cut / name).read_bytes().splitlines(keepends=True)
            safe = sum(len(line) for line in lines if json.loads(line)["step"] < resumed_from)
            length = data.draw(st.integers(safe, sum(map(len, lines))), label=f"bytes left of {name}")
            with (cut / name).open("rb+") as file:
                file.truncate(length)
        log_steps(cut, first_step=resumed_from, last_step=NUM_STEPS)
        assert contents(cut) == contents(whole)


def test_kill_9_keeps_every_logged_step(tmp_path):
    script = (
        "import sys; from pathlib import Path; from insight_rl.monitor.jsonl import JsonlMonitor\n"
        "monitor = JsonlMonitor()\n"
        "monitor.open(Path(sys.argv[1]), config={}, num_steps=10**6, first_step=0)\n"
        "for step in range(10**6):\n"
        "    monitor.log({'a/x': step / 7, 'a/y': 1.5}, step=step)\n"
        "    print(step, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= 200:
            child.send_signal(signal.SIGKILL)
            break
    acknowledged = [200, *map(int, child.stdout.read().split())]
    child.wait()
    steps = [record["step"] for record in read_records(tmp_path / "metrics.jsonl")]
    assert steps == list(range(len(steps)))
    assert len(steps) > acknowledged[-1]


def test_a_step_logged_again_replaces_it_and_what_follows(tmp_path):
    log_steps(tmp_path, first_step=0, last_step=4)
    monitor = JsonlMonitor()
    monitor.open(tmp_path, config={}, num_steps=NUM_STEPS, first_step=1)
    monitor.log({"a/x": 1.0}, step=0)
    monitor.close()
    assert read_records(tmp_path / "metrics.jsonl") == [{"step": 0, "a/x": 1.0}]
    assert read_records(tmp_path / "samples.jsonl") == []


def test_notices_are_kept_apart_from_the_metrics(tmp_path):
    monitor = JsonlMonitor()
    monitor.open(tmp_path, config={}, num_steps=1, first_step=0)
    monitor.notice("expect a rise after step 31")
    monitor.log({"a/x": 1.0}, step=0)
    monitor.notice("going on")
    monitor.close()
    monitor.close()
    notices = read_records(tmp_path / "notices.jsonl")
    assert [(notice["step"], notice["text"]) for notice in notices] == [
        (-1, "expect a rise after step 31"),
        (0, "going on"),
    ]
    assert len(read_records(tmp_path / "metrics.jsonl")) == 1


def test_bad_setting_names_key_and_remedy():
    with pytest.raises(UsageError, match=r"monitor\.jsonl\.sync_every_s=-1"):
        JsonlMonitor(sync_every_s=-1)
