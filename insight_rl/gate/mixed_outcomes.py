"""Dynamic sampling (DAPO, arXiv 2503.14476): only groups with both outcomes are trained on.

Deviation from the paper: the number of rounds is bounded. A step that still has too few groups trains on those it has;
no group is duplicated to fill the batch.
"""

from __future__ import annotations

from insight_rl.errors import check
from insight_rl.types import Outcome


class MixedOutcomes:
    """Admits a group if the verifier's verdicts on it differ; judged on the verdict, not on the shaped reward."""

    def __init__(self, *, max_rounds: int = 4) -> None:
        check(max_rounds >= 1, "gate.max_rounds", max_rounds, "must be at least 1 (the first time counts as one)")
        self.max_rounds = max_rounds

    def admit(self, outcome: Outcome) -> bool:
        return outcome.is_informative
