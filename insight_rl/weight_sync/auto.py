"""``weight_sync=auto``: the channel that fits the devices of the rollout workers."""

from __future__ import annotations

from collections.abc import Sequence

from insight_rl.types import Metrics
from insight_rl.weight_sync.base import RolloutProcess, WeightChannel, WeightSource
from insight_rl.weight_sync.object_store import ObjectStoreChannel
from insight_rl.weight_sync.shared_memory import SharedMemoryChannel
from insight_rl.weight_sync.vllm_transfer import IpcChannel, NcclChannel


class MemoryChannel:
    """As files in memory: this machine's, or with ``runtime=ray`` through the object store. For every device."""

    vllm_backend = None

    def __init__(self) -> None:
        self._chosen: WeightChannel | None = None

    def check_placement(self, placement: str) -> None:
        """Files can be read from everywhere."""

    def check_device(self, device: str) -> None:
        """Files can be read on every device."""

    def reopen(self) -> None:
        """Nothing stays open between two calls of :meth:`send`."""

    def send(self, weights: WeightSource, processes: Sequence[RolloutProcess]) -> Metrics:
        if self._chosen is None:
            self._chosen = SharedMemoryChannel() if processes[0].is_here else ObjectStoreChannel()
        return self._chosen.send(weights, processes)


class AutoChannel:
    """Memory where the workers run on a CPU; on GPUs CUDA IPC beside the learner's ranks and NCCL apart."""

    def __init__(self) -> None:
        self._on_gpus: IpcChannel | NcclChannel = IpcChannel()
        self._chosen: WeightChannel | None = None

    @property
    def vllm_backend(self) -> str | None:
        # vLLM ignores it on a CPU, and its device is not known before it has started.
        return self._on_gpus.vllm_backend

    def check_placement(self, placement: str) -> None:
        """There is a channel for every placement."""
        self._on_gpus = NcclChannel() if placement == "separate" else IpcChannel()

    def check_device(self, device: str) -> None:
        """There is a channel for every device."""

    def reopen(self) -> None:
        self._on_gpus.reopen()

    def send(self, weights: WeightSource, processes: Sequence[RolloutProcess]) -> Metrics:
        if self._chosen is None:
            self._chosen = MemoryChannel() if processes[0].device == "cpu" else self._on_gpus
        return self._chosen.send(weights, processes)
