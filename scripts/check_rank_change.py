"""A run goes on with other numbers of ranks and rollout workers: compares each with one that changes nothing.

    python scripts/check_rank_change.py                                                learner=deepspeed, ZeRO 2
    python scripts/check_rank_change.py learner=accelerate
    python scripts/check_rank_change.py --changes ranks-1 workers-1 --folder rank_change

All begin with 2 ranks and 2 workers, in one run of --before steps; each change goes on from a copy of its folder for
--after steps. "losses" is the largest relative difference of learner/loss in them; selections are compared to the
byte, beliefs (the selector's whole state at the end) to the last bit. With --folder the runs stay, and a second call
takes them as they are. Ends with 1 unless every change has equal selections and beliefs, and losses within 1e-4.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from insight_rl.checkpoint import CheckpointStore, part_folder
from insight_rl.state_codec import load_state

CHANGES = {
    "none": (),
    "ranks-1": ("learner.num_ranks=1",),
    "ranks-3": ("learner.num_ranks=3",),
    "workers-1": ("rollout.num_workers=1",),
}
TOLERANCE = 1e-4
RUN = (
    "task=countdown",
    "trainer.prompts_per_step=8",
    "trainer.rollouts_per_prompt=4",
    "trainer.max_completion_tokens=24",
    "learner.lr=1.0e-4",
    "evaluation.every=0",
    "checkpoint.every=1000",
    "monitor=jsonl",
    "rollout=transformers_workers",
    "rollout.num_workers=2",
    "learner.num_ranks=2",
)


def train(run_dir: Path, num_steps: int, overrides: list[str]) -> None:
    learner = [] if any(word.startswith("learner=") for word in overrides) else ["learner=deepspeed"]
    command = [sys.executable, "-m", "insight_rl", "train", *learner, *RUN, *overrides, f"run_dir={run_dir}"]
    code = subprocess.run([*command, f"trainer.num_steps={num_steps}"], stdout=subprocess.DEVNULL).returncode
    if code != 0:
        raise SystemExit(f"the run in {run_dir} ended with code {code}")


def losses(run_dir: Path, first_step: int) -> np.ndarray:
    """(steps,) of learner/loss."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return np.array([record["learner/loss"] for record in records if record["step"] >= first_step])


def beliefs(run_dir: Path) -> str:
    checkpoint, _ = CheckpointStore(run_dir / "checkpoints", keep_last=1).newest_sound()
    assert checkpoint is not None
    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
        return repr(load_state(part_folder(checkpoint, "selector")))


def compare(run_dir: Path, reference: Path, first_step: int) -> tuple[float, bool, bool]:
    """Largest relative difference of losses; whether selections and beliefs are equal."""
    ours, theirs = losses(run_dir, first_step), losses(reference, first_step)
    difference = float(np.max(np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-3)))
    selections = [(folder / "selections.jsonl").read_bytes() for folder in (run_dir, reference)]
    return difference, selections[0] == selections[1], beliefs(run_dir) == beliefs(reference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the configuration of all runs")
    parser.add_argument("--changes", nargs="+", choices=[*CHANGES], default=[*CHANGES])
    parser.add_argument("--before", type=int, default=3)
    parser.add_argument("--after", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    arguments = parser.parse_intermixed_args()
    overrides, num_steps = arguments.overrides, arguments.before + arguments.after
    is_good = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if not (folder / "start").exists():
            train(folder / "start", arguments.before, overrides)
        print("| from 2 ranks, 2 workers to | losses | selections | beliefs |\n|---|---|---|---|")
        for name in ("none", *(change for change in arguments.changes if change != "none")):
            if not (folder / name).exists():
                shutil.copytree(folder / "start", folder / name)
            train(folder / name, num_steps, [*overrides, *CHANGES[name]])
            difference, *equal = compare(folder / name, folder / "none", arguments.before + 1)
            is_good &= difference <= TOLERANCE and all(equal)
            words = " | ".join("equal" if each else "DIFFER" for each in equal)
            print(f"| {name} | {difference:.1e} | {words} |", flush=True)
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
