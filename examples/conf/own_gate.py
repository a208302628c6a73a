"""A gate: train on groups with a right rollout, but not too many."""

from insight_rl.errors import check
from insight_rl.types import Group


class FewRight:
    def __init__(self, *, most: float, max_rounds: int) -> None:
        check(0 < most < 1, "gate.most", most, "must be above 0 and below 1")
        check(max_rounds >= 1, "gate.max_rounds", max_rounds, "must be at least 1")
        self.most = most
        self.max_rounds = max_rounds

    def admit(self, group: Group) -> bool:
        return 0 < group.num_successes <= self.most * group.num_judged
