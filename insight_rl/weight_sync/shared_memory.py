"""Weights through a folder in memory: a safetensors checkpoint that rank 0 writes once and all rollout processes read.

Works on one machine with any device. The CPU backend needs it: there vLLM packs every matrix after loading and frees
the original, and only its own ``reload_weights`` can undo that.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from insight_rl.errors import check
from insight_rl.types import Metrics
from insight_rl.weight_sync.base import RolloutProcess, WeightSource, call_all
from insight_rl.weight_sync.memory_folder import memory_folder


class SharedMemoryChannel:
    """``folder``: where the checkpoint is written; null takes ``/dev/shm``, or the temporary folder if it is small."""

    vllm_backend = None

    def __init__(self, *, folder: str | None = None) -> None:
        check(folder is None or Path(folder).is_dir(), "weight_sync.folder", folder, "is not a folder")
        self.folder = folder

    def check_placement(self, placement: str) -> None:
        """Files can be read from everywhere on the machine."""

    def check_device(self, device: str) -> None:
        """Files can be read on every device."""

    def reopen(self) -> None:
        """A file is opened at each send."""

    def send(self, weights: WeightSource, processes: Sequence[RolloutProcess]) -> Metrics:
        num_bytes = sum(info.num_bytes for info in weights.describe())
        with memory_folder(num_bytes, parent=self.folder) as folder:
            seconds = weights.save(folder)
            started = time.perf_counter()
            call_all(processes, "reload", folder=str(folder))
            seconds.load_s += time.perf_counter() - started
        return seconds.metrics()
