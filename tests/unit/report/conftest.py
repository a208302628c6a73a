"""A run's folder, written by the parts that write it in a run, without a model."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from insight_rl.build import build_part
from insight_rl.config import compose_config
from insight_rl.monitor.jsonl import JsonlMonitor
from insight_rl.rollout_log import ROLLOUTS_FOLDER, RolloutLog
from insight_rl.run_dir import RunDir, open_selection_logs
from insight_rl.step_metrics import reward_metrics, rollout_metrics
from insight_rl.types import Completion, Group, Prompt, Reward

HOSTILE = "</script><script>alert(1)</script> <img src=x onerror=alert(1)> \u2028 \0 \ud800 {{7*7}} --> '\""


class MadeRun:
    """Twelve steps of a selector on a pool of 20 prompts, of which prompt i is solved with chance i / 20."""

    num_steps, per_step, num_rollouts = 12, 4, 4

    def __init__(self, folder: Path, text: str) -> None:
        self.folder = folder
        # Half a surrogate pair can be in what a model writes, and in no pool.
        mine = text.replace("\ud800", "")
        pool = [
            Prompt(id=f"made/{n}{mine}", task=f"made{mine}", text=f"prompt {n} {mine}", token_ids=(1,), answer=mine)
            for n in range(20)
        ]
        tree = compose_config(["seed=7", "trainer.num_steps=12", "learner.lr=2e-4"])
        run_dir = RunDir(folder)
        run_dir.record(tree, step=0)
        selector = build_part("selector", OmegaConf.to_container(tree.selector, resolve=True))
        selector.open(pool, num_rollouts=self.num_rollouts, seed=1)
        log = RolloutLog(folder / ROLLOUTS_FOLDER, every=3, max_mb=8, first_step=0, gaps=self._gaps)
        logs = open_selection_logs(folder, selector, pool, first_step=0, beside=[log])
        monitor = JsonlMonitor()
        monitor.open(folder, config={}, num_steps=self.num_steps, first_step=0)
        monitor.notice(f"a notice {text}")
        monitor.log({"eval/accuracy": 0.25, "eval/accuracy_half_width": 0.02}, step=0)
        self._generator = random.Random(0)
        for step in range(1, self.num_steps + 1):
            prompts = selector.select(self.per_step)
            self.groups = [self._group(prompt, pool.index(prompt) / 20, step, text) for prompt in prompts]
            logs.log(step, self.groups, selector.last_scores())
            selector.observe(self.groups)
            log.end_step(step)
            metrics = selector.metrics() | reward_metrics(self.groups) | rollout_metrics(self.groups)
            metrics |= {"time/learn_s": 1.5, "time/step_s": 2.0, "memory/trainer_gib": 0.5}
            metrics |= {"eval/accuracy": 0.25 + step / 100} if step % 4 == 0 else {}
            metrics |= {"rollout/num_rollouts": 16 * step, "rollout/num_tokens": 160 * step}
            monitor.log(metrics, step=step)
        monitor.close()
        logs.close()
        run_dir.close()

    def _gaps(self) -> dict[str, np.ndarray]:
        return {group.prompt.id: np.linspace(0.001, 0.004, self.num_rollouts) for group in self.groups}

    def _group(self, prompt: Prompt, rate: float, step: int, text: str) -> Group:
        rights = [self._generator.random() < rate for _ in range(self.num_rollouts)]
        return Group(
            prompt=prompt,
            completions_G=tuple(
                Completion(
                    token_ids=(1,) * (5 + number),
                    logprobs=(-0.1,) * (5 + number),
                    text=f"completion {number} {text}",
                    finish_reason="stop",
                    policy_version=step - 1,
                )
                for number in range(self.num_rollouts)
            ),
            rewards_G=tuple(
                Reward(value=float(is_right), success=is_right, status="correct" if is_right else "wrong", reason=text)
                for is_right in rights
            ),
        )


@pytest.fixture
def made_run(tmp_path):
    """``made_run(text)``: the folder of a run in which every word of others holds ``text``."""
    return lambda text="": MadeRun(tmp_path / "a run", text).folder


@pytest.fixture(scope="session")
def hostile_text():
    return HOSTILE
