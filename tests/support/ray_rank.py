"""A rank's worker that tells where it is; apart from the tests, so that an actor imports no test module."""

from __future__ import annotations

import os

import numpy as np

from insight_rl.errors import UsageError
from tests.support.asking_rank import AskingRank

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS")


class RayRank(AskingRank):
    def about(self, number):
        import ray

        return number, os.getpid(), ray.get_runtime_context().get_node_id(), {name: os.environ[name] for name in _NAMES}

    def total(self, array):
        return int(np.asarray(array).sum())

    def refuse(self):
        raise UsageError("learner.lr=-1: must be above 0")
