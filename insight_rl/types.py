"""The data that flows through a training step, one frozen type per stage.

    Prompt -> Completion (x G) -> Reward (x G) -> Group -> Metrics

Nothing but NumPy is imported here, so that every other module can import this one at little cost.
Suffixes on plural containers: P prompts, G rollouts of one prompt, T tokens of one completion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from insight_rl.stored_arrays import AnyArray, StoredArray

DTYPES = ("float32", "bfloat16")
"""Precisions that a policy can be trained in. float16 is not one: its gradients would need loss scaling."""

PROMPT_STYLES = ("bare", "chat")
"""bare: the prompt is plain text. chat: it goes through the model's chat template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One datapoint tau of the pool, already tokenised for the model at hand.

    Example::

        Prompt(id="countdown/3f9c0a", task="countdown", text="3,7,12=24:", token_ids=(5, 17, ...),
               answer={"numbers": [3, 7, 12], "target": 24}, metadata={"num_numbers": 3})
    """

    id: str
    """Stable across runs and machines (a hash of the content): beliefs are keyed on it."""

    task: str
    """Name of the task that made it; metrics and per-task priors are grouped by it."""

    text: str
    """The prompt as the model sees it, for people to read."""

    token_ids: tuple[int, ...]

    answer: Any
    """What the reward function needs to judge a completion; its form belongs to the task."""

    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Completion:
    """One rollout of one prompt.

    Tokens are arrays all the way to the learner, since Python numbers take eight times their memory; any sequence of
    numbers given here becomes one. Two completions are equal if all they hold is equal.

    Example::

        Completion(token_ids=np.array([8, 12, 2]), logprobs=np.array([-0.1, -1.2, -0.01]), text="3*7+...",
                   finish_reason="stop", policy_version=12)
    """

    token_ids: AnyArray
    """int32 (T,): as sampled, the end-of-sequence token included; never re-tokenised from text."""

    logprobs: AnyArray
    """float32 (T,): natural log-probability of each token under the sampling distribution (after temperature)."""

    text: str

    finish_reason: str
    """``"stop"`` (an end-of-sequence token) or ``"length"`` (truncated)."""

    policy_version: int
    """Version of the weights that sampled it: the number of weight updates the engine had received."""

    def __post_init__(self) -> None:
        for name, dtype in (("token_ids", np.int32), ("logprobs", np.float32)):
            value = getattr(self, name)
            if not isinstance(value, StoredArray):
                object.__setattr__(self, name, np.asarray(value, dtype=dtype))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Completion):
            return NotImplemented
        return (
            self._scalars() == other._scalars()
            and np.array_equal(self.token_ids, other.token_ids)
            and np.array_equal(self.logprobs, other.logprobs)
        )

    def __hash__(self) -> int:
        return hash(self._scalars())

    def _scalars(self) -> tuple[str, str, int]:
        return self.text, self.finish_reason, self.policy_version

    @property
    def is_truncated(self) -> bool:
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """The verdict on one completion.

    ``success`` is the verifier's verdict and updates the belief; ``value`` is what the policy is trained on. They are
    two things: 0.1 for a well-formed wrong answer is not a tenth of a success.

    Example::

        Reward(value=0.1, success=False, status="wrong")
        Reward(value=0.0, success=None, status="timeout", reason="no verdict within judge.deadline_s=5")
    """

    value: float

    success: bool | None
    """``None`` means not judged (timeout, infrastructure): never counted as a failure, never trained on."""

    status: str = ""
    """correct | wrong | unparsable | no_answer | timeout | error."""

    parts: Mapping[str, float] = field(default_factory=dict)
    """Named contributions to ``value`` of composed rewards, for the logs."""

    reason: str = ""
    """Why there is no verdict, for people to read; empty where there is one."""

    @property
    def is_judged(self) -> bool:
        return self.success is not None


class Outcome(Protocol):
    """How the rollouts of one prompt came out: all that a selector learns from. A :class:`Group` is one."""

    @property
    def prompt_id(self) -> str: ...

    @property
    def num_judged(self) -> int:
        """K of the belief update: rollouts that the verifier reached a verdict on."""
        ...

    @property
    def num_successes(self) -> int:
        """S of the belief update, from 0 to K."""
        ...

    @property
    def is_informative(self) -> bool:
        """Whether the verifier saw both outcomes: 0 < S < K."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The G rollouts of one prompt and their rewards: the unit of GRPO and of one belief update.

    Example: ``Group(prompt=prompt, completions_G=(c0, c1), rewards_G=(right, wrong))`` has ``num_judged == 2``,
    ``num_successes == 1`` and is informative.
    """

    prompt: Prompt
    completions_G: tuple[Completion, ...]
    rewards_G: tuple[Reward, ...]

    def __post_init__(self) -> None:
        if len(self.completions_G) != len(self.rewards_G):
            raise ValueError(
                f"prompt {self.prompt.id}: {len(self.completions_G)} completions but {len(self.rewards_G)} rewards; "
                "every completion needs exactly one"
            )

    @property
    def prompt_id(self) -> str:
        return self.prompt.id

    @property
    def num_judged(self) -> int:
        """K of the belief update: rollouts that the verifier reached a verdict on."""
        return sum(reward.is_judged for reward in self.rewards_G)

    @property
    def num_successes(self) -> int:
        """S of the belief update."""
        return sum(reward.success is True for reward in self.rewards_G)

    @property
    def is_informative(self) -> bool:
        """Whether the verifier saw both outcomes: only then does the group say which rollouts to prefer."""
        return 0 < self.num_successes < self.num_judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """An :class:`Outcome` of which only the counts are known: simulations, the selector service, TRL.

    Example::

        Counts(prompt_id="countdown/3f9c0a", num_judged=8, num_successes=3)
    """

    prompt_id: str
    num_judged: int
    num_successes: int

    @property
    def is_informative(self) -> bool:
        return 0 < self.num_successes < self.num_judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample completions. ``num_rollouts`` per prompt, each at most ``max_tokens`` long."""

    num_rollouts: int
    max_tokens: int
    temperature: float
    """0 means greedy."""
    top_p: float = 1.0
    """Below 1 in evaluation only: cutting the distribution renormalises the rollout's log-probs and not the learner's,
    which would bias the ratio of the two."""

    seed: int
    """Derived from the run's seed and the step: the same seed and weights give the same completions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts between edges (``len(edges) == len(counts) + 1``), a metric that is a distribution."""

    counts: tuple[int, ...]
    edges: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under column names, a metric that is text (sample completions)."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


Metrics = dict[str, "float | int | Histogram | Table"]
"""Flat, keyed ``area/name``; the metric dictionary is docs/metrics.md."""
