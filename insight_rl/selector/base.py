"""The seam of data selection: which prompts to roll out next. Knows nothing of models, rewards or engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from insight_rl.types import Group, Metrics, Prompt


class Selector(Protocol):
    """Chooses prompts and learns from what they yielded.

    Constructed by the config with keyword-only settings (cheap, validated, no data yet), then given its pool once by
    :meth:`open`. A prompt that is selected and not yet observed is not selected again.
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

    def observe(self, groups: Sequence[Group]) -> None:
        """Learn from every scored group of a step, kept or gated out; uses each group's judged count as K."""
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
