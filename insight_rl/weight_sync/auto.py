"""``weight_sync=auto``: the channel that fits the device of the rollout engine."""

from __future__ import annotations

from collections.abc import Sequence

from insight_rl.types import Metrics
from insight_rl.weight_sync.base import RolloutProcess, WeightChannel, WeightSource
from insight_rl.weight_sync.shared_memory import SharedMemoryChannel
from insight_rl.weight_sync.vllm_transfer import IpcChannel


class AutoChannel:
    """Shared memory where the engine runs on a CPU, CUDA IPC where it runs on a GPU."""

    # vLLM ignores it on a CPU, and its device is not known before it has started.
    vllm_backend = IpcChannel.vllm_backend

    def __init__(self) -> None:
        self._chosen: WeightChannel | None = None

    def check_device(self, device: str) -> None:
        """There is a channel for every device."""

    def send(self, weights: WeightSource, processes: Sequence[RolloutProcess]) -> Metrics:
        if self._chosen is None:
            self._chosen = SharedMemoryChannel() if processes[0].device == "cpu" else IpcChannel()
        return self._chosen.send(weights, processes)
