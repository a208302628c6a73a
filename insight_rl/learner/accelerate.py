"""``learner=accelerate``: the default learner, as the config constructs it. Loads nothing until it is started."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from insight_rl.learner.deepspeed import quiet_deepspeed
from insight_rl.learner.multi_rank import MultiRankLearner
from insight_rl.learner.processes import MakeWorker
from insight_rl.learner.settings import LearnerSettings

if TYPE_CHECKING:
    from insight_rl.learner.worker import RankWorker


class AccelerateLearner(MultiRankLearner):
    """Data-parallel AdamW through Hugging Face Accelerate: a single rank in this process, several in their own.

    See :class:`~insight_rl.learner.base.Learner`; it takes the settings of
    :class:`~insight_rl.learner.settings.LearnerSettings`.
    """

    single_rank_in_process = True

    def _make_worker(self) -> MakeWorker:
        return functools.partial(_make_worker, self.settings)


def _make_worker(settings: LearnerSettings) -> RankWorker:
    quiet_deepspeed()
    from insight_rl.learner.accelerate_engine import AccelerateEngine
    from insight_rl.learner.worker import RankWorker

    return RankWorker(AccelerateEngine(settings))
