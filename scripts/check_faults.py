"""What a training run does when one of its processes is stopped, killed or signalled: makes the faults, prints a table.

    python scripts/check_faults.py                                  learner=deepspeed with 2 ranks, rollout=vllm
    python scripts/check_faults.py --faults rank-stopped rollout-killed
    python scripts/check_faults.py learner=accelerate rollout=transformers

Each fault is made in a run of its own with the tiny model, after its first steps. "noticed" is the time from the fault
to the end of the run (or until its work goes on), with both deadlines set to 20 s. "left" counts processes of the run
that live 15 s after its end, and files in /dev/shm that it has left there. Names joined by + are made one after the
other in the same run; all but the last must let it go on.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from processes_of_a_run import Traces, command_of, descendants, is_alive

DEADLINE_S = 20
PATIENCE_S = 240
RUN = (
    "task=countdown",
    "trainer.num_steps=100000",
    "trainer.prompts_per_step=8",
    "trainer.rollouts_per_prompt=4",
    "trainer.max_completion_tokens=24",
    "evaluation.every=0",
    # Only a request to stop makes one.
    "checkpoint.every=100000",
    "monitor=jsonl",
    "judge.num_workers=2",
    "learner=deepspeed",
    "learner.num_ranks=2",
    f"learner.deadline_s={DEADLINE_S}",
    f"runtime.heartbeat_deadline_s={DEADLINE_S}",
)
VLLM = ("rollout=vllm", "rollout.num_threads=1", f"rollout.deadline_s={DEADLINE_S}")
TARGETS = {
    "rank": "insight_rl.learner.processes:serve",
    "rollout": "insight_rl.rollout.vllm_worker:serve",
    "judge": "insight_rl.reward.judge_worker:serve",
}


@dataclass(kw_only=True)
class Outcome:
    fault: str
    ended: str
    """``code N``, or ``went on``."""
    seconds: float
    last_line: str
    has_stacks: bool
    has_checkpoint: bool
    left: list[str]


class Run:
    """A training run in a session of its own, whose processes can be found."""

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        self.folder = folder
        self._output = folder.parent / f"{folder.name}.txt"
        command = [sys.executable, "-m", "insight_rl", "train", *RUN]
        if not any(override.startswith("rollout=") for override in overrides):
            command += VLLM
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, *overrides, f"run_dir={folder}"], stdout=output, stderr=output, start_new_session=True
            )
        self.traces = Traces()

    @property
    def num_steps(self) -> int:
        log = self.folder / "selections.jsonl"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def wait_for_another_start(self) -> None:
        number = self.num_steps
        self.wait(lambda: self.num_steps < number, "step back")
        self.wait_for_steps(number + 3)

    def wait_for_steps(self, number: int) -> None:
        self.wait(lambda: self.num_steps >= number, f"{number} more steps")

    def wait(self, is_so: Callable[[], bool], what: str) -> None:
        """Bounded, and an end of the run before ``is_so`` is a failure at once."""
        deadline = time.monotonic() + PATIENCE_S
        while not is_so():
            if self.process.poll() is not None:
                raise SystemExit(f"the run ended with {self.process.returncode} before {what}:\n{self.output()}")
            if time.monotonic() > deadline:
                raise SystemExit(f"no {what} within {PATIENCE_S} s:\n{self.output()}")
            time.sleep(0.05)

    def pids(self, kind: str) -> list[int]:
        children = descendants(self.process.pid)
        self.traces.remember([self.process.pid, *children])
        return sorted(pid for pid in children if TARGETS[kind] in command_of(pid) and is_alive(pid))

    def send(self, kind: str, number: signal.Signals) -> None:
        os.kill(self.pids(kind)[-1], number)

    def send_group(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)

    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def end_code(self) -> int:
        return self.process.wait(timeout=PATIENCE_S)

    def close(self) -> None:
        self.traces.remember(descendants(self.process.pid))
        self.process.kill()
        self.process.wait()
        for pid in self.traces.living():
            os.kill(pid, signal.SIGKILL)


# Each makes its fault in a run that has done a few steps, and returns once the run has ended, or goes on.


def rank_stopped(run: Run) -> None:
    """All ranks are started again, and the run goes back to its start, as it has no checkpoint."""
    run.send("rank", signal.SIGSTOP)
    run.wait_for_another_start()


def rank_killed(run: Run) -> None:
    run.send("rank", signal.SIGKILL)
    run.wait_for_another_start()


def rank_killed_again(run: Run) -> None:
    """After one of the two above it is one loss more than runtime.max_restarts allows."""
    run.send("rank", signal.SIGKILL)
    run.end_code()


def rollout_stopped(run: Run) -> None:
    """It is replaced by another after its deadline, and its prompts are issued again."""
    run.send("rollout", signal.SIGSTOP)
    run.wait_for_steps(run.num_steps + 3)


def rollout_killed(run: Run) -> None:
    run.send("rollout", signal.SIGKILL)
    run.wait_for_steps(run.num_steps + 3)


def judge_stopped(run: Run) -> None:
    run.send("judge", signal.SIGSTOP)
    run.wait_for_steps(run.num_steps + 6)


def judge_killed(run: Run) -> None:
    run.send("judge", signal.SIGKILL)
    run.wait_for_steps(run.num_steps + 3)


def trainer_stopped(run: Run) -> None:
    """For longer than any deadline, then it goes on."""
    run.process.send_signal(signal.SIGSTOP)
    time.sleep(DEADLINE_S + 5)
    run.process.send_signal(signal.SIGCONT)
    run.wait_for_steps(run.num_steps + 3)


def trainer_killed(run: Run) -> None:
    """While a rank and the rollout process are stopped, so that they cannot notice it by themselves."""
    for kind in ("rank", "rollout", "judge"):
        if run.pids(kind):
            run.send(kind, signal.SIGSTOP)
    run.process.kill()
    run.end_code()
    run.traces.left()


def sigterm_to_the_group(run: Run) -> None:
    _signal_all(run, signal.SIGTERM)


def sighup_to_the_group(run: Run) -> None:
    _signal_all(run, signal.SIGHUP)


def sigint_to_the_group(run: Run) -> None:
    _signal_all(run, signal.SIGINT)


def _signal_all(run: Run, number: signal.Signals) -> None:
    """To the process group, and to every other process of the run as well, as a scheduler does."""
    for pid in [pid for kind in TARGETS for pid in run.pids(kind)]:
        os.kill(pid, number)
    run.send_group(number)
    run.end_code()


def sigterm_twice_beside_a_stopped_rank(run: Run) -> None:
    run.send("rank", signal.SIGSTOP)
    run.wait(lambda: run.num_steps > 0, "step")
    for _ in range(2):
        run.send_group(signal.SIGTERM)
        time.sleep(1)
    run.end_code()


FAULTS = {
    function.__name__.replace("_", "-"): function
    for function in (
        rank_stopped,
        rank_killed,
        rank_killed_again,
        rollout_stopped,
        rollout_killed,
        judge_stopped,
        judge_killed,
        trainer_stopped,
        trainer_killed,
        sigterm_to_the_group,
        sighup_to_the_group,
        sigint_to_the_group,
        sigterm_twice_beside_a_stopped_rank,
    )
}


ALL = [name.replace("rank-killed-again", "rank-killed+rank-killed-again") for name in FAULTS if name != "rank-killed"]


def make_fault(name: str, folder: Path, overrides: list[str]) -> Outcome:
    """Start a run in ``folder``/``name``, make the fault there and look at what comes of it."""
    run = Run(folder / name, overrides)
    try:
        run.wait_for_steps(3)
        run.traces.remember([run.process.pid, *descendants(run.process.pid)])
        start = time.monotonic()
        for fault in name.split("+"):
            FAULTS[fault](run)
        seconds = time.monotonic() - start
        has_ended = run.process.poll() is not None
        lines = [line for line in run.output().splitlines() if line.startswith(("insight-rl", "Traceback"))]
        return Outcome(
            fault=name,
            ended=f"code {run.process.returncode}" if has_ended else "went on",
            seconds=seconds,
            last_line=" / ".join(lines),
            has_stacks=any(run.folder.glob("stacks-*.txt")),
            has_checkpoint=any((run.folder / "checkpoints").glob("step_*")),
            left=run.traces.left() if has_ended else [],
        )
    finally:
        run.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the run's configuration")
    parser.add_argument("--faults", nargs="+", default=ALL, help=f"only these; there are {', '.join(FAULTS)}")
    arguments = parser.parse_intermixed_args()
    if unknown := {fault for name in arguments.faults for fault in name.split("+")} - FAULTS.keys():
        parser.error(f"--faults: there is no {', '.join(sorted(unknown))}")
    # So that a run is not left behind where this script is ended by `timeout`.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    print("| fault | end | noticed, s | stacks | checkpoint | left | what it says |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.faults:
            outcome = make_fault(name, Path(folder), arguments.overrides)
            print(
                f"| {name} | {outcome.ended} | {outcome.seconds:.1f} | {'yes' if outcome.has_stacks else '-'} | "
                f"{'yes' if outcome.has_checkpoint else '-'} | "
                f"{len(outcome.left)} | {outcome.last_line} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
