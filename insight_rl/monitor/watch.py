"""Gives a notice when a run does not learn, or when its settings look like a mistake. None of them stops it.

Each check is a pure function that returns one sentence with cause and remedy, or ``None``. Those on settings are asked
once, before a model loads; :class:`Watch` asks the others after every step and says each of them once a run.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from insight_rl.monitor.records import METRICS_FILE, Record, metrics_record, read_records
from insight_rl.monitor.summary import Summary
from insight_rl.types import Metrics

MIN_STEPS = 3
MIN_GROUPS = 100
"""A notice needs that many steps in a row and that many groups in them. Where one group in twenty is mixed, a hundred
groups without a mixed one are a matter of chance once in 170 times."""

TRUNCATED = 0.9
"""Share of cut-off completions that counts as nearly all. Long answers of a reasoning model reach a half."""

USUAL_LR, USUAL_PARAMETERS = 1e-6, 4e9
"""The paper's learning rate, and the size of the model it is for. Smaller models take more: the bundled one, of 0.86
million parameters, learns at 1e-4, which is what the square root of the sizes gives (6.8e-5)."""

LR_FACTOR = 30.0
"""How far from the usual learning rate is absurd. At 10 times some runs still learn, at 100 none that we have seen."""

ADAPTER_LR_FACTOR = 10.0
"""How many times the rate of the whole model an adapter (learner.lora) takes, as a rule."""

MIN_PASS_TOKENS = 1024
"""Tokens of a forward and backward pass below which starting it costs more than computing it."""


def no_mixed_groups(records: Sequence[Record]) -> str | None:
    """Given after :data:`MIN_STEPS` steps and :data:`MIN_GROUPS` groups, each of them all right or all wrong."""
    recent = _last_steps(records, lambda record: _number(record, "selector/informative_fraction") == 0)
    if not recent:
        return None
    accuracy = _mean(recent, "reward/accuracy")
    unreadable = _mean(recent, "reward/status_unparsable") + _mean(recent, "reward/status_no_answer")
    start = f"no group had both right and wrong rollouts in {len(recent)} steps, so there is nothing to learn from: "
    if unreadable > 0.5:
        return (
            f"{start}in {unreadable:.0%} of the completions the verifier finds no answer that it can read; compare "
            "samples.jsonl with what the reward expects (reward.*), say in task.instruction how to answer, or raise "
            "trainer.max_completion_tokens if they are cut off"
        )
    if accuracy < 0.01:
        return (
            f"{start}every rollout is wrong; look at samples.jsonl and `insight-rl data inspect`: either the gold "
            "answers are not what the prompts ask for, or the problems are too hard for this model"
        )
    if accuracy > 0.99:
        return f"{start}every rollout is right; take harder problems for this model, or a higher trainer.temperature"
    return (
        f"{start}each group is all right or all wrong; raise trainer.rollouts_per_prompt or trainer.temperature, or "
        "lower learner.lr if the policy has lost its variety"
    )


def nearly_all_truncated(records: Sequence[Record]) -> str | None:
    recent = _last_steps(records, lambda record: _number(record, "rollout/truncated_fraction") >= TRUNCATED)
    if not recent:
        return None
    return (
        f"{_mean(recent, 'rollout/truncated_fraction'):.0%} of the completions of {len(recent)} steps were cut off "
        "before their end, which mostly makes them wrong; raise trainer.max_completion_tokens (with model.max_length), "
        "or lower learner.lr if they have only lately become so long"
    )


def accuracy_collapsed(evaluations: Sequence[Record], *, num_problems: int) -> str | None:
    """Given when held-out accuracy is below half of its best, and by more than four standard errors."""
    if len(evaluations) < 2:
        return None
    *earlier, last = evaluations
    best = max(earlier, key=lambda record: float(record["eval/accuracy"]))
    before, now = float(best["eval/accuracy"]), float(last["eval/accuracy"])
    standard_error = math.sqrt(before * (1 - before) / num_problems)
    if now > before / 2 or before - now < 4 * standard_error:
        return None
    return (
        f"held-out accuracy has fallen from {before:.3f} (step {best['step']}) to {now:.3f} (step "
        f"{last['step']}): the policy has collapsed; begin anew with a lower learner.lr or more "
        "trainer.prompts_per_step. checkpoints/best is the best one that is kept"
    )


def unusual_learning_rate(lr: float, *, num_parameters: int, has_adapter: bool = False) -> str | None:
    """Given where ``lr`` is more than :data:`LR_FACTOR` times off what is usual for a model or adapter of this size."""
    usual = USUAL_LR * math.sqrt(USUAL_PARAMETERS / num_parameters) * (ADAPTER_LR_FACTOR if has_adapter else 1)
    if usual / LR_FACTOR <= lr <= usual * LR_FACTOR:
        return None
    outcome = "the policy will hardly move" if lr < usual else "the policy will most likely collapse"
    of = "an adapter of " if has_adapter else ""
    return (
        f"learner.lr={lr:g}: for {of}a model of {_size(num_parameters)} parameters about {usual:.0e} is usual; "
        f"{outcome}. Take learner.lr={usual:.0e} unless you mean it"
    )


def small_micro_batches(tokens_per_micro_batch: int, *, row_tokens: int) -> str | None:
    """Given where a pass cannot hold two rows of ``row_tokens`` and is too short to be worth its start."""
    if tokens_per_micro_batch >= min(2 * row_tokens, MIN_PASS_TOKENS):
        return None
    return (
        f"learner.tokens_per_micro_batch={tokens_per_micro_batch}: the learner computes nearly every completion by "
        f"itself (a prompt with its completion has up to {row_tokens} tokens), which is slow; the gradient is the same "
        f"with more: take at least {max(MIN_PASS_TOKENS, 8 * row_tokens)} where memory allows"
    )


def too_many_ranks(num_ranks: int, *, num_cores: int) -> str | None:
    """For ranks that compute on the CPU."""
    if num_ranks <= num_cores:
        return None
    return (
        f"learner.num_ranks={num_ranks}: this machine has {num_cores} core{'s' if num_cores > 1 else ''}, so ranks "
        f"share them and wait for each other; learner.num_ranks={num_cores} is faster"
    )


class Watch:
    """A monitor that turns the metrics of a run into notices, each once a run; ``say`` passes them on."""

    def __init__(self, say: Callable[[str], None], *, num_problems: int) -> None:
        """``num_problems``: held-out problems of an evaluation, for the noise of its accuracy."""
        self._say = say
        self._steps: deque[Record] = deque(maxlen=MIN_GROUPS)
        self._evaluations: list[Record] = []
        self._checks: dict[str, Callable[[], str | None]] = {
            "truncation": lambda: nearly_all_truncated(self._steps),
            "mixed groups": lambda: no_mixed_groups(self._steps),
            "accuracy": lambda: accuracy_collapsed(self._evaluations, num_problems=max(1, num_problems)),
        }

    def open(self, run_dir: Path, *, config: Mapping[str, Any], num_steps: int, first_step: int) -> None:
        """Read what a resumed run has recorded; a notice that it gave then is not given again."""
        path = run_dir / METRICS_FILE
        for record in read_records(path) if path.is_file() else []:
            if record["step"] < first_step:
                self._add(record)

    def log(self, metrics: Metrics, *, step: int) -> None:
        for text in self._add(metrics_record(metrics, step=step)):
            self._say(text)

    def notice(self, text: str) -> None: ...

    def close(self, summary: Summary | None = None) -> None: ...

    def _add(self, record: Record) -> list[str]:
        """The notices that this record is the first to give rise to."""
        # A run that has gone back to a checkpoint does its steps again.
        for earlier in (self._steps, self._evaluations):
            while earlier and earlier[-1]["step"] >= record["step"]:
                earlier.pop()
        if record["step"] > 0:
            self._steps.append(record)
        if record.get("eval/accuracy") is not None:
            self._evaluations.append(record)
        found = {name: text for name, check in self._checks.items() if (text := check()) is not None}
        for name in found:
            del self._checks[name]
        return list(found.values())


def _last_steps(records: Sequence[Record], holds: Callable[[Record], bool]) -> list[Record]:
    """The steps at the end of ``records`` that it holds for, if they are enough to say something."""
    recent: list[Record] = []
    for record in reversed(records):
        if not holds(record):
            break
        recent.append(record)
    num_groups = sum(_number(record, "gate/num_groups") for record in recent)
    return recent if len(recent) >= MIN_STEPS and num_groups >= MIN_GROUPS else []


def _mean(records: Sequence[Record], key: str) -> float:
    """Of the steps that have it; statuses that did not occur in a step are left out of its metrics and count as 0."""
    return sum(value for record in records if math.isfinite(value := _number(record, key, 0.0))) / len(records)


def _number(record: Record, key: str, otherwise: float = math.nan) -> float:
    value = record.get(key)
    return otherwise if value is None else float(value)


def _size(num_parameters: int) -> str:
    for unit, word in ((1e9, "billion"), (1e6, "million")):
        if num_parameters >= unit:
            return f"{num_parameters / unit:.3g} {word}"
    return f"{num_parameters:,}"
