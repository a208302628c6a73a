"""A selector without beliefs: it goes through the pool in order, again and again."""

from collections.abc import Mapping, Sequence
from typing import Any

from insight_rl.types import Metrics, Outcome, Prompt


class InOrder:
    def open(self, pool: Sequence[Prompt], *, num_rollouts: int, seed: int) -> None:
        self._pool = pool
        self._next = 0
        self._num_last = 0

    def select(self, num_prompts: int) -> Sequence[Prompt]:
        self._num_last = min(num_prompts, len(self._pool))
        chosen = [self._pool[(self._next + i) % len(self._pool)] for i in range(self._num_last)]
        self._next = (self._next + self._num_last) % len(self._pool)
        return chosen

    def last_scores(self) -> Sequence[float]:
        return [float("nan")] * self._num_last  # this rule has no scores

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        pass

    def belief(self, prompt_id: str) -> tuple[float, float]:
        return 1.0, 1.0  # nothing is known

    def state_dict(self) -> dict[str, Any]:
        return {"next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._next = int(state["next"])

    def metrics(self) -> Metrics:
        return {"selector/position": self._next}
