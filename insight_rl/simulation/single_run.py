"""One simulated run by itself, as ``insight-rl compare`` asks for with ``kind=simulate``: an arm and a seed."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from insight_rl.build import build_part
from insight_rl.seeding import derive_seed
from insight_rl.selector.base import check_needs_counts_only
from insight_rl.simulation.experiment import CURVES, SimulatedLearner, SimulatedSelector, run, withholding
from insight_rl.simulation.oracle import OracleSelector
from insight_rl.simulation.settings import SimulationConfig, compose_simulation
from insight_rl.types import Outcome, Prompt

Row = dict[str, float | int | None]


def simulated_run(overrides: Sequence[str], seed: int) -> list[Row]:
    """Run the selector that ``overrides`` of ``conf/simulate.yaml`` name, once; rows of a learning curve.

    A row each ``record_every`` steps, step 0 and the last step included: ``step``, ``rollouts`` (all that were made,
    those of groups that a gate rejected included), ``tokens`` (always None: a simulation has no completions),
    ``seconds`` (processor seconds of selection), ``accuracy`` (mean success of the held-out prompts, or of the pool
    without any) and ``informative_fraction`` (of the groups since the row before; None at step 0). Arms of one seed
    meet the same pool. Raises ``UsageError``.

    Example::

        simulated_run(["synthetic_learner=hopeless80", "selector=insight", "selector.forgetting=0.5"], seed=3)
    """
    return run_composed(compose_simulation(overrides), seed)


def run_composed(config: SimulationConfig, seed: int) -> list[Row]:
    """As :func:`simulated_run`, of a configuration composed before: for many seeds of the same arm."""
    learner: SimulatedLearner = build_part("synthetic_learner", config.synthetic_learner)
    chosen: SimulatedSelector = OracleSelector(learner) if config.oracle else build_part("selector", config.selector)
    check_needs_counts_only(chosen, "a simulation")
    gate = build_part("gate", config.gate)
    seed = derive_seed(seed, "simulation")
    learner.open(num_prompts=config.num_prompts, seed=derive_seed(seed, "pool"))
    before = learner.mean_success()
    selector = _Timed(chosen)
    curves = run(selector, gate, learner, size=config.size, seed=seed, with_regret=False)
    return _rows(config, before, dict(zip(CURVES, curves, strict=True)), np.cumsum(selector.seconds))


def _rows(
    config: SimulationConfig, before: float, curves: dict[str, np.ndarray], selection_seconds: np.ndarray
) -> list[Row]:
    groups = curves["num_groups"]
    num_groups = np.cumsum(groups)
    num_informative = np.cumsum(curves["informative_fraction"] * groups)
    rows: list[Row] = [_row(0, 0, 0.0, before, None)]
    last = 0.0, 0.0
    for step in range(1, config.num_steps + 1):
        if step % config.record_every and step < config.num_steps:
            continue
        done, informative = float(num_groups[step - 1]), float(num_informative[step - 1])
        share = (informative - last[1]) / (done - last[0])
        last = done, informative
        rollouts = round(done) * config.rollouts_per_prompt
        seconds, accuracy = float(selection_seconds[step - 1]), float(curves["mean_success"][step - 1])
        rows.append(_row(step, rollouts, seconds, accuracy, share))
    return rows


def _row(step: int, rollouts: int, seconds: float, accuracy: float, informative: float | None) -> Row:
    return {
        "step": step,
        "rollouts": rollouts,
        "tokens": None,
        "seconds": seconds,
        "accuracy": accuracy,
        "informative_fraction": informative,
    }


class _Timed:
    """A selector that keeps the processor seconds of each step: ``seconds``, opening in the first."""

    def __init__(self, selector: SimulatedSelector) -> None:
        self._selector = selector
        self.seconds: list[float] = []
        self._spent = 0.0

    def open(self, pool: Sequence[Prompt], *, num_rollouts: int, seed: int) -> None:
        started = time.process_time()
        self._selector.open(pool, num_rollouts=num_rollouts, seed=seed)
        self._spent += time.process_time() - started

    def select(self, num_prompts: int) -> Sequence[Prompt]:
        started = time.process_time()
        prompts = self._selector.select(num_prompts)
        self._spent += time.process_time() - started
        return prompts

    def observe(self, outcomes: Sequence[Outcome], /) -> None:
        """The last call of a step."""
        started = time.process_time()
        self._selector.observe(outcomes)
        self.seconds.append(self._spent + time.process_time() - started)
        self._spent = 0.0

    def withhold(self, prompt_ids: Sequence[str]) -> None:
        withholding(self._selector).withhold(prompt_ids)

    def release(self, prompt_ids: Sequence[str]) -> None:
        withholding(self._selector).release(prompt_ids)
