"""The interface of selectors, which choose the prompts to roll out next and learn from the outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from insight_rl.errors import check
from insight_rl.types import Metrics, Outcome, Prompt


class Selector(Protocol):
    """Chooses prompts and learns from what they yielded.

    Constructed by the config with keyword-only settings (cheap, validated, no data yet), then given its pool once by
    :meth:`open`. A prompt that is selected and not yet observed is not selected again.
    :class:`~insight_rl.selector.belief_selector.BeliefSelector` does all of this; a rule of your own that keeps a
    belief of every prompt overrides its ``score_candidates`` or its ``pick`` and nothing else.
    """

    def open(self, pool: Sequence[Prompt], *, num_rollouts: int, seed: int) -> None:
        """Take the pool (N prompts; indexable, may be lazy) and K; reset every belief and the generator."""
        ...

    def select(self, num_prompts: int) -> Sequence[Prompt]:
        """The ``num_prompts`` (M) prompts to roll out next, best first; fewer only if the pool has no more."""
        ...

    def last_scores(self) -> Sequence[float]:
        """Scores of the prompts that the last :meth:`select` returned, in its order (NaN where a rule has none)."""
        ...

    def observe(self, outcomes: Sequence[Outcome], /) -> None:
        """Learn from every prompt rolled out in a step, kept or gated out; K is each outcome's own judged count."""
        ...

    def belief(self, prompt_id: str) -> tuple[float, float]:
        """alpha and beta of one prompt's belief about its success rate, as of the last :meth:`observe`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that later decisions depend on, as JSON-able values and NumPy arrays."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; a missing part or another pool is a ``ValueError``, never a fresh start."""
        ...

    def metrics(self) -> Metrics:
        """What the selector knows about itself and its pool now, keyed ``selector/name``."""
        ...


# Optional abilities of a selector; callers test for them with ``isinstance``.


@runtime_checkable
class ReadsManyBeliefs(Protocol):
    """A selector that gives the beliefs of a whole step at once, which is faster than one after another."""

    def beliefs(self, prompt_ids: Sequence[str]) -> list[tuple[float, float]]: ...


@runtime_checkable
class ChoosesRollouts(Protocol):
    """A selector that also says how often each prompt is rolled out. Without it, and by default, each gets K."""

    @property
    def varies_rollouts(self) -> bool:
        """Whether it may say anything but K: not every caller can follow it."""
        ...

    def last_rollouts(self) -> Sequence[int]:
        """Rollouts of the prompts that the last ``select`` returned, in its order; 2 or more, on average K."""
        ...


@runtime_checkable
class KnowsVersionLags(Protocol):
    """A selector that takes into account how old the policy was whose outcomes it observes."""

    def expect_lags(self, lags: Mapping[str, int]) -> None:
        """By prompt id, how many policy versions the outcomes of the next ``observe`` lag behind.

        Counted from the version that is trained on them; 0, as for a prompt that is not named here, is what a
        synchronous run has.
        """
        ...


@runtime_checkable
class TellsItsOrder(Protocol):
    """A selector that can say whether it goes through the whole pool before it comes back to any prompt."""

    def visits_unseen_first(self) -> bool: ...


@runtime_checkable
class FollowsItsRun(Protocol):
    """A selector that also receives the metrics of its run, such as the remote one, whose service shows them."""

    def monitor(self) -> Any:
        """A :class:`~insight_rl.monitor.base.Monitor` to add to those of the run."""
        ...


@runtime_checkable
class ReadsGrades(Protocol):
    """A selector that can count rewards instead of verdicts, so that it has to be given whole groups."""

    @property
    def reads_grades(self) -> bool: ...


def check_needs_counts_only(selector: object, caller: str) -> None:
    """Raise ``UsageError`` for a selector that asks more of ``caller`` than K rollouts a prompt and their counts."""
    varies = isinstance(selector, ChoosesRollouts) and selector.varies_rollouts
    check(not varies, "selector.rollout_budget", "knapsack", f"{caller} rolls out every prompt K times; take even")
    reads_grades = isinstance(selector, ReadsGrades) and selector.reads_grades
    check(not reads_grades, "selector.evidence", "value", f"{caller} has counts of right and wrong only; take success")
