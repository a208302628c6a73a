"""What every runtime is set by: what becomes of a run whose processes are lost, or that is told to stop."""

from __future__ import annotations

from dataclasses import dataclass

from insight_rl.errors import check
from insight_rl.stop_signals import GRACE_KEY
from insight_rl.supervision import HEARTBEAT_KEY

MAX_RESTARTS_KEY = "runtime.max_restarts"


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
    """The settings that all runtimes have in common; see conf/runtime/shared/settings.yaml.

    Example::

        RuntimeSettings(max_restarts=1, heartbeat_deadline_s=120.0, grace_s=20.0)
    """

    max_restarts: int = 1
    heartbeat_deadline_s: float = 120.0
    grace_s: float | None = None

    def __post_init__(self) -> None:
        check(self.max_restarts >= 0, MAX_RESTARTS_KEY, self.max_restarts, "must be at least 0")
        check(
            5 <= self.heartbeat_deadline_s < float("inf"),
            HEARTBEAT_KEY,
            self.heartbeat_deadline_s,
            "must be a number of seconds from 5 on: a heartbeat comes once a second, and late on a busy machine",
        )
        check(self.grace_s is None or self.grace_s > 0, GRACE_KEY, self.grace_s, "must be above 0 seconds, or null")
