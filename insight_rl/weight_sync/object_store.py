"""Weights through Ray's object store: rank 0 puts a safetensors checkpoint there, and every worker fetches it.

For ``runtime=ray`` where the workers have no GPU: the store carries it between machines, once to each, and a worker
loads it from memory of its own machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from insight_rl.errors import check
from insight_rl.types import Metrics
from insight_rl.weight_sync.base import Call, RankWeights, RolloutProcess, SyncSeconds, WeightSource, call_all

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 1 << 30
"""Of one object: rank 0 holds one shard beside the weights, and not a second copy of them all."""


class ObjectStoreChannel:
    """See :class:`~insight_rl.weight_sync.base.WeightChannel`."""

    vllm_backend = None

    def check_placement(self, placement: str) -> None:
        """The store reaches workers on every machine."""

    def check_device(self, device: str) -> None:
        """What it brings can be read on every device."""

    def reopen(self) -> None:
        """Nothing stays open between two calls of :meth:`send`."""

    def send(self, weights: WeightSource, processes: Sequence[RolloutProcess]) -> Metrics:
        for process in processes:
            check(
                not process.is_here,
                "weight_sync",
                "object_store",
                "is for runtime=ray; with runtime=local take weight_sync=auto",
            )
        stored: list[Any] = []

        def take(method: str, files: Any, meanwhile: Callable[[], None]) -> None:
            stored.append(files)

        seconds = weights.send(ObjectStoreSpec(), take)
        started = time.perf_counter()
        # The ranks are done: a worker that is lost while it loads stops none of them.
        call_all(processes, "load_stored", files=stored[0])
        seconds.load_s += time.perf_counter() - started
        return seconds.metrics()


@dataclass(frozen=True)
class ObjectStoreSpec:
    """See :class:`~insight_rl.weight_sync.base.SenderSpec`."""

    def open(self, weights: RankWeights, call: Call) -> ObjectStoreSender:
        return ObjectStoreSender(weights, call)


class ObjectStoreSender:
    """A rank's end. Rank 0 tells the trainer where the files are: ``(number of bytes, reference)`` of each."""

    def __init__(self, weights: RankWeights, call: Call) -> None:
        self._weights, self._call = weights, call

    def send_weights(self) -> SyncSeconds:
        import ray
        from safetensors.torch import save

        seconds, started = SyncSeconds(), time.perf_counter()
        tensors = seconds.gathering(self._weights.named_tensors())
        if self._weights.rank != 0:
            for _ in tensors:
                pass
        else:
            files = []
            for shard in into_shards(tensors, SHARD_BYTES):
                content = np.frombuffer(save(shard, metadata={"format": "pt"}), dtype=np.uint8)
                files.append((content.size, ray.put(content)))
            self._call("stored", files)
        seconds.transfer_s = time.perf_counter() - started - seconds.gather_s
        return seconds


def into_shards(named_tensors: Iterator[tuple[str, torch.Tensor]], num_bytes: int) -> Iterator[dict[str, torch.Tensor]]:
    """The tensors, copied to main memory, in parts of ``num_bytes``; a larger tensor is a part by itself."""
    shard: dict[str, torch.Tensor] = {}
    size = 0
    for name, tensor in named_tensors:
        if shard and size + tensor.nbytes > num_bytes:
            yield shard
            shard, size = {}, 0
        # The tensor is valid only until the next one is asked for.
        shard[name] = tensor.to("cpu", copy=True).contiguous()
        size += tensor.nbytes
    if shard:
        yield shard
