"""Kills a run with SIGKILL at a random moment, resumes it, and compares it with one that was never cut short.

    python scripts/check_resume.py --times 10 --seed 0

Equal means: selections.jsonl to the byte, and every metric but those of the machine (time, memory, speed) exactly.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from insight_rl.monitor.dictionary import is_of_the_machine

SETTINGS = (
    "trainer.num_steps=12",
    "trainer.prompts_per_step=16",
    "trainer.rollouts_per_prompt=4",
    "trainer.max_completion_tokens=24",
    "learner.lr=1.0e-4",
    "evaluation.every=4",
    "evaluation.samples_per_problem=1",
    "evaluation.max_problems=64",
    "checkpoint.every=2",
    "monitor=jsonl",
)


def start(run_dir: Path, overrides: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "insight_rl", "train", *SETTINGS, f"run_dir={run_dir}", *overrides]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def finish(run_dir: Path, overrides: list[str]) -> None:
    code = start(run_dir, overrides).wait()
    if code != 0:
        raise SystemExit(f"the run in {run_dir} ended with code {code}")


def kill_once(run_dir: Path, overrides: list[str], rng: random.Random, seconds: float) -> str:
    """Kill the run somewhere between its first record and its end; says where."""
    process = start(run_dir, overrides)
    metrics = run_dir / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.02)
    time.sleep(rng.uniform(0, seconds))
    if process.poll() is not None:
        return "had already ended"
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = metrics.read_text(encoding="utf-8").count("\n") - 1
    return f"killed after step {steps}"


def read_run(run_dir: Path) -> tuple[str, list[dict[str, Any]]]:
    """The selections as written and the metrics without timings."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [{key: value for key, value in json.loads(line).items() if not is_of_the_machine(key)} for line in lines]
    return (run_dir / "selections.jsonl").read_text(encoding="utf-8"), metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", help="further settings of the run, e.g. selector=mopps")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    num_equal = 0
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder, "reference")
        finish(reference, arguments.overrides)
        expected = read_run(reference)
        seconds = sum(
            json.loads(line).get("time/step_s", 0)
            for line in (reference / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        )
        for number in range(1, arguments.times + 1):
            run_dir = Path(folder, f"killed_{number}")
            where = kill_once(run_dir, arguments.overrides, rng, 1.2 * seconds)
            if where != "had already ended":
                finish(run_dir, arguments.overrides)
            equal = read_run(run_dir) == expected
            num_equal += equal
            print(f"{number:3d}: {where}; resumed run {'equal' if equal else 'DIFFERS'}", flush=True)
    print(json.dumps({"times": arguments.times, "equal": num_equal, "seed": arguments.seed}))
    sys.exit(0 if num_equal == arguments.times else 1)


if __name__ == "__main__":
    main()
