"""What a user sees: in a terminal of 80 columns, and in a file."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from insight_rl.errors import UsageError
from insight_rl.monitor.console import ConsoleMonitor
from insight_rl.monitor.records import metrics_record, to_lines
from insight_rl.monitor.summary import summarise
from insight_rl.types import Histogram, Metrics

NUM_STEPS = 25
LONG_NOTICE = "each of the 2000 prompts is visited once first: " + "expect the informative fraction to rise later " * 3
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def metrics_of(step: int) -> Metrics:
    evaluation: Metrics = {
        "eval/accuracy": 0.3125 + step / 100,
        "eval/pass_at_1": 0.3125,
        "eval/pass_at_16": 0.75,
        "eval/pass_at_4": 0.5,
        "time/evaluate_s": 1.5,
    }
    if step == 0:
        return evaluation
    return {
        "reward/mean": 0.4125,
        "selector/informative_fraction": 0.72,
        "selector/belief_histogram": Histogram(counts=(1,), edges=(0.0, 1.0)),
        "rollout/num_rollouts": 512 * step,
        "rollout/num_tokens": 5120 * step,
        "time/select_s": 0.01,
        "time/rollout_s": 0.5,
        "time/reward_s": 0.09,
        "time/learn_s": 0.3,
        "time/sync_s": 0.0,
        "time/step_s": 1.0,
        "learner/mfu": 0.42,
        **(evaluation if step % 20 == 0 else {}),
    }


def show_run(tmp_path, console, *, first_step=0) -> str:
    monitor = ConsoleMonitor(console=console)
    monitor.open(tmp_path, config={}, num_steps=NUM_STEPS, first_step=first_step)
    monitor.notice(LONG_NOTICE)
    for step in range(first_step, NUM_STEPS + 1):
        monitor.log(metrics_of(step), step=step)
    records = [metrics_record(metrics_of(step), step=step) for step in range(NUM_STEPS + 1)]
    (tmp_path / "metrics.jsonl").write_text(to_lines(records))
    monitor.close(summarise(tmp_path))
    return console.file.getvalue()


@pytest.fixture
def file_output(tmp_path) -> str:
    return show_run(tmp_path, Console(file=io.StringIO(), highlight=False))


def test_a_file_gets_plain_lines(file_output):
    assert "\x1b" not in file_output
    assert "\r" not in file_output
    lines = file_output.splitlines()
    assert lines[0] == LONG_NOTICE, "a line in a file is not wrapped"
    assert [line.split()[1] for line in lines if re.match(r"step \d+/", line)] == ["1/25", "10/25", "20/25", "25/25"]


def test_a_line_says_what_matters(file_output):
    line = next(line for line in file_output.splitlines() if line.startswith("step 10/25"))
    for part in ("reward 0.412", "informative groups 72%", "held-out accuracy 0.312", "1.00 s/step", "left"):
        assert part in line
    assert "select 1%  roll out 50%  reward 9%  learn 30%  sync 0%  mfu 42%" in line


def test_evaluations_are_compared_with_the_one_before_training(file_output):
    assert "before training  held-out accuracy 0.312  pass@4 0.500  pass@16 0.750\n" in file_output
    assert "step 20  held-out accuracy 0.512  (+20.0 points)  pass@4 0.500  pass@16 0.750\n" in file_output


def test_the_summary_has_its_figures_and_files(file_output, tmp_path):
    summary = file_output[file_output.index("summary") :]
    rows = {line[:18].strip(): line[18:].split() for line in summary.splitlines()[1:] if line[:18].strip()}
    assert "not judged" not in file_output
    assert rows["held-out accuracy"][:4] == ["0.312", "before,", "0.512", "after"]
    assert rows["rollouts"] == ["12,800"]
    assert rows["tokens generated"] == ["128,000"]
    assert rows["roll out"][:2] == ["12.5", "44.6%"]
    assert rows["evaluate"][:2] == ["3.0", "10.7%"]
    assert rows["other"][:2] == ["2.5", "8.9%"]
    assert rows["total"] == ["28.0"]
    assert "metrics.jsonl" in rows
    assert "curves.png" not in rows, "only files that are there are listed"


@pytest.mark.parametrize("width", [50, 80, 120])
def test_a_terminal_is_never_overrun(tmp_path, width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False)
    output = show_run(tmp_path, console)
    assert "\x1b[" in output
    visible = [line for part in output.split("\n") for line in ESCAPE.sub("", part).split("\r")]
    assert max(map(len, visible)) <= width
    assert any(line.startswith(f"step {NUM_STEPS}/{NUM_STEPS} ") for line in visible)
    assert any("informative groups 72%" in line for line in visible)
    assert any("roll out 50%" in line for line in visible)


def test_a_console_without_unicode_gets_none(tmp_path):
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monitor = ConsoleMonitor(console=Console(file=file, highlight=False))
    monitor.open(tmp_path, config={}, num_steps=1, first_step=0)
    monitor.log(metrics_of(1), step=1)
    (tmp_path / "metrics.jsonl").write_text(to_lines([metrics_record(metrics_of(1), step=1)]))
    monitor.close(summarise(tmp_path))
    file.flush()
    assert b"step 1/1" in file.buffer.getvalue()


@pytest.mark.parametrize("first_step", [0, 11])
def test_time_left_follows_the_wall_clock_of_this_session(tmp_path, monkeypatch, first_step):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    console = Console(file=io.StringIO())
    monitor = ConsoleMonitor(console=console, lines_every=1)
    monitor.open(tmp_path, config={}, num_steps=100, first_step=first_step)
    if first_step == 0:
        now += 500.0
        monitor.log(metrics_of(0), step=0)
    for step in range(max(1, first_step), 21):
        now += 60.0
        monitor.log(metrics_of(1), step=step)
    assert "step 20/100" in console.file.getvalue()
    assert "1:20:00 left" in console.file.getvalue().splitlines()[-1]


def test_a_run_cut_short_closes_without_a_summary(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    monitor = ConsoleMonitor(console=console)
    monitor.open(tmp_path, config={}, num_steps=5, first_step=0)
    monitor.close()
    monitor.close()
    shown, hidden = (console.file.getvalue().rfind(f"\x1b[?25{end}") for end in "hl")
    assert shown > hidden >= 0, "the cursor is shown again"
    assert "summary" not in console.file.getvalue()


def test_an_accuracy_that_lacks_verdicts_says_so(tmp_path):
    console = Console(file=io.StringIO(), highlight=False)
    monitor = ConsoleMonitor(console=console, lines_every=1)
    monitor.open(tmp_path, config={"evaluation": {"every": 4}}, num_steps=10, first_step=0)
    monitor.log({"eval/accuracy": 0.25, "eval/unjudged_fraction": 0.5}, step=0)
    assert "held-out accuracy 0.250  not judged 50.0%" in console.file.getvalue()


def test_bad_setting_names_key_and_remedy():
    with pytest.raises(UsageError, match=r"monitor\.console\.lines_every=0: must be at least 1"):
        ConsoleMonitor(lines_every=0)


def test_time_left_counts_the_evaluations_to_come(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    console = Console(file=io.StringIO(), highlight=False)
    monitor = ConsoleMonitor(console=console, lines_every=1)
    monitor.open(tmp_path, config={"evaluation": {"every": 4}}, num_steps=10, first_step=0)
    for step in range(7):
        is_evaluated = step in (0, 4)
        now += 100.0 if is_evaluated else 0.0
        now += 2.0 if step else 0.0
        monitor.log({"eval/accuracy": 0.5, "time/evaluate_s": 100.0} if is_evaluated else {}, step=step)
    lines = [
        line.split() for line in console.file.getvalue().splitlines() if line.startswith("step") and "left" in line
    ]
    # 2 s a step, and 100 s each after steps 4, 8 and 10.
    left = {line[1]: line[line.index("left") - 1] for line in lines}
    assert left["1/10"] == "0:05:18" and left["4/10"] == "0:03:32" and left["6/10"] == "0:03:28"
