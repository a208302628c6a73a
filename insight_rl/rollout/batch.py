"""The rollouts of a step on their way to the learner: under way (:class:`Flight`), then whole (:class:`Batch`).

Both can be saved in a checkpoint, so that a run that is resumed goes on with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from insight_rl.gate.base import Gate
from insight_rl.rollout.base import Finished
from insight_rl.rollout.saved import find_prompt, load_completions, load_groups, save_completions, save_groups
from insight_rl.types import Completion, Group, Histogram, Metrics, Prompt


@dataclass(kw_only=True)
class Flight:
    """What has been selected for a step and is not all rolled out.

    Example: ``Flight(step=7)`` before its first prompts are selected.
    """

    step: int
    num_rounds: int = 0
    """How often prompts were selected for the step; more than once only with a gate that has missing ones replaced."""
    prompts: list[Prompt] = field(default_factory=list)
    """Of the round that is under way, in the order of selection; empty: none is."""
    rollouts_P: list[int] | None = None
    """Rollouts of each of ``prompts`` where the selector chooses them."""
    finished: Finished = field(default_factory=list)
    """Those of ``prompts`` that are rolled out, in the order in which they were finished."""
    groups: list[Group] = field(default_factory=list)
    """Of the rounds before: judged."""
    kept: list[Group] = field(default_factory=list)
    """Those of ``groups`` that the gate has admitted."""
    scores: list[float] = field(default_factory=list)
    """Of all prompts selected so far."""

    @property
    def num_unfinished(self) -> int:
        return len(self.prompts) - len(self.finished)

    def open_round(self, prompts: Sequence[Prompt], rollouts_P: Sequence[int] | None, scores: Sequence[float]) -> None:
        self.prompts = list(prompts)
        self.rollouts_P = None if rollouts_P is None else list(rollouts_P)
        self.scores += scores

    def unfinished(self) -> tuple[list[Prompt], list[int] | None]:
        """The prompts that remain to be rolled out, and how often each of them."""
        done = {prompt.id for prompt, _ in self.finished}
        rows = [row for row, prompt in enumerate(self.prompts) if prompt.id not in done]
        rollouts_P = None if self.rollouts_P is None else [self.rollouts_P[row] for row in rows]
        return [self.prompts[row] for row in rows], rollouts_P

    def close_round(self, groups: Sequence[Group], gate: Gate) -> None:
        self.groups += groups
        self.kept += [group for group in groups if gate.admit(group)]
        self.prompts, self.rollouts_P, self.finished = [], None, []

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "num_rounds": self.num_rounds,
            "prompt_ids": [prompt.id for prompt in self.prompts],
            "rollouts_P": self.rollouts_P,
            "finished": save_completions(list(self.finished)),  # others may be finished meanwhile
            "groups": save_groups(self.groups),
            "kept": _positions(self.kept, self.groups),
            "scores": list(self.scores),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], prompts: Mapping[str, Prompt]) -> Flight:
        """Raises ``ValueError`` for a prompt that is not among ``prompts``, which are by id."""
        groups = load_groups(state["groups"], prompts)
        return cls(
            step=int(state["step"]),
            num_rounds=int(state["num_rounds"]),
            prompts=[find_prompt(prompt_id, prompts) for prompt_id in state["prompt_ids"]],
            rollouts_P=state["rollouts_P"],
            finished=load_completions(state["finished"], prompts),
            groups=groups,
            kept=[groups[position] for position in state["kept"]],
            scores=[float(score) for score in state["scores"]],
        )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The groups of a step, judged and in the selector's beliefs: what the learner trains on next.

    Example: ``Batch(step=7, groups=groups, kept=groups, beliefs_P=[(3.0, 1.0), ...], num_rounds=1, metrics={})``.
    """

    step: int
    groups: list[Group]
    kept: list[Group]
    """Those that the gate has admitted."""
    beliefs_P: list[tuple[float, float]]
    """alpha and beta of each of ``kept``, as of the observation of this batch."""
    num_rounds: int
    metrics: Metrics
    """What the selector had to tell then."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each phase of it took; not saved."""

    @property
    def completions(self) -> list[Completion]:
        return [completion for group in self.groups for completion in group.completions_G]

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "groups": save_groups(self.groups),
            "kept": _positions(self.kept, self.groups),
            "beliefs_P": [list(belief) for belief in self.beliefs_P],
            "num_rounds": self.num_rounds,
            "metrics": {key: _plain(value) for key, value in self.metrics.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], prompts: Mapping[str, Prompt]) -> Batch:
        """Raises as :meth:`Flight.from_state`."""
        groups = load_groups(state["groups"], prompts)
        return cls(
            step=int(state["step"]),
            groups=groups,
            kept=[groups[position] for position in state["kept"]],
            beliefs_P=[(float(alpha), float(beta)) for alpha, beta in state["beliefs_P"]],
            num_rounds=int(state["num_rounds"]),
            metrics={key: _metric(value) for key, value in state["metrics"].items()},
        )


def _positions(some: Sequence[Group], groups: Sequence[Group]) -> list[int]:
    """Where ``some`` stand among ``groups``; a prompt occurs once in a step."""
    places = {group.prompt_id: position for position, group in enumerate(groups)}
    return [places[group.prompt_id] for group in some]


def _plain(value: Any) -> Any:
    if isinstance(value, Histogram):
        return {"counts": list(value.counts), "edges": list(value.edges)}
    return int(value) if isinstance(value, int) else float(value)


def _metric(value: Any) -> float | int | Histogram:
    if isinstance(value, dict):
        return Histogram(counts=tuple(value["counts"]), edges=tuple(value["edges"]))
    number: float | int = value
    return number
