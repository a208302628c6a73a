"""Guards around any score: exploration floor, cap on repeats, alarm. Off by default: the papers have none of them.

They need to know when each prompt was observed and how many groups were informative, but no scores or beliefs.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from insight_rl.errors import check, is_number

_log = logging.getLogger(__name__)


class Guards:
    """The settings of the guards, and what they remember: the steps of the last window."""

    def __init__(
        self,
        *,
        exploration: float = 0.0,
        max_visits: int | None = None,
        window: int = 10,
        alarm_below: float = 0.0,
        alarm_after: int = 5,
    ) -> None:
        check(
            is_number(exploration) and 0 <= exploration <= 1,
            "selector.guards.exploration",
            exploration,
            "must be a share in [0, 1]",
        )
        check(
            max_visits is None or (isinstance(max_visits, int) and max_visits >= 1),
            "selector.guards.max_visits",
            max_visits,
            "must be null (no cap) or a whole number of at least 1",
        )
        check(isinstance(window, int) and window >= 1, "selector.guards.window", window, "must be a number of steps")
        check(
            is_number(alarm_below) and 0 <= alarm_below <= 1,
            "selector.guards.alarm_below",
            alarm_below,
            "must be a fraction in [0, 1]; 0 never alarms",
        )
        check(
            isinstance(alarm_after, int) and alarm_after >= 1,
            "selector.guards.alarm_after",
            alarm_after,
            "must be a number of steps, at least 1",
        )
        self._exploration, self._max_visits = float(exploration), max_visits
        self._alarm_below, self._alarm_after = float(alarm_below), alarm_after
        self._recent: deque[np.ndarray] = deque(maxlen=window)
        self.reset()

    def reset(self) -> None:
        self._recent.clear()
        self._low_steps = 0

    def num_explored(self, num_prompts: int) -> int:
        """How many of ``num_prompts`` are drawn uniformly whatever their score (rounded up: a floor)."""
        return int(np.ceil(self._exploration * num_prompts))

    def capped(self) -> np.ndarray:
        """Positions, ascending, of the prompts that had their ``max_visits`` within the window."""
        if self._max_visits is None or not self._recent:
            return np.empty(0, np.int64)
        indices, visits = np.unique(np.concatenate(self._recent), return_counts=True)
        return indices[visits >= self._max_visits]

    def observe(self, indices: np.ndarray, successes: np.ndarray, judged: np.ndarray) -> dict[str, float]:
        """Record a step; returns ``selector/alarm`` if the alarm is on.

        The alarm goes off after ``alarm_after`` steps in a row of too few informative groups, and logs the reason once.
        """
        if self._max_visits is not None:
            self._recent.append(indices)
        if not self._alarm_below or not len(indices):
            return {}
        informative = float(np.mean((successes > 0) & (successes < judged)))
        self._low_steps = self._low_steps + 1 if informative < self._alarm_below else 0
        if self._low_steps == self._alarm_after:
            _log.warning(
                "informative fraction %.2f, below %g for %d steps in a row: %s",
                informative,
                self._alarm_below,
                self._alarm_after,
                reason(successes, judged),
            )
        return {"selector/alarm": float(self._low_steps >= self._alarm_after)}

    def state_dict(self) -> dict[str, Any]:
        return {"recent": [indices.copy() for indices in self._recent], "low_steps": self._low_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._recent.clear()
        self._recent.extend(np.array(indices, np.int64) for indices in state["recent"])
        self._low_steps = int(state["low_steps"])


def reason(successes: np.ndarray, judged: np.ndarray) -> str:
    """What the uninformative groups of a step are, most frequent kind first, and what to do about it."""
    kinds = {
        "not judged (look at reward timeouts and errors)": np.mean(judged == 0),
        "all wrong (the pool is too hard for this policy, or answers are cut off or not recognised)": np.mean(
            (judged > 0) & (successes == 0)
        ),
        "all right (the pool is learnt: harder prompts are needed)": np.mean((judged > 0) & (successes == judged)),
    }
    ranked = sorted(kinds.items(), key=lambda kind: -kind[1])
    return "; ".join(f"{share:.0%} of the groups are {name}" for name, share in ranked if share > 0)
