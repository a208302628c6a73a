"""Event files are read back with TensorBoard's own reader, whatever became of the run."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from insight_rl.errors import UsageError
from insight_rl.monitor.dashboard import SECTIONS
from insight_rl.monitor.tensorboard import FOLDER, TensorBoardMonitor, layout
from insight_rl.types import Histogram, Metrics, Table

pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")

CONFIG = {"seed": 3, "selector_name": "insight", "trainer": {"num_steps": 6}}
HOSTILE = "</code>\n# heading [link](javascript:x) \0 \ud800 <script>"


def metrics_of(step: int) -> Metrics:
    if step == 0:
        return {"eval/accuracy": 0.25}
    return {
        "reward/mean": step / 7,
        "learner/loss": float("nan"),
        "rollout/num_rollouts": 8 * step,
        "rollout/num_tokens": 100 * step,
        "selector/belief_histogram": Histogram(counts=(step, 1), edges=(0.0, 0.5, 1.0)),
        "rollout/samples": Table(columns=("completion",), rows=((HOSTILE,),)),
        **({"eval/accuracy": 0.5} if step % 3 == 0 else {}),
    }


def log_steps(run_dir: Path, *, first_step: int, last_step: int) -> None:
    run_dir.mkdir(exist_ok=True)
    monitor = TensorBoardMonitor()
    monitor.open(run_dir, config=CONFIG, num_steps=6, first_step=first_step)
    for step in range(first_step, last_step + 1):
        monitor.log(metrics_of(step), step=step)
    monitor.close()


def read(run_dir: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run_dir / FOLDER), size_guidance={"scalars": 0, "tensors": 0, "histograms": 0})
    accumulator.Reload()
    return accumulator


def curve(accumulator, tag: str) -> list[tuple[int, float]]:
    # Files of one second are read in the order of their names, which is not that of their making.
    return sorted((event.step, event.value) for event in accumulator.Scalars(tag))


def test_each_metric_in_its_own_form(tmp_path):
    log_steps(tmp_path / "run", first_step=0, last_step=6)
    found = read(tmp_path / "run")
    assert curve(found, "reward/mean") == [(step, pytest.approx(step / 7)) for step in range(1, 7)]
    assert [step for step, _ in curve(found, "learner/loss")] == list(range(1, 7))
    assert curve(found, "eval/accuracy") == [(0, 0.25), (3, 0.5), (6, 0.5)]
    assert curve(found, "eval_by_tokens/accuracy") == [(0, 0.25), (300, 0.5), (600, 0.5)]
    assert curve(found, "eval_by_rollouts/accuracy") == [(0, 0.25), (24, 0.5), (48, 0.5)]
    histogram = found.Histograms("selector/belief_histogram")[2].histogram_value
    assert (list(histogram.bucket_limit), list(histogram.bucket)) == ([0.0, 0.5, 1.0], [0, 3, 1])
    assert (histogram.num, histogram.sum) == (4, 3 * 0.25 + 0.75)


def text_of(accumulator, tag: str) -> str:
    return accumulator.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0].decode()


def test_text_is_shown_as_it_is(tmp_path):
    log_steps(tmp_path / "run", first_step=0, last_step=1)
    found = read(tmp_path / "run")
    samples = text_of(found, "rollout/samples")
    # A Markdown code block: nothing begins at the margin, where a heading, a link or HTML would be read.
    assert all(line.startswith("    ") for line in samples.splitlines())
    assert json.loads(samples)["completion"].encode("utf-16", "surrogatepass") == HOSTILE.encode(
        "utf-16", "surrogatepass"
    )
    assert "arm: insight" in text_of(found, "config") and "num_steps: 6" in text_of(found, "config")


def test_the_layout_has_the_sections():
    assert list(layout()) == [section.title for section in SECTIONS]
    chart = layout()["Accuracy"]["Held-out accuracy over generated tokens"]
    # TensorBoard takes keys as patterns: without an end this one would show eval_by_tokens/accuracy_half_width too.
    assert chart == ["Multiline", ["^eval_by_tokens/accuracy$"]]


@pytest.mark.parametrize("resumed_from", [1, 3, 4])
def test_a_resumed_run_has_every_step_once(tmp_path, resumed_from):
    log_steps(tmp_path / "whole", first_step=0, last_step=6)
    log_steps(tmp_path / "cut", first_step=0, last_step=3)
    log_steps(tmp_path / "cut", first_step=resumed_from, last_step=6)
    whole, cut = read(tmp_path / "whole"), read(tmp_path / "cut")
    for kind in ("scalars", "histograms", "tensors"):
        assert sorted(whole.Tags()[kind]) == sorted(cut.Tags()[kind])
    for tag in whole.Tags()["scalars"]:
        assert repr(curve(whole, tag)) == repr(curve(cut, tag)), tag
    assert len(cut.Histograms("selector/belief_histogram")) == 6
    assert len(cut.Tensors("config/text_summary")) == 1


def test_a_record_that_was_cut_off_is_written_again(tmp_path):
    log_steps(tmp_path / "run", first_step=0, last_step=3)
    (file,) = (tmp_path / "run" / FOLDER).iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:-20])
    log_steps(tmp_path / "run", first_step=2, last_step=6)
    found = read(tmp_path / "run")
    assert [step for step, _ in curve(found, "reward/mean")] == list(range(1, 7))


def test_a_run_that_starts_anew_keeps_nothing(tmp_path):
    log_steps(tmp_path / "run", first_step=0, last_step=5)
    log_steps(tmp_path / "run", first_step=0, last_step=1)
    assert curve(read(tmp_path / "run"), "reward/mean") == [(1, pytest.approx(1 / 7))]


def test_kill_9_keeps_every_logged_step(tmp_path):
    script = (
        "import sys; from pathlib import Path; from insight_rl.monitor.tensorboard import TensorBoardMonitor\n"
        "monitor = TensorBoardMonitor()\n"
        "monitor.open(Path(sys.argv[1]), config={}, num_steps=10**6, first_step=0)\n"
        "for step in range(10**6):\n"
        "    monitor.log({'reward/mean': step / 7}, step=step)\n"
        "    print(step, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= 20:
            child.send_signal(signal.SIGKILL)
            break
    last = [20, *map(int, child.stdout.read().split())][-1]
    child.wait()
    steps = [step for step, _ in curve(read(tmp_path), "reward/mean")]
    assert steps == list(range(len(steps))) and len(steps) > last


def test_no_thread_is_left_over(tmp_path):
    before = threading.active_count()
    log_steps(tmp_path / "run", first_step=0, last_step=2)
    assert threading.active_count() == before


def test_missing_package_is_reported_before_anything_loads(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"monitor=tensorboard: .*insight-rl\[tensorboard\]"):
        TensorBoardMonitor()
