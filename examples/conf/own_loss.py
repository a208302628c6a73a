"""A loss: GRPO whose ratio is held back smoothly instead of being cut."""

from typing import TYPE_CHECKING

from insight_rl.algorithm.loss import GRPO, Tokens
from insight_rl.errors import check

if TYPE_CHECKING:
    from torch import Tensor


class SoftClip(GRPO):
    def __init__(self, *, width: float) -> None:
        check(width > 0, "algorithm.loss.width", width, "must be above 0")
        self.width = width

    def surrogate(self, tokens: Tokens, ratio_N: "Tensor", *, low: float, high: float) -> "Tensor":
        return -self.width * ((ratio_N - 1) / self.width).tanh() * tokens.advantages_N
