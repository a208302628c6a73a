"""The learning-rate schedule: linear warm-up, then constant, linear or cosine down to 0 at the run's last step."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def lr_at(step: int, *, num_steps: int, peak: float, warmup_steps: int, schedule: Schedule) -> float:
    """Learning rate of the trainer's ``step`` (from 1) of ``num_steps``; ``peak`` is reached at ``warmup_steps``."""
    if step <= warmup_steps:
        return peak * step / warmup_steps
    if schedule == "constant":
        return peak
    progress = min(1.0, (step - 1 - warmup_steps) / max(1, num_steps - warmup_steps))
    if schedule == "linear":
        return peak * (1 - progress)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
