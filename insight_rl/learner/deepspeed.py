"""``learner=deepspeed``: ZeRO-sharded training, as the config constructs it. Loads nothing until it is started."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from insight_rl.learner.multi_rank import MultiRankLearner
from insight_rl.learner.processes import MakeWorker
from insight_rl.learner.settings import DeepSpeedSettings

if TYPE_CHECKING:
    from insight_rl.learner.worker import RankWorker


class DeepSpeedLearner(MultiRankLearner, DeepSpeedSettings):
    """AdamW through DeepSpeed, ZeRO stages 0 to 3. Every rank, even a single one, is a process of its own.

    DeepSpeed changes process-wide state (``torch.distributed``, how transformers loads models), which the trainer and a
    rollout engine in its process are kept out of. See :class:`~insight_rl.learner.base.Learner`; it takes the settings
    of :class:`~insight_rl.learner.settings.DeepSpeedSettings`.
    """

    settings_type = DeepSpeedSettings
    single_rank_in_process = False

    def _make_worker(self) -> MakeWorker:
        return functools.partial(_make_worker, self.settings)


def _make_worker(settings: DeepSpeedSettings) -> RankWorker:
    quiet_deepspeed()
    from insight_rl.learner.deepspeed_engine import DeepSpeedEngine
    from insight_rl.learner.worker import RankWorker

    return RankWorker(DeepSpeedEngine(settings))


def quiet_deepspeed() -> None:
    """Keep DeepSpeed, which transformers imports where it is installed, from looking for accelerators and warning."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
