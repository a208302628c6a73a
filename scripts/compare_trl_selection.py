"""TRL's GRPOTrainer on Countdown with the bundled tiny model: with INSIGHT selection, and as it is.

    python scripts/compare_trl_selection.py --output runs/trl --steps 120 --seeds 0 1

Both arms have the same model, data, rewards, settings and seeds; the only difference is who picks the prompts. Writes
a run folder for each arm and seed, curves.png with held-out accuracy (against steps, rollouts and tokens) and the share
of informative groups, and prints one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trl
import yaml
from datasets import Dataset
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed

from insight_rl.build import build_part
from insight_rl.config import compose_config
from insight_rl.integration.trl import GRPOTrainer
from insight_rl.monitor.records import METRICS_FILE, metrics_record, to_lines
from insight_rl.paths import data_dir
from insight_rl.report.curves import draw_curves
from insight_rl.reward.countdown import CountdownReward
from insight_rl.seeding import derive_seed
from insight_rl.tokenizer import ModelTokenizer
from insight_rl.types import Completion, Prompt

MODEL = data_dir() / "tiny_countdown"
MAX_TOKENS = 24
ARMS = {"TRL": "TRL shuffling", "insight": "TRL with INSIGHT"}


class Recorder(TrainerCallback):  # type: ignore[misc]  # TRL and transformers are not read by mypy
    """The reward function of both arms, and what is known of each step."""

    __name__ = "countdown"

    def __init__(self, pool: Sequence[Prompt], problems: Sequence[Prompt], arguments: argparse.Namespace) -> None:
        self._reward = CountdownReward(style="bare", format_value=0.1, allow_latex=False)
        self._pool = pool
        self._problems = problems
        self._arguments = arguments
        self._step: dict[str, float] = {}
        self._num_rollouts = self._num_tokens = 0
        self.records: list[dict[str, Any]] = []

    def __call__(self, completions: Sequence[str], row: Sequence[int], completion_ids: Any, **_: Any) -> list[float]:
        rewards = [self._judge(self._pool[index], text) for index, text in zip(row, completions, strict=True)]
        size = self._arguments.rollouts
        successes = [sum(reward == 1.0 for reward in rewards[i : i + size]) for i in range(0, len(rewards), size)]
        self._num_rollouts += len(rewards)
        self._num_tokens += sum(len(ids) for ids in completion_ids)
        self._step = {
            "reward/mean": sum(rewards) / len(rewards),
            "selector/informative_fraction": sum(0 < s < size for s in successes) / len(successes),
            "rollout/num_rollouts": self._num_rollouts,
            "rollout/num_tokens": self._num_tokens,
        }
        return rewards

    def _judge(self, prompt: Prompt, text: str) -> float:
        completion = Completion(
            token_ids=np.empty(0), logprobs=np.empty(0), text=text, finish_reason="stop", policy_version=0
        )
        return self._reward(prompt, completion).value

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._record(0, {"eval/accuracy": self.accuracy(model, kwargs["processing_class"])})

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        metrics = dict(self._step)
        if state.global_step % self._arguments.evaluate_every == 0:
            metrics["eval/accuracy"] = self.accuracy(model, kwargs["processing_class"])
            print(f"step {state.global_step}: {metrics}", flush=True)
        self._record(state.global_step, metrics)

    def _record(self, step: int, metrics: dict[str, Any]) -> None:
        self.records.append(metrics_record(metrics, step=step))

    @torch.no_grad()
    def accuracy(self, model: Any, tokenizer: Any) -> float:
        """Mean success over two samples a held-out problem at temperature 0.6, top-p 0.95."""
        state = torch.get_rng_state()
        torch.manual_seed(0)
        was_training = model.training
        model.eval()
        right = 0
        prompts = [prompt for prompt in self._problems for _ in range(2)]
        for first in range(0, len(prompts), 256):
            batch = prompts[first : first + 256]
            inputs = tokenizer([prompt.text for prompt in batch], return_tensors="pt", padding=True)
            inputs.pop("token_type_ids", None)
            output = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=True, temperature=0.6, top_p=0.95)
            texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            right += sum(self._judge(prompt, text) == 1.0 for prompt, text in zip(batch, texts, strict=True))
        model.train(was_training)
        torch.set_rng_state(state)
        return right / len(prompts)


def train(arm: str, seed: int, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One run; its folder is one that `insight-rl plot` reads."""
    set_seed(seed)
    task = build_part("task", OmegaConf.to_container(compose_config(["model=tiny", "task=countdown"]).task))
    encoder = ModelTokenizer(MODEL)
    pool, problems = task.train_prompts(encoder), task.test_prompts(encoder)
    recorder = Recorder(pool, problems, arguments)
    completions = arguments.prompts * arguments.rollouts
    config = trl.GRPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=completions,
        num_generations=arguments.rollouts,
        max_completion_length=MAX_TOKENS,
        max_steps=arguments.steps,
        learning_rate=arguments.lr,
        lr_scheduler_type="constant",
        weight_decay=0.1,
        beta=0.0,
        seed=derive_seed(seed, "trl") % 2**31,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        logging_steps=10**9,
    )
    more: dict[str, Any] = {"selector": "insight"} if arm == "insight" else {}
    trainer = (GRPOTrainer if more else trl.GRPOTrainer)(
        model=AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(MODEL),
        reward_funcs=recorder,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": [prompt.text for prompt in pool], "row": list(range(len(pool)))}),
        callbacks=[recorder],
        **more,
    )
    started = time.perf_counter()
    trainer.train()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METRICS_FILE).write_text(to_lines(recorder.records), encoding="utf-8")
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "selector_name": ARMS[arm]}), encoding="utf-8")
    accuracies = [record["eval/accuracy"] for record in recorder.records if "eval/accuracy" in record]
    informative = [record["selector/informative_fraction"] for record in recorder.records[1:]]
    return {
        "arm": arm,
        "seed": seed,
        "accuracy": [round(value, 4) for value in accuracies],
        "informative_fraction_mean": round(sum(informative) / len(informative), 4),
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/trl"))
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--prompts", type=int, default=64, help="M")
    parser.add_argument("--rollouts", type=int, default=8, help="K")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--evaluate-every", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    folders, results = [], []
    for seed in arguments.seeds:
        for arm in ARMS:
            folders.append(arguments.output / f"{arm.lower()}_seed{seed}")
            results.append(train(arm, seed, folders[-1], arguments))
            print(results[-1], flush=True)
    draw_curves(folders, arguments.output / "curves.png")
    print(json.dumps({"runs": results, "picture": str(arguments.output / "curves.png")}))


if __name__ == "__main__":
    main()
