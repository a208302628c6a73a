"""trainer=async against trainer=sync at equal rollouts: seconds per step, staleness, idle shares, held-out accuracy.

    python scripts/compare_async.py --seeds 0 1 2 --steps 60 --output runs/compare_async
    python scripts/compare_async.py --seeds 0 --steps 2 --small --output /tmp/small

Both arms make the same number of rollouts with the same settings, seed by seed, one run after the other; a run that is
there already is not made again. The rollouts come from one worker process, the learner is in the trainer's, each with
one thread, so that on two cores each side has one. The first step of a run is left out of its seconds: the engine warms
up in it. The seconds mean something on a machine with nothing else to do, and only there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

# Before torch is imported: one thread for each side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from insight_rl.config import compose_config
from insight_rl.run import RunOutput, train

BASE = [
    "experiment=quickstart",
    "rollout=transformers_workers",
    "rollout.num_workers=1",
    "rollout.num_threads=1",
    "monitor=jsonl",
    "evaluation.samples_per_problem=4",
]
SMALL = ["trainer.prompts_per_step=4", "trainer.rollouts_per_prompt=2", "evaluation.max_problems=8"]
COLUMNS = {
    "s/step": "time/step_s",
    "staleness": "async/staleness_mean",
    "learner idle": "async/learner_idle_share",
    "rollout idle": "async/rollout_idle_share",
}


def run(folder: Path, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """The metrics of a run, step by step; one that is in ``folder`` already goes on, or is only read."""
    train(compose_config([*BASE, *overrides, f"run_dir={folder}"]), RunOutput(keeps_model=False))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def summarise(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over the steps after the first, and the last accuracy; of a synchronous run, each side idles in turn."""
    steps = [record for record in records if record["step"] > 1]
    figures = {name: fmean(each[key] for each in steps) for name, key in COLUMNS.items() if key in steps[0]}
    if "staleness" not in figures:
        busy = {side: fmean(each[f"time/{side}_share"] for each in steps) for side in ("learn", "rollout")}
        figures |= {"staleness": 0.0, "learner idle": 1 - busy["learn"], "rollout idle": 1 - busy["rollout"]}
    figures["accuracy"] = next(each["eval/accuracy"] for each in reversed(records) if "eval/accuracy" in each)
    figures["rollouts"] = records[-1]["rollout/num_rollouts"]
    return figures


def describe(name: str, values: Sequence[float]) -> str:
    """Mean and half of the 95 % interval over the seeds (by the normal distribution: too short for few)."""
    half = 1.96 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{name} {fmean(values):.4g} +- {half:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for both arms")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--max-staleness", type=int, default=1)
    parser.add_argument("--weight-update", default="keep", choices=("keep", "wait"))
    parser.add_argument("--small", action="store_true", help="a few rollouts a step, to see that it works")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs and of figures.json")
    options = parser.parse_args()
    overlap = [f"trainer.max_staleness={options.max_staleness}", f"trainer.weight_update={options.weight_update}"]
    arms = {"sync": ["trainer=sync"], "async": ["trainer=async", *overlap]}
    common = [*(SMALL if options.small else []), f"trainer.num_steps={options.steps}", *options.overrides]
    figures: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    for seed in options.seeds:
        for arm, own in arms.items():
            records = run(options.output / f"{arm}_seed{seed}", [*own, *common, f"seed={seed}"])
            figures[arm].append(summarise(records))
            print(f"{arm} seed {seed}: {figures[arm][-1]}", flush=True)
    (options.output / "figures.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    for arm, of_seeds in figures.items():
        print(f"{arm:5}  " + "   ".join(describe(name, [each[name] for each in of_seeds]) for name in of_seeds[0]))
    pairs = list(zip(figures["async"], figures["sync"], strict=True))
    print(describe("accuracy, async less sync:", [a["accuracy"] - s["accuracy"] for a, s in pairs]))
    print(describe("seconds per step, async over sync:", [a["s/step"] / s["s/step"] for a, s in pairs]))


if __name__ == "__main__":
    main()
