"""The closing figures of a run, taken from its ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from insight_rl.clock import STEP_PHASES
from insight_rl.errors import UsageError
from insight_rl.monitor.records import METRICS_FILE, Record, read_records

PHASES = (*STEP_PHASES, "evaluate", "checkpoint", "other")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The figures of a run over all of its records, including those from before a resume.

    Example::

        Summary(run_dir=Path("runs/demo"), model_dir=Path("runs/demo/model"), num_steps=120, accuracy_before=0.3125,
                accuracy_after=0.4375, accuracy_best=0.4414, best_step=100, num_rollouts=61440, num_tokens=552960,
                informative_fraction=0.71, seconds={"select": 0.2, "other": 1.1})
    """

    run_dir: Path

    model_dir: Path | None
    """The Hugging Face folder, where the run has saved one."""

    num_steps: int
    """Training steps done."""

    accuracy_before: float | None
    """Held-out accuracy before the first step; None where it was not measured."""

    accuracy_after: float | None
    """Held-out accuracy of the last evaluation after the first step."""

    accuracy_best: float | None
    best_step: int | None

    num_rollouts: int
    """Completions sampled for training, those of discarded groups included."""

    num_tokens: int
    """Tokens of those completions."""

    informative_fraction: float | None
    """Mean over all steps."""

    seconds: dict[str, float]
    """Wall-clock seconds of each of :data:`PHASES`."""


def summarise(run_dir: Path) -> Summary:
    """The summary of a finished or cut-short run. Raises ``UsageError`` where the folder has no metrics."""
    path = run_dir / METRICS_FILE
    records = read_records(path) if path.is_file() else []
    if not records:
        raise UsageError(f"{path}: no step is recorded there; give the folder of a run that has begun")
    accuracy_at = {r["step"]: r["eval/accuracy"] for r in records if r.get("eval/accuracy") is not None}
    later_steps = [step for step in accuracy_at if step > 0]
    best_step = max(accuracy_at, key=lambda step: (accuracy_at[step], -step), default=None)
    fractions = [f for r in records if (f := r.get("selector/informative_fraction")) is not None]
    model_dir = run_dir / "model"
    return Summary(
        run_dir=run_dir,
        model_dir=model_dir if model_dir.is_dir() else None,
        num_steps=max(record["step"] for record in records),
        accuracy_before=accuracy_at.get(0),
        accuracy_after=accuracy_at[later_steps[-1]] if later_steps else None,
        accuracy_best=None if best_step is None else accuracy_at[best_step],
        best_step=best_step,
        num_rollouts=int(_last(records, "rollout/num_rollouts")),
        num_tokens=int(_last(records, "rollout/num_tokens")),
        informative_fraction=sum(fractions) / len(fractions) if fractions else None,
        seconds=_seconds(records),
    )


def _last(records: Sequence[Record], key: str) -> float:
    return next((record[key] for record in reversed(records) if record.get(key) is not None), 0)


def _seconds(records: Sequence[Record]) -> dict[str, float]:
    def total(name: str) -> float:
        return sum(record.get(f"time/{name}_s") or 0.0 for record in records)

    seconds = {phase: total(phase) for phase in PHASES if phase != "other"}
    # Clocks of overlapping phases may add up to a little more than the step.
    seconds["other"] = max(0.0, total("step") - sum(seconds[phase] for phase in STEP_PHASES))
    return seconds
