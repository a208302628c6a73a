"""Times a GRPO step of insight_rl against one of TRL: same model, prompts, batch, lengths, optimizer and reward.

    python scripts/benchmark_vs_trl.py                                    # the bundled tiny model, Countdown
    python scripts/benchmark_vs_trl.py --model models/smollm2 --problems gsm8k.jsonl --dtype bfloat16 --engine vllm

A model of one's own (``scripts/convert_smollm2.py`` makes one) gets problems from a file with a question and an answer
a line, and a coin as its verdict: half of each group succeeds, so that all are trained on, on both sides. The two
alternate in one process (ours runs in TRL's end-of-step callback), so a machine that slows down slows both; TRL always
samples with transformers. Selection is uniform on both sides. Prints the medians and, as the last line, a JSON object;
``ratio`` is TRL's median step over ours, ``ratio_cpu`` the same in CPU seconds of the process, which other processes on
the machine do not distort.

Of the tiny model's groups some have no spread; their gradient is exactly zero, and ours computes nothing for them.
``ratio_all_groups`` is what is left of the ratio if they were computed all the same, from the measured time per trained
group. ``learner_of_peak`` is ``learner/mfu`` (see docs/metrics.md); ``rollout_of_peak`` the share of the same peak that
two operations a weight and token come to.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from numbers import Real
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging
from trl import GRPOConfig, GRPOTrainer

from insight_rl.checkpoint import CheckpointStore
from insight_rl.config import compose_config, parse_config
from insight_rl.learner.flops import measure_peak
from insight_rl.model_folder import count_parameters
from insight_rl.run import RunOutput, assemble, build_parts, open_selector
from insight_rl.run_dir import RunDir
from insight_rl.trainer import Trainer
from insight_rl.types import Completion, Prompt, Reward

PHASES = ("select", "rollout", "reward", "learn", "sync")
SIZES = {"tiny": (64, 8, 24, 5e-5), "own": (4, 8, 64, 1e-6)}
"""Prompts a step, rollouts of each, tokens of a completion, learning rate."""


class Coin:
    """A judge: half of each group succeeds, by chance."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._groups: list[tuple[Reward, ...]] = []

    def toss(self, count: int) -> list[bool]:
        return list(self._rng.permutation(count) < count // 2)

    def submit(self, prompt: Prompt, completions_G: Sequence[Completion]) -> None:
        self._groups.append(tuple(Reward(value=float(s), success=s) for s in self.toss(len(completions_G))))

    def collect(self) -> list[tuple[Reward, ...]]:
        groups, self._groups = self._groups, []
        return groups

    def close(self) -> None:
        """Nothing to end."""


class AlternatingSteps(TrainerCallback):  # type: ignore[misc]  # TRL and transformers are not read by mypy
    """After each step of TRL, one of ours; collects the seconds of both."""

    def __init__(self, trainer: Trainer, num_warmup: int) -> None:
        self.trainer = trainer
        self.num_warmup = num_warmup
        self.trl_s: list[float] = []
        self.ours_s: list[float] = []
        self.cpu_ratios: list[float] = []
        self.measured: dict[str, list[float]] = defaultdict(list)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._started, self._cpu_started = time.perf_counter(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trl_s, trl_cpu_s = time.perf_counter() - self._started, time.process_time() - self._cpu_started
        self.trainer.clock.lap()
        started, cpu_started = time.perf_counter(), time.process_time()
        metrics = self.trainer.train_step(state.global_step)
        ours_s, ours_cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
        metrics |= self.trainer.clock.lap(metrics)
        if state.global_step <= self.num_warmup:
            return
        self.trl_s.append(trl_s)
        self.ours_s.append(ours_s)
        self.cpu_ratios.append(trl_cpu_s / ours_cpu_s)
        numbers = {key: float(value) for key, value in metrics.items() if isinstance(value, Real)}
        self.measured["trained"].append(1 - numbers["learner/num_skipped_groups"] / numbers["gate/num_kept"])
        for key in ("learner/mfu", "rollout/tokens_per_s", *(f"time/{name}_s" for name in PHASES)):
            if key in numbers:
                self.measured[key].append(numbers[key])


def make_ours(arguments: argparse.Namespace, folder: Path, cleanup: ExitStack) -> tuple[Trainer, list[Prompt]]:
    settings = [
        "selector=random",
        f"model.dtype={arguments.dtype}",
        f"rollout={arguments.engine}",
        f"trainer.num_steps={arguments.steps + arguments.warmup}",
        f"trainer.prompts_per_step={arguments.prompts}",
        f"trainer.rollouts_per_prompt={arguments.rollouts}",
        f"trainer.max_completion_tokens={arguments.max_tokens}",
        f"learner.lr={arguments.lr}",
        "learner.weight_decay=0.0",
        "evaluation.every=0",
        "monitor=jsonl",
        f"seed={arguments.seed}",
    ]
    if arguments.model == "tiny":
        settings += ["model=tiny", "task=countdown"]
    else:
        problems = arguments.problems.resolve()
        settings += ["model=smollm2", f"model.path={Path(arguments.model).resolve()}", "task=gsm8k"]
        settings += [f"task.train_path={problems}", f"task.test_path={problems}", "task.max_test=1"]
        settings += ["task.max_train=512"]
    config = parse_config(compose_config(settings))
    parts = build_parts(config)
    open_selector(config, parts)
    run_dir = RunDir(folder)
    cleanup.callback(run_dir.close)
    store = CheckpointStore(folder / "checkpoints", keep_last=1)
    trainer = assemble(config, parts, run_dir, store, 0, cleanup, RunOutput())
    if arguments.model != "tiny":
        trainer.judge = Coin(arguments.seed)
    return trainer, list(parts.data.pool)


def make_reward(trainer: Trainer, pool: list[Prompt], arguments: argparse.Namespace) -> Callable[..., list[float]]:
    """Our reward behind TRL's signature."""
    by_text = {prompt.text: prompt for prompt in pool}
    coin = Coin(arguments.seed)

    def countdown(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        for prompt, text in zip(prompts, completions, strict=True):
            completion = Completion(
                token_ids=np.empty(0), logprobs=np.empty(0), text=text, finish_reason="stop", policy_version=0
            )
            trainer.judge.submit(by_text[prompt], [completion])
        return [reward.value for (reward,) in trainer.judge.collect()]

    def toss(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        groups = len(completions) // arguments.rollouts
        return [float(success) for _ in range(groups) for success in coin.toss(arguments.rollouts)]

    return countdown if arguments.model == "tiny" else toss


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, or a Hugging Face folder with a chat template")
    parser.add_argument("--problems", type=Path, help="for a folder: a JSONL file with question and answer a line")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--engine", default="transformers", choices=["transformers", "vllm"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--prompts", type=int, help="a step; default 64 for tiny, else 4")
    parser.add_argument("--rollouts", type=int, help="of a prompt; default 8")
    parser.add_argument("--max-tokens", type=int, help="of a completion; default 24 for tiny, else 64")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.model != "tiny" and arguments.problems is None:
        parser.error("--model with a folder needs --problems with a file")
    sizes = SIZES["tiny" if arguments.model == "tiny" else "own"]
    for name, value in zip(("prompts", "rollouts", "max_tokens", "lr"), sizes, strict=True):
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def main() -> None:
    arguments = parse_arguments()
    transformers_logging.disable_progress_bar()
    peak = measure_peak(torch.device("cpu"), getattr(torch, arguments.dtype), budget_s=3.0)
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        ours, pool = make_ours(arguments, folder / "ours", cleanup)
        steps = AlternatingSteps(ours, arguments.warmup)
        model = compose_config(["model=tiny"]).model.path if arguments.model == "tiny" else arguments.model
        trl = GRPOTrainer(
            model=model,
            reward_funcs=make_reward(ours, pool, arguments),
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
                learning_rate=arguments.lr,
                lr_scheduler_type="constant",
                weight_decay=0.0,
                max_grad_norm=1.0,
                beta=0.0,
                loss_type="grpo",
                # As ours: weights in float32, computing in bfloat16.
                bf16=arguments.dtype == "bfloat16",
                model_init_kwargs={"dtype": "float32"},
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
        num_parameters = count_parameters(Path(model)) or sum(p.numel() for p in trl.model.parameters())
    report(steps, arguments, peak, num_parameters)


def report(steps: AlternatingSteps, arguments: argparse.Namespace, peak: float, num_parameters: int) -> None:
    medians = {key: statistics.median(values) for key, values in steps.measured.items()}
    trl_s, ours_s = statistics.median(steps.trl_s), statistics.median(steps.ours_s)
    phases = {f"ours_{name}_s": round(medians[f"time/{name}_s"], 4) for name in PHASES}
    trained = statistics.mean(steps.measured["trained"])
    all_groups_s = ours_s + phases["ours_learn_s"] * (1 / trained - 1)
    tokens_per_s = medians["rollout/tokens_per_s"]
    # The learner's own measurement of the peak is short; this one is longer and before anything else runs.
    learner_peak = steps.trainer.learner._peak_flops  # type: ignore[attr-defined]
    learner_flops = medians["learner/mfu"] * learner_peak
    for name, seconds in (("TRL", steps.trl_s), ("insight_rl", steps.ours_s)):
        spread = f"{min(seconds):.3f} to {max(seconds):.3f}"
        print(f"{name:12s} median {statistics.median(seconds):.3f} s a step ({spread}, {len(seconds)} steps)")
    print("  of ours: " + ", ".join(f"{name} {phases[f'ours_{name}_s']:.3f}" for name in PHASES))
    print(
        f"  matrix products reach {peak / 1e9:.0f} GFLOP/s in {arguments.dtype}, the learner {learner_flops / peak:.0%}"
    )
    print(
        f"  rollout: {tokens_per_s:.0f} tokens/s, {2 * num_parameters * tokens_per_s / peak:.0%} of the matrix products"
    )
    result = {
        "ratio": round(trl_s / ours_s, 3),
        "ratio_all_groups": round(trl_s / all_groups_s, 3),
        "ratio_cpu": round(statistics.median(steps.cpu_ratios), 3) if arguments.engine == "transformers" else None,
        "trl_step_s": round(trl_s, 4),
        "ours_step_s": round(ours_s, 4),
        **phases,
        "rollout_tokens_per_s": round(tokens_per_s, 1),
        "rollout_of_peak": round(2 * num_parameters * tokens_per_s / peak, 3),
        "learner_gflops": round(learner_flops / 1e9, 2),
        "learner_of_peak": round(learner_flops / peak, 3),
        "peak_gflops": round(peak / 1e9, 1),
        "trained_group_fraction": round(trained, 3),
        "num_steps": len(steps.trl_s),
        "completions_per_step": arguments.prompts * arguments.rollouts,
        "model": Path(arguments.model).name,
        "dtype": arguments.dtype,
        "engine": arguments.engine,
        "threads": torch.get_num_threads(),
        "seed": arguments.seed,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
