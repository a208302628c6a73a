"""Whether several rollout workers do what one does, and whether runs survive workers that are killed. On a CPU.

    python scripts/check_workers.py                                 two workers beside one, then ten workers killed
    python scripts/check_workers.py --times 3 trainer.prompts_per_step=16

First the same ten steps with one worker and with two: selections, rewards and numbers of tokens have to agree. Then one
run with two workers, of which one is killed with SIGKILL, again and again. Each step must have every prompt of it
exactly once, and after every sync the log-probs of each worker must be within 1e-4 of the learner's. Ends with 0 if so.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from check_faults import Run

MAX_GAP = 1e-4
GAPS = ("rollout/logprob_gap_max", "sync/logprob_gap_max")
"""Of the completions that were trained on, and of each worker's after the sync."""
NUM_STEPS = 10
NUM_WORKERS = 2
PROMPTS, ROLLOUTS = 16, 8
RUN = (
    "rollout=vllm",
    "rollout.num_threads=1",
    "rollout.max_replaced_workers=1000",
    "learner=accelerate",
    "learner.num_ranks=1",
    "judge.num_workers=0",
    "model=tiny",
    "trainer.sync_check_every=1",
    f"trainer.prompts_per_step={PROMPTS}",
    f"trainer.rollouts_per_prompt={ROLLOUTS}",
)


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def problems_of(folder: Path) -> list[str]:
    """What is wrong with a run: prompts lost or counted twice, completions lost, gaps."""
    metrics = {record["step"]: record for record in read_lines(folder / "metrics.jsonl")}
    found, num_rollouts = [], 0
    for selection in read_lines(folder / "selections.jsonl"):
        step, ids = selection["step"], selection["prompt_ids"]
        num_rollouts += PROMPTS * ROLLOUTS
        if len(set(ids)) != PROMPTS or len(ids) != PROMPTS:
            found.append(f"step {step}: {len(ids)} prompts, {len(set(ids))} of them different")
        if step not in metrics:
            continue  # the run was ended in the middle of it
        if metrics[step]["rollout/num_rollouts"] != num_rollouts:
            found.append(f"step {step}: {metrics[step]['rollout/num_rollouts']} completions, not {num_rollouts}")
        found += [f"step {step}: {key} {metrics[step][key]:.1e}" for key in GAPS if not metrics[step][key] <= MAX_GAP]
    return found


def largest(folder: Path, *keys: str) -> float:
    return max(record[key] for record in read_lines(folder / "metrics.jsonl") for key in keys if key in record)


def compare(folder: Path, overrides: list[str]) -> list[str]:
    """Ten steps with one worker and with two."""
    runs = {}
    for number in (1, NUM_WORKERS):
        run = Run(
            folder / f"workers-{number}",
            [*RUN, f"rollout.num_workers={number}", f"trainer.num_steps={NUM_STEPS}", *overrides],
        )
        try:
            code = run.end_code()
        finally:
            run.close()
        if code != 0:
            return [f"the run with {number} workers ended with {code}: {run.output()}"]
        runs[number] = run.folder
    one, several = (read_lines(runs[number] / "selections.jsonl") for number in (1, NUM_WORKERS))
    found = [problem for path in runs.values() for problem in problems_of(path)]
    found += [f"step {a['step']}: other selections" for a, b in zip(one, several, strict=True) if a != b]
    counts = ("reward/accuracy", "reward/mean", "gate/num_tokens", "selector/mean_belief")
    for a, b in zip(*(read_lines(runs[number] / "metrics.jsonl") for number in (1, NUM_WORKERS)), strict=True):
        found += [f"step {a['step']}: {key} {a[key]} and {b[key]}" for key in counts if a.get(key) != b.get(key)]
    print(
        f"{NUM_STEPS} steps with 1 worker and with {NUM_WORKERS}: "
        f"{sum(a == b for a, b in zip(one, several, strict=True))} of {len(one)} selections the same, "
        f"largest gap {largest(runs[1], *GAPS):.1e} and {largest(runs[NUM_WORKERS], *GAPS):.1e}",
        flush=True,
    )
    return found


def kill(folder: Path, times: int, overrides: list[str]) -> list[str]:
    """One run, of which a worker is killed ``times`` times, each at another moment of a step."""
    run = Run(folder / "killed", [*RUN, f"rollout.num_workers={NUM_WORKERS}", *overrides])
    found = []
    try:
        run.wait_for_steps(3)
        for number in range(1, times + 1):
            ended = len(read_lines(run.folder / "metrics.jsonl"))
            run.wait(lambda ended=ended: len(read_lines(run.folder / "metrics.jsonl")) > ended, "step")  # type: ignore[misc]
            # The next step samples now. The older worker is at work for certain.
            time.sleep(0.05 + 0.05 * (number % 4))
            os.kill(run.pids("rollout")[0], signal.SIGKILL)
            # No prompt is to be at work in two losses: it would be the suspect.
            step = run.num_steps
            run.wait_for_steps(step + 2)
            told = [record["text"] for record in notices(run.folder) if "it is replaced" in record["text"]]
            print(f"{number} of {times}: step {step}: {told[-1] if told else 'not told'}", flush=True)
            if len(told) != number:
                found.append(f"{number} workers were killed, and {len(told)} replacements told")
        run.wait_for_steps(run.num_steps + 2)
    finally:
        run.close()
    found += problems_of(run.folder)
    replaced = largest(run.folder, "rollout/num_replaced_workers")
    if replaced != times:
        found.append(f"rollout/num_replaced_workers={replaced}")
    print(
        f"{times} workers killed in {run.num_steps} steps of {PROMPTS} prompts x {ROLLOUTS} completions, "
        f"largest gap {largest(run.folder, *GAPS):.1e}",
        flush=True,
    )
    return found


def notices(folder: Path) -> list[dict[str, Any]]:
    return read_lines(folder / "notices.jsonl")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the run's configuration")
    parser.add_argument("--times", type=int, default=10, help="how many workers are killed (%(default)s)")
    parser.add_argument("--only", choices=("compare", "kill"), help="one of the two parts")
    arguments = parser.parse_intermixed_args()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    found: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        if arguments.only != "kill":
            found += compare(Path(folder), arguments.overrides)
        if arguments.only != "compare":
            found += kill(Path(folder), arguments.times, arguments.overrides)
    print("\n".join(found) or "nothing lost, nothing twice")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
