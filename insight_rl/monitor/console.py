"""Shows a run in the terminal while it goes, and its summary at the end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table as RichTable
from rich.text import Text

from insight_rl.clock import STEP_PHASES
from insight_rl.errors import check
from insight_rl.monitor.summary import PHASES, Summary
from insight_rl.types import Metrics

WORDS = {"rollout": "roll out"}
"""Phases whose word for people is not their word in metric keys."""

FILES = {
    "curves.png": "picture of the run",
    "metrics.jsonl": "every metric of every step",
    "samples.jsonl": "sample completions",
    "selections.jsonl": "the prompts of every step",
    "decisions": "why each prompt was selected",
    "rollouts": "to leaf through with insight-rl report",
    "config.yaml": "the resolved configuration",
    "model": "Hugging Face model",
    "adapter": "LoRA adapter, merged in model",
    "checkpoints": "for resume=auto",
    "logs": "what ranks and workers have printed",
}


class ConsoleMonitor:
    """A live display in a terminal; elsewhere (a file, a pipe) plain lines without control codes.

    Evaluations and notices stay on the screen above the display; all else is drawn over at the next step.
    """

    def __init__(self, *, lines_every: int = 10, console: Console | None = None) -> None:
        check(lines_every >= 1, "monitor.console.lines_every", lines_every, "must be at least 1 step")
        self._lines_every = lines_every
        self._console = console or Console(highlight=False)
        self._live: Live | None = None
        self._num_steps = 0
        self._first_step = 1
        self._step = 0
        self._started_s = 0.0
        self._evaluate_every = 0
        self._evaluate_s = 0.0
        self._evaluating_s = 0.0
        self._latest: dict[str, float] = {}
        self._accuracy_before: float | None = None

    def open(self, run_dir: Path, *, config: Mapping[str, Any], num_steps: int, first_step: int) -> None:
        # The evaluation before training is step 0 and no training step.
        self._num_steps, self._first_step = num_steps, max(1, first_step)
        self._step = self._first_step - 1
        self._evaluate_every = int(config.get("evaluation", {}).get("every", 0))
        self._started_s = time.monotonic()
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            streams = sys.stdout, sys.stderr
            # Drawn once a second, so that the clock goes on during a long step.
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=1, transient=True)
            self._live.start()
            os.register_at_fork(after_in_child=lambda: self._release_streams(*streams))

    def log(self, metrics: Metrics, *, step: int) -> None:
        self._latest.update({key: float(v) for key, v in metrics.items() if isinstance(v, (int, float))})
        self._step = step
        evaluate_s = float(metrics.get("time/evaluate_s", 0.0))  # type: ignore[arg-type]
        self._evaluate_s = evaluate_s or self._evaluate_s
        self._evaluating_s += evaluate_s
        if step < self._first_step:
            # The estimate of the time left starts with the first training step.
            self._started_s, self._evaluating_s = time.monotonic(), 0.0
        if "eval/accuracy" in metrics:
            self._print(self._evaluation_line())
        if self._live is not None:
            self._live.refresh()
        elif self._is_line_due(step):
            position = f"step {step}/{self._num_steps}"
            self._print(Text("  ".join([position, *self._figures(), self._time_left(), *self._pace()])))

    def notice(self, text: str) -> None:
        self._print(Text(text, style="yellow"))

    def close(self, summary: Summary | None = None) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if summary is not None:
            self._console.print(_render_summary(summary))

    def _is_line_due(self, step: int) -> bool:
        is_end = step in (self._first_step, self._num_steps)
        return step >= self._first_step and (is_end or step % self._lines_every == 0)

    def _release_streams(self, stdout: Any, stderr: Any) -> None:
        # The display catches what others print. In a forked child its lock may be held by a thread that is not there.
        if self._live is not None:
            sys.stdout, sys.stderr = stdout, stderr

    def _print(self, text: Text) -> None:
        # Lines are wrapped for people at a terminal; in a file a line stays a line.
        self._console.print(text, soft_wrap=self._live is None)

    def _evaluation_line(self) -> Text:
        accuracy = self._latest["eval/accuracy"]
        line = Text("before training  " if self._step == 0 else f"step {self._step}  ")
        line.append("held-out accuracy ").append(f"{accuracy:.3f}", style="bold green")
        if self._step == 0:
            self._accuracy_before = accuracy
        elif self._accuracy_before is not None:
            line.append(f"  ({_points(accuracy - self._accuracy_before)})")
        for key in sorted(self._latest, key=lambda key: (len(key), key)):
            if key.startswith("eval/pass_at_") and key != "eval/pass_at_1":
                line.append(f"  pass@{key.removeprefix('eval/pass_at_')} {self._latest[key]:.3f}")
        if (unjudged := self._latest.get("eval/unjudged_fraction", 0.0)) > 0:
            line.append(f"  not judged {unjudged:.1%}", style="bold red")
        if (truncated := self._latest.get("eval/truncated_fraction", 0.0)) > 0:
            line.append(f"  truncated {truncated:.1%}")
        return line

    def _figures(self) -> list[str]:
        shown = [
            ("reward", "reward/mean", "{:.3f}"),
            ("informative groups", "selector/informative_fraction", "{:.0%}"),
            ("held-out accuracy", "eval/accuracy", "{:.3f}"),
        ]
        return [f"{word} {form.format(self._latest[key])}" for word, key, form in shown if key in self._latest]

    def _pace(self) -> list[str]:
        """Seconds of the latest step and what they went into."""
        step_s = self._latest.get("time/step_s", 0.0)
        if step_s <= 0:
            return []
        shares = {phase: self._latest.get(f"time/{phase}_s", 0.0) / step_s for phase in STEP_PHASES}
        pace = [f"{step_s:.2f} s/step", *(f"{WORDS.get(phase, phase)} {share:.0%}" for phase, share in shares.items())]
        return [*pace, *([f"mfu {self._latest['learner/mfu']:.0%}"] if "learner/mfu" in self._latest else [])]

    def _num_done(self) -> int:
        return max(0, self._step - self._first_step + 1)

    def _time_left(self) -> str:
        if self._num_done() == 0:
            return "-:--:-- left"
        # By the wall clock, so that checkpoints are part of the estimate. An evaluation may take longer than all steps
        # between two of them, so those still to come are counted.
        stepping_s = time.monotonic() - self._started_s - self._evaluating_s
        left_s = stepping_s / self._num_done() * (self._num_steps - self._step)
        return f"{_clock(left_s + self._evaluate_s * self._num_evaluations_left())} left"

    def _num_evaluations_left(self) -> int:
        every = self._evaluate_every
        if every == 0 or self._step >= self._num_steps:
            return 0
        # The last step always has one.
        return (self._num_steps - 1) // every - self._step // every + 1

    def _render(self) -> Group:
        progress = RichTable.grid(expand=True, padding=(0, 2, 0, 0))
        progress.add_column(no_wrap=True)
        progress.add_column(ratio=1)
        progress.add_column(no_wrap=True)
        progress.add_row(
            Text(f"step {self._step}/{self._num_steps}", style="bold"),
            ProgressBar(total=self._num_steps, completed=self._step),
            f"{_clock(time.monotonic() - self._started_s)} gone, {self._time_left()}",
        )
        return Group(
            progress,
            Text("   ".join(self._figures()), no_wrap=True, overflow="ellipsis"),
            Text("   ".join(self._pace()), style="dim", no_wrap=True, overflow="ellipsis"),
        )


def _render_summary(summary: Summary) -> Group:
    figures = RichTable.grid(padding=(0, 3, 0, 0))
    figures.add_row("held-out accuracy", _accuracy_text(summary))
    if summary.best_step and summary.accuracy_best != summary.accuracy_after:
        figures.add_row("its best", f"{summary.accuracy_best:.3f} after step {summary.best_step}")
    figures.add_row("training steps", f"{summary.num_steps:,}")
    figures.add_row("rollouts", f"{summary.num_rollouts:,}")
    figures.add_row("tokens generated", f"{summary.num_tokens:,}")
    if summary.informative_fraction is not None:
        figures.add_row("informative groups", f"{summary.informative_fraction:.0%} on average")

    total_s = sum(summary.seconds.values())
    times = RichTable.grid(padding=(0, 3, 0, 0))
    times.add_column(min_width=18, no_wrap=True)
    times.add_column(min_width=7, justify="right", no_wrap=True)
    times.add_column(min_width=6, justify="right", no_wrap=True)
    times.add_column(no_wrap=True, overflow="crop", style="cyan")
    times.add_row("time spent", "seconds", "share", "", style="bold")
    for phase in PHASES:
        seconds = summary.seconds[phase]
        share = seconds / total_s if total_s else 0.0
        times.add_row(WORDS.get(phase, phase), f"{seconds:,.1f}", f"{share:.1%}", "=" * round(30 * share))
    times.add_row("total", f"{total_s:,.1f}", "", "", style="bold")

    files = RichTable.grid(padding=(0, 3, 0, 0))
    files.add_row(Text("files", style="bold"), Text(f"{summary.run_dir}{os.sep}", overflow="fold"))
    for name, meaning in FILES.items():
        if (summary.run_dir / name).exists():
            files.add_row(f"  {name}", meaning)

    return Group(Rule("summary"), figures, Text(), times, Text(), files)


def _accuracy_text(summary: Summary) -> Text:
    before, after = summary.accuracy_before, summary.accuracy_after
    text = Text("not measured" if before is None else f"{before:.3f}").append(" before,  ")
    if after is None:
        return text.append("not measured after")
    text.append(f"{after:.3f}", style="bold green").append(" after")
    if before is not None:
        text.append(f"   ({_points(after - before)})")
    return text


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f} points"


def _clock(seconds: float) -> str:
    minutes, whole_seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{whole_seconds:02d}"
