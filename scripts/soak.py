"""Lets a run go on for long and looks whether anything grows: memory and file handles of every process, /dev/shm.

    python scripts/soak.py                                       1,000 steps of the quickstart
    python scripts/soak.py --steps 1000 runtime=ray              the same under Ray
    python scripts/soak.py --steps 20 --from-step 10 --keep /tmp/soak learner.num_ranks=2

Every process of the run is looked at once a second. From the step that it is flat from (--from-step) to the last one,
the median of the first tenth of the looks is compared with the median of the last tenth: memory of its own is flat if
it has grown by less than 2 %, file handles if there are no more of them. Judges are replaced every 50,000 completions,
so they are compared over all processes that had their place. What comes after the last step (model, curves) does not
count. At the end nothing of the run may be left in /dev/shm, and no process. Ends with 1 if anything grew or was left.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from processes_of_a_run import command_of, descendants, environment_of, is_alive, read, until

RUN = ("experiment=quickstart", "monitor=jsonl", "checkpoint.every=50", "evaluation.every=100")
NAMES = {
    "insight_rl.learner.processes:serve": "learner rank",
    "_worker:serve": "rollout worker",
    "insight_rl.reward.judge_worker:serve": "judge worker",
    "glob, os, shutil": "helper that tidies up",
    "multiprocessing.resource_tracker": "resource tracker",
}
"""What a process is, by a part of its command line; in this order."""
_STARTS_PROGRAMS = re.compile(r"-|(.*/)?python[0-9.]*$")
"""Options and the interpreter, which stand before the name of a program."""
MAX_GROWTH = 0.02


class Look(NamedTuple):
    """What one process was at one time."""

    step: int
    memory_kib: int
    """Resident, without shared memory: that of Ray's object store counts for whoever has ever read there."""
    num_files: int


def name_of(pid: int) -> str:
    command = command_of(pid)
    if command.startswith("ray::"):
        name = command.partition(".")[0]  # an actor of Ray's shows its present method: ray::Rank.step
    else:
        program = next((Path(word).name for word in command.split() if not _STARTS_PROGRAMS.match(word)), "?")
        name = next((name for part, name in NAMES.items() if part in command), program)
    rank = environment_of(pid).get("RANK")
    return f"{name} {rank}" if name == "learner rank" and rank is not None else name


def look_at(pid: int, step: int) -> Look | None:
    """``None`` for a process that has gone."""
    status = dict(line.partition(":")[::2] for line in read(f"/proc/{pid}/status").splitlines())
    try:
        shared = int(status["RssShmem"].split()[0])
        return Look(step, int(status["VmRSS"].split()[0]) - shared, len(os.listdir(f"/proc/{pid}/fd")))
    except (KeyError, OSError):
        return None


def last_step(run_dir: Path) -> int:
    file = run_dir / "metrics.jsonl"
    if not file.exists():
        return -1
    with file.open("rb") as lines:
        lines.seek(max(0, file.stat().st_size - (1 << 16)))
        tail = lines.read().split(b"\n")[:-1]
    return json.loads(tail[-1])["step"] if tail else -1


def judge(looks: Sequence[Look], from_step: int) -> tuple[list[float], list[int]] | None:
    """Memory in MiB and file handles at the beginning, in the middle and at the end; ``None`` without enough looks."""
    late = [look for look in looks if look.step >= from_step]
    size = max(1, len(late) // 10)
    if len(late) < 4:
        return None
    parts = [late[start : start + size] for start in (0, (len(late) - size) // 2, len(late) - size)]
    memory = [statistics.median(look.memory_kib for look in part) / 1024 for part in parts]
    return memory, [round(statistics.median(look.num_files for look in part)) for part in parts]


def left_behind(shared_before: set[str], seen: set[int]) -> list[str]:
    """New files in /dev/shm, and those of the processes ``seen`` that live."""
    new = set(os.listdir("/dev/shm")) - shared_before
    # Those of other programs on this machine are in use.
    maps = "".join(read(str(path)) for path in Path("/proc").glob("[0-9]*/maps")) if new else ""
    files = [name for name in sorted(new) if f"/dev/shm/{name}" not in maps]
    return files + [f"process {pid}" for pid in seen if is_alive(pid)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the run's configuration")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--from-step", type=int, default=100, help="from here on nothing may grow")
    parser.add_argument("--every-s", type=float, default=1.0, help="seconds between two looks")
    parser.add_argument("--keep", type=Path, help="folder for the run; otherwise it is removed")
    arguments = parser.parse_intermixed_args()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    shared_before = set(os.listdir("/dev/shm"))
    looks: dict[str, list[Look]] = defaultdict(list)
    seen: set[int] = set()
    with tempfile.TemporaryDirectory() as temporary:
        base = arguments.keep or Path(temporary)
        base.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "insight_rl", "train", *RUN, *arguments.overrides]
        command += [f"trainer.num_steps={arguments.steps}", f"run_dir={base / 'run'}"]
        with (base / "output.txt").open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            while process.poll() is None:
                step = last_step(base / "run")
                pids = descendants(process.pid)
                seen.update(pids)
                for pid in [process.pid, *pids]:
                    look = look_at(pid, step)
                    if look is not None and step < arguments.steps:
                        looks["driver" if pid == process.pid else name_of(pid)].append(look)
                time.sleep(arguments.every_s)
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0:
            print((base / "output.txt").read_text(errors="replace"))
        until(lambda: not any(map(is_alive, seen)), 15)
        num_steps = last_step(base / "run")
    left = left_behind(shared_before, seen)
    print("| process | looks | MiB from step on | in the middle | at the end | growth | handles | verdict |")
    print("|---|---|---|---|---|---|---|---|")
    is_flat = True
    for name, found in sorted(looks.items()):
        judged = judge(found, arguments.from_step)
        if judged is None:
            print(f"| {name} | {len(found)} | | | | | | too few looks |")
            continue
        memory, files = judged
        growth = memory[-1] / memory[0] - 1
        fits = growth < MAX_GROWTH and files[-1] <= files[0]
        is_flat &= fits
        print(
            f"| {name} | {len(found)} | {' | '.join(f'{each:.1f}' for each in memory)} | {growth:+.2%} | "
            f"{files[0]} -> {files[-1]} | {'flat' if fits else 'GROWS'} |"
        )
    print(f"\n{num_steps} steps, code {process.returncode}, left behind: {', '.join(left) or 'nothing'}")
    return 0 if is_flat and not left and process.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
