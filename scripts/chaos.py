"""Kills or stops a process of a run at a random moment, many times: each run has to decide as if nothing had been.

    python scripts/chaos.py                                      20 runs, and one undisturbed
    python scripts/chaos.py --runs 4 --seed 7 --keep /tmp/chaos  four other ones, whose folders stay
    python scripts/chaos.py rollout=vllm rollout.num_workers=2   with vLLM, whose engine core is hit too
    python scripts/chaos.py runtime=ray                          ranks and rollout workers as actors, in a cluster of
                                                                 two nodes, of which a whole one is hit too

Every run is the same: Countdown with the tiny model, two learner ranks, two rollout workers, two judge workers, and a
selector at a selector service. In each, one process is chosen at random (seeded), and SIGKILL or SIGSTOP is sent to it
at a random moment of training. What this script does itself, as a service manager or a person would: it starts the
selector service again, gives the same command again where the driver was killed, lets a stopped driver or service go on
after some seconds, and adds a Ray node in the place of a lost one. A run has passed if it ended with code 0, rolled out
every prompt once, and has the selections and the metrics of the undisturbed run; `left` counts processes and files in
/dev/shm that outlived it. Ends with 1 if one failed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from processes_of_a_run import Traces, command_of, descendants, is_alive, until
from ray_nodes import FOR_LOST_NODES, RayNodes

from insight_rl.monitor.dictionary import is_of_the_machine

RUN = (
    "task=countdown",
    "trainer.num_steps=8",
    "trainer.prompts_per_step=8",
    "trainer.rollouts_per_prompt=4",
    "trainer.max_completion_tokens=16",
    "evaluation.every=0",
    "checkpoint.every=3",
    "monitor=jsonl",
    "selector=remote",
    "learner.num_ranks=2",
    "rollout=transformers_workers",
    "rollout.num_threads=1",
    "judge.num_workers=2",
    "judge.deadline_s=15",
    "runtime.heartbeat_deadline_s=15",
    "runtime.max_restarts=2",
)
TARGETS = {
    "rank": ("insight_rl.learner.processes:serve", "ray::RankActor"),
    "rollout worker": ("rollout.transformers_worker:serve", "rollout.vllm_worker:serve", "ray::RolloutActor"),
    "judge worker": ("insight_rl.reward.judge_worker:serve",),
    "engine core": ("EngineCore", "multiprocessing.spawn"),
}
"""How the command line of each kind of child can be told, a process's and an actor's."""
OUTSIDE = ("selector service", "driver")
NODE = "Ray node"
SIGNALS = (signal.SIGKILL, signal.SIGSTOP)
_LOOK_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One process that is hit: once step ``after_step`` is logged, and a share of a step's time has gone."""

    target: str
    number: signal.Signals
    after_step: int
    share: float
    pause_s: float
    """Until what was hit goes on, where this script has to see to that."""
    which: int
    """Of several processes of the kind."""


@dataclass(kw_only=True)
class Outcome:
    name: str
    hits: list[Hit]
    codes: list[int] = field(default_factory=list)
    seconds: float = 0.0
    said: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def draw_hit(generator: random.Random, num_steps: int, targets: Sequence[str]) -> Hit:
    return Hit(
        target=generator.choice(targets),
        number=generator.choice(SIGNALS),
        after_step=generator.randrange(num_steps),
        share=generator.random(),
        pause_s=generator.uniform(0.5, 4.0),
        which=generator.randrange(100),
    )


class Service:
    """The selector service, on the same port and data folder each time it is started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "insight_rl", "serve-selector", "--port", str(self.port)]
        command += ["--data-dir", str(self.folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self.process.stdout is not None
        self.process.stdout.readline()  # it listens

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Run:
    """A training run in ``folder``, and its processes."""

    def __init__(
        self, folder: Path, overrides: Sequence[str], service: Service, *, nodes: RayNodes | None, patience_s: float
    ) -> None:
        self.folder = folder
        self.nodes = nodes
        self._command = [sys.executable, "-m", "insight_rl", "train", *RUN, *overrides]
        self._command += [f"run_dir={folder}", f"selector.url={service.url}", "selector.num_retries=60"]
        self._command += [] if nodes is None else [f"runtime.address={nodes.address}"]
        self._patience_s = patience_s
        self.traces = Traces()
        self.output = folder.parent / f"{folder.name}.txt"
        self.start()

    def start(self) -> None:
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(self._command, stdout=output, stderr=output, start_new_session=True)
        self._end_s = time.monotonic() + self._patience_s

    @property
    def step(self) -> int:
        """The last that is logged; -1 before the evaluation before training, when models are loaded."""
        file = self.folder / "metrics.jsonl"
        lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
        return json.loads(lines[-1])["step"] if lines else -1

    def wait_for(self, is_so: Callable[[], bool]) -> bool:
        """Whether it became so while the run was alive, and in time."""
        while not is_so():
            if self.process.poll() is not None or time.monotonic() > self._end_s:
                return False
            self.look()
            time.sleep(_LOOK_S)
        return True

    def look(self) -> None:
        """Remember the run's processes; of a node's only those that are there for this run."""
        own = {self.process.pid, *self._own()}
        for pid in (own | self._present()) - self.traces.commands.keys():
            if pid in own or any(part in command_of(pid) for parts in TARGETS.values() for part in parts):
                self.traces.remember([pid])

    def find(self, target: str) -> list[int]:
        self.look()
        return sorted(
            pid for pid in self._present() if is_alive(pid) and any(part in command_of(pid) for part in TARGETS[target])
        )

    def _own(self) -> set[int]:
        return set(descendants(self.process.pid))

    def _present(self) -> set[int]:
        return self._own() | (set() if self.nodes is None else self.nodes.pids())

    def lose_node(self, hit: Hit) -> None:
        """What was on it does not count as left: of a machine that is gone, nothing is."""
        assert self.nodes is not None
        self.look()
        self.traces.forget(self.nodes.lose(hit.number))
        time.sleep(hit.pause_s)
        self.nodes.add()

    def wait(self) -> int | None:
        """Its exit code; ``None`` if it does not end in time, and then it is ended."""
        while self.process.poll() is None:
            if time.monotonic() > self._end_s:
                self.process.kill()
                self.process.wait()
                return None
            self.look()
            time.sleep(_LOOK_S)
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        until(lambda: not self.traces.living(), 15)


def make(
    folder: Path,
    hits: Sequence[Hit],
    service: Service,
    overrides: Sequence[str],
    *,
    nodes: RayNodes | None = None,
    step_s: float,
    patience_s: float,
) -> Outcome:
    """One run in ``folder``, in which all of ``hits`` are made one after the other."""
    outcome = Outcome(name=folder.name, hits=list(hits))
    started_s = time.monotonic()
    run = Run(folder, overrides, service, nodes=nodes, patience_s=patience_s)
    try:
        for hit in hits:
            if not run.wait_for(lambda step=hit.after_step: run.step >= step):  # type: ignore[misc]
                outcome.problems.append(f"it ended or hung before step {hit.after_step}")
                break
            time.sleep(hit.share * step_s)
            problem = make_hit(run, hit, service)
            outcome.problems += [problem] if problem else []
            if run.process.poll() == -signal.SIGKILL:
                outcome.codes.append(-signal.SIGKILL)
                outcome.left += run.traces.left()
                run.start()  # the same command again
        code = run.wait()
        outcome.problems += [] if code == 0 else [f"ended with {code}" if code is not None else "did not end in time"]
        outcome.codes += [] if code is None else [code]
        outcome.seconds = time.monotonic() - started_s
        if nodes is not None:
            nodes.end_lost()
        outcome.left = sorted({*outcome.left, *run.traces.left()})
        notices = folder / "notices.jsonl"
        lines = notices.read_text().splitlines() if notices.exists() else []
        outcome.said = [json.loads(line)["text"] for line in lines]
    finally:
        run.close()
    return outcome


def make_hit(run: Run, hit: Hit, service: Service) -> str:
    """Send the signal, and see to it that what is outside of the run goes on; returns what was in the way, or ""."""
    if hit.target in OUTSIDE:
        process = service.process if hit.target == "selector service" else run.process
        process.send_signal(hit.number)
        if hit.number == signal.SIGSTOP:
            time.sleep(hit.pause_s)
            process.send_signal(signal.SIGCONT)
        elif process is run.process:
            process.wait()
        else:
            service.close()
            time.sleep(hit.pause_s)
            service.start()
        return ""
    if hit.target == NODE:
        run.lose_node(hit)
        return ""
    found: list[int] = []

    def is_found() -> bool:
        found[:] = run.find(hit.target)
        return bool(found)

    if not run.wait_for(is_found):
        # After its last step a run may end before it is hit.
        return "" if run.process.poll() == 0 else f"there was no {hit.target}"
    with suppress(ProcessLookupError):  # it has ended in this moment
        os.kill(found[hit.which % len(found)], hit.number)
    return ""


def compare(outcome: Outcome, folder: Path, reference: Path) -> None:
    """Put down what a disturbed run has otherwise than the undisturbed one, or did twice or never."""
    ours, theirs = ((path / "selections.jsonl").read_text().splitlines() for path in (folder, reference))
    if ours != theirs:
        first = next((n for n, pair in enumerate(zip(ours, theirs, strict=False), 1) if pair[0] != pair[1]), "the end")
        outcome.problems.append(f"other selections from line {first} on")
    ours_, theirs_ = (metrics_of(path) for path in (folder, reference))
    differing = {
        key for mine, other in zip(ours_, theirs_, strict=False) for key in mine.keys() | other.keys()
        if mine.get(key) != other.get(key)
    }  # fmt: skip
    if differing or len(ours_) != len(theirs_):
        outcome.problems.append(f"other metrics: {', '.join(sorted(differing)[:4]) or len(ours_)}")
    for line in ours:
        ids = json.loads(line)["prompt_ids"]
        if len(ids) != len(set(ids)):
            outcome.problems.append(f"a prompt twice in step {json.loads(line)['step']}")


def metrics_of(folder: Path) -> list[dict[str, object]]:
    """Without those of the machine; a restart checks a sync once more or once less."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in record.items() if not is_of_the_machine(key) and not key.startswith("sync/")}
        for record in records
    ]


def as_row(outcome: Outcome, reference_s: float, base: Path) -> str:
    hits = " + ".join(f"{hit.target} {hit.number.name} after step {hit.after_step}" for hit in outcome.hits)
    told = [text for text in outcome.said if any(word in text for word in ("replaced", "started again", "going on"))]
    told = [text.replace(f"{base}/", "") for text in told]
    return (
        f"| {outcome.name} | {hits or 'nothing'} | {', '.join(map(str, outcome.codes))} | "
        f"{outcome.seconds - reference_s:+.0f} | {len(outcome.left)} | {'; '.join(outcome.problems) or 'passed'} | "
        f"{' / '.join(told)} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the run's configuration")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of what is hit, how and when")
    parser.add_argument("--targets", nargs="+", choices=[*TARGETS, *OUTSIDE, NODE], help="hit only these")
    parser.add_argument("--patience-s", type=float, default=900.0, help="a run that takes longer has failed")
    parser.add_argument("--keep", type=Path, help="folder for the runs; otherwise they are removed")
    arguments = parser.parse_intermixed_args()
    # So that a run is not left behind where this script is ended by `timeout`.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    has_core = any(override == "rollout=vllm" for override in arguments.overrides)
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "1")  # an engine core, on a CPU too
    over_ray = any(override == "runtime=ray" for override in arguments.overrides)
    targets = arguments.targets or [
        *(name for name in (*TARGETS, *OUTSIDE) if has_core or name != "engine core"),
        *([NODE] if over_ray else []),
    ]
    num_failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        base = arguments.keep or Path(temporary)
        base.mkdir(parents=True, exist_ok=True)
        service = Service(base / "service")
        nodes = RayNodes(settings=FOR_LOST_NODES) if over_ray else None
        try:
            settings = {"nodes": nodes, "patience_s": arguments.patience_s}
            reference = make(base / "undisturbed", [], service, arguments.overrides, step_s=0.0, **settings)
            if reference.problems:
                print(f"the undisturbed run failed: {reference.problems}\n{(base / 'undisturbed.txt').read_text()}")
                return 1
            steps = [json.loads(line) for line in (base / "undisturbed" / "metrics.jsonl").read_text().splitlines()]
            step_s = sorted(step["time/step_s"] for step in steps[1:])[len(steps) // 2]
            words = " ".join(sys.argv[1:])
            print(
                f"`python scripts/chaos.py {words}`\n\nundisturbed: {reference.seconds:.0f} s, {step_s:.2f} s a step\n"
            )
            print("| run | hit | codes | cost, s | left | verdict | told |\n|---|---|---|---|---|---|---|", flush=True)
            for number in range(arguments.runs):
                generator = random.Random(f"{arguments.seed}/{number}")
                hit = draw_hit(generator, len(steps) - 1, targets)
                folder = base / f"run{number:02d}"
                outcome = make(folder, [hit], service, arguments.overrides, step_s=step_s, **settings)
                compare(outcome, folder, base / "undisturbed")
                num_failed += bool(outcome.problems or outcome.left)
                print(as_row(outcome, reference.seconds, base), flush=True)
        finally:
            service.close()
            if nodes is not None:
                nodes.close()
    print(f"\n{arguments.runs - num_failed} of {arguments.runs} passed")
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
