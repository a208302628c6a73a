"""What a training run of the bundled tiny model costs on one core, phase by phase, in processor seconds.

    python scripts/benchmark_tiny_run.py                                    # this checkout
    git worktree add /path/to/before COMMIT
    python scripts/benchmark_tiny_run.py --against /path/to/before          # two checkouts in turns

Runs with 16 and with 32 prompts a step of 8 rollouts each, in a process of their own with one thread. With `--against`
the two checkouts alternate, so that a change in the machine's load meets both; figures are medians over the rounds,
ratios are medians of pairs. The seconds are of the steps and evaluations; the start of the process is not among them.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

PHASES = ("rollout", "learn", "evaluate", "reward", "select", "sync")

CHILD = """
import sys, time, types
from insight_rl import clock
clock.time = types.SimpleNamespace(perf_counter=time.process_time)  # phases count processor time
from insight_rl.config import compose_config
from insight_rl.learner.flops import measure_peak
from insight_rl.run import train
import torch
train(compose_config(sys.argv[1:]))
print("peak", measure_peak(torch.device("cpu"), torch.float32))
"""


def run(checkout: Path, *, num_prompts: int, num_steps: int, seed: int) -> dict[str, float]:
    """Processor seconds of each phase, of all steps; counts of tokens; the best matrix product in GFLOP/s."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            "experiment=quickstart",
            "task=countdown_mixed",
            f"trainer.prompts_per_step={num_prompts}",
            f"trainer.num_steps={num_steps}",
            f"evaluation.every={num_steps}",
            f"checkpoint.every={num_steps}",
            "doctor=off",
            "learner.lr=1e-4",
            f"seed={seed}",
            f"run_dir={folder}/run",
        ]
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *overrides],
            cwd=checkout,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        lines = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    found = {phase: sum(line.get(f"time/{phase}_s", 0.0) for line in lines) for phase in PHASES}
    found["step"] = sum(line.get("time/step_s", 0.0) for line in lines)
    found["rollout tokens/s"] = lines[-1]["rollout/num_tokens"] / found["rollout"]
    found["learner tokens/s"] = sum(line.get("learner/num_tokens", 0) for line in lines) / found["learn"]
    found["peak GFLOP/s"] = float(done.stdout.rsplit("peak", 1)[1]) / 1e9
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout, which takes turns with this one")
    parser.add_argument("--prompts", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    here = Path(__file__).resolve().parent.parent
    checkouts = {"before": arguments.against.resolve(), "now": here} if arguments.against else {"now": here}
    report = {}
    for num_prompts in arguments.prompts:
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
        for seed in range(arguments.rounds):
            for name, checkout in checkouts.items():
                runs[name].append(run(checkout, num_prompts=num_prompts, num_steps=arguments.steps, seed=seed))
        print(f"\n{num_prompts} prompts x 8 rollouts, {arguments.steps} steps and 2 evaluations, CPU seconds")
        for what in runs["now"][0]:
            medians = {name: median(one[what] for one in of_name) for name, of_name in runs.items()}
            text = "".join(f"{name} {value:9.2f}  " for name, value in medians.items())
            if len(runs) == 2:
                pairs = zip(runs["before"], runs["now"], strict=True)
                medians["ratio"] = median(before[what] / now[what] for before, now in pairs)
                text += f"before/now {medians['ratio']:.2f}"
            print(f"{what:18} {text}", flush=True)
            report[f"{num_prompts} {what}"] = medians
    print(json.dumps(report))


if __name__ == "__main__":
    main()
