"""How long training stands still for a checkpoint of a model with its optimizer, and how long writing it takes.

    python scripts/measure_checkpoint.py --output checkpoint.json                    the bundled model
    python scripts/measure_checkpoint.py --model DIR --times 5 --output checkpoint.json     e.g. SmolLM2-135M

"before" is how checkpoints were written until they went to the background: one file by torch.save while training stands
still, read again for its checksum, then fsync. "after" is the present way, in two figures: "stands still" adds up the
call that begins a checkpoint and what the next update waits for, "write" is the time until the checkpoint is whole. The
first checkpoint of a run also makes the copies' memory, so it is told apart. After each checkpoint the learner does
--rollout-s seconds of nothing, as in a run, where it waits for rollouts: 0 is the worst case. The goal is that training
stands still for less than 5 % of the write.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from insight_rl.algorithm.algorithm import Algorithm
from insight_rl.algorithm.loss import GRPO
from insight_rl.checkpoint import CheckpointStore
from insight_rl.files import fsync, write_atomically
from insight_rl.hashed_files import digest_of
from insight_rl.learner.accelerate import AccelerateLearner
from insight_rl.learner.settings import StartSpec
from insight_rl.model_folder import count_parameters
from insight_rl.paths import data_dir

GOAL = 0.05


def start(model_path: Path) -> AccelerateLearner:
    learner = AccelerateLearner()
    learner.start(
        StartSpec(
            model_path=model_path,
            dtype="float32",
            loss=Algorithm(loss=GRPO(), advantage="group_std", clip_low=0.2, clip_high=0.2),
            num_epochs=1,
            temperature=1.0,
            max_completion_tokens=8,
            prompts_per_update=1,
            num_steps=10,
            seed=0,
        )
    )
    return learner


def write_in_place(learner: AccelerateLearner, folder: Path) -> float:
    """The way of before; returns the seconds, all of which training would stand still."""
    assert learner._worker is not None
    fragments = learner._worker._engine.fragments(owned=False)
    state = {key: tensor for fragment in fragments for key, tensor in fragment.keys.items()}
    started = time.perf_counter()
    file = folder / "learner.pt"
    torch.save(state, file)
    digest_of(file)
    fsync(file)
    return time.perf_counter() - started


def write_in_background(learner: AccelerateLearner, store: CheckpointStore, step: int, rollout_s: float) -> Any:
    """Seconds that training stands still, and until the checkpoint is whole."""
    assert learner._worker is not None
    started = time.perf_counter()
    store.save(step, {"learner": learner.save_checkpoint}, accuracy=None)
    begun_s = time.perf_counter() - started
    whole_s: list[float] = []

    def watch() -> None:
        folder = store.folder / f"step_{step:06d}"
        while not folder.exists():
            time.sleep(0.001)
        whole_s.append(time.perf_counter() - started)

    watcher = threading.Thread(target=watch)
    watcher.start()
    time.sleep(rollout_s)
    waiting = time.perf_counter()
    learner._worker._shards.wait_for_copy()
    waited_s = time.perf_counter() - waiting
    store.wait()
    watcher.join()
    return begun_s + waited_s, whole_s[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=data_dir() / "tiny_countdown", help="a Hugging Face folder")
    parser.add_argument("--times", type=int, default=5, help="checkpoints of each kind, after a first one")
    parser.add_argument("--rollout-s", type=float, default=0.0)
    parser.add_argument("--folder", type=Path, help="where to write: the disk that is measured (default: /tmp)")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    learner = start(arguments.model)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        before = [write_in_place(learner, Path(name)) for _ in range(arguments.times + 1)][1:]
        store = CheckpointStore(Path(name, "checkpoints"), keep_last=1)
        first, *after = [
            write_in_background(learner, store, step, arguments.rollout_s) for step in range(1, arguments.times + 2)
        ]
        newest, _ = store.newest_sound()
        assert newest is not None
        num_bytes = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    learner.close()
    still_s, write_s = (statistics.median(values) for values in zip(*after, strict=True))
    result = {
        "model": str(arguments.model),
        "num_parameters": count_parameters(arguments.model),
        "checkpoint_bytes": num_bytes,
        "num_cores": len(os.sched_getaffinity(0)),
        "times": arguments.times,
        "rollout_s": arguments.rollout_s,
        "before": {"stands_still_s": statistics.median(before), "all_s": before},
        "after": {
            "stands_still_s": still_s,
            "write_s": write_s,
            "first": dict(zip(("stands_still_s", "write_s"), first, strict=True)),
            "all_s": after,
        },
        "share_of_write": still_s / write_s,
        "share_of_before": still_s / statistics.median(before),
        "goal": GOAL,
    }
    write_atomically(arguments.output, json.dumps(result, indent=1) + "\n")
    print(
        f"{num_bytes / 2**20:.1f} MiB: training stood still {statistics.median(before):.3f} s before; now "
        f"{still_s:.4f} s of a write of {write_s:.3f} s ({still_s / write_s:.1%}; the goal is {GOAL:.0%})"
    )


if __name__ == "__main__":
    main()
