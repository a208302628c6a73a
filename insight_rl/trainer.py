"""GRPO with online data selection, and nothing else.

    each step t:
        tau_1..M    ~ selector            prompts that will teach the model most
        o_1..K(tau) ~ policy_{t-1}        rollouts, judged by the verifier
        kept        = gate(groups)        with dynamic sampling, missing prompts are drawn again
        belief(tau) <- observe            every judged rollout, kept or not
        policy_t    <- learner            advantages within each group, then the policy gradient
        engine      <- policy_t

This file has the order of these steps and the counters of the run, and nothing of processes, devices or files.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from insight_rl.algorithm.algorithm import Algorithm
from insight_rl.clock import PhaseClock, phase
from insight_rl.evaluation import Evaluator
from insight_rl.gate.base import Gate
from insight_rl.learner.base import Learner
from insight_rl.memory import peak_memory
from insight_rl.monitor.base import Monitor
from insight_rl.reward.base import Judge
from insight_rl.rollout.base import Finished, RolloutEngine
from insight_rl.rollout.groups import collect_groups, roll_out
from insight_rl.run_stops import stop_if_logprobs_diverge
from insight_rl.seeding import derive_seed
from insight_rl.selector.base import ChoosesRollouts, Selector
from insight_rl.step_metrics import gate_metrics, reward_metrics, rollout_metrics
from insight_rl.types import Group, Metrics, Prompt, Sampling


@dataclass(kw_only=True)
class Progress:
    """The counters of a run, saved with every checkpoint."""

    step: int = 0
    num_rollouts: int = 0
    num_tokens: int = 0
    device_s: float = 0.0
    """Device seconds of the steps, see :mod:`insight_rl.device_time`; evaluations and checkpoints are left out."""

    def count(self, groups: Sequence[Group]) -> None:
        """Add the rollouts of a step."""
        self.num_rollouts += sum(len(group.completions_G) for group in groups)
        self.num_tokens += sum(len(c.token_ids) for group in groups for c in group.completions_G)


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    num_steps: int
    prompts_per_step: int
    sampling: Sampling
    """K, length and temperature of the rollouts; each step replaces the seed."""
    max_mean_logprob_gap: float
    evaluate_every: int
    """0: never."""
    checkpoint_every: int
    seed: int
    max_rollouts: int | None = None
    """The run ends after the step that reaches this number of rollouts, rejected groups included."""
    max_tokens: int | None = None
    max_device_s: float | None = None

    def is_over(self, progress: Progress) -> bool:
        """Whether the last step has been done: ``num_steps``, or the one that has used up a budget."""
        used = (
            (progress.num_rollouts, self.max_rollouts),
            (progress.num_tokens, self.max_tokens),
            (progress.device_s, self.max_device_s),
        )
        return progress.step >= self.num_steps or any(limit is not None and spent >= limit for spent, limit in used)


class SelectionLog(Protocol):
    """Records which prompts were selected in a step, with their scores."""

    def log(self, step: int, groups: Sequence[Group], scores: Sequence[float]) -> None: ...


class Saver(Protocol):
    """Writes a checkpoint of the whole run; the step's ``metrics`` say how good it is."""

    def __call__(self, progress: Progress, metrics: Metrics) -> None: ...


class Trainer:
    saves_rollouts = False
    """Whether a checkpoint holds rollouts of later steps too, so that it can be written in the middle of them."""

    def __init__(
        self,
        *,
        settings: TrainerSettings,
        selector: Selector,
        gate: Gate,
        rollout: RolloutEngine,
        judge: Judge,
        algorithm: Algorithm,
        learner: Learner,
        evaluator: Evaluator,
        monitors: Sequence[Monitor],
        selection_log: SelectionLog,
        save_checkpoint: Saver,
        sync_check: Callable[[int], Metrics],
        device_time: Callable[[], float] = time.process_time,
        process_metrics: Callable[[], Metrics] = peak_memory,
    ) -> None:
        self.settings = settings
        self.selector = selector
        self.gate = gate
        self.rollout = rollout
        self.judge = judge
        self.algorithm = algorithm
        self.learner = learner
        self.evaluator = evaluator
        self.monitors = monitors
        self.selection_log = selection_log
        self.save_checkpoint = save_checkpoint
        self.sync_check = sync_check
        self.device_time = device_time
        self.process_metrics = process_metrics
        self.progress = Progress()
        self.clock = PhaseClock()
        self.stop_requested = False

    def train(self) -> None:
        """Run to ``num_steps`` or the budget, or to the end of the current step once ``stop_requested`` is set."""
        if self.progress.step == 0:
            self.log(self.evaluate() | self.clock.lap() | self.process_metrics(), step=0)
        while not self.is_over() and not self.stop_requested:
            step = self.progress.step + 1
            started_s = self.device_time()
            metrics = self.train_step(step)
            self.progress.step = step
            self.progress.device_s += self.device_time() - started_s
            metrics["time/device_s"] = self.progress.device_s
            if self.is_due(step, self.settings.evaluate_every):
                metrics |= self.evaluate()
            self.log(metrics | self.clock.lap(metrics) | self.process_metrics(), step=step)
            if self.is_due(step, self.settings.checkpoint_every) or self.stop_requested:
                self.checkpoint(metrics)

    def is_over(self) -> bool:
        return self.settings.is_over(self.progress)

    def request_stop(self) -> None:
        """Have :meth:`train` end after the current step and its checkpoint. May be called from a signal handler."""
        self.stop_requested = True

    def train_step(self, step: int) -> Metrics:
        """One step of the algorithm; returns its metrics."""
        groups, kept, num_rounds = self.collect(step)
        self.selector.observe(groups)
        beliefs_P = [self.selector.belief(group.prompt.id) for group in kept]
        advantages_P_G = self.algorithm.advantages(kept, beliefs_P)
        learned = self.learn(kept, advantages_P_G)
        stop_if_logprobs_diverge(learned, max_mean_gap=self.settings.max_mean_logprob_gap)
        synced = self.sync(step)

        self.progress.count(groups)
        cost = {"rollout/num_rollouts": self.progress.num_rollouts, "rollout/num_tokens": self.progress.num_tokens}
        of_groups = reward_metrics(groups) | rollout_metrics(groups) | gate_metrics(groups, kept, num_rounds)
        return self.selector.metrics() | of_groups | learned | cost | synced

    def collect(self, step: int) -> tuple[list[Group], list[Group], int]:
        """Every group rolled out in this step, those of them that the gate admits (at most M), and the rounds taken."""
        groups: list[Group] = []
        kept: list[Group] = []
        scores: list[float] = []
        for num_rounds in range(1, self.gate.max_rounds + 1):
            prompts = self.select(self.settings.prompts_per_step - len(kept))
            if not prompts:
                break
            scores += self.selector.last_scores()
            finished = self.roll_out(prompts, seed=derive_seed(self.settings.seed, "rollout", step, num_rounds))
            new = self.reward(prompts, finished)
            groups += new
            kept += [group for group in new if self.gate.admit(group)]
            if len(kept) == self.settings.prompts_per_step:
                break
        self.selection_log.log(step, groups, scores)
        return groups, kept, num_rounds

    @phase("select")
    def select(self, num_prompts: int) -> Sequence[Prompt]:
        return self.selector.select(num_prompts)

    @phase("rollout")
    def roll_out(self, prompts: Sequence[Prompt], *, seed: int) -> Finished:
        sampling = dataclasses.replace(self.settings.sampling, seed=seed)
        rollouts_P = self.selector.last_rollouts() if isinstance(self.selector, ChoosesRollouts) else None
        return roll_out(self.rollout, self.judge, prompts, sampling, rollouts_P)

    @phase("reward")
    def reward(self, prompts: Sequence[Prompt], finished: Finished) -> list[Group]:
        return collect_groups(self.judge, prompts, finished)

    @phase("learn")
    def learn(self, kept: Sequence[Group], advantages_P_G: Sequence[np.ndarray]) -> Metrics:
        return self.learner.step(kept, advantages_P_G)

    @phase("sync")
    def sync(self, version: int) -> Metrics:
        metrics = self.rollout.update_weights(self.learner.weights(), version=version)
        return metrics | self.sync_check(version)

    @phase("evaluate")
    def evaluate(self) -> Metrics:
        return self.evaluator.evaluate(self.rollout, self.judge, step=self.progress.step)

    @phase("checkpoint")
    def checkpoint(self, metrics: Metrics) -> None:
        self.save_checkpoint(self.progress, metrics)

    def is_due(self, step: int, every: int) -> bool:
        return every > 0 and (step % every == 0 or self.is_over())

    def log(self, metrics: Metrics, *, step: int) -> None:
        for monitor in self.monitors:
            monitor.log(metrics, step=step)
