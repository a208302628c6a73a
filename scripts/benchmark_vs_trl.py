"""Times a GRPO step of insight_rl against one of TRL: same model, prompts, batch, lengths, optimizer and reward.

    python scripts/benchmark_vs_trl.py --steps 20

The two alternate in one process (ours runs in TRL's end-of-step callback), so a machine that slows down slows both.
Selection is uniform on both sides. Prints the medians and, as the last line, one JSON object; ``ratio`` is TRL's median
step over ours. Ours computes nothing for groups without spread, whose gradient is exactly zero; ``ratio_all_groups``
is what is left of the ratio if they were computed all the same, from the measured time per trained group.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from datasets import Dataset
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging
from trl import GRPOConfig, GRPOTrainer

from insight_rl.checkpoint import CheckpointStore
from insight_rl.config import compose_config, parse_config
from insight_rl.run import assemble, build_parts, open_selector
from insight_rl.run_dir import RunDir
from insight_rl.trainer import Trainer
from insight_rl.types import Completion, Prompt

LEARNING_RATE = 5e-5
PHASES = ("select", "rollout", "reward", "learn", "sync")


class AlternatingSteps(TrainerCallback):
    """After each step of TRL, one of ours; collects the seconds of both."""

    def __init__(self, trainer: Trainer, num_warmup: int) -> None:
        self.trainer = trainer
        self.num_warmup = num_warmup
        self.trl_s: list[float] = []
        self.ours_s: list[float] = []
        self.phases: dict[str, list[float]] = defaultdict(list)
        self.trained_fraction: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trl_s = time.perf_counter() - self._started
        self.trainer.clock.lap()
        started = time.perf_counter()
        metrics = self.trainer.train_step(state.global_step)
        ours_s = time.perf_counter() - started
        times = self.trainer.clock.lap(metrics)
        if state.global_step <= self.num_warmup:
            return
        self.trl_s.append(trl_s)
        self.ours_s.append(ours_s)
        self.trained_fraction.append(1 - metrics["learner/num_skipped_groups"] / metrics["gate/num_kept"])
        for name in PHASES:
            self.phases[name].append(float(times[f"time/{name}_s"]))


def make_ours(arguments: argparse.Namespace, folder: Path, cleanup: ExitStack) -> tuple[Trainer, list[Prompt]]:
    settings = [
        "model=tiny",
        "task=countdown",
        "selector=random",
        f"trainer.num_steps={arguments.steps + arguments.warmup}",
        f"trainer.prompts_per_step={arguments.prompts}",
        f"trainer.rollouts_per_prompt={arguments.rollouts}",
        f"trainer.max_completion_tokens={arguments.max_tokens}",
        f"learner.lr={LEARNING_RATE}",
        "learner.weight_decay=0.0",
        "evaluation.every=0",
        "monitor=jsonl",
        f"seed={arguments.seed}",
    ]
    config = parse_config(compose_config(settings))
    parts = build_parts(config)
    open_selector(config, parts)
    run_dir = RunDir(folder)
    cleanup.callback(run_dir.close)
    store = CheckpointStore(folder / "checkpoints", keep_last=1)
    return assemble(config, parts, run_dir, store, 0, cleanup), list(parts.data.pool)


def make_reward(trainer: Trainer, pool: list[Prompt]) -> Callable[..., list[float]]:
    """Our Countdown reward behind TRL's signature."""
    by_text = {prompt.text: prompt for prompt in pool}

    def countdown(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        for prompt, text in zip(prompts, completions, strict=True):
            completion = Completion(token_ids=(), logprobs=(), text=text, finish_reason="stop", policy_version=0)
            trainer.judge.submit(by_text[prompt], [completion])
        return [reward.value for (reward,) in trainer.judge.collect()]

    return countdown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    transformers_logging.disable_progress_bar()
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        ours, pool = make_ours(arguments, folder / "ours", cleanup)
        steps = AlternatingSteps(ours, arguments.warmup)
        trl = GRPOTrainer(
            model=compose_config(["model=tiny"]).model.path,
            reward_funcs=make_reward(ours, pool),
            train_dataset=Dataset.from_list([{"prompt": prompt.text} for prompt in pool]),
            callbacks=[steps],
            args=GRPOConfig(
                output_dir=str(folder / "trl"),
                max_steps=arguments.steps + arguments.warmup,
                per_device_train_batch_size=arguments.prompts * arguments.rollouts,
                num_generations=arguments.rollouts,
                max_completion_length=arguments.max_tokens,
                temperature=1.0,
                top_k=0,
                learning_rate=LEARNING_RATE,
                lr_scheduler_type="constant",
                weight_decay=0.0,
                max_grad_norm=1.0,
                beta=0.0,
                loss_type="grpo",
                bf16=False,
                gradient_checkpointing=False,
                use_cpu=True,
                save_strategy="no",
                logging_steps=1000,
                report_to="none",
                disable_tqdm=True,
                seed=arguments.seed,
            ),
        )
        trl.train()
    report(steps, arguments)


def report(steps: AlternatingSteps, arguments: argparse.Namespace) -> None:
    trl_s, ours_s = statistics.median(steps.trl_s), statistics.median(steps.ours_s)
    phases = {f"ours_{name}_s": round(statistics.median(steps.phases[name]), 4) for name in PHASES}
    trained = statistics.mean(steps.trained_fraction)
    all_groups_s = ours_s + phases["ours_learn_s"] * (1 / trained - 1)
    for name, seconds in (("TRL", steps.trl_s), ("insight_rl", steps.ours_s)):
        spread = f"{min(seconds):.3f} to {max(seconds):.3f}"
        print(f"{name:12s} median {statistics.median(seconds):.3f} s a step ({spread}, {len(seconds)} steps)")
    print("  of ours: " + ", ".join(f"{name} {phases[f'ours_{name}_s']:.3f}" for name in PHASES))
    result = {
        "ratio": round(trl_s / ours_s, 3),
        "ratio_all_groups": round(trl_s / all_groups_s, 3),
        "trl_step_s": round(trl_s, 4),
        "ours_step_s": round(ours_s, 4),
        **phases,
        "trained_group_fraction": round(trained, 3),
        "num_steps": len(steps.trl_s),
        "completions_per_step": arguments.prompts * arguments.rollouts,
        "seed": arguments.seed,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
