"""Replays a recorded run: which of the prompts that were rolled out would another selector have taken?

The outcomes are the recorded ones: no model and no synthetic learner takes part, and nothing is assumed about prompts
that were not rolled out.

Each step, a selector chooses a share of the prompts *that the run rolled out in that step*; then it observes the
outcomes of all of them, chosen or not, so that it enters the next step with the evidence that the run had. Where the
run selected uniformly, this is an unbiased estimate of how the selector chooses among uniform candidates given that
evidence, under the policy as it was in the run (the idea of Li et al., arXiv 1003.5956).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from insight_rl.build import build_part
from insight_rl.errors import UsageError, check
from insight_rl.report.runs import load_runs
from insight_rl.seeding import derive_seed
from insight_rl.selector.decision_log import StepDecisions, logged_steps, read_decisions, read_pool
from insight_rl.simulation.settings import Variant
from insight_rl.types import Counts, Outcome, Prompt

RECORDED = "all rolled out"
HINDSIGHT = "best in hindsight"


@runtime_checkable
class ReplayedSelector(Protocol):
    """The part of a selector that a replay calls: it is given the candidates."""

    def open(self, pool: Sequence[Prompt], *, num_rollouts: int, seed: int) -> None: ...

    def select_among(self, prompt_ids: Sequence[str], num_prompts: int) -> Sequence[Prompt]: ...

    def observe(self, outcomes: Sequence[Outcome], /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The rolled out prompts of a run, step by step, with their outcomes."""

    run_dir: Path
    selector: str
    """Option of conf/selector that the run took."""
    steps: tuple[StepDecisions, ...]
    pool: tuple[Prompt, ...]
    num_rollouts: int

    @property
    def is_uniform(self) -> bool:
        """Whether every prompt of a step had the same chance: then they are a fair sample of the pool."""
        return all(np.ptp(step.propensity) == 0.0 for step in self.steps)  # NaN where nothing was left to chance

    def informative_fractions(self) -> np.ndarray:
        """Share of informative groups among all that were rolled out, one for each step."""
        return np.array([np.mean(_is_informative(step)) for step in self.steps])

    def best_fractions(self, share: float) -> np.ndarray:
        """The same among the best choice of as many prompts as a replayed selector has."""
        return np.array([min(_is_informative(step).sum() / num_picks(step, share), 1.0) for step in self.steps])


def load_recording(run_dir: Path) -> Recording:
    """Read the decision log of a run. Raises ``UsageError`` where there is none, or nothing in it to replay."""
    steps = []
    for step in logged_steps(run_dir):
        decisions = read_decisions(run_dir, step)
        rolled_out = decisions.rows(decisions.judged > 0)
        if len(rolled_out) > 1:
            steps.append(rolled_out)
    check(bool(steps), "replay", str(run_dir), "no step of its decision log has two prompts that were rolled out")
    ids = dict.fromkeys(prompt_id for step in steps for prompt_id in step.prompt_id.tolist())
    texts = read_pool(run_dir)  # their beginnings: what a prior learnt from features has to go by
    return Recording(
        run_dir=run_dir,
        selector=load_runs([run_dir])[0].option("selector") or "unknown",
        steps=tuple(steps),
        pool=tuple(
            Prompt(id=each, task=each.partition("/")[0], text=texts.get(each, ""), token_ids=(0,), answer=None)
            for each in ids
        ),
        num_rollouts=max(int(step.judged.max()) for step in steps),
    )


def replay(recording: Recording, variant: Variant, *, share: float, seeds: Sequence[int]) -> np.ndarray:
    """Share of informative groups in what the selector chose: ``(num_seeds, num_steps)``."""
    selector = build_part("selector", variant.selector)
    if not isinstance(selector, ReplayedSelector):
        raise UsageError(f"selectors={variant.label}: it cannot choose among given prompts, so it cannot be replayed")
    return np.stack([_replay_once(selector, recording, share, seed) for seed in seeds])


def _replay_once(selector: ReplayedSelector, recording: Recording, share: float, seed: int) -> np.ndarray:
    selector.open(recording.pool, num_rollouts=recording.num_rollouts, seed=derive_seed(seed, "selector"))
    fractions = np.empty(len(recording.steps))
    for index, step in enumerate(recording.steps):
        rows = {prompt_id: row for row, prompt_id in enumerate(step.prompt_id.tolist())}
        picks = selector.select_among(list(rows), num_picks(step, share))
        chosen = [rows[prompt.id] for prompt in picks]
        fractions[index] = np.mean(_is_informative(step)[chosen])
        counts = zip(step.prompt_id.tolist(), step.successes.tolist(), step.judged.tolist(), strict=True)
        selector.observe([Counts(prompt_id=each, num_successes=right, num_judged=all_) for each, right, all_ in counts])
    return fractions


def num_picks(step: StepDecisions, share: float) -> int:
    """How many of a step's rolled out prompts a selector may choose."""
    return max(1, round(share * len(step)))


def caveats(recording: Recording, share: float) -> str:
    """What the replay of this recording can tell and what it cannot, in words."""
    sizes = [len(step) for step in recording.steps]
    size = f"{sizes[0]}" if len(set(sizes)) == 1 else f"{min(sizes)} to {max(sizes)}"
    fair = (
        "The run selected uniformly, so these prompts are a fair sample of the pool and the figures are what each "
        f"selector would find among {1 / share:.0f} uniform candidates for each prompt it takes, at that state of the "
        "policy."
        if recording.is_uniform
        else f"The run's own selector ({recording.selector}) chose these prompts, so they are no fair sample of the "
        "pool: selectors that resemble it find their favourites already picked over, and prompts it avoided are not "
        "here to be found. Trust the order of selectors only if a run with selector=random gives the same."
    )
    return (
        f"Each of {len(sizes)} steps: a selector picks {share:.0%} of the {size} prompts that the run rolled out; its "
        f"beliefs rest on all that the run had seen before. {fair} A replay cannot tell what the policy would have "
        "learnt from other picks, nor what a selector would know had it chosen all along: nothing here says which one "
        "ends with the better model."
    )


def _is_informative(step: StepDecisions) -> np.ndarray:
    informative: np.ndarray = (step.successes > 0) & (step.successes < step.judged)
    return informative
