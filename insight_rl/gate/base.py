"""The interface of gates: which judged groups the learner trains on."""

from __future__ import annotations

from typing import Protocol

from insight_rl.types import Group


class Gate(Protocol):
    """Admits or rejects a judged group. The selector observes a rejected group too, and it counts as cost."""

    max_rounds: int
    """How often a step may select and roll out, the first time included, to replace rejected groups."""

    def admit(self, group: Group, /) -> bool: ...
