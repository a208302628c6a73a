"""The gate that admits every group: plain GRPO."""

from __future__ import annotations

from insight_rl.types import Outcome


class AdmitAll:
    """Every group goes to the learner."""

    max_rounds = 1

    def admit(self, outcome: Outcome) -> bool:
        return True
