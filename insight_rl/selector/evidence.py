"""What a group counts as in the belief: `selector.evidence`.

    success   S = number of positive verdicts among the K judged rollouts (default; the papers)
    value     S = sum of the K rewards, each a grade in [0, 1]

With grades the update  alpha <- alpha + S, beta <- beta + K - S  is not a likelihood but quasi-binomial: it takes the
mean of a grade to be phi and its variance to be phi (1 - phi), the largest that a number in [0, 1] can have (grades of
0 and 1 only). True grades vary less, so the belief is too unsure rather than too sure, and phi is the expected grade
instead of a chance of success. What scores read as "the chance of a mixed group" is then the chance that as many
right-or-wrong rollouts of the same mean differ.

Source: quasi-likelihood, Wedderburn, Biometrika 61 (1974); fractional responses, Papke and Wooldridge (1996).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from insight_rl.errors import UsageError, check
from insight_rl.selector.belief import Floats
from insight_rl.types import Group, Outcome

KINDS = ("success", "value")


class Evidence:
    """Reads S out of outcomes. Example: ``Evidence("value").successes([group])``."""

    def __init__(self, kind: str = "success") -> None:
        check(kind in KINDS, "selector.evidence", kind, f"must be one of {', '.join(KINDS)}")
        self.kind = kind

    def successes(self, outcomes: Sequence[Outcome]) -> Floats:
        """S of each outcome, float64; whole numbers unless grades count.

        Raises ``UsageError`` for a reward outside [0, 1] where grades count, or for outcomes that have no rewards.
        """
        if self.kind == "success":
            return np.array([each.num_successes for each in outcomes], np.float64)
        return np.array([_total_value(each) for each in outcomes], np.float64)


def _total_value(outcome: Outcome) -> float:
    if not isinstance(outcome, Group):
        raise UsageError(
            f"selector.evidence='value': prompt {outcome.prompt_id} came with counts of right and wrong only, as from "
            "a simulation or the selector service; take selector.evidence=success"
        )
    values = [reward.value for reward in outcome.rewards_G if reward.is_judged]
    for value in values:
        if not 0.0 <= value <= 1.0:
            raise UsageError(
                f"selector.evidence='value': prompt {outcome.prompt_id} got a reward of {value:g}; grades must lie in "
                "[0, 1]: take selector.evidence=success, or a reward without penalties and bonuses"
            )
    return float(sum(values))
