"""vLLM's weight transfer API as weight channels: between GPUs by NCCL, on one GPU by CUDA IPC.

Adapts our weight source and the pipe to the rollout process to the two interfaces vLLM's trainer-side engines take.
Written against vLLM 0.32 from its sources. It needs a CUDA device and has NOT been run by this project's tests, which
have none; what they cover is the adapters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from insight_rl.errors import check
from insight_rl.weight_sync.base import WeightSource
from insight_rl.weight_sync.channel import WorkerCall

if TYPE_CHECKING:
    import torch


class IpcChannel:
    """Shares the learner's memory with a rollout process on the same GPU, ``buffer_bytes`` at a time."""

    vllm_backend = "ipc"

    def __init__(self, *, buffer_bytes: int = 256 << 20) -> None:
        check(buffer_bytes >= 1 << 20, "rollout.weight_channel.buffer_bytes", buffer_bytes, "must be at least 1 MiB")
        self.buffer_bytes = buffer_bytes
        self._sender: Any = None

    def send(self, weights: WeightSource, call: WorkerCall) -> None:
        if self._sender is None:
            from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

            info = IPCTrainerInitInfo(rank=0, packed=True, packed_buffer_size_bytes=self.buffer_bytes)
            self._sender = _open_sender(info, weights, call)
        self._sender.source = as_vllm_source(weights)
        self._sender.send_weights()


class NcclChannel:
    """Broadcasts from the learner's GPU to the GPUs of the rollout process.

    ``num_workers`` is the number of those GPUs (vLLM's tensor times pipeline parallel size); the address and port are
    where both sides meet, and must be reachable from the rollout process.
    """

    vllm_backend = "nccl"

    def __init__(self, *, num_workers: int, address: str = "127.0.0.1", port: int = 29600) -> None:
        check(num_workers >= 1, "rollout.weight_channel.num_workers", num_workers, "must be at least 1 GPU")
        check(1024 <= port <= 65535, "rollout.weight_channel.port", port, "must be from 1024 to 65535")
        self.num_workers, self.address, self.port = num_workers, address, port
        self._sender: Any = None

    def send(self, weights: WeightSource, call: WorkerCall) -> None:
        if self._sender is None:
            from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

            info = NCCLTrainerInitInfo(
                rank=0, master_address=self.address, master_port=self.port, world_size=1 + self.num_workers
            )
            self._sender = _open_sender(info, weights, call)
        self._sender.source = as_vllm_source(weights)
        self._sender.send_weights()


def _open_sender(info: Any, weights: WeightSource, call: WorkerCall) -> Any:
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

    return WeightTransferTrainerFactory.trainer_init(info, client=PipeClient(call), source=as_vllm_source(weights))


class PipeClient:
    """vLLM's ``VLLMWeightSyncClient`` over the pipe to the rollout process."""

    def __init__(self, call: WorkerCall) -> None:
        self._call = call

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._call("transfer", method="init_weight_transfer_engine", argument={"init_info": init_info})

    def start_weight_update(self) -> None:
        self._call("transfer", method="start_weight_update", argument=None)

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        self._call("transfer", method="update_weights", argument={"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._call("transfer", method="finish_weight_update", argument=None)


def as_vllm_source(weights: WeightSource) -> Any:
    """vLLM's ``WeightSource`` over ours. Asking for the metadata gathers sharded tensors once more."""
    from vllm.distributed.weight_transfer.base import ParamMeta
    from vllm.distributed.weight_transfer.base import WeightSource as VllmWeightSource

    class Source(VllmWeightSource):
        def metadata(self) -> list[Any]:
            return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in weights.named_tensors()]

        def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
            return iter(weights.named_tensors())

    return Source()
