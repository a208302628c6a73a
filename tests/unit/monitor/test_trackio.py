"""The database is read back with Trackio's own storage, whatever became of the run."""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from insight_rl.errors import UsageError
from insight_rl.monitor import trackio
from insight_rl.monitor.trackio import FOLDER, TrackioMonitor
from insight_rl.types import Histogram, Metrics, Table

pytest.importorskip("trackio", reason="the extra trackio is not installed")

CONFIG = {"seed": 3, "selector_name": "insight", "run_group": "sweep"}
HOSTILE = "<script>alert(1)</script> \0 \ud800"


def metrics_of(step: int) -> Metrics:
    if step == 0:
        return {"eval/accuracy": 0.25}
    return {
        "reward/mean": step / 7,
        "learner/loss": float("nan"),
        "rollout/num_rollouts": 8 * step,
        "rollout/num_tokens": 100 * step,
        "selector/belief_histogram": Histogram(counts=(step, 1), edges=(0.0, 0.5, 1.0)),
        "rollout/samples": Table(columns=("completion", "reward"), rows=((HOSTILE, 1.0),)),
        **({"eval/accuracy": 0.5} if step % 3 == 0 else {}),
    }


def log_steps(run_dir: Path, *, first_step: int, last_step: int, **settings) -> None:
    run_dir.mkdir(exist_ok=True)
    monitor = TrackioMonitor(**settings)
    monitor.open(run_dir, config=CONFIG, num_steps=6, first_step=first_step)
    for step in range(first_step, last_step + 1):
        monitor.log(metrics_of(step), step=step)
    monitor.close()


def read(folder: Path, run: str) -> list[dict]:
    with trackio._storage(folder) as storage:
        return [{k: v for k, v in row.items() if k != "timestamp"} for row in storage.get_logs("insight_rl", run)]


def test_each_metric_in_its_own_form(tmp_path):
    log_steps(tmp_path / "demo", first_step=0, last_step=3)
    rows = read(tmp_path / "demo" / FOLDER, "demo")
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    # Evaluations have an axis in every step, also before training.
    assert rows[0] == {
        "step": 0,
        "eval/accuracy": 0.25,
        "eval_by_rollouts/accuracy": 0.25,
        "eval_by_tokens/accuracy": 0.25,
        "rollout/num_rollouts": 0,
        "rollout/num_tokens": 0,
    }
    assert rows[2]["reward/mean"] == 2 / 7 and "learner/loss" not in rows[2]
    assert rows[3]["selector/belief_histogram"] == {
        "_type": "trackio.histogram",
        "bins": [0.0, 0.5, 1.0],
        "values": [3, 1],
    }
    table = rows[1]["rollout/samples"]
    assert table["_type"] == "trackio.table"
    assert table["_value"] == [{"completion": HOSTILE.encode("utf-8", "backslashreplace").decode(), "reward": 1.0}]
    with trackio._storage(tmp_path / "demo" / FOLDER) as storage:
        config = storage.get_run_config("insight_rl", "demo")
    assert (config["seed"], config["arm"], config["_Group"]) == (3, "insight", "sweep")
    assert config["tags"] == ["selector=insight", "seed=3"]


def test_the_forms_are_the_librarys_own():
    from trackio import Histogram as TheirHistogram
    from trackio import Table as TheirTable

    theirs = TheirHistogram(np_histogram=((3, 1), (0.0, 0.5, 1.0)))._to_dict()
    assert trackio._entry("h", Histogram(counts=(3, 1), edges=(0.0, 0.5, 1.0)), 1) == theirs
    rows = [["a", 1.0], ["b", 2.0]]
    theirs = TheirTable(columns=["c", "d"], data=rows)._to_dict(project="p", run="r")
    assert trackio._entry("t", Table(columns=("c", "d"), rows=tuple(map(tuple, rows))), 1) == theirs


@pytest.mark.parametrize("resumed_from", [1, 3, 4])
def test_a_resumed_run_has_every_step_once_under_one_id(tmp_path, resumed_from):
    log_steps(tmp_path / "demo", first_step=0, last_step=3)
    before = (tmp_path / "demo" / FOLDER / "run_id").read_text()
    log_steps(tmp_path / "demo", first_step=resumed_from, last_step=6)
    rows = read(tmp_path / "demo" / FOLDER, "demo")
    assert [row["step"] for row in rows] == list(range(7))
    assert rows[5]["reward/mean"] == 5 / 7
    assert (tmp_path / "demo" / FOLDER / "run_id").read_text() == before


def test_runs_that_share_a_folder_share_a_dashboard(tmp_path):
    for name in ("a", "b"):
        log_steps(tmp_path / name, first_step=0, last_step=1, folder=str(tmp_path / "all"))
    with trackio._storage(tmp_path / "all") as storage:
        assert sorted(record["name"] for record in storage.get_run_records("insight_rl")) == ["a", "b"]


def test_starting_anew_in_a_folder_is_another_run(tmp_path):
    log_steps(tmp_path / "demo", first_step=0, last_step=2)
    first = (tmp_path / "demo" / FOLDER / "run_id").read_text()
    log_steps(tmp_path / "demo", first_step=0, last_step=1)
    assert (tmp_path / "demo" / FOLDER / "run_id").read_text() != first


def test_no_network_no_thread_no_random_number_and_no_file_in_the_home(tmp_path):
    """In a process of its own, where the library is imported for the first time."""
    script = (
        "import random, socket, sys, threading; from pathlib import Path\n"
        "def refuse(*arguments, **more): raise AssertionError('no network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "state = random.getstate()\n"
        "from insight_rl.monitor.trackio import TrackioMonitor\n"
        "monitor = TrackioMonitor()\n"
        "monitor.open(Path(sys.argv[1]), config={'seed': 1}, num_steps=2, first_step=0)\n"
        "monitor.log({'reward/mean': 0.5}, step=1)\n"
        "monitor.close()\n"
        "assert random.getstate() == state\n"
        "assert threading.active_count() == 1\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PYTHONPATH": ":".join(sys.path), "HF_TOKEN": "hf_none"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (told,) = done.stdout.splitlines()
    assert told.endswith(f"`TRACKIO_DIR={tmp_path / 'run' / FOLDER} trackio show --project insight_rl`")
    assert list(home.iterdir()) == []
    assert len(read(tmp_path / "run" / FOLDER, "run")) == 1


def test_kill_9_keeps_every_logged_step(tmp_path):
    script = (
        "import sys; from pathlib import Path; from insight_rl.monitor.trackio import TrackioMonitor\n"
        "monitor = TrackioMonitor()\n"
        "monitor.open(Path(sys.argv[1]), config={}, num_steps=10**6, first_step=0)\n"
        "for step in range(10**6):\n"
        "    monitor.log({'reward/mean': step / 7}, step=step)\n"
        "    print(step, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= 5:
            child.send_signal(signal.SIGKILL)
            break
    last = [5, *map(int, child.stdout.read().split())][-1]
    child.wait()
    steps = [row["step"] for row in read(tmp_path / "run" / FOLDER, "run")]
    assert steps == list(range(len(steps))) and len(steps) > last


def test_writing_leaves_threads_and_sockets_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", None)
    before = threading.active_count()
    log_steps(tmp_path / "demo", first_step=0, last_step=1)
    assert threading.active_count() == before


def test_bad_settings_name_key_and_remedy(monkeypatch):
    with pytest.raises(UsageError, match=r"monitor\.trackio\.project='a/b': use letters"):
        TrackioMonitor(project="a/b")
    with pytest.raises(UsageError, match=r"monitor\.trackio\.folder=''"):
        TrackioMonitor(folder="")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"monitor=trackio: .*insight-rl\[trackio\]"):
        TrackioMonitor()
