"""The messages of the HTTP interface, version 1, with their types and limits: ids and counts, never text or weights."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MAX_CHUNK = 100_000
"""Prompt ids of one pool chunk."""
MAX_PROMPTS = 16_384
"""Prompts of one select, observations of one observe, ids of one beliefs request."""
MAX_ROLLOUTS = 1_024
"""Of one prompt in one step."""
MAX_POOL_SIZE = 100_000_000

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="letters, digits, . _ -")]
PromptId = Annotated[str, Field(min_length=1, max_length=512)]
FieldName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
TaskName = Annotated[str, Field(max_length=200)]
Step = Annotated[int, Field(ge=0, lt=2**31)]
Belief = Annotated[list[float], Field(min_length=2, max_length=2, description="alpha and beta")]
Scalar = bool | int | float | str | None


class Refused(Exception):
    """A request that cannot be granted: the HTTP status and what the client should know."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(Message):
    """Every answer that is not 2xx."""

    detail: str = Field(description="what is wrong and how to mend it")


class PoolChunk(Message):
    """A stretch of the pool. Chunks are numbered from 0; the pool is their concatenation."""

    ids: list[PromptId] = Field(min_length=1, max_length=MAX_CHUNK)
    tasks: list[TaskName] = Field(
        default=[""], max_length=MAX_CHUNK, description="one task for the whole chunk, or one for each id"
    )
    numbers: dict[FieldName, list[int | float | None]] = Field(
        default={}, max_length=20, description="numbers that a selector asks for, such as num_choices: one for each id"
    )

    @model_validator(mode="after")
    def _one_value_for_each(self) -> PoolChunk:
        if len(self.tasks) not in (1, len(self.ids)):
            raise ValueError(f"tasks has {len(self.tasks)} entries for {len(self.ids)} ids; give one, or one for each")
        for field, values in self.numbers.items():
            if len(values) != len(self.ids):
                raise ValueError(
                    f"numbers.{field} has {len(values)} entries for {len(self.ids)} ids; give one for each"
                )
        return self


class SealPool(Message):
    """Ends the upload; from then on the pool cannot change."""

    num_prompts: int = Field(ge=1, le=MAX_POOL_SIZE, description="total over all chunks: a check on the upload")
    fingerprint: str | None = Field(default=None, max_length=64, description="what the client holds the pool to be")


class PoolInfo(Message):
    pool: str
    is_sealed: bool
    num_chunks: int
    num_prompts: int
    fingerprint: str | None = Field(description="hash of every id and task in order; null until sealed")


class SelectorChoice(Message):
    """A selector that the server has in its configuration, and changes to its settings."""

    name: str = Field(
        default="insight", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$", description="file of conf/selector"
    )
    settings: dict[str, Scalar | list[Scalar] | dict[str, Scalar | list[Scalar]]] = Field(default={}, max_length=100)

    @field_validator("settings")
    @classmethod
    def _holds_values_only(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Neither ``_target_`` nor interpolations: a client chooses among classes, it does not name them."""

        def walk(node: Any) -> None:
            if isinstance(node, dict):
                for key, value in node.items():
                    if key.startswith("_") or "$" in key:
                        raise ValueError("a setting's name must not begin with _ and have no $")
                    walk(value)
            elif isinstance(node, list):
                for value in node:
                    walk(value)
            elif isinstance(node, str) and ("$" in node or node == "???"):
                raise ValueError("a setting must be a plain value: no $, and not ???, which stands for no value")

        walk(settings)
        return settings


class RunDefinition(Message):
    """What a run's decisions follow from, besides what is observed."""

    pool: Name
    selector: SelectorChoice = SelectorChoice()
    num_rollouts: int = Field(ge=1, le=MAX_ROLLOUTS, description="K, rollouts of each selected prompt")
    seed: int = Field(ge=0, le=2**63 - 1)


class CreateRun(RunDefinition):
    run: Name


class ForkRun(Message):
    """A new run that goes on from an earlier moment of this one; this one stays as it is."""

    name: Name
    version: int = Field(ge=0, lt=2**53, description="number of operations that the new run takes over")


class RunInfo(RunDefinition):
    run: str
    version: int = Field(description="number of operations applied since the run (or what it was forked from) began")
    forked_from: str | None
    created_at: float = Field(description="seconds since 1970")


class SelectRequest(Message):
    """Idempotent by (run, step, round): asked again, the service gives the answer it gave before."""

    step: Step = Field(description="the client's training step")
    round: int = Field(default=0, ge=0, lt=2**31, description="0, then 1, 2, ... for further selections of one step")
    num_prompts: int = Field(ge=1, le=MAX_PROMPTS)


class Selection(Message):
    ids: list[str] = Field(description="best first; fewer than asked for only if the pool has no more")
    positions: list[int] = Field(description="where each prompt stands in the pool, from 0")
    scores: list[float | None] = Field(description="null where the rule has none")
    version: int
    is_repeat: bool = Field(description="whether the answer is that of an earlier, equal request")


class Observation(Message):
    id: PromptId
    num_judged: int = Field(ge=0, le=MAX_ROLLOUTS, description="rollouts that the verifier reached a verdict on")
    num_successes: int = Field(ge=0, le=MAX_ROLLOUTS)
    num_unjudged: int = Field(
        default=0, ge=0, le=MAX_ROLLOUTS, description="timeouts and errors: never count as failures"
    )
    version_lag: int = Field(
        default=0, ge=0, lt=2**31, description="policy versions between the one that sampled and the one to be trained"
    )

    @model_validator(mode="after")
    def _counts_agree(self) -> Observation:
        if self.num_successes > self.num_judged:
            raise ValueError(f"num_successes={self.num_successes} is more than num_judged={self.num_judged}")
        return self


class ObserveRequest(Message):
    """Idempotent by (run, step): sent again, it is acknowledged again and counted once."""

    step: Step
    observations: list[Observation] = Field(max_length=MAX_PROMPTS, description="every group rolled out in the step")

    @field_validator("observations")
    @classmethod
    def _each_prompt_once(cls, observations: list[Observation]) -> list[Observation]:
        if len({observation.id for observation in observations}) < len(observations):
            raise ValueError("a prompt id occurs twice; put all rollouts of a prompt into one observation")
        return observations


class Acknowledgement(Message):
    """The observation is on disk."""

    beliefs: list[Belief] = Field(description="alpha and beta after it, in the order observed")
    version: int
    is_repeat: bool = Field(description="whether it had been counted before")


class BeliefsRequest(Message):
    ids: list[PromptId] = Field(max_length=MAX_PROMPTS)


class Beliefs(Message):
    beliefs: list[Belief]


class RunState(Message):
    version: int
    digest: str = Field(description="hash of everything that later decisions depend on")


MetricValues = dict[str, float | int | dict[str, list[Any]] | None]
"""Numbers, histograms as ``{"counts": [...], "edges": [...]}`` and tables as ``{"columns": [...], "rows": [...]}``."""


class MetricsAnswer(Message):
    """The selector's own metrics."""

    metrics: MetricValues


class CheckedSelector(Message):
    """The settings that a choice comes to."""

    settings: dict[str, Any]


class ReliabilityBin(Message):
    predicted: float
    observed: float
    num_rollouts: int


class Report(Message):
    """What a trainer tells of its run for the page; no decision depends on it. Sent again, it replaces the first."""

    step: Step
    accuracy: float | None = Field(default=None, ge=0, le=1, description="on held-out problems")
    is_finished: bool = False


class Pick(Message):
    id: str
    score: float | None
    belief: Belief | None = Field(description="alpha and beta that the score was computed from; null after a restart")
    num_successes: int | None = Field(description="null until observed")
    num_judged: int | None
    belief_now: Belief


class StepSummary(Message):
    step: int = Field(description="last step that it stands for")
    num_groups: int
    informative_fraction: float | None = Field(description="share of the groups with both outcomes; null without any")
    success_rate: float | None = Field(description="of the judged rollouts")


class AccuracyPoint(Message):
    step: int
    accuracy: float


class LiveView(Message):
    """What the page draws."""

    info: RunInfo
    num_prompts: int
    num_steps: int = Field(description="steps observed")
    last_seen_at: float | None = Field(description="last operation or report, seconds since 1970")
    is_finished: bool
    metrics: MetricValues
    history: list[StepSummary] = Field(description="every step, or at most 300 stretches of steps, ascending")
    accuracy: list[AccuracyPoint] = Field(description="as the trainer reported it")
    picks: list[Pick] = Field(description="the latest selection, best first, at most 50")
    picks_step: int | None
    reliability: list[ReliabilityBin] = Field(description="forecast against outcome, latest observations since loading")
