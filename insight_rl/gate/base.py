"""The seam of admission: which scored groups the learner trains on. Never sees beliefs or the model."""

from __future__ import annotations

from typing import Protocol

from insight_rl.types import Group


class Gate(Protocol):
    """Admits or rejects a scored group; a rejected one still teaches the selector and still counts as cost."""

    max_rounds: int
    """How often a step may select and roll out, the first time included, to replace rejected groups."""

    def admit(self, group: Group, /) -> bool: ...
